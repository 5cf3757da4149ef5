//! `local_ratelimit.v3.LocalRateLimit` of the network: a token bucket over new connections, one for all workers.

use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::network_filter::NetworkRateLimit;

use super::Denied;
use crate::stats_group;
use crate::token_bucket::Bucket;
use crate::worker::{SharedState, Worker};

stats_group! {
    /// `local_rate_limit.PREFIX.`, of a listener `listener_local_ratelimit.PREFIX.`
    pub struct RateLimitStats {
        rate_limited: Counter,
    }
}

pub struct RateLimit {
    config: Arc<NetworkRateLimit>,
    bucket: SharedState<Bucket>,
    stats: Arc<RateLimitStats>,
}

impl RateLimit {
    /// Counted under `FAMILY.PREFIX.`
    pub fn new(config: &Arc<NetworkRateLimit>, family: &str, worker: &Rc<Worker>) -> Self {
        let now = worker.local.clock.now();
        RateLimit {
            bucket: worker.shared.state_of(config, || Bucket::new(config.bucket, now)),
            stats: worker.stats().shard(super::scope(family, &config.stat_prefix)),
            config: config.clone(),
        }
    }

    pub fn check(&self, worker: &Worker) -> Result<(), Denied> {
        if let Some(enabled) = &self.config.enabled
            && !enabled.value(&worker.config().runtime).hit(worker.local.random.next_u64())
        {
            return Ok(());
        }
        if self.bucket.take(worker.local.clock.now()) {
            return Ok(());
        }
        self.stats.rate_limited.inc();
        Err(Denied { details: "local_ratelimit_close".to_owned(), delay: None })
    }
}
