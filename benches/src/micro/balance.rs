//! Choosing a host, by each policy.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};
use sidemesh_config::resource::Resource;
use sidemesh_config::resource::cluster::{Cluster, Discovery};
use sidemesh_config::resource::endpoint::LoadAssignment;
use sidemesh_config::value::Locality;
use sidemesh_proxy::clock::Random;
use sidemesh_proxy::upstream::balancer::{Balancer, Chance, Members, Request};
use sidemesh_proxy::upstream::{Host, HostState};

use super::Case;
use super::config::resource;

pub const CASES: &[Case] = &[
    Case::new("balancer/round_robin_of_10", 5000, |n| pick(&json!({"lb_policy": "ROUND_ROBIN"}), 10, false, n)),
    Case::new("balancer/round_robin_of_10000", 100_000, |n| {
        pick(&json!({"lb_policy": "ROUND_ROBIN"}), 10_000, false, n)
    }),
    Case::new("balancer/weighted_round_robin_of_100", 5000, |n| {
        pick(&json!({"lb_policy": "ROUND_ROBIN"}), 100, true, n)
    }),
    Case::new("balancer/least_request_of_10", 5000, |n| pick(&json!({"lb_policy": "LEAST_REQUEST"}), 10, false, n)),
    Case::new("balancer/least_request_of_10000", 100_000, |n| {
        pick(&json!({"lb_policy": "LEAST_REQUEST"}), 10_000, false, n)
    }),
    Case::new("balancer/random_of_100", 5000, |n| pick(&json!({"lb_policy": "RANDOM"}), 100, false, n)),
    Case::new("balancer/ring_hash_of_100", 5000, |n| pick(&json!({"lb_policy": "RING_HASH"}), 100, false, n)),
    Case::new("balancer/maglev_of_100", 5000, |n| pick(&json!({"lb_policy": "MAGLEV"}), 100, false, n)),
    Case::new("balancer/view_of_1000", 10, make_views),
];

fn cluster(policy: &Value, hosts: u32, weighted: bool) -> (Arc<Cluster>, Arc<LoadAssignment>) {
    let endpoint = |i: u32| {
        let address = format!("10.0.{}.{}", i / 256, i % 256);
        let weight = if weighted { i % 5 + 1 } else { 1 };
        json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": 80}}}, "load_balancing_weight": weight})
    };
    let mut value = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": (0..hosts).map(endpoint).collect::<Value>()}]},
    });
    if let (Some(all), Some(more)) = (value.as_object_mut(), policy.as_object()) {
        all.extend(more.clone());
    }
    match resource(&value) {
        Resource::Cluster(cluster) => match &cluster.discovery {
            Discovery::Static(assignment) => (cluster.clone(), assignment.clone()),
            other => panic!("{other:?} instead of endpoints"),
        },
        other => panic!("{other:?} is no cluster"),
    }
}

fn members(assignment: &LoadAssignment) -> Vec<Members> {
    let locality = Rc::new(Locality::default());
    let host = |endpoint: &Arc<_>| {
        let endpoint: &Arc<sidemesh_config::resource::endpoint::Endpoint> = endpoint;
        let state = HostState::new("c".into(), endpoint.address.clone(), 1, 0);
        Rc::new(Host::new(endpoint.clone(), locality.clone(), 0, Arc::new(state), 0))
    };
    let of = |l: &sidemesh_config::resource::endpoint::LocalityEndpoints| Members {
        locality: locality.clone(),
        priority: 0,
        weight: 0,
        hosts: l.endpoints.iter().map(host).collect(),
    };
    assignment.localities.iter().map(of).collect()
}

fn pick(policy: &Value, hosts: u32, weighted: bool, n: u32) {
    let (cluster, assignment) = cluster(policy, hosts, weighted);
    let balancer = Balancer::new(cluster, assignment.policy.clone(), members(&assignment), None);
    let random = Random::seeded(7);
    let chance = Chance { random: &random, now: 0, cluster_active: 0 };
    assert!(balancer.pick(&Request { hash: Some(7), ..Request::default() }, &chance).host.is_some(), "nobody to pick");
    for i in 0..n {
        let request = Request { hash: Some(u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)), ..Request::default() };
        black_box(balancer.pick(black_box(&request), &chance));
    }
}

/// What a worker does when a cluster of 1,000 hosts has changed.
fn make_views(n: u32) {
    let (cluster, assignment) = cluster(&json!({}), 1000, false);
    let members = members(&assignment);
    for _ in 0..n {
        black_box(Balancer::new(cluster.clone(), assignment.policy.clone(), black_box(&members).clone(), None));
    }
}
