use http::{HeaderMap, HeaderName as Name, HeaderValue, Method};
use prost::{Message, Name as MessageName};
use serde_json::{Value, json};
use sidemesh_proto::envoy::config::route::v3 as route;
use sidemesh_proto::envoy::r#type::matcher::v3 as wire;

use super::domain::{DomainError, DomainIndex, without_port};
use super::path::{PathMatcher, UriTemplate};
use super::*;
use crate::rejection::Rejection;
use crate::value::{Metadata, Runtime, name};

fn read<T: Message + Default + MessageName>(value: Value) -> T {
    sidemesh_proto::json::parse(&T::full_name(), &value).expect("test input")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Rejection>, expected: &str) {
    assert_eq!(result.expect_err("must be refused").to_string(), expected);
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |(n, v): &(&str, &str)| {
        (Name::from_bytes(n.as_bytes()).expect("name"), HeaderValue::from_str(v).expect("value"))
    };
    headers.iter().map(pair).collect()
}

#[track_caller]
fn header_case(matcher: Value, headers: &[(&str, &str)], expected: bool) {
    let matcher = parse::header(&read::<route::HeaderMatcher>(matcher), "h").expect("valid");
    let headers = map(headers);
    let runtime = Runtime::default();
    let view = RequestView {
        method: &Method::POST,
        scheme: "http",
        authority: "shop.example:80",
        path: "/a?b=c",
        headers: &headers,
        tls: false,
        peer_certificate: PeerCertificate::Absent,
        metadata: None,
        filter_state: None,
        runtime: &runtime,
        random: 0,
    };
    assert_eq!(matcher.matches(&view), expected, "{matcher:?} on {headers:?}");
}

#[test]
fn values_of_a_repeated_header_are_tried_one_by_one() {
    let exact = |v: &str| json!({ "name": "x", "string_match": { "exact": v } });
    header_case(exact("b"), &[("x", "a"), ("x", "b")], true);
    header_case(exact("a,b"), &[("x", "a"), ("x", "b")], false);
    header_case(exact("a,b"), &[("x", "a,b")], true);
    header_case(
        json!({ "name": "x", "string_match": { "safe_regex": { "regex": "c.*d" } } }),
        &[("x", "c"), ("x", "d")],
        false,
    );
}

#[test]
fn a_missing_header_matches_only_by_absence() {
    let inverted = json!({ "name": "x", "string_match": { "exact": "no" }, "invert_match": true });
    header_case(inverted.clone(), &[], false);
    header_case(inverted.clone(), &[("x", "no")], false);
    header_case(inverted, &[("x", "yes")], true);
    header_case(json!({ "name": "x", "present_match": false }), &[], true);
    header_case(json!({ "name": "x", "present_match": true, "invert_match": true }), &[], true);
    header_case(json!({ "name": "x" }), &[("x", "")], true);
    let as_empty = json!({ "name": "x", "string_match": { "exact": "" }, "treat_missing_header_as_empty": true });
    header_case(as_empty, &[], true);
}

#[test]
fn each_kind_of_header_matcher() {
    let of = |m: Value| json!({ "name": "x", "string_match": m });
    header_case(of(json!({ "contains": "mid", "ignore_case": true })), &[("x", "aMIDb")], true);
    header_case(of(json!({ "prefix": "PRE", "ignore_case": true })), &[("x", "prefix")], true);
    header_case(of(json!({ "suffix": "end" })), &[("x", "the-end")], true);
    header_case(of(json!({ "safe_regex": { "regex": "v[0-9]+" } })), &[("x", "v12x")], false);
    let range = json!({ "name": "x", "range_match": { "start": "10", "end": "20" } });
    for (value, expected) in [("10", true), ("19", true), ("20", false), ("abc", false), ("-5", false), ("+11", true)] {
        header_case(range.clone(), &[("x", value)], expected);
    }
    header_case(json!({ "name": "x", "exact_match": "v" }), &[("x", "v")], true);
    header_case(json!({ "name": "x", "prefix_match": "v" }), &[("x", "vw")], true);
    header_case(json!({ "name": "x", "suffix_match": "w" }), &[("x", "vw")], true);
    header_case(json!({ "name": "x", "contains_match": "v" }), &[("x", "uvw")], true);
    header_case(json!({ "name": "x", "safe_regex_match": { "regex": "v." } }), &[("x", "vw")], true);
    header_case(json!({ "name": ":method", "string_match": { "exact": "POST" } }), &[], true);
    header_case(json!({ "name": "Host", "string_match": { "prefix": "shop." } }), &[], true);
    header_case(json!({ "name": ":path", "string_match": { "exact": "/a?b=c" } }), &[], true);
}

