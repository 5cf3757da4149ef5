//! How changes of hosts reach the workers, and hosts that requests name themselves.

use std::time::Duration;

use serde_json::json;
use sidemesh_config::value::Metadata;

use super::harness::*;
use crate::upstream::{Naming, PickContext};

fn at(origin: &Origin) -> String {
    format!("127.0.0.1:{}", origin.port)
}

#[test]
fn changes_of_health_within_the_merge_window_arrive_together() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        world.cluster("c", &[&a], json!({ "common_lb_config": { "update_merge_window": "0.2s" } }));
        world.control.ready(&[sidemesh_config::value::name("c")]).await;
        let shared = world.registry.get("c").expect("the cluster is known");
        let now = || shared.millis(tokio::time::Instant::now().into_std());
        let first = shared.generation();
        shared.touch_health(now());
        assert_eq!(shared.generation(), first + 1, "the first is told at once");
        for _ in 0..3 {
            shared.touch_health(now());
        }
        assert_eq!(shared.generation(), first + 1);
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(shared.generation(), first + 2, "the others together");
        tokio::time::sleep(Duration::from_millis(300)).await;
        shared.touch_health(now());
        assert_eq!(shared.generation(), first + 3, "the window is over");
    });
}

#[test]
fn a_request_gets_the_host_that_it_names() {
    run(async {
        let world = World::new();
        let origins = [Origin::start("a", false).await, Origin::start("b", false).await];
        let type_url = "type.googleapis.com/envoy.extensions.load_balancing_policies";
        let fallback = json!({ "policies": [{ "typed_extension_config": { "name": "rr",
            "typed_config": { "@type": format!("{type_url}.round_robin.v3.RoundRobin") } } }] });
        let policy = json!({ "policies": [{ "typed_extension_config": { "name": "named", "typed_config": {
            "@type": format!("{type_url}.override_host.v3.OverrideHost"),
            "override_host_sources": [{ "header": "x-to" }], "fallback_policy": fallback } } }] });
        let cluster = world.cluster("c", &[&origins[0], &origins[1]], json!({ "load_balancing_policy": policy }));
        let none = Metadata::default();
        let mut headers = http::HeaderMap::new();
        let named = format!("127.0.0.1:1, 127.0.0.1:{}, 127.0.0.1:{}", origins[1].port, origins[0].port);
        headers.insert("x-to", named.parse().expect("a value"));
        let wanted = cluster.wanted(&Naming { headers: &headers, metadata: [&none, &none], connection: None });
        assert_eq!(wanted.len(), 3);
        let context = PickContext { wanted: &wanted, ..PickContext::default() };
        for _ in 0..4 {
            assert_eq!(cluster.pick(&context).expect("a host").address().to_string(), at(&origins[1]));
        }
        // The next in the list is for the next attempt.
        let tried = [cluster.pick(&context).expect("a host")];
        let again = PickContext { tried: &tried, ..context };
        assert_eq!(cluster.pick(&again).expect("a host").address().to_string(), at(&origins[0]));
    });
}

#[test]
fn connections_are_made_ahead() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        a.script.delay_ms.set(50);
        let cluster =
            world.cluster("c", &[&a], json!({ "preconnect_policy": { "per_upstream_preconnect_ratio": 2.0 } }));
        assert!(fetch(&cluster).await.is_ok());
        assert_eq!((a.script.connections.get(), a.script.requests.get()), (2, 1));
        let both = tokio::join!(fetch(&cluster), fetch(&cluster));
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(world.stat("c", "upstream_cx_active"), 4);
    });
}

/// Endpoints 10.0.0.0 and on, with a hole before the last `moved`.
fn many(count: u32, moved: u32) -> serde_json::Value {
    let address = |i: u32| {
        let i = if i >= count - moved { i + 10_000 } else { i };
        json!({ "socket_address": { "address": format!("10.0.{}.{}", i / 256, i % 256), "port_value": 80 } })
    };
    let endpoints: Vec<_> = (0..count).map(|i| json!({ "endpoint": { "address": address(i) } })).collect();
    json!({ "name": "c", "load_assignment": { "cluster_name": "c", "endpoints": [{ "lb_endpoints": endpoints }] } })
}

#[test]
fn a_large_cluster_changes_in_slices_and_requests_go_on_meanwhile() {
    run(async {
        let world = World::new();
        let cluster = world.apply(&many(6000, 0));
        let stays = cluster.pick(&PickContext::default()).expect("a host");
        let shared = world.registry.get("c").expect("the cluster is known");
        let before = std::sync::Arc::downgrade(&shared.members());
        let next = match &crate::upstream::tests::config(&many(6000, 5999)).discovery {
            sidemesh_config::resource::cluster::Discovery::Static(assignment) => assignment.clone(),
            other => panic!("{other:?}"),
        };
        shared.set_members(next, tokio::time::Instant::now().into_std());
        let is_new = |host: &crate::upstream::Host| {
            let text = host.address().to_string();
            text == "10.0.0.0:80" || text.split('.').nth(2).and_then(|n| n.parse::<u32>().ok()) >= Some(39)
        };
        assert!(stays.address().to_string() == "10.0.0.0:80" || !is_new(&stays));
        let host = cluster.pick(&PickContext::default()).expect("a host");
        assert!(host.address().to_string() == "10.0.0.0:80" || !is_new(&host), "the view of before, at once");
        let mut turns = 0;
        while !is_new(&cluster.pick(&PickContext::default()).expect("a host")) {
            turns += 1;
            assert!(turns < 1000, "the view is never made anew");
            tokio::task::yield_now().await;
        }
        assert!(turns > 5, "in {turns} turns only: a worker has done nothing else in them");
        for _ in 0..50 {
            assert!(is_new(&cluster.pick(&PickContext::default()).expect("a host")));
        }
        assert_eq!(cluster.health(), (6000, 6000));
        drop((stays, host));
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(before.upgrade().is_none(), "nobody uses the hosts of before, and they are still there");
    });
}
