use std::time::Duration;

use serde_json::json;
use sidemesh_config::resource::route::Priority;
use sidemesh_config::value::name;

use super::harness::*;
use crate::upstream::{AttemptError, Overflow};

#[test]
fn one_connection_serves_one_and_keeps_one_waiting() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        a.script.delay_ms.set(100);
        let cluster = world.cluster(
            "c",
            &[&a],
            json!({ "circuit_breakers": { "thresholds": [
            { "max_connections": 1, "max_pending_requests": 1 }] } }),
        );
        let late = |ms| {
            let cluster = cluster.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                fetch(&cluster).await
            }
        };
        let (first, second, third) = tokio::join!(late(0), late(30), late(60));
        assert!(first.is_ok() && second.is_ok());
        let error = third.expect_err("the second fills the line");
        assert_eq!(error, AttemptError::Overflow(Overflow::Pending));
        assert_eq!((error.flag(), error.reason()), ("UO", "overflow"));
        assert_eq!((a.script.connections.get(), a.script.requests.get()), (1, 2));
        assert_eq!(world.stat("c", "upstream_rq_pending_overflow"), 1);
        assert!(world.stat("c", "upstream_cx_overflow") >= 1);
        assert_eq!(world.stat("c", "upstream_rq_pending_active"), 0);
    });
}

#[test]
fn the_request_above_max_requests_is_refused_at_once() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", true).await);
        a.script.delay_ms.set(100);
        let cluster = world.cluster(
            "c",
            &[&a],
            json!({ "http2_protocol_options": {},
            "circuit_breakers": { "thresholds": [{ "max_requests": 2 }] } }),
        );
        let answers = futures_util::future::join_all((0..3).map(|_| fetch(&cluster))).await;
        assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2);
        assert!(answers.contains(&Err(AttemptError::Overflow(Overflow::Requests))));
        assert!(fetch(&cluster).await.is_ok());
        assert_eq!(world.stat("c", "upstream_rq_active_overflow"), 1);
        assert_eq!(world.stat("c", "upstream_rq_pending_overflow"), 0);
    });
}

#[test]
fn a_waiting_request_that_gives_up_leaves_the_line_in_order() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        a.script.delay_ms.set(60);
        let cluster =
            world.cluster("c", &[&a], json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1 }] } }));
        let impatient = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            tokio::time::timeout(Duration::from_millis(10), fetch(&cluster)).await
        };
        let patient = async {
            tokio::time::sleep(Duration::from_millis(15)).await;
            fetch(&cluster).await
        };
        let (first, gone, last) = tokio::join!(fetch(&cluster), impatient, patient);
        assert!(first.is_ok() && gone.is_err() && last.is_ok());
        assert_eq!(a.script.requests.get(), 2);
    });
}

#[test]
fn a_cancelled_request_frees_what_it_held() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        a.script.delay_ms.set(1000);
        let cluster = world.cluster(
            "c",
            &[&a],
            json!({ "circuit_breakers": { "thresholds": [
            { "max_connections": 1, "max_requests": 1, "max_pending_requests": 1 }] } }),
        );
        assert!(tokio::time::timeout(Duration::from_millis(50), fetch(&cluster)).await.is_err());
        a.script.delay_ms.set(0);
        assert!(fetch(&cluster).await.is_ok());
        assert_eq!(world.stat("c", "upstream_rq_active"), 0);
        assert_eq!(world.stat("c", "upstream_cx_destroy_with_active_rq"), 1);
    });
}

#[test]
fn retries_are_held_to_their_limit() {
    run(async {
        let world = World::new();
        let cluster = world.cluster("c", &[], json!({ "circuit_breakers": { "thresholds": [{ "max_retries": 1 }] } }));
        let held = cluster.try_retry(Priority::Default).expect("the first");
        assert_eq!(cluster.try_retry(Priority::Default).expect_err("the second"), Overflow::Retries);
        assert!(cluster.try_retry(Priority::High).is_ok());
        drop(held);
        assert!(cluster.try_retry(Priority::Default).is_ok());
        assert_eq!(world.stat("c", "upstream_rq_retry_overflow"), 1);
        let cluster = world.cluster(
            "b",
            &[],
            json!({ "circuit_breakers": { "thresholds": [
            { "retry_budget": { "min_retry_concurrency": 2, "budget_percent": { "value": 20 } } }] } }),
        );
        let held: Vec<_> = (0..2).map(|_| cluster.try_retry(Priority::Default).expect("within the minimum")).collect();
        assert!(cluster.try_retry(Priority::Default).is_err());
        drop(held);
    });
}

#[test]
fn a_host_that_fails_is_ejected_and_comes_back() {
    run(async {
        let world = World::new();
        let (a, b) = (Origin::start("a", false).await, Origin::start("b", false).await);
        let cluster = world.cluster(
            "c",
            &[&a, &b],
            json!({ "outlier_detection": {
            "consecutive_5xx": 3, "interval": "0.05s", "base_ejection_time": "0.2s", "max_ejection_percent": 60 },
            "common_lb_config": { "update_merge_window": "0s" } }),
        );
        b.script.status.set(500);
        let mut bad = 0;
        for _ in 0..20 {
            bad += usize::from(fetch(&cluster).await.expect("an answer").0 == 500);
        }
        assert_eq!(bad, 3);
        assert_eq!(world.stat("c", "outlier_detection.ejections_active"), 1);
        assert_eq!(world.registry.clusters()[0].hosts[1].health_flags(), "/failed_outlier_check");
        b.script.status.set(200);
        tokio::time::sleep(Duration::from_millis(350)).await;
        let before = b.script.requests.get();
        for _ in 0..4 {
            fetch(&cluster).await.expect("an answer");
        }
        assert_eq!(b.script.requests.get() - before, 2);
        assert_eq!(world.stat("c", "outlier_detection.ejections_active"), 0);
    });
}

#[test]
fn checks_keep_failing_hosts_out_and_follow_changes() {
    run(async {
        let world = World::new();
        let (a, b) = (Origin::start("a", false).await, Origin::start("b", false).await);
        b.script.status.set(503);
        let check = json!({ "timeout": "1s", "interval": "0.05s", "no_traffic_interval": "0.05s", "unhealthy_interval": "0.05s",
            "unhealthy_threshold": 2, "healthy_threshold": 1, "http_health_check": { "path": "/healthz" } });
        let cluster = world.cluster(
            "c",
            &[&a, &b],
            json!({ "health_checks": [check],
            "common_lb_config": { "healthy_panic_threshold": { "value": 0 }, "update_merge_window": "0s" } }),
        );
        world.control.ready(&[name("c")]).await;
        let names = |n| {
            let cluster = cluster.clone();
            async move {
                let mut names = std::collections::BTreeSet::new();
                for _ in 0..n {
                    names.insert(fetch(&cluster).await.expect("an answer").1);
                }
                names.into_iter().map(|b| String::from_utf8_lossy(&b).into_owned()).collect::<Vec<_>>()
            }
        };
        assert_eq!(names(4).await, ["a"]);
        b.script.status.set(200);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(names(4).await, ["a", "b"]);
        a.script.status.set(503);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(names(4).await, ["b"]);
        assert!(world.stat("c", "health_check.failure") > 0);
    });
}
