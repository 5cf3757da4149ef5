//! Answers to health checks (`health_check.v3.HealthCheck`): by itself, or from a cache in front of the application.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode};
use sidemesh_config::resource::http_filter::health_check::HealthCheckFilter;
use sidemesh_config::value::Name;

use super::{Exchange, Flow};
use crate::body::Body;
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::worker::{SharedState, Worker};

/// The application's last answer in pass-through mode, known to all workers: milliseconds since `start` and the status
/// in one word; 0: none.
struct Cached {
    start: Instant,
    answer: AtomicU64,
}

impl Cached {
    fn keep(&self, now: Instant, status: u16) {
        let millis = now.saturating_duration_since(self.start).as_millis() as u64;
        self.answer.store((millis << 16) | u64::from(status), Relaxed);
    }

    /// The status, unless it is older than `most`.
    fn fresh(&self, now: Instant, most: Duration) -> Option<u16> {
        let answer = self.answer.load(Relaxed);
        let at = self.start + Duration::from_millis(answer >> 16);
        (answer != 0 && now.saturating_duration_since(at) < most).then_some(answer as u16)
    }
}

stats_group! {
    /// `http.<stat_prefix>.health_check.`
    pub struct CheckStats {
        request_total: Counter,
        ok: Counter,
        degraded: Counter,
        failed: Counter,
        cached_response: Counter,
        failed_cluster_not_found: Counter,
        failed_cluster_empty: Counter,
        failed_cluster_unhealthy: Counter,
    }
}

pub struct HealthCheck {
    stats: Arc<CheckStats>,
    config: Arc<HealthCheckFilter>,
    cached: SharedState<Cached>,
}

impl HealthCheck {
    pub fn new(config: Arc<HealthCheckFilter>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let scope = Scope::HttpFilter { prefix: stat_prefix.clone(), filter: "health_check".into() };
        let make = || Cached { start: worker.local.clock.now(), answer: AtomicU64::new(0) };
        HealthCheck { stats: worker.stats().shard(scope), cached: worker.shared.state_of(&config, make), config }
    }

    pub fn on_request(&self, x: &mut Exchange) -> Flow {
        let view = x.view();
        if !self.config.headers.iter().all(|m| m.matches(&view)) {
            return Flow::Continue;
        }
        x.info.health_check = true;
        x.manager.stats.tracing_health_check.inc();
        let failing = x.manager.worker.shutdown().is_health_failed();
        if self.config.pass_through {
            let cached = self.config.cache_time.and_then(|most| self.cached.fresh(x.now(), most));
            return match cached {
                _ if failing => self.answer(503, "health_check_failed"),
                Some(status) => {
                    self.stats.cached_response.inc();
                    self.answer(status, "health_check_cached")
                }
                None => Flow::Continue,
            };
        }
        if failing {
            return self.answer(503, "health_check_failed");
        }
        match self.ailing_cluster(x) {
            Some(details) => self.answer(503, details),
            None if self.config.cluster_min_healthy.is_empty() => self.answer(200, "health_check_ok"),
            None => self.answer(200, "health_check_ok_cluster_healthy"),
        }
    }

    /// What ails a cluster of `cluster_min_healthy_percentages`, if one has too few hosts.
    fn ailing_cluster(&self, x: &Exchange) -> Option<&'static str> {
        self.config.cluster_min_healthy.iter().find_map(|(name, percent)| {
            let Some(cluster) = x.manager.upstream.cluster(&x.config, name) else {
                self.stats.failed_cluster_not_found.inc();
                return Some("health_check_failed_no_cluster_found");
            };
            match cluster.health() {
                // A cluster without hosts is healthy when nothing is asked of it.
                (_, 0) if *percent == 0.0 => None,
                (_, 0) => {
                    self.stats.failed_cluster_empty.inc();
                    Some("health_check_failed_cluster_empty")
                }
                (healthy, total) if healthy as f64 * 100.0 >= percent * total as f64 => None,
                _ => {
                    self.stats.failed_cluster_unhealthy.inc();
                    Some("health_check_failed_cluster_unhealthy")
                }
            }
        })
    }

    fn answer(&self, status: u16, details: &'static str) -> Flow {
        self.stats.request_total.inc();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if status.is_success() {
            self.stats.ok.inc();
            return Flow::Answer(LocalReply::new(status, details, ""));
        }
        self.stats.failed.inc();
        let reply = LocalReply::new(status, details, "health_check.failed");
        Flow::Answer(reply.flags(&[ResponseFlags::FAILED_LOCAL_HEALTH_CHECK]))
    }

    pub fn on_response(&self, x: &mut Exchange, response: &mut Response<Body>) {
        if x.manager.worker.shutdown().is_health_failed() {
            let value = HeaderValue::from_static("true");
            response.headers_mut().insert(X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, value);
        }
        if !x.info.health_check {
            return;
        }
        if self.config.pass_through && self.config.cache_time.is_some() && x.info.upstream.attempts > 0 {
            self.cached.keep(x.now(), response.status().as_u16());
        }
        let cluster = &x.manager.worker.shared.node.cluster;
        if let Ok(value) = HeaderValue::from_str(cluster)
            && !value.is_empty()
        {
            response.headers_mut().insert(X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER, value);
        }
    }
}
