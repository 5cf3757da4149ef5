use http::{HeaderMap, HeaderName as Name, HeaderValue, Method};
use serde_json::{Value, json};
use sidemesh_proto::envoy::config::route::v3 as pb;

use super::*;
use crate::matcher::{PeerCertificate, RequestView};
use crate::rejection::Rejection;
use crate::value::{DataSource, Runtime};

fn table(hosts: Value) -> Result<RouteConfig, Rejection> {
    table_with(json!({ "name": "r", "virtual_hosts": hosts }))
}

fn table_with(config: Value) -> Result<RouteConfig, Rejection> {
    let config: pb::RouteConfiguration =
        sidemesh_proto::json::parse("envoy.config.route.v3.RouteConfiguration", &config).expect("test input");
    parse(&config)
}

/// One virtual host for every domain.
fn routes(routes: Value) -> Result<RouteConfig, Rejection> {
    table(json!([{ "name": "v", "domains": ["*"], "routes": routes }]))
}

fn to(name: &str, mut matcher: Value) -> Value {
    if matcher
        .as_object()
        .is_some_and(|m| !m.keys().any(|k| k.contains("pre") || k.contains("pa") || k == "safe_regex"))
    {
        matcher["prefix"] = "/".into();
    }
    json!({ "name": name, "match": matcher, "route": { "cluster": "c" } })
}

#[track_caller]
fn refused(result: Result<RouteConfig, Rejection>, expected: &str) {
    assert_eq!(result.expect_err("must be refused").to_string(), expected);
}

#[derive(Default)]
struct Request {
    method: Method,
    headers: HeaderMap,
    peer: PeerCertificate,
    random: u64,
}

