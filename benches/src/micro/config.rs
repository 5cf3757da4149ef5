//! An update's way: decoding, the subscription, the snapshot and what it changes.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};
use sidemesh_config::diff::diff;
use sidemesh_config::resource::{Resource, decode};
use sidemesh_config::value::Name;
use sidemesh_proto::google::Any;
use sidemesh_proto::json::any_from_json;
use sidemesh_proxy::xds::assemble::Assembler;
use sidemesh_proxy::xds::cascade::Source;
use sidemesh_proxy::xds::runtime::Layers;
use sidemesh_proxy::xds::subscription::{Subscription, Variant};

use super::Case;

pub const CASES: &[Case] = &[
    Case::new("config/decode_cluster", 200, |n| decode_again(&eds_cluster(1), n)),
    Case::new("config/decode_100_endpoints", 50, |n| decode_again(&assignment(1, 100), n)),
    Case::new("snapshot/build_of_1000_clusters", 50, build),
    Case::new("snapshot/diff_of_1000_clusters", 50, compare),
    Case::new("subscription/state_of_the_world", 500, |n| answer(Variant::StateOfTheWorld, n)),
    Case::new("subscription/delta_with_100_names", 500, |n| answer(Variant::Delta, n)),
];

/// A resource from its JSON form.
pub fn resource(value: &Value) -> Resource {
    decode(&any(value)).result.expect("a valid resource")
}

fn any(value: &Value) -> Any {
    any_from_json(value).expect("JSON of a known message")
}

fn eds_cluster(i: u32) -> Any {
    any(&json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": format!("c{i:05}"), "type": "EDS",
        "connect_timeout": "1s", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "circuit_breakers": {"thresholds": [{"max_connections": 1000}]}, "lb_policy": "LEAST_REQUEST",
    }))
}

fn assignment(i: u32, hosts: u32) -> Any {
    let endpoint = |h: u32| {
        let address = format!("10.{}.{}.{}", i % 256, h / 256, h % 256);
        json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": 80}}}})
    };
    any(&json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": format!("c{i:05}"),
        "endpoints": [{"lb_endpoints": (0..hosts).map(endpoint).collect::<Value>()}],
    }))
}

fn decode_again(any: &Any, n: u32) {
    for _ in 0..n {
        black_box(decode(black_box(any)).result.is_ok());
    }
}

/// 1,000 clusters with their endpoints, warm.
fn assembled() -> Assembler {
    let mut assembler = Assembler::new(Layers::default(), Vec::new());
    let now = Instant::now();
    let take = |assembler: &mut Assembler, any: &Any| {
        assembler.handle_resource(decode(any).result.expect("a resource"), &Source::Ads);
    };
    (0..1000).for_each(|i| take(&mut assembler, &eds_cluster(i)));
    assembler.refresh(now);
    (0..1000).for_each(|i| take(&mut assembler, &assignment(i, 2)));
    assembler.refresh(now);
    assembler
}

/// Endpoints of one cluster change, and a snapshot is made of it.
fn build(n: u32) {
    let mut assembler = assembled();
    assert_eq!(assembler.snapshot().clusters.len(), 1000);
    let changed = [assignment(7, 2), assignment(7, 3)].map(|any| decode(&any).result.expect("a resource"));
    let now = Instant::now();
    for i in 0..n {
        let [Resource::Endpoints(one), Resource::Endpoints(other)] = &changed else { return };
        let next = if i % 2 == 0 { one } else { other };
        assembler.handle_resource(Resource::Endpoints(next.clone()), &Source::Ads);
        assembler.refresh(now);
        black_box(assembler.snapshot());
    }
}

fn compare(n: u32) {
    let mut assembler = assembled();
    let old = assembler.snapshot();
    assembler.handle_resource(decode(&assignment(7, 3)).result.expect("a resource"), &Source::Ads);
    assembler.refresh(Instant::now());
    let new = assembler.snapshot();
    assert_eq!(diff(&old, &new).clusters.changed.len(), 1);
    for _ in 0..n {
        black_box(diff(black_box(&old), black_box(&new)));
    }
}

/// A response comes and is acknowledged.
fn answer(variant: Variant, n: u32) {
    let names: BTreeSet<Name> = (0..100).map(|i| Name::from(format!("c{i:05}"))).collect();
    let mut subscription = Subscription::new(variant, false);
    subscription.set_names(names.clone());
    black_box(subscription.next_request());
    for i in 0..n {
        let version = if i % 2 == 0 { "v1" } else { "v2" };
        match variant {
            Variant::StateOfTheWorld => subscription.handle_response("nonce", version, None),
            Variant::Delta => {
                subscription.handle_delta("nonce", names.iter().map(|name| (&**name, version)), [], None);
            }
        }
        while let Some(request) = subscription.next_request() {
            black_box(request);
        }
    }
}
