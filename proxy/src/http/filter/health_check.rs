//! Answers to health checks (`health_check.v3.HealthCheck`): by itself, or from a cache in front of the application.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Response, StatusCode};
use sidemesh_config::resource::http_filter::health_check::HealthCheckFilter;

use super::{Exchange, Flow};
use crate::body::Body;
use crate::http::names::*;
use crate::http::reply::LocalReply;

pub struct HealthCheck {
    config: Arc<HealthCheckFilter>,
    /// The application's last answer, in pass-through mode.
    cached: Cell<Option<(Instant, u16)>>,
}

impl HealthCheck {
    pub fn new(config: Arc<HealthCheckFilter>) -> Self {
        HealthCheck { config, cached: Cell::new(None) }
    }

    pub fn on_request(&self, x: &mut Exchange) -> Flow {
        let view = x.view();
        if !self.config.headers.iter().all(|m| m.matches(&view)) {
            return Flow::Continue;
        }
        x.info.health_check = true;
        let failing = x.manager.worker.shutdown().is_health_failed();
        if self.config.pass_through {
            let now = x.now();
            let fresh = |at: Instant| self.config.cache_time.is_some_and(|t| now.saturating_duration_since(at) < t);
            return match self.cached.get() {
                _ if failing => Flow::Answer(answer(503)),
                Some((at, status)) if fresh(at) => Flow::Answer(answer(status)),
                _ => Flow::Continue,
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
        if !x.info.health_check {
            return;
        }
        if self.config.pass_through && self.config.cache_time.is_some() && x.info.upstream.attempts > 0 {
            self.cached.set(Some((x.now(), response.status().as_u16())));
        }
        let cluster = &x.manager.worker.shared.node.cluster;
        if let Ok(value) = HeaderValue::from_str(cluster)
            && !value.is_empty()
        {
            response.headers_mut().insert(X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER, value);
        }
        if x.manager.worker.shutdown().is_health_failed() {
            let value = HeaderValue::from_static("true");
            response.headers_mut().insert(X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, value);
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