impl Request {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(Name::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn select(&self, table: &RouteConfig, authority: &str, path: &str) -> Option<String> {
        let runtime = Runtime::default();
        let view = self.view(authority, path, &runtime);
        let chosen = table.select(&view).map(|(_, route)| route.name.to_string());
        let explained = table.explain(&view).route.map(|route| route.name.to_string());
        assert_eq!(chosen, explained, "both ways of choosing agree on {path}");
        chosen
    }

    fn view<'a>(&'a self, authority: &'a str, path: &'a str, runtime: &'a Runtime) -> RequestView<'a> {
        RequestView {
            method: &self.method,
            scheme: "http",
            authority,
            path,
            headers: &self.headers,
            tls: false,
            peer_certificate: self.peer,
            metadata: None,
            filter_state: None,
            runtime,
            random: self.random,
        }
    }
}

fn get(table: &RouteConfig, path: &str) -> Option<String> {
    Request::default().select(table, "any", path)
}

#[test]
fn the_first_route_that_matches_wins() {
    let table = routes(json!([
        to("v2", json!({ "prefix": "/", "query_parameters": [{ "name": "v", "string_match": { "exact": "2" } }] })),
        to("post", json!({ "prefix": "/", "headers": [{ "name": ":method", "string_match": { "exact": "POST" } }] })),
        to("grpc", json!({ "prefix": "/", "grpc": {} })),
        to("exact", json!({ "path": "/a" })),
        to("regex", json!({ "safe_regex": { "regex": "/n[0-9]+" } })),
        to("rest", json!({ "prefix": "/" })),
    ]))
    .expect("valid");
    for (path, expected) in
        [("/?v=2", "v2"), ("/a?x=1", "exact"), ("/n12", "regex"), ("/n12x", "rest"), ("/a/", "rest")]
    {
        assert_eq!(get(&table, path).as_deref(), Some(expected), "{path}");
    }
    let post = Request { method: Method::POST, ..Request::default() };
    assert_eq!(post.select(&table, "h", "/").as_deref(), Some("post"));
    let grpc = Request::default().header("content-type", "application/grpc+proto");
    assert_eq!(grpc.select(&table, "h", "/").as_deref(), Some("grpc"));
    let web = Request::default().header("content-type", "application/grpc-web");
    assert_eq!(web.select(&table, "h", "/").as_deref(), Some("rest"));
}

#[test]
fn an_indexed_table_keeps_the_order() {
    let mut list = vec![to("first", json!({ "prefix": "/p1", "headers": [{ "name": "x" }] }))];
    for i in 0..40 {
        list.push(to(&format!("e{i}"), json!({ "path": format!("/e{i}") })));
        list.push(to(&format!("p{i}"), json!({ "prefix": format!("/p{i}") })));
        list.push(to(&format!("s{i}"), json!({ "path_separated_prefix": format!("/s{i}") })));
    }
    list.push(to("ci", json!({ "prefix": "/CASE", "case_sensitive": false })));
    list.push(to("late", json!({ "path": "/p7" })));
    list.push(to("all", json!({ "prefix": "" })));
    let table = routes(Value::from(list)).expect("valid");
    let cases = [
        ("/e39", "e39"),
        ("/e39/x", "all"),
        // `/p1` comes before `/p12` in the table.
        ("/p12", "p1"),
        ("/p7", "p7"),
        ("/s3/x?q", "s3"),
        ("/s3x", "all"),
        ("/casex", "ci"),
        ("/ü", "all"),
        ("/", "all"),
    ];
    for (path, expected) in cases {
        assert_eq!(get(&table, path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(Request::default().header("x", "").select(&table, "h", "/p12").as_deref(), Some("first"));
}

#[test]
fn conditions_beside_the_path() {
    let fraction = json!({ "default_value": { "numerator": 30, "denominator": "HUNDRED" }, "runtime_key": "k" });
    let table = routes(json!([
        to("cookie", json!({ "prefix": "/", "cookies": [{ "name": "c", "string_match": { "exact": "1" } }] })),
        to("cert", json!({ "prefix": "/", "tls_context": { "validated": true } })),
        to("part", json!({ "prefix": "/", "runtime_fraction": fraction })),
        to("rest", json!({ "prefix": "/" })),
    ]))
    .expect("valid");
    let at = |random| Request { random, ..Request::default() };
    assert_eq!(at(29).select(&table, "h", "/").as_deref(), Some("part"));
    assert_eq!(at(30).select(&table, "h", "/").as_deref(), Some("rest"));
    assert_eq!(at(99).header("cookie", "a=2; c=1").select(&table, "h", "/").as_deref(), Some("cookie"));
    let peer = Request { peer: PeerCertificate::Validated, ..at(99) };
    assert_eq!(peer.select(&table, "h", "/").as_deref(), Some("cert"));
    let presented = Request { peer: PeerCertificate::Presented, ..at(99) };
    assert_eq!(presented.select(&table, "h", "/").as_deref(), Some("rest"));
}

#[test]
fn an_explanation_says_why_routes_lost() {
    let table = table(json!([{ "name": "v", "domains": ["shop"], "routes": [
        to("a", json!({ "path": "/a" })),
        to("b", json!({ "prefix": "/", "headers": [{ "name": "x" }, { "name": "y" }] })),
        to("c", json!({ "prefix": "/" })),
    ] }]))
    .expect("valid");
    let runtime = Runtime::default();
    let request = Request::default().header("x", "1");
    let explained = table.explain(&request.view("shop", "/", &runtime));
    let lost: Vec<_> = explained.lost.iter().map(|(route, why)| format!("{}: {why}", route.name)).collect();
    assert_eq!(lost, ["a: the path does not match", "b: headers[1] does not match"]);
    assert_eq!(&*explained.route.expect("found").name, "c");
    assert!(table.explain(&request.view("other", "/", &runtime)).virtual_host.is_none());
}

#[test]
fn ports_and_path_parameters_may_be_ignored() {
    let hosts = json!([{ "name": "v", "domains": ["shop"], "routes": [to("a", json!({ "path": "/a" }))] }]);
    let plain = table(hosts.clone()).expect("valid");
    assert_eq!(Request::default().select(&plain, "shop:80", "/a"), None);
    let lax = table_with(json!({ "virtual_hosts": hosts, "ignore_port_in_host_matching": true,
        "ignore_path_parameters_in_path_matching": true }))
    .expect("valid");
    for path in ["/a;p=1?q", "/a;", "/;x/../a"] {
        let expected = (path != "/;x/../a").then_some("a");
        assert_eq!(Request::default().select(&lax, "shop:80", path).as_deref(), expected, "{path}");
    }
}

fn forward(action: Value) -> Result<Forward, Rejection> {
    let table = routes(json!([{ "match": { "prefix": "/" }, "route": action }]))?;
    match &table.virtual_hosts[0].routes[0].action {
        RouteAction::Forward(forward) => Ok((**forward).clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_of_a_forward_are_those_of_envoy() {
    let plain = forward(json!({ "cluster": "c" })).expect("valid");
    assert_eq!(plain.timeout, Some(Duration::from_secs(15)));
    assert_eq!((plain.cluster_not_found_status, plain.priority, plain.idle_timeout), (503, Priority::Default, None));
    let off = forward(json!({ "cluster": "c", "timeout": "0s", "idle_timeout": "0s" })).expect("valid");
    assert_eq!((off.timeout, off.idle_timeout), (None, Some(None)));
    let retry = forward(json!({ "cluster": "c", "retry_policy": { "retry_on": "5xx,what,reset" } })).expect("valid");
    let retry = retry.retry.expect("given");
    assert_eq!(retry.on, RetryOn(RetryOn::E5XX | RetryOn::RESET));
    assert_eq!(
        (retry.num_retries, retry.backoff.base, retry.backoff.max),
        (1, Duration::from_millis(25), Duration::from_millis(250))
    );
}

#[test]
fn a_stream_duration_takes_the_place_of_the_older_timeouts() {
    let both = json!({ "cluster": "c", "timeout": "3s", "max_grpc_timeout": "2s", "grpc_timeout_offset": "1s" });
    let old = forward(both.clone()).expect("valid");
    assert_eq!(old.timeout, Some(Duration::from_secs(3)));
    let grpc = GrpcTimeout { max: Duration::from_secs(2), offset: Duration::from_secs(1) };
    assert_eq!(old.grpc_timeout, Some(grpc));
    let mut new = both;
    new["max_stream_duration"] = json!({ "max_stream_duration": "9s" });
    let new = forward(new).expect("valid");
    assert_eq!((new.timeout, new.grpc_timeout), (None, None));
    assert_eq!(new.max_stream_duration.and_then(|d| d.max_stream_duration), Some(Duration::from_secs(9)));
}

#[test]
fn redirects_that_are_followed_have_predicates() {
    let predicate = |name: &str, extra: Value| {
        let mut config = json!({ "@type": format!("type.googleapis.com/envoy.extensions.internal_redirect.{name}") });
        for (key, value) in extra.as_object().expect("an object") {
            config[key] = value.clone();
        }
        json!({ "name": "p", "typed_config": config })
    };
    let with = |list: Value| forward(json!({ "cluster": "c", "internal_redirect_policy": { "predicates": list } }));
    let policy = with(json!([
        predicate("allow_listed_routes.v3.AllowListedRoutesConfig", json!({ "allowed_route_names": ["r"] })),
        predicate("previous_routes.v3.PreviousRoutesConfig", json!({})),
        predicate("safe_cross_scheme.v3.SafeCrossSchemeConfig", json!({})),
    ]));
    let policy = policy.expect("valid").internal_redirect.expect("given");
    let listed = RedirectPredicate::AllowListedRoutes(vec!["r".into()]);
    let expected = [listed, RedirectPredicate::PreviousRoutes, RedirectPredicate::SafeCrossScheme];
    assert_eq!(policy.predicates, expected);
    let unknown = json!([{ "name": "p", "typed_config": { "@type": "type.googleapis.com/google.protobuf.Empty" } }]);
    assert_eq!(
        with(unknown).expect_err("must be refused").to_string(),
        "virtual_hosts[0].routes[0].route.internal_redirect_policy.predicates[0].typed_config: not supported: \
         `google.protobuf.Empty` is not supported; use allow_listed_routes, previous_routes, safe_cross_scheme"
    );
}

#[test]
fn deprecated_cors_and_steps_of_mirrors_are_read() {
    let cors = json!({ "allow_origin_string_match": [{ "exact": "http://a" }], "max_age": "7" });
    let mutations = json!([{ "append": { "header": { "key": "x-a", "value": "1" } } }, { "remove": "x-b" }]);
    let forward = forward(json!({ "cluster": "c", "cors": cors,
        "request_mirror_policies": [{ "cluster": "m", "request_headers_mutations": mutations }] }))
    .expect("valid");
    assert_eq!(&*forward.cors.expect("given").max_age, "7");
    assert!(matches!(forward.mirrors[0].request_headers.as_slice(), [Mutation::Set(_), Mutation::Remove(_)]));
}

#[test]
fn a_forward_reads_its_policies() {
    let any = |message: &str| json!({ "@type": format!("type.googleapis.com/envoy.extensions.{message}") });
    let full = forward(json!({ "cluster_header": ":authority", "host_rewrite_literal": "h",
        "regex_rewrite": { "pattern": { "regex": "^/a" }, "substitution": "/b" },
        "retry_policy": { "retry_host_predicate": [
            { "name": "p", "typed_config": any("retry.host.previous_hosts.v3.PreviousHostsPredicate") }] },
        "request_mirror_policies": [{ "cluster": "m" }],
        "hash_policy": [{ "header": { "header_name": ":path" }, "terminal": true },
            { "connection_properties": { "source_ip": false } }, { "cookie": { "name": "s", "ttl": "0s" } }],
        "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": { "allow_post": true } }],
        "internal_redirect_policy": { "redirect_response_codes": [302, 307, 200] },
        "metadata_match": { "filter_metadata": { "envoy.lb": { "v": "2", "a": true } } },
        "rate_limits": [{ "actions": [{ "request_headers": { "header_name": ":path", "descriptor_key": "p" } },
            { "generic_key": { "descriptor_value": "g" } }] }] }))
    .expect("valid");
    assert_eq!(full.cluster, ClusterChoice::Header(AnyHeader::Authority));
    assert!(full.retry.expect("given").avoid_previous_hosts);
    assert_eq!(full.mirrors[0].fraction, RuntimeFraction::always());
    assert_eq!(full.hash_policy.len(), 2);
    assert!(full.hash_policy[0].terminal);
    assert_eq!(&*full.upgrades[0].kind, "connect");
    assert_eq!(full.internal_redirect.expect("given").codes, [302, 307]);
    assert_eq!(full.metadata_match.expect("given").0, [("a".into(), json!(true)), ("v".into(), json!("2"))]);
    assert_eq!(
        full.rate_limits[0].actions[1],
        RateLimitAction::Generic { key: "generic_key".into(), value: "g".into() }
    );
}

#[test]
fn weights_are_summed_and_checked() {
    let weighted = |clusters: Value| forward(json!({ "weighted_clusters": { "clusters": clusters } }));
    let two = weighted(json!([{ "name": "a", "weight": 1 }, { "cluster_header": "x-c", "weight": 3 }])).expect("valid");
    let ClusterChoice::Weighted(two) = two.cluster else { panic!("not weighted") };
    assert_eq!((two.total_weight, two.clusters.len()), (4, 2));
    let at = "virtual_hosts[0].routes[0].route.weighted_clusters.clusters";
    let cases = [
        (
            json!([{ "name": "a", "weight": 0 }]),
            format!("{at}: invalid: the sum of the weights must be greater than 0"),
        ),
        (json!([]), format!("{at}: invalid: the sum of the weights must be greater than 0")),
        (json!([{ "name": "a" }]), format!("{at}[0].weight: invalid: is required")),
        (
            json!([{ "name": "a", "cluster_header": "b", "weight": 1 }]),
            format!("{at}[0].cluster_header: invalid: excludes name; give one of them"),
        ),
        (
            json!([{ "name": "a", "weight": 4_294_967_295u32 }, { "name": "b", "weight": 1 }]),
            format!("{at}: invalid: the sum of the weights exceeds 4294967295"),
        ),
    ];
    for (clusters, expected) in cases {
        assert_eq!(weighted(clusters).expect_err("must be refused").to_string(), expected);
    }
}

#[test]
fn redirects_and_direct_responses() {
    let table = routes(json!([
        { "match": { "prefix": "/r" }, "redirect": { "https_redirect": true, "port_redirect": 8443,
            "response_code": "PERMANENT_REDIRECT", "prefix_rewrite": "/n" } },
        { "match": { "prefix": "/d" }, "direct_response": { "status": 418, "body": { "inline_string": "tea" } } },
    ]))
    .expect("valid");
    let RouteAction::Redirect(redirect) = &table.virtual_hosts[0].routes[0].action else { panic!("no redirect") };
    assert_eq!((redirect.https, redirect.port, redirect.status), (true, Some(8443), 308));
    assert_eq!(redirect.path, RedirectPath::Prefix("/n".into()));
    let RouteAction::DirectResponse(direct) = &table.virtual_hosts[0].routes[1].action else { panic!("no response") };
    assert_eq!((direct.status, &direct.body), (418, &Some(DataSource::Inline("tea".into()))));
    let big = "x".repeat(4097);
    refused(
        routes(
            json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": big } } }]),
        ),
        "virtual_hosts[0].routes[0].direct_response.body: invalid: has 4097 bytes; \
         max_direct_response_body_size_bytes allows 4096",
    );
    refused(
        routes(json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 100 } }])),
        "virtual_hosts[0].routes[0].direct_response.status: invalid: 100 is not between 200 and 599",
    );
}

#[test]
fn templates_rewrite_what_they_captured() {
    let any = |message: &str, field: &str, text: &str| {
        json!({ "name": "t", "typed_config": { "@type":
            format!("type.googleapis.com/envoy.extensions.path.{message}"), field: text } })
    };
    let with = |rewrite: &str| {
        routes(json!([{
            "match": { "path_match_policy": any("match.uri_template.v3.UriTemplateMatchConfig", "path_template", "/{a}/{b=**}") },
            "route": { "cluster": "c", "path_rewrite_policy":
                any("rewrite.uri_template.v3.UriTemplateRewriteConfig", "path_template_rewrite", rewrite) } }]))
    };
    let table = with("/x/{b}/{a}").expect("valid");
    let RouteAction::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!("no forward") };
    assert!(matches!(&forward.path_rewrite, Some(PathRewrite::Template { rewrite, .. }) if rewrite.len() == 4));
    refused(
        with("/{c}"),
        "virtual_hosts[0].routes[0].route.path_rewrite_policy.typed_config.path_template_rewrite: \
         invalid: variable `c` is not in the match template `/{a}/{b=**}`",
    );
}

