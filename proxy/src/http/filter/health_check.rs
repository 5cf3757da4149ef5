//! Answers to health checks (`health_check.v3.HealthCheck`): by itself, or from a cache in front of the application.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode};
use sidemesh_config::resource::http_filter::health_check::HealthCheckFilter;

use super::{Exchange, Flow};
use crate::body::Body;
use crate::http::names::*;
use crate::http::reply::LocalReply;
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

pub struct HealthCheck {
    config: Arc<HealthCheckFilter>,
    cached: SharedState<Cached>,
}

impl HealthCheck {
    pub fn new(config: Arc<HealthCheckFilter>, worker: &Rc<Worker>) -> Self {
        let make = || Cached { start: worker.local.clock.now(), answer: AtomicU64::new(0) };
        HealthCheck { cached: worker.shared.state_of(&config, make), config }
    }

    pub fn on_request(&self, x: &mut Exchange) -> Flow {
        let view = x.view();
        if !self.config.headers.iter().all(|m| m.matches(&view)) {
            return Flow::Continue;
        }
        x.info.health_check = true;
        let failing = x.manager.worker.shutdown().is_health_failed();
        if self.config.pass_through {
            let cached = self.config.cache_time.and_then(|most| self.cached.fresh(x.now(), most));
            return match cached {
                _ if failing => Flow::Answer(answer(503)),
                Some(status) => Flow::Answer(answer(status)),
                None => Flow::Continue,
            };
        }
        let healthy = !failing && self.clusters_healthy(x);
        Flow::Answer(answer(if healthy { 200 } else { 503 }))
    }

    /// `cluster_min_healthy_percentages`.
    fn clusters_healthy(&self, x: &Exchange) -> bool {
        self.config.cluster_min_healthy.iter().all(|(name, percent)| {
            let Some(cluster) = x.manager.upstream.cluster(&x.config, name) else { return false };
            let (healthy, total) = cluster.health();
            // A cluster without hosts is healthy when nothing is asked of it.
            if total == 0 { *percent == 0.0 } else { healthy as f64 * 100.0 >= percent * total as f64 }
        })
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

fn answer(status: u16) -> LocalReply {
    let details = match status {
        200 => "health_check_ok",
        _ => "health_check_failed",
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    LocalReply::new(status, details, if status.is_success() { "" } else { "health_check.failed" })
}
