use std::borrow::Cow;

use serde_json::{Value, json};
use sidemesh_proto::google::{Any, StringValue};
use sidemesh_proto::prost::Message as _;
use sidemesh_proto::xds::r#type::matcher::v3::Matcher;

use super::{Facts, Reader, Tree};
use crate::rejection::Rejection;

/// A tree over one input, to texts.
fn tree(config: Value) -> Result<Tree<(), String>, Rejection> {
    let wire: Matcher =
        sidemesh_proto::json::parse("xds.type.matcher.v3.Matcher", &config).expect("JSON of the matcher");
    let action = |any: &Any| Ok(StringValue::decode(any.value.as_slice()).map(|v| v.value).unwrap_or_default());
    Reader { input: &|_| Ok(()), action: &action, has_runtime: false }.tree(&wire)
}

fn found(tree: &Tree<(), String>, value: &str) -> Option<String> {
    tree.find(&Facts { value: &|()| Some(Cow::Borrowed(value)), runtime: None }).cloned()
}

fn to(text: &str) -> Value {
    json!({ "action": { "name": "a", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text } } })
}

fn custom(name: &str, field: &str, list: Value) -> Value {
    let input = json!({ "name": "i", "typed_config": { "@type":
        "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput" } });
    let mut config = json!({ "@type": format!("type.googleapis.com/xds.type.matcher.v3.{name}") });
    config[field] = list;
    json!({ "matcher_tree": { "input": input, "custom_match": { "name": "c", "typed_config": config } } })
}

/// Finds nothing, so that the search goes on.
fn nothing() -> Value {
    let mut tree = custom("ServerNameMatcher", "domain_matchers", json!([]));
    tree["matcher_tree"]["custom_match"]["typed_config"]["domain_matchers"] =
        json!([{ "domains": ["nobody"], "on_match": to("nobody") }]);
    json!({ "matcher": tree })
}

#[test]
fn addresses_are_found_by_the_longest_prefix() {
    let range = |prefix: &str, length: u32, then: Value, exclusive: bool| json!({ "ranges": [{ "address_prefix": prefix, "prefix_len": length }], "on_match": then, "exclusive": exclusive });
    let list = json!([
        range("10.0.0.0", 8, to("ten"), false),
        range("10.1.0.0", 16, nothing(), false),
        range("11.0.0.0", 8, to("eleven"), true),
        range("11.1.0.0", 16, nothing(), false),
        range("12.0.0.0", 8, to("first"), false),
        range("12.0.0.0", 8, to("second"), false),
        range("::", 0, to("v6"), false),
    ]);
    let tree = tree(custom("IPMatcher", "range_matchers", list)).unwrap();
    for (value, expected) in [
        ("10.2.0.1", Some("ten")),
        ("10.1.0.1", Some("ten")),
        ("11.2.0.1", Some("eleven")),
        ("11.1.0.1", None),
        ("12.0.0.1", Some("first")),
        ("fe80::1", Some("v6")),
        ("13.0.0.1", None),
        ("no address", None),
    ] {
        assert_eq!(found(&tree, value).as_deref(), expected, "{value}");
    }
}

#[test]
fn hosts_are_found_exactly_or_by_the_longest_suffix() {
    let list = json!([
        { "domains": ["a.example", "*"], "on_match": to("exact or any") },
        { "domains": ["*.a.example"], "on_match": to("below a") },
        { "domains": ["*.b.a.example"], "on_match": nothing() },
    ]);
    let tree = tree(custom("ServerNameMatcher", "domain_matchers", list)).unwrap();
    for (value, expected) in [
        ("a.example", "exact or any"),
        ("x.a.example", "below a"),
        ("x.b.a.example", "below a"),
        ("x.A.example", "exact or any"),
        ("other", "exact or any"),
    ] {
        assert_eq!(found(&tree, value).as_deref(), Some(expected), "{value}");
    }
}

#[test]
fn bad_hosts_are_refused_by_place() {
    for (domains, reason) in [
        (json!(["a*"]), "`a*` is neither a name, nor `*.` and a name, nor `*`"),
        (json!(["*a"]), "`*a` is neither a name, nor `*.` and a name, nor `*`"),
        (json!(["a", "a"]), "`a` is there twice"),
    ] {
        let at = domains.as_array().map_or(0, Vec::len) - 1;
        let list = json!([{ "domains": domains, "on_match": to("x") }]);
        let error = tree(custom("ServerNameMatcher", "domain_matchers", list)).unwrap_err();
        let place = format!("matcher_tree.custom_match.typed_config.domain_matchers[0].domains[{at}]");
        assert_eq!(error.to_string(), format!("{place}: invalid: {reason}"));
    }
}