#[test]
fn tables_are_refused_as_in_envoy() {
    let host = |name: &str, domains: Value| json!({ "name": name, "domains": domains });
    refused(
        table(json!([host("a", json!(["x"])), host("b", json!(["y", "X"]))])),
        "virtual_hosts[1].domains[1]: invalid: domain `x` is claimed twice; a domain may appear once in a route table",
    );
    refused(table(json!([host("a", json!([]))])), "virtual_hosts[0].domains: invalid: must name at least one domain");
    let at = "virtual_hosts[0].routes[0]";
    let cases = [
        (
            json!({ "match": { "prefix": "/" } }),
            ": invalid: needs one of route, redirect, direct_response, non_forwarding_action",
        ),
        (json!({ "route": { "cluster": "c" } }), ".match: invalid: is required"),
        (
            json!({ "match": {}, "route": { "cluster": "c" } }),
            ".match: invalid: needs one of prefix, path, safe_regex, \
            path_separated_prefix, connect_matcher, path_match_policy",
        ),
        (
            json!({ "match": { "safe_regex": { "regex": "[" } }, "route": { "cluster": "c" } }),
            ".match.safe_regex.regex: invalid: `[`: unclosed character class",
        ),
        (
            json!({ "match": { "path_separated_prefix": "/a/" }, "route": { "cluster": "c" } }),
            ".match.path_separated_prefix: invalid: `/a/` must not be empty, end in `/` or hold `?` or `#`",
        ),
        (
            json!({ "match": { "prefix": "/" }, "route": { "cluster": "" } }),
            ".route.cluster: invalid: must not be empty",
        ),
        (
            json!({ "match": { "prefix": "/" }, "route": { "cluster": "c", "prefix_rewrite": "/a", "path_rewrite": "/b" } }),
            ".route.path_rewrite: invalid: excludes prefix_rewrite; give one of them",
        ),
        (
            json!({ "match": { "prefix": "/" }, "route": { "cluster": "c", "upgrade_configs": [
            { "upgrade_type": "websocket" }, { "upgrade_type": "WebSocket" }] } }),
            ".route.upgrade_configs[1].upgrade_type: invalid: `WebSocket` is configured twice",
        ),
    ];
    for (route, expected) in cases {
        refused(routes(json!([route])), &format!("{at}{expected}"));
    }
}

