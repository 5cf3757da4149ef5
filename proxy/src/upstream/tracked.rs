//! Histograms that a cluster keeps only where it is asked to (`track_cluster_stats`): sizes of messages, use of timeouts.

use std::time::Duration;

use http::HeaderMap;

use super::cluster::Cluster;
use super::stats::{SizeStats, TimeStats};
use crate::telemetry::stats::Scope;

impl Cluster {
    /// An answer's head has come, `took` after the request was complete and within the time limits given.
    pub fn track_head(&self, request: &HeaderMap, response: &HeaderMap, took: Duration, limits: [Option<Duration>; 2]) {
        let tracked = self.config().tracked;
        if tracked.sizes {
            let stats = self.sizes();
            stats.upstream_rq_headers_size.record(size(request));
            stats.upstream_rq_headers_count.record(request.len() as f64);
            stats.upstream_rs_headers_size.record(size(response));
            stats.upstream_rs_headers_count.record(response.len() as f64);
        }
        if tracked.timeout_budgets {
            let stats = self.times.get_or_init(|| self.registry.stats.shard::<TimeStats>(self.scope()));
            let [whole, per_try] = limits.map(|limit| percent(took, limit));
            stats.upstream_rq_timeout_budget_percent_used.record(whole);
            stats.upstream_rq_timeout_budget_per_try_percent_used.record(per_try);
        }
    }

    /// An exchange is over: so many bytes of body went up, and came down.
    pub fn track_bodies(&self, up: u64, down: u64) {
        if self.config().tracked.sizes {
            self.sizes().upstream_rq_body_size.record(up as f64);
            self.sizes().upstream_rs_body_size.record(down as f64);
        }
    }

    fn sizes(&self) -> &SizeStats {
        self.sizes.get_or_init(|| self.registry.stats.shard(self.scope()))
    }

    fn scope(&self) -> Scope {
        Scope::Cluster(self.config().stat_name.clone())
    }
}

fn size(headers: &HeaderMap) -> f64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() as f64
}

/// Zero where there is no limit.
fn percent(took: Duration, limit: Option<Duration>) -> f64 {
    limit.map_or(0.0, |limit| (took.as_secs_f64() / limit.as_secs_f64() * 100.0).floor())
}
