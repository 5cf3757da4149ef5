use serde_json::{Value, json};
use sidemesh_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::{HostNames, LoadAssignment, parse_with};

fn read(value: Value, names: HostNames) -> Result<LoadAssignment, String> {
    let message =
        sidemesh_proto::json::parse::<ClusterLoadAssignment>("envoy.config.endpoint.v3.ClusterLoadAssignment", &value)
            .expect("well-formed");
    parse_with(&message, names).map_err(|r| r.to_string())
}

fn host(address: &str) -> Value {
    json!({ "endpoint": { "address": { "socket_address": { "address": address, "port_value": 80 } } } })
}

#[test]
fn defaults() {
    let read =
        read(json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [host("10.0.0.1")] }] }), HostNames::Refused)
            .expect("valid");
    assert_eq!(read.policy.overprovisioning_factor, 140);
    assert_eq!(read.localities[0].endpoints[0].weight, 1);
    assert_eq!(read.localities[0].weight, None);
}

#[test]
fn one_locality_listed_twice_is_one() {
    let group = |a: &str, weight: u32| json!({ "locality": { "zone": "z" }, "lb_endpoints": [host(a)], "load_balancing_weight": weight });
    let read = read(
        json!({ "cluster_name": "c", "endpoints": [group("10.0.0.1", 1), group("10.0.0.2", 7)] }),
        HostNames::Refused,
    )
    .expect("valid");
    assert_eq!(read.localities.len(), 1);
    assert_eq!((read.localities[0].endpoints.len(), read.localities[0].weight), (2, Some(7)));
}

#[test]
fn refusals_name_the_field() {
    let refused = |value: Value, expected: &str| {
        assert_eq!(read(value, HostNames::Refused).expect_err("must be refused"), expected);
    };
    refused(json!({}), "cluster_name: invalid: must not be empty");
    refused(
        json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [host("10.0.0.1"), host("a.test")] }] }),
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address: invalid: `a.test` is no IP address; \
         host names need a STRICT_DNS or LOGICAL_DNS cluster",
    );
    let heavy = |a: &str| {
        let mut h = host(a);
        h["load_balancing_weight"] = json!(u32::MAX);
        h
    };
    refused(
        json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [heavy("10.0.0.1"), heavy("10.0.0.2")] }] }),
        "endpoints: invalid: the host weights of a locality at priority 0 add up to 8589934590, more than 4294967295",
    );
    refused(
        json!({ "cluster_name": "c", "endpoints": [{ "priority": 129 }] }),
        "endpoints[0].priority: invalid: 129 is more than 128",
    );
    assert!(
        read(json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [host("a.test")] }] }), HostNames::Allowed)
            .is_ok()
    );
}
