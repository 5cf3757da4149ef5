//! The whole upstream side of one worker against origins on the loopback.

mod changes;
mod harness;
mod http;
mod limits;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_config::resource::cluster::Cluster as Config;
use sidemesh_config::resource::endpoint::{Endpoint, HealthStatus};
use sidemesh_config::resource::route::{RetryOn, RetryPolicy};
use sidemesh_config::value::{Address, Backoff, Label};

/// A cluster from its JSON, checked as a configuration is.
pub(super) fn config(value: &Value) -> Config {
    let message = sidemesh_proto::json::parse("envoy.config.cluster.v3.Cluster", value).expect("well-formed");
    sidemesh_config::resource::cluster::parse(&message).expect("valid")
}

pub(super) fn cluster_config(name: &str) -> Config {
    config(&json!({ "name": name }))
}

pub(super) fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: Address::Socket(SocketAddr::from(([127, 0, 0, 1], port))),
        additional_addresses: Vec::new(),
        hostname: Label::default(),
        weight: 1,
        health: HealthStatus::Unknown,
        metadata: None,
        checked_at: None,
        disable_active_health_check: false,
    }
}

pub(super) fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn(0),
        num_retries: 1,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        retriable_status_codes: Vec::new(),
        retriable_headers: Vec::new(),
        retriable_request_headers: Vec::new(),
        backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
        rate_limited_backoff: None,
        avoid_previous_hosts: false,
        omit_hosts: Vec::new(),
        host_selection_retry_max_attempts: 1,
        previous_priorities: None,
    }
}
