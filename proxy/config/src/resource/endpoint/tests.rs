use serde_json::{Value, json};
use sidemesh_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use sidemesh_proto::prost::Message as _;

use super::{HostNames, LoadAssignment, parse_encoded, parse_with};

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
    let drop = |percent: u32| json!({"category": "load", "drop_percentage": {"numerator": percent}});
    refused(
        json!({"cluster_name": "c", "policy": {"drop_overloads": [drop(60), drop(50)]}}),
        "policy.drop_overloads: invalid: the percentages add up to 110, which is more than 100",
    );
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

#[test]
fn an_address_counts_once_in_eds() {
    let locality = |zone: &str, ports: &[u16]| {
        let endpoints: Vec<Value> = ports
            .iter()
            .map(|port| json!({"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": port}}}}))
            .collect();
        json!({"locality": {"zone": zone}, "lb_endpoints": endpoints})
    };
    let value = json!({"cluster_name": "c", "endpoints": [locality("a", &[1, 2, 1]), locality("b", &[2, 3])]});
    let wire: ClusterLoadAssignment =
        sidemesh_proto::json::parse("envoy.config.endpoint.v3.ClusterLoadAssignment", &value).expect("well-formed");
    let sizes =
        |assignment: LoadAssignment| assignment.localities.iter().map(|l| l.endpoints.len()).collect::<Vec<_>>();
    assert_eq!(sizes(parse_encoded(&wire.encode_to_vec()).expect("valid")), [2, 1]);
    assert_eq!(
        sizes(parse_with(&wire, HostNames::Refused).expect("valid")),
        [3, 2],
        "a cluster's own list stays as it is"
    );
}

#[test]
fn groups_in_fields_that_are_not_known_are_skipped() {
    let plain = sidemesh_proto::json::to_bytes(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        &json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [host("10.0.0.1")] }] }),
    )
    .expect("well-formed");
    // Field 1007: a group that holds a number and another group, empty.
    let group = [0xfb, 0x3e, 0x08, 0x01, 0x13, 0x14, 0xfc, 0x3e];
    let decoded = |bytes: &[u8]| {
        crate::resource::decode(&sidemesh_proto::google::Any {
            type_url: sidemesh_proto::type_url::ENDPOINT.to_owned(),
            value: bytes.to_vec(),
        })
    };
    let found = decoded(&[&plain[..], &group[..]].concat());
    assert_eq!(found.result, decoded(&plain).result);
    assert!(found.result.is_ok());
    assert_eq!(found.hints.len(), 1);
    // Without its end, and nested without one.
    assert!(decoded(&[&plain[..], &group[..4]].concat()).result.is_err());
    assert!(decoded(&[&plain[..], &[0x0b; 10_000]].concat()).result.is_err());
}
