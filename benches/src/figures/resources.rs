//! Resources of a size: clusters, their endpoints, routes to them.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::endpoint::v3 as endpoint;
use sidemesh_proto::google::Any;
use sidemesh_proto::pack;
use sidemesh_tests::proxy;

/// Addresses on loopback that nothing answers at, from the `first` on.
pub fn addresses(first: u32, count: u32) -> impl Iterator<Item = SocketAddr> {
    let base = u32::from(Ipv4Addr::new(127, 64, 0, 0));
    (first..first + count).map(move |i| SocketAddr::from((Ipv4Addr::from(base + i), 9)))
}

/// A load assignment as EDS sends it.
pub fn assignment(cluster: &str, hosts: impl IntoIterator<Item = SocketAddr>) -> (String, Any) {
    let address = |a: SocketAddr| core::SocketAddress {
        address: a.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(a.port()))),
        ..core::SocketAddress::default()
    };
    let host = |a: SocketAddr| endpoint::Endpoint {
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(address(a))) }),
        ..endpoint::Endpoint::default()
    };
    let one = |a: SocketAddr| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host(a))),
        ..endpoint::LbEndpoint::default()
    };
    let lb_endpoints = hosts.into_iter().map(one).collect();
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints, ..endpoint::LocalityLbEndpoints::default() }],
        ..endpoint::ClusterLoadAssignment::default()
    };
    (cluster.to_owned(), pack(&message))
}

/// A cluster whose endpoints come over ADS.
pub fn eds_cluster(name: &str) -> (String, Any) {
    let value = proxy::typed(
        "envoy.config.cluster.v3.Cluster",
        json!({"name": name, "type": "EDS", "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}),
    );
    (name.to_owned(), any(&value))
}

/// A listener with these routes.
pub fn listener(entry: SocketAddr, routes: &Value) -> (String, Any) {
    let value = proxy::http_listener("entry", entry, routes, &json!({}));
    ("entry".to_owned(), any(&proxy::typed("envoy.config.listener.v3.Listener", value)))
}

/// The name of cluster `i`.
pub fn name(i: u32) -> String {
    format!("service-{i:05}")
}

/// A route to each of `count` clusters, by prefix.
pub fn routes(count: u32) -> Value {
    (0..count).map(|i| json!({"match": {"prefix": format!("/{}/", name(i))}, "route": {"cluster": name(i)}})).collect()
}

fn any(value: &Value) -> Any {
    // What is written here is valid.
    sidemesh_proto::json::any_from_json(value).expect("a resource")
}