#[test]
fn overrides_of_filters_are_read_at_each_level() {
    let disabled =
        json!({ "f": { "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true } });
    let unknown = json!({ "f": { "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "is_optional": true,
        "config": { "@type": "type.googleapis.com/google.protobuf.Empty" } } });
    let table = table_with(json!({ "typed_per_filter_config": disabled, "virtual_hosts": [
        { "name": "v", "domains": ["*"], "typed_per_filter_config": unknown }] }))
    .expect("valid");
    use crate::resource::http_filter::FilterOverride;
    assert_eq!(table.overrides.get("f").map(|o| &**o), Some(&FilterOverride::Disabled));
    assert_eq!(table.virtual_hosts[0].overrides.0.len(), 0);
}

#[test]
fn a_matching_tree_leads_to_routes() {
    let of = |kind: &str, config: Value| {
        let mut config = config;
        config["@type"] = format!("type.googleapis.com/envoy.config.route.v3.{kind}").into();
        json!({ "action": { "name": "a", "typed_config": config } })
    };
    let input = json!({ "name": "i", "typed_config": {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "who" } });
    let list =
        of("RouteList", json!({ "routes": [to("a", json!({ "prefix": "/a" })), to("b", json!({ "prefix": "/b" }))] }));
    let map = json!({ "list": list, "one": of("Route", to("one", json!({ "prefix": "/one" }))) });
    let matcher = json!({
        "matcher_tree": { "input": input, "exact_match_map": { "map": map } },
        "on_no_match": of("Route", to("nobody", json!({ "prefix": "/" }))),
    });
    let table = table(json!([{ "name": "v", "domains": ["*"], "matcher": matcher }])).unwrap();
    let from = |who| Request::default().header("who", who);
    assert_eq!(from("list").select(&table, "h", "/b").as_deref(), Some("b"));
    assert_eq!(from("one").select(&table, "h", "/one").as_deref(), Some("one"));
    assert_eq!(from("one").select(&table, "h", "/b"), None, "the tree has decided");
    assert_eq!(from("x").select(&table, "h", "/b").as_deref(), Some("nobody"));
    let both = json!([{ "name": "v", "domains": ["*"], "matcher": {}, "routes": [to("r", json!({ "prefix": "/" }))] }]);
    refused(self::table(both), "virtual_hosts[0].matcher: invalid: excludes routes; give one of them");
}
