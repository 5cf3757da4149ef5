use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_proto::envoy::config::cluster::v3::Cluster as Wire;

use super::{Cluster, Discovery, HeaderCase, LbPolicy, LocalityLb, UpstreamVersion, parse};

fn read(mut value: Value) -> Result<Cluster, String> {
    if value.get("name").is_none() {
        value["name"] = json!("c");
    }
    let message = sidemesh_proto::json::parse::<Wire>("envoy.config.cluster.v3.Cluster", &value).expect("well-formed");
    parse(&message).map_err(|r| r.to_string())
}

fn refused(value: Value, expected: &str) {
    assert_eq!(read(value).expect_err("must be refused"), expected);
}

#[test]
fn defaults_are_envoys() {
    let c = read(json!({ "outlier_detection": {} })).expect("valid");
    assert!(matches!(c.discovery, Discovery::Static(_)));
    assert!(matches!(c.lb, LbPolicy::RoundRobin { slow_start: None }));
    assert_eq!((c.connect_timeout, c.buffer_limit), (Duration::from_secs(5), 1 << 20));
    assert_eq!((c.circuit_breakers.default.max_connections, c.circuit_breakers.high.max_retries), (1024, 3));
    assert_eq!(c.circuit_breakers.default.retry_budget, None);
    assert_eq!(c.lb_common.panic_threshold, 50.0);
    assert_eq!(c.protocol.version, UpstreamVersion::Http1);
    assert_eq!(c.protocol.http2.initial_stream_window_size, 16 << 20);
    let o = c.outlier.expect("given");
    assert_eq!((o.consecutive_5xx, o.max_ejection_percent, o.enforcing_consecutive_gateway_failure), (5, 10, 0));
    assert_eq!((o.interval, o.max_ejection_time), (Duration::from_secs(10), Duration::from_secs(300)));
}

#[test]
fn a_long_base_ejection_time_lifts_the_default_maximum() {
    let c = read(json!({ "outlier_detection": { "base_ejection_time": "400s" } })).expect("valid");
    assert_eq!(c.outlier.expect("given").max_ejection_time, Duration::from_secs(400));
}