#[test]
fn bad_matchers_are_refused_by_field() {
    let header = |m| parse::header(&read::<route::HeaderMatcher>(m), "headers[0]");
    refused(header(json!({ "name": "" })), "headers[0].name: invalid: must not be empty");
    refused(
        header(json!({ "name": ":status", "present_match": true })),
        "headers[0].name: invalid: `:status` is no header name that can be matched",
    );
    refused(
        header(json!({ "name": "x", "string_match": { "safe_regex": { "regex": "(" } } })),
        "headers[0].string_match.safe_regex.regex: invalid: `(`: unclosed group",
    );
    refused(
        header(json!({ "name": "x", "string_match": { "safe_regex": { "regex": "a" }, "ignore_case": true } })),
        "headers[0].string_match.ignore_case: invalid: has no effect for safe_regex; write `(?i)` in the expression",
    );
    refused(header(json!({ "name": "x", "prefix_match": "" })), "headers[0].prefix_match: invalid: must not be empty");
    refused(
        header(json!({ "name": "x", "string_match": {} })),
        "headers[0].string_match: invalid: needs one of exact, prefix, suffix, contains, safe_regex",
    );
}

#[test]
fn query_parameters_are_compared_as_sent_and_the_first_counts() {
    let v2 = json!({ "name": "v", "string_match": { "exact": "2" } });
    let dbg = json!({ "name": "dbg", "present_match": true });
    let cases = [
        (&v2, "/?v=2", true),
        (&v2, "/?v=3", false),
        (&v2, "/?a=1&v=2", true),
        (&v2, "/?v=2&v=3", true),
        (&v2, "/?v=3&v=2", false),
        (&v2, "/?v=%32", false),
        (&v2, "/", false),
        (&dbg, "/?dbg", true),
        (&dbg, "/?dbg=", true),
        (&dbg, "/?xdbg=1", false),
    ];
    for (matcher, target, expected) in cases {
        let list = [read::<route::QueryParameterMatcher>(matcher.clone())];
        let matchers = parse::queries(&list, "q").expect("valid");
        let query = target.split_once('?').map(|(_, q)| q);
        assert_eq!(matchers[0].matches(query), expected, "{target}");
    }
}

#[test]
fn cookies_are_found_in_any_line() {
    let headers = map(&[("cookie", "a=1; b=\"two\""), ("cookie", "c=3")]);
    assert_eq!(cookie::cookie(&headers, "b"), Some("two"));
    assert_eq!(cookie::cookie(&headers, "c"), Some("3"));
    assert_eq!(cookie::cookie(&headers, "d"), None);
}

#[test]
fn the_most_specific_domain_wins() {
    let mut index = DomainIndex::default();
    let domains = ["shop.example", "*.example", "*.shop.example", "shop.*", "shop.e*", "*", "Upper.Test", "[::1]:80"];
    for (at, domain) in domains.iter().enumerate() {
        index.insert(domain, at).expect("new");
    }
    let cases = [
        ("shop.example", 0),
        ("SHOP.Example", 0),
        ("a.example", 1),
        ("a.shop.example", 2),
        (".shop.example", 1),
        ("shop.example.org", 4),
        ("shop.net", 3),
        ("shop.", 5),
        ("nowhere", 5),
        ("upper.test", 6),
        ("[::1]:80", 7),
    ];
    for (host, expected) in cases {
        assert_eq!(index.find(host), Some(expected), "{host}");
    }
    assert_eq!(index.find_without_port("shop.example:8080"), Some(0));
    assert_eq!(index.insert("SHOP.example", 9), Err(DomainError::Duplicate("shop.example".into())));
    assert_eq!(index.insert("*", 9), Err(DomainError::Duplicate("*".into())));
    assert_eq!(index.insert("a*b", 9), Err(DomainError::Wildcard("a*b".into())));
    assert_eq!(index.insert("*a*", 9), Err(DomainError::Wildcard("*a*".into())));
    assert_eq!(DomainIndex::default().find("x"), None);
}

