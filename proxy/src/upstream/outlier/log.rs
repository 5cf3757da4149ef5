//! The outlier event log (`cluster_manager.outlier_detection.event_log_path`): one JSON object per line, as Envoy's
//! `data.cluster.v3.OutlierDetectionEvent`.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use serde_json::{Value, json};
use sidemesh_config::value::Name;

use super::{Cause, Verdict};
use crate::telemetry::access_log::{Target, Writer};
use crate::telemetry::format::Civil;
use crate::upstream::host::HostState;

/// Where events are written.
#[derive(Clone)]
pub struct EventLog {
    writer: Writer,
    path: PathBuf,
}

/// The rates that a host was judged by: its own, and the mean and the threshold of all where those counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub host: f64,
    pub cluster: Option<(f64, f64)>,
}

/// A moment as the log shows it, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct When {
    pub millis: u64,
    pub wall: SystemTime,
}

impl EventLog {
    pub fn new(writer: Writer, path: PathBuf) -> Self {
        EventLog { writer, path }
    }

    /// Writes what was decided about `host`, unless nothing was, or too many were out already.
    pub fn judged(&self, cluster: &Name, host: &HostState, verdict: Verdict, rates: Option<Rates>, at: When) {
        let (cause, enforced) = match verdict {
            Verdict::Ejected(cause) => (cause, true),
            Verdict::Spared(cause) => (cause, false),
            Verdict::Nothing | Verdict::Overflow(_) => return,
        };
        let since = host.ejections.returned_at.load(Relaxed);
        let mut event = event(cluster, host, cause, "EJECT", (enforced, since), at);
        let (key, detail) = detail(cause, rates);
        event[key] = detail;
        self.write(&event);
    }

    /// Writes that `host` is back.
    pub fn returned(&self, cluster: &Name, host: &HostState, at: When) {
        let since = host.ejections.ejected_at.load(Relaxed) + 1;
        self.write(&event(cluster, host, Cause::Consecutive5xx, "UNEJECT", (false, since), at));
    }

    fn write(&self, event: &Value) {
        if !self.writer.write(Target::File(self.path.clone()), format!("{event}\n").into_bytes()) {
            tracing::warn!(path = %self.path.display(), "an outlier event was dropped: the log's queue is full");
        }
    }
}

/// `since` is when the last action of the other kind was, plus one; zero: there was none.
fn event(cluster: &Name, host: &HostState, cause: Cause, action: &str, how: (bool, u64), at: When) -> Value {
    let (enforced, since) = how;
    let mut event = json!({
        "type": kind(cause),
        "timestamp": Civil::of(at.wall).iso_millis(),
        "cluster_name": &**cluster,
        "upstream_url": host.address.to_string(),
        "action": action,
        "num_ejections": host.ejections.count.load(Relaxed),
        "enforced": enforced,
    });
    if let Some(since) = since.checked_sub(1) {
        event["secs_since_last_action"] = json!((at.millis.saturating_sub(since) / 1000).to_string());
    }
    event
}

fn kind(cause: Cause) -> &'static str {
    match cause {
        Cause::Consecutive5xx => "CONSECUTIVE_5XX",
        Cause::ConsecutiveGateway => "CONSECUTIVE_GATEWAY_FAILURE",
        Cause::ConsecutiveLocal => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
        Cause::SuccessRate => "SUCCESS_RATE",
        Cause::SuccessRateLocal => "SUCCESS_RATE_LOCAL_ORIGIN",
        Cause::FailurePercentage => "FAILURE_PERCENTAGE",
        Cause::FailurePercentageLocal => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
    }
}

fn detail(cause: Cause, rates: Option<Rates>) -> (&'static str, Value) {
    let whole = |rate: f64| rate.max(0.0) as u32;
    let host = whole(rates.map_or(0.0, |r| r.host));
    match cause {
        Cause::Consecutive5xx | Cause::ConsecutiveGateway | Cause::ConsecutiveLocal => {
            ("eject_consecutive_event", json!({}))
        }
        Cause::SuccessRate | Cause::SuccessRateLocal => {
            let (mean, threshold) = rates.and_then(|r| r.cluster).unwrap_or_default();
            (
                "eject_success_rate_event",
                json!({
                    "host_success_rate": host,
                    "cluster_average_success_rate": whole(mean),
                    "cluster_success_rate_ejection_threshold": whole(threshold),
                }),
            )
        }
        Cause::FailurePercentage | Cause::FailurePercentageLocal => {
            ("eject_failure_percentage_event", json!({"host_success_rate": host}))
        }
    }
}
