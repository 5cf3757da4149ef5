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
