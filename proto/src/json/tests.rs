use prost::{Message, Name};
use serde_json::{Value, json};

use super::{any_to_json, parse, to_bytes, to_json};
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::{google, type_url};

fn bootstrap(value: &Value) -> Result<Bootstrap, String> {
    parse::<Bootstrap>(&Bootstrap::full_name(), value).map_err(|e| e.to_string())
}

fn refused(value: Value, expected: &str) {
    assert_eq!(bootstrap(&value).expect_err("must be refused"), expected);
}

#[test]
fn reads_snake_case_and_camel_case() {
    let read = bootstrap(&json!({
        "node": { "id": "a", "cluster": "b", "metadata": { "k": [1, true, null] } },
        "staticResources": { "clusters": [{ "name": "c", "connect_timeout": "0.25s", "lbPolicy": "RING_HASH" }] },
    }))
    .expect("valid");
    let cluster = &read.static_resources.expect("set").clusters[0];
    assert_eq!(cluster.name, "c");
    assert_eq!(cluster.connect_timeout.expect("set").nanos, 250_000_000);
    assert_eq!(cluster.lb_policy, 2);
}

#[test]
fn packs_typed_config() {
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let read = bootstrap(&json!({ "static_resources": { "listeners": [{ "filter_chains": [{ "filters": [{
        "name": "hcm", "typed_config": { "@type": hcm, "stat_prefix": "x",
            "http_filters": [{ "name": "r", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] },
    }] }] }] } }))
    .expect("valid");
    let filter = &read.static_resources.expect("set").listeners[0].filter_chains[0].filters[0];
    let Some(crate::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("typed_config must be set");
    };
    assert_eq!(any.type_url, hcm);
    use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    assert_eq!(HttpConnectionManager::decode(any.value.as_slice()).expect("bytes").http_filters[0].name, "r");
}

#[test]
fn names_the_field_that_does_not_exist() {
    refused(
        json!({ "static_resources": { "clusters": [{ "foo": 1 }] } }),
        "static_resources.clusters[0].foo: envoy.config.cluster.v3.Cluster has no field `foo`",
    );
    refused(
        json!({ "static_resources": { "clusters": [{ "conect_timeout": "1s" }] } }),
        "static_resources.clusters[0].conect_timeout: envoy.config.cluster.v3.Cluster has no field `conect_timeout`; \
         did you mean `connect_timeout`?",
    );
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    refused(
        json!({ "static_resources": { "listeners": [{ "listener_filters": [
            { "name": "a", "typed_config": { "@type": router, "nope": {} } }] }] } }),
        "static_resources.listeners[0].listener_filters[0].typed_config.nope: \
         envoy.extensions.filters.http.router.v3.Router has no field `nope`",
    );
}

#[test]
fn names_the_type_that_does_not_exist() {
    refused(
        json!({ "static_resources": { "listeners": [{ "listener_filters": [
            { "name": "a", "typed_config": { "@type": "type.googleapis.com/a.B" } }] }] } }),
        "static_resources.listeners[0].listener_filters[0].typed_config.@type: there is no message type `a.B`",
    );
}

#[test]
fn names_the_place_of_a_wrong_value() {
    refused(
        json!({ "static_resources": { "clusters": [{ "connect_timeout": "soon" }] } }),
        "static_resources.clusters[0].connect_timeout: `soon` is no duration; write seconds, such as `1.5s`",
    );
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let wrong = bootstrap(&json!({ "static_resources": { "listeners": [{ "listener_filters": [
        { "name": "a", "typed_config": { "@type": router, "dynamic_stats": "yes" } }] }] } }))
    .expect_err("must be refused");
    assert!(
        wrong.starts_with("static_resources.listeners[0].listener_filters[0].typed_config.dynamic_stats: "),
        "{wrong}"
    );
}

#[test]
fn refuses_a_field_under_both_names_and_two_of_a_oneof() {
    refused(
        json!({ "stats_flush_interval": "1s", "statsFlushInterval": "2s" }),
        "stats_flush_interval: is given twice, in snake_case and in camelCase",
    );
    refused(
        json!({ "admin": { "address": { "pipe": { "path": "a" }, "socket_address": { "address": "::1" } } } }),
        "admin.address: only one of `pipe` and `socket_address` may be given",
    );
}

#[test]
fn refuses_bottomless_nesting() {
    let mut rule = json!({ "any": true });
    for _ in 0..200 {
        rule = json!({ "not_rule": rule });
    }
    let refused = to_bytes("envoy.config.rbac.v3.Permission", &rule).expect_err("must be refused");
    assert!(refused.reason.contains("nested more than 100 levels"), "{refused}");
}

#[test]
fn prints_what_it_read() {
    let input = json!({
        "name": "c", "connect_timeout": "0.250s", "lb_policy": "MAGLEV", "per_connection_buffer_limit_bytes": 5,
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} } } },
        "metadata": { "filter_metadata": { "a": { "b": 1 } } },
        "maglev_lb_config": { "table_size": "65537" },
    });
    let name = Cluster::full_name();
    let bytes = to_bytes(&name, &input).expect("valid");
    assert_eq!(to_json(&name, &bytes).expect("printable"), input);
}

