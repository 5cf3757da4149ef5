//! The health-check event log: one JSON object per line, as Envoy's `HealthCheckEvent`.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;
use sidemesh_config::resource::cluster::{HealthCheck, HealthChecker};
use sidemesh_config::value::{Address, Locality, Name};

use super::machine::{Found, Step, Transition};

/// Where and about whom is logged.
pub struct Log<'a> {
    pub config: &'a HealthCheck,
    pub cluster: &'a Name,
    pub address: &'a Address,
    pub locality: &'a Locality,
}

impl Log<'_> {
    /// Writes what `step` is worth.
    pub fn write(&self, found: Found, step: Step, now: SystemTime) {
        let Some(path) = &self.config.event_log_path else { return };
        let Some((key, event)) = self.event(found, step) else { return };
        let address = match self.address {
            Address::Socket(a) => json!({"socket_address": {
                "protocol": "TCP", "address": a.ip().to_string(), "resolver_name": "", "ipv4_compat": false, "port_value": a.port(),
                "network_namespace_filepath": "",
            }}),
            other => json!({"pipe": {"path": other.to_string(), "mode": 0}}),
        };
        let line = json!({
            "health_checker_type": match self.config.checker {
                HealthChecker::Http(_) => "HTTP",
                HealthChecker::Tcp { .. } => "TCP",
                HealthChecker::Grpc { .. } => "GRPC",
            },
            "host": address,
            "cluster_name": &**self.cluster,
            "locality": {
                "region": &*self.locality.region, "zone": &*self.locality.zone, "sub_zone": &*self.locality.sub_zone,
            },
            key: event,
            "timestamp": httpdate_millis(now),
        });
        append(path, &format!("{line}\n"));
    }

    fn event(&self, found: Found, step: Step) -> Option<(&'static str, serde_json::Value)> {
        let healthy = matches!(found, Found::Healthy { .. });
        let cause = match found {
            Found::Timeout => "NETWORK_TIMEOUT",
            Found::Network => "NETWORK",
            _ => "ACTIVE",
        };
        let status = match found {
            Found::Unhealthy { status, .. } | Found::Retriable { status } => status,
            _ => 0,
        };
        if healthy && step.became_healthy {
            return Some(("add_healthy_event", json!({"first_check": step.first})));
        }
        if !healthy && step.transition == Transition::Changed {
            return Some(("eject_unhealthy_event", json!({"failure_type": cause, "http_status_code": status})));
        }
        if !healthy && (step.first || self.config.always_log_failures) {
            return Some((
                "health_check_failure_event",
                json!({"failure_type": cause, "first_check": step.first, "http_status_code": status}),
            ));
        }
        (healthy && self.config.always_log_success).then(|| ("successful_health_check_event", json!({})))
    }
}

fn httpdate_millis(now: SystemTime) -> String {
    let now = time::OffsetDateTime::from(now);
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    now.format(format).unwrap_or_default()
}

fn append(path: &Path, line: &str) {
    let written =
        std::fs::OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the health-check event log cannot be written");
    }
}