#[test]
fn ports_are_cut_from_hosts_only() {
    for (authority, host) in [
        ("a:80", "a"),
        ("a", "a"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("a:b", "a"),
        ("a:", "a"),
    ] {
        assert_eq!(without_port(authority), host);
    }
}

#[test]
fn path_specifiers() {
    let prefix = |case_sensitive| PathMatcher::Prefix { value: "/Api".into(), case_sensitive };
    assert!(prefix(true).matches(&Method::GET, "/Apix") && !prefix(true).matches(&Method::GET, "/api"));
    assert!(prefix(false).matches(&Method::GET, "/apix"));
    let separated = PathMatcher::SeparatedPrefix { value: "/api".into(), case_sensitive: true };
    assert!(separated.matches(&Method::GET, "/api") && separated.matches(&Method::GET, "/api/x"));
    assert!(!separated.matches(&Method::GET, "/apis"));
    assert!(PathMatcher::Connect.matches(&Method::CONNECT, "") && !PathMatcher::Connect.matches(&Method::GET, "/"));
    let any = PathMatcher::Prefix { value: String::new(), case_sensitive: true };
    assert!(!any.matches(&Method::CONNECT, "host:80") && any.matches(&Method::CONNECT, "/"));
}

#[test]
fn uri_templates_match_and_capture() {
    let cases = [
        ("/videos/*/*/*.m4s", "/videos/123414/hls/1080p5000_00001.m4s", true),
        ("/videos/{file}", "/videos/1080p5000_00001.m4s", true),
        ("/videos/{file}", "/videos/a/b", false),
        ("/**.mpd", "/content/123/india/dash/55/manifest.mpd", true),
        ("/v{version}/x", "/v12/x", true),
        ("/a/**", "/a/", true),
    ];
    for (template, path, expected) in cases {
        assert_eq!(UriTemplate::new(template).expect(template).regex.is_match(path), expected, "{template} {path}");
    }
    let template = UriTemplate::new("/{country}/{rest=**}").expect("valid");
    let captures = template.regex.captures("/de/a/b").expect("matches");
    assert_eq!((&captures["country"], &captures["rest"]), ("de", "a/b"));
    for bad in ["videos", "/{a}/{a}", "/{a", "/**/*", "/{1}", "/{a}/{b}/{c}/{d}/{e}/{f}", "/a?b", "/{x={y}}"] {
        assert!(UriTemplate::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn metadata_values_are_matched_by_type() {
    let metadata = Metadata([(name("f"), json!({ "a": { "b": "v", "n": 3, "l": ["x", "y"], "z": null } }))].into());
    let case = |key: &str, value: Value, expected: bool| {
        let matcher: wire::MetadataMatcher =
            read(json!({ "filter": "f", "path": [{ "key": "a" }, { "key": key }], "value": value }));
        let matcher = parse::metadata(&matcher, "m").expect("valid");
        assert_eq!(matcher.matches(Some(&metadata)), expected, "{matcher:?}");
    };
    case("b", json!({ "string_match": { "exact": "v" } }), true);
    case("n", json!({ "double_match": { "range": { "start": 3.0, "end": 4.0 } } }), true);
    case("n", json!({ "string_match": { "exact": "3" } }), false);
    case("l", json!({ "list_match": { "one_of": { "string_match": { "exact": "y" } } } }), true);
    case("z", json!({ "null_match": {} }), true);
    case("none", json!({ "null_match": {} }), false);
    case("none", json!({ "present_match": false }), false);
    case(
        "n",
        json!({ "or_match": { "value_matchers": [{ "bool_match": true }, { "double_match": { "exact": 3.0 } }] } }),
        true,
    );
    let bad: wire::MetadataMatcher =
        read(json!({ "filter": "f", "path": [{ "key": "" }], "value": { "bool_match": true } }));
    refused(parse::metadata(&bad, "m"), "m.path[0].key: invalid: must not be empty");
}

#[test]
fn substitutions_turn_into_the_syntax_of_the_engine() {
    let of = |pattern: &str, text: &str| {
        let m: wire::RegexMatchAndSubstitute = read(json!({ "pattern": { "regex": pattern }, "substitution": text }));
        parse::substitution(&m, "regex_rewrite")
    };
    let (pattern, text) = of("^/(.+)/(.+)$", r"/\2$x\\/\1").expect("valid");
    assert_eq!(pattern.replace_all("/a/b", text.as_str()), "/b$x\\/a");
    refused(of("a", r"\1"), "regex_rewrite.substitution: invalid: `\\1` names a group that the pattern does not have");
}