#[test]
fn prints_an_any_of_an_unknown_type() {
    let any = google::Any { type_url: type_url::of("a.B"), value: vec![1, 2, 3] };
    let printed = any_to_json(&any).expect("printable");
    assert_eq!(printed, json!({ "@type": "type.googleapis.com/a.B", "value": "AQID" }));
}

#[test]
fn prints_a_well_known_type_in_an_any_below_value() {
    let any = crate::pack(&google::Duration { seconds: 3, nanos: 0 });
    let printed = any_to_json(&any).expect("printable");
    assert_eq!(printed, json!({ "@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s" }));
}

#[test]
fn every_kind_of_scalar_survives() {
    let metadata = json!({ "string_value": "a" });
    for (name, value) in [
        ("google.protobuf.Int64Value", json!("-9007199254740993")),
        ("google.protobuf.UInt64Value", json!("18446744073709551615")),
        ("google.protobuf.Int32Value", json!(-5)),
        ("google.protobuf.UInt32Value", json!(0)),
        ("google.protobuf.DoubleValue", json!(0.1)),
        ("google.protobuf.DoubleValue", json!("-Infinity")),
        ("google.protobuf.FloatValue", json!(0.1)),
        ("google.protobuf.BoolValue", json!(false)),
        ("google.protobuf.StringValue", json!("")),
        ("google.protobuf.BytesValue", json!("AP8=")),
        ("google.protobuf.Duration", json!("-1.500s")),
        ("google.protobuf.Timestamp", json!("2024-02-29T12:00:00.000000001Z")),
        ("google.protobuf.Value", json!({ "a": [null, true, 1, 1.5, "x"] })),
        ("envoy.type.v3.Int32Range", json!({ "start": -1, "end": 7 })),
        ("envoy.config.core.v3.HealthStatusSet", json!({ "statuses": ["UNKNOWN", "HEALTHY", 99] })),
        ("envoy.config.route.v3.RetryPolicy", json!({ "retriable_status_codes": [500, 0, 503] })),
        ("opentelemetry.proto.common.v1.AnyValue", metadata),
    ] {
        let bytes = to_bytes(name, &value).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(to_json(name, &bytes).expect("printable"), value, "{name}");
    }
}

#[test]
fn refuses_numbers_out_of_range_and_unknown_values() {
    let refused = |name: &str, value: Value| to_bytes(name, &value).expect_err("must be refused").to_string();
    assert_eq!(refused("google.protobuf.UInt32Value", json!(-1)), "-1 is not between 0 and 4294967295");
    assert_eq!(refused("google.protobuf.UInt32Value", json!(1.5)), "expected a whole number, found the number 1.5");
    assert_eq!(
        refused("envoy.config.core.v3.SocketAddress", json!({ "protocol": "SCTP" })),
        "protocol: there is no value `SCTP`; there are TCP, UDP",
    );
    assert!(refused("google.protobuf.BytesValue", json!("*")).starts_with("is no base64 text"));
    assert_eq!(
        refused("google.protobuf.Timestamp", json!("yesterday")),
        "`yesterday` is no time; write it as `2024-01-31T12:00:00Z`",
    );
}

#[test]
fn agrees_with_the_generated_types() {
    let bytes = to_bytes(
        &Cluster::full_name(),
        &json!({ "name": "c", "type": "EDS", "lb_policy": "ROUND_ROBIN", "circuit_breakers": { "thresholds": [
            { "max_retries": 7, "retry_budget": { "budget_percent": { "value": 12.5 } } }] } }),
    )
    .expect("valid");
    // No default is written: but for the order, the bytes are those of the generated encoder.
    assert_eq!(Cluster::decode(bytes.as_slice()).expect("bytes").encoded_len(), bytes.len());
}

#[test]
fn joins_the_parts_of_a_message_and_takes_the_last_of_a_oneof() {
    use crate::envoy::config::core::v3::{Address, Pipe, address};
    let part =
        |path: &str, mode| Address { address: Some(address::Address::Pipe(Pipe { path: path.to_owned(), mode })) };
    let mut bytes = part("a", 0).encode_to_vec();
    bytes.extend(part("", 7).encode_to_vec());
    let name = Address::full_name();
    assert_eq!(to_json(&name, &bytes).expect("printable"), json!({ "pipe": { "path": "a", "mode": 7 } }));
    bytes.extend(to_bytes(&name, &json!({ "socket_address": { "address": "::1" } })).expect("valid"));
    assert_eq!(to_json(&name, &bytes).expect("printable"), json!({ "socket_address": { "address": "::1" } }));
}
