use std::time::Duration;

use serde_json::json;
use sidemesh_config::value::name;

use super::*;
use crate::upstream::tests::{config, endpoint};

fn check() -> Arc<HealthCheck> {
    let cluster = config(&json!({ "name": "c", "health_checks": [{
        "timeout": "1s", "interval": "10s", "unhealthy_threshold": 2, "healthy_threshold": 3,
        "no_traffic_interval": "60s", "unhealthy_interval": "4s", "unhealthy_edge_interval": "1s", "healthy_edge_interval": "2s",
        "http_health_check": { "path": "/healthz" },
    }] }));
    cluster.health_checks[0].clone()
}

fn new_host() -> HostState {
    HostState::new(name("c"), endpoint(1).address, 1, flag::FAILED_ACTIVE_HC | flag::PENDING_ACTIVE_HC)
}

const GOOD: Found = Found::Healthy { degraded: false };
const BAD: Found = Found::Unhealthy { excluded: false, status: 500 };

#[test]
fn the_first_check_decides_alone() {
    let (check, host, mut machine) = (check(), new_host(), Machine::default());
    let step = machine.handle(&check, &host, GOOD);
    assert!(step.became_healthy && step.first && step.flags_changed);
    assert_eq!(host.flags(), 0);
}

#[test]
fn coming_back_takes_the_threshold() {
    let (check, host, mut machine) = (check(), new_host(), Machine::default());
    machine.handle(&check, &host, BAD);
    let steps: Vec<_> = (0..3).map(|_| machine.handle(&check, &host, GOOD).transition).collect();
    assert_eq!(steps, [Transition::Pending, Transition::Pending, Transition::Changed]);
}

#[test]
fn network_failures_count_and_a_wrong_status_does_not_wait() {
    let (check, host, mut machine) = (check(), new_host(), Machine::default());
    machine.handle(&check, &host, GOOD);
    assert_eq!(machine.handle(&check, &host, Found::Network).transition, Transition::Pending);
    assert_eq!(machine.handle(&check, &host, GOOD).transition, Transition::Unchanged);
    assert_eq!(machine.handle(&check, &host, Found::Retriable { status: 429 }).transition, Transition::Pending);
    assert_eq!(machine.handle(&check, &host, Found::Timeout).transition, Transition::Changed);
    assert_eq!(host.flags(), flag::FAILED_ACTIVE_HC | flag::ACTIVE_HC_TIMEOUT);
    let (host, mut machine) = (new_host(), Machine::default());
    machine.handle(&check, &host, GOOD);
    assert_eq!(machine.handle(&check, &host, BAD).transition, Transition::Changed);
}

#[test]
fn degraded_answers_make_a_host_second_choice() {
    let (check, host, mut machine) = (check(), new_host(), Machine::default());
    machine.handle(&check, &host, Found::Healthy { degraded: true });
    assert_eq!(host.flags(), flag::DEGRADED_ACTIVE_HC);
    assert!(machine.handle(&check, &host, GOOD).flags_changed);
    assert_eq!(host.flags(), 0);
}

#[test]
fn the_pause_depends_on_what_happens() {
    let check = check();
    let pause = |healthy, transition, traffic| Machine::pause(&check, healthy, transition, traffic, |_| 0).as_secs();
    assert_eq!(pause(true, Transition::Unchanged, true), 10);
    assert_eq!(pause(true, Transition::Pending, true), 2);
    assert_eq!(pause(false, Transition::Unchanged, true), 4);
    assert_eq!(pause(false, Transition::Pending, true), 1);
    assert_eq!(pause(true, Transition::Unchanged, false), 60);
    assert_eq!(Machine::pause(&check, true, Transition::Unchanged, true, |n| n), Duration::from_secs(10));
}
