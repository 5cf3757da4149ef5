use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::{google, json};

use super::*;

fn read<T: Message + Default + MessageName>(value: serde_json::Value) -> T {
    json::parse(&T::full_name(), &value).expect("test input")
}

#[track_caller]
fn refused<T>(result: Result<T, Rejection>, expected: &str) {
    assert_eq!(result.err().expect("must be refused").to_string(), expected);
}

#[test]
fn durations_have_a_range() {
    let of = |seconds, nanos| duration(&google::Duration { seconds, nanos }, "timeout");
    assert_eq!(of(1, 500_000_000), Ok(Duration::from_millis(1500)));
    refused(of(-1, 0), "timeout: invalid: must not be negative");
    refused(of(0, 1_000_000_000), "timeout: invalid: is out of a duration's range");
    refused(positive_duration(&google::Duration::default(), "t"), "t: invalid: must be greater than 0s");
}

#[test]
fn fractions_keep_their_denominator() {
    let fraction = runtime_fraction(
        &read(serde_json::json!({ "default_value": { "numerator": 5, "denominator": "TEN_THOUSAND" }, "runtime_key": "k" })),
        "f",
    )
    .expect("valid");
    assert_eq!(
        fraction,
        RuntimeFraction { key: Some(name("k")), default: Fraction { numerator: 5, denominator: 10_000 } }
    );
    refused(runtime_fraction(&core::RuntimeFractionalPercent::default(), "f"), "f.default_value: invalid: is required");
}

#[test]
fn addresses() {
    let of = |value| address(&read(value), "address");
    let socket = of(serde_json::json!({ "socket_address": { "address": "::1", "port_value": 80 } }));
    assert_eq!(socket.expect("valid").to_string(), "[::1]:80");
    let dns = of(serde_json::json!({ "socket_address": { "address": "shop", "port_value": 80 } }));
    assert_eq!(dns, Ok(Address::Dns { host: name("shop"), port: 80 }));
    refused(
        of(serde_json::json!({ "socket_address": { "address": "::1", "port_value": 70000 } })),
        "address.socket_address.port_value: invalid: 70000 is more than 65535",
    );
    refused(
        of(serde_json::json!({ "socket_address": { "address": "::1" } })),
        "address.socket_address.port_value: invalid: is required",
    );
    refused(of(serde_json::json!({})), "address: invalid: needs a socket_address or a pipe");
}

#[test]
fn ranges_of_addresses_fit_their_family() {
    let of = |value| cidr(&read(value), "c");
    let range = of(serde_json::json!({ "address_prefix": "10.0.0.0", "prefix_len": 8 })).expect("valid");
    assert!(range.contains("10.9.9.9".parse().expect("address")));
    refused(
        of(serde_json::json!({ "address_prefix": "10.0.0.0", "prefix_len": 33 })),
        "c.prefix_len: invalid: 33 is more than 32",
    );
    refused(of(serde_json::json!({ "address_prefix": "x" })), "c.address_prefix: invalid: `x` is no IP address");
}

#[test]
fn config_sources_name_their_services() {
    let of = |value| config_source(&read(value), "eds_config");
    assert_eq!(
        of(serde_json::json!({ "ads": {} })),
        Ok(ConfigSource { origin: ConfigOrigin::Ads, initial_fetch_timeout: Duration::from_secs(15) })
    );
    let grpc = of(serde_json::json!({ "api_config_source": { "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" }, "timeout": "1s",
            "initial_metadata": [{ "key": "a", "value": "b" }] }] }, "initial_fetch_timeout": "0s" }))
    .expect("valid");
    let ConfigOrigin::Grpc(source) = &grpc.origin else { panic!("{grpc:?}") };
    assert!(source.delta && grpc.initial_fetch_timeout.is_zero());
    assert_eq!(&*source.services[0].cluster, "xds");
    refused(
        of(serde_json::json!({ "api_config_source": { "api_type": "REST" } })),
        "eds_config.api_config_source.api_type: not supported: REST is not supported; use GRPC or DELTA_GRPC",
    );
    refused(
        of(serde_json::json!({ "api_config_source": { "api_type": "GRPC", "grpc_services": [{ "envoy_grpc": {} }] } })),
        "eds_config.api_config_source.grpc_services[0].envoy_grpc.cluster_name: invalid: must not be empty",
    );
    refused(
        of(serde_json::json!({ "initial_fetch_timeout": "1s" })),
        "eds_config: invalid: needs one of ads, self, api_config_source, path_config_source",
    );
}

#[test]
fn metadata_is_json() {
    let m: core::Metadata =
        read(serde_json::json!({ "filter_metadata": { "envoy.lb": { "canary": true, "n": [1.0, null] } } }));
    let m = metadata(&m);
    assert_eq!(m.get("envoy.lb", &[name("canary")]), Some(&true.into()));
    assert_eq!(m.get("envoy.lb", &[name("n")]), Some(&serde_json::json!([1, null])));
}