#[test]
fn discovery_kinds() {
    let eds =
        read(json!({ "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} }, "service_name": "s" } }));
    assert!(matches!(eds.expect("valid").discovery, Discovery::Eds { service_name, .. } if &*service_name == "s"));
    let aggregate = json!({ "lb_policy": "CLUSTER_PROVIDED", "cluster_type": { "name": "envoy.clusters.aggregate", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["a", "b"] } } });
    assert!(matches!(read(aggregate).expect("valid").discovery, Discovery::Aggregate(c) if c.len() == 2));
    refused(json!({ "type": "EDS" }), "eds_cluster_config: invalid: is required");
    refused(
        json!({ "type": "ORIGINAL_DST" }),
        "lb_policy: invalid: must be CLUSTER_PROVIDED for an ORIGINAL_DST cluster",
    );
    refused(
        json!({ "type": "LOGICAL_DNS", "load_assignment": { "cluster_name": "c", "endpoints": [] } }),
        "load_assignment: invalid: a LOGICAL_DNS cluster has one locality with one endpoint",
    );
}

fn policy(name: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}"));
    json!({ "typed_extension_config": { "name": name, "typed_config": config } })
}

#[test]
fn policies_of_extensions() {
    let inner = json!({ "policies": [policy("least_request.v3.LeastRequest", json!({ "choice_count": 4 }))] });
    let weighted = policy("wrr_locality.v3.WrrLocality", json!({ "endpoint_picking_policy": inner }));
    let c = read(json!({ "load_balancing_policy": { "policies": [weighted] } })).expect("valid");
    assert!(matches!(c.lb, LbPolicy::LeastRequest { choice_count: 4, .. }));
    assert_eq!(c.lb_common.locality, LocalityLb::Weighted);

    let unknown = json!({ "typed_extension_config": { "name": "x", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.Struct", "value": {} } } });
    let c = read(json!({ "load_balancing_policy": { "policies": [unknown, policy("maglev.v3.Maglev", json!({}))] } }));
    assert!(matches!(c.expect("the first that is known").lb, LbPolicy::Maglev { table_size: 65_537, .. }));
}

#[test]
fn refusals_name_the_field() {
    refused(
        json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": 65536 } }),
        "maglev_lb_config.table_size: invalid: 65536 is no prime number up to 5000011",
    );
    refused(
        json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": { "minimum_ring_size": 9, "maximum_ring_size": 8 } }),
        "ring_hash_lb_config.minimum_ring_size: invalid: 9 is more than maximum_ring_size 8",
    );
    refused(json!({ "connect_timeout": "0s" }), "connect_timeout: invalid: must be greater than 0s");
    refused(
        json!({ "health_checks": [{ "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1 }] }),
        "health_checks[0].healthy_threshold: invalid: is required",
    );
    let options = |config: Value| {
        let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let mut config = config;
        config["@type"] = json!(format!("type.googleapis.com/{key}"));
        json!({ "typed_extension_protocol_options": { key: config } })
    };
    refused(
        options(json!({ "explicit_http_config": { "http2_protocol_options": { "max_concurrent_streams": 0 } } })),
        "typed_extension_protocol_options[envoy.extensions.upstreams.http.v3.HttpProtocolOptions].explicit_http_config.\
         http2_protocol_options.max_concurrent_streams: invalid: 0 is not between 1 and 2147483647",
    );
    refused(
        options(json!({ "auto_config": {} })),
        "transport_socket: invalid: auto_config chooses by ALPN: the transport socket must be tls",
    );
}

#[test]
fn the_deprecated_field_means_http2() {
    assert_eq!(read(json!({ "http2_protocol_options": {} })).expect("valid").protocol.version, UpstreamVersion::Http2);
}

#[test]
fn bounds_against_http2_floods() {
    let read = |options: serde_json::Value| read(json!({ "http2_protocol_options": options }));
    let default = read(json!({})).expect("valid").protocol.http2.floods;
    assert_eq!((default.outbound_frames, default.control_frames), (10_000, 1000));
    assert_eq!((default.empty_frames, default.priority_frames), (1, 100));
    assert_eq!((default.window_updates, default.reset_burst, default.reset_rate), (10, 1000, 33));
    let set = json!({ "max_outbound_frames": 7, "max_consecutive_inbound_frames_with_empty_payload": 0,
        "stream_reset_burst": "5", "stream_error_on_invalid_http_messaging": true });
    let http2 = read(set).expect("valid").protocol.http2;
    assert_eq!((http2.floods.outbound_frames, http2.floods.empty_frames), (7, 0));
    assert_eq!((http2.floods.reset_burst, http2.stream_error_on_invalid_message), (5, Some(true)));
    refused(
        json!({ "http2_protocol_options": { "max_outbound_control_frames": 0 } }),
        "http2_protocol_options.max_outbound_control_frames: invalid: must be at least 1",
    );
}

#[test]
fn health_check_defaults_follow_one_another() {
    let c = read(
        json!({ "health_checks": [{ "timeout": "1s", "interval": "3s", "unhealthy_threshold": 2, "healthy_threshold": 1,
        "tcp_health_check": { "send": { "text": "00ff" } } }] }),
    )
    .expect("valid");
    let h = &c.health_checks[0];
    assert_eq!((h.unhealthy_edge_interval, h.no_traffic_interval), (Duration::from_secs(3), Duration::from_secs(60)));
    assert!(matches!(&h.checker, super::HealthChecker::Tcp { send, .. } if send == &[0, 255]));
}

#[test]
fn what_nothing_acts_on_is_refused() {
    let check = json!({ "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
        "http_health_check": { "path": "/" } });
    refused(
        json!({ "health_checks": [check, check] }),
        "health_checks[1]: not supported: one health check is supported; leave out the others",
    );
    let mut operator = check.clone();
    operator["http_health_check"]["request_headers_to_add"] = json!([{ "header": { "key": "x-a", "value": "plain" } }, { "header": { "key": "x-b", "value": "%START_TIME%" } }]);
    refused(
        json!({ "health_checks": [operator] }),
        "health_checks[0].http_health_check.request_headers_to_add[1].header.value: not supported: a health check has no \
         request for % operators to read; give plain text",
    );
}

#[test]
fn http1_options_towards_a_cluster() {
    let options = json!({ "send_fully_qualified_url": true, "allow_chunked_length": true, "enable_trailers": true });
    let http1 = read(json!({ "http_protocol_options": options })).expect("valid").protocol.http1;
    assert!(http1.send_fully_qualified_url && http1.allow_chunked_length && http1.enable_trailers);
    assert_eq!(http1.header_case, HeaderCase::Lower);
}

#[test]
fn an_eds_cluster_has_no_hosts_of_its_own() {
    let cluster = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } },
        "load_assignment": { "cluster_name": "c" } });
    assert!(matches!(read(cluster.clone()).expect("valid").discovery, Discovery::Eds { .. }));
    let wire = sidemesh_proto::json::parse::<Wire>("envoy.config.cluster.v3.Cluster", &cluster).expect("well-formed");
    assert_eq!(super::hint(&wire).expect("told").path, "load_assignment");
}
