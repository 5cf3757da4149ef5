//! `local_ratelimit.v3.LocalRateLimit` of the network: a token bucket over new connections, one for all workers.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sidemesh_config::resource::http_filter::rate_limit::TokenBucket;
use sidemesh_config::resource::network_filter::NetworkRateLimit;

use super::Denied;
use crate::stats_group;
use crate::worker::{SharedState, Worker};

stats_group! {
    /// `local_rate_limit.PREFIX.`, of a listener `listener_local_ratelimit.PREFIX.`
    pub struct RateLimitStats {
        rate_limited: Counter,
    }
}

/// Tokens, filled as a whole once per interval as Envoy does it. Relaxed atomics: who gets the last token is chance.
#[derive(Debug)]
pub struct Bucket {
    config: TokenBucket,
    start: Instant,
    /// Intervals seen (upper half) and tokens left (lower half).
    state: AtomicU64,
}

impl Bucket {
    pub fn new(config: TokenBucket, now: Instant) -> Self {
        Bucket { config, start: now, state: AtomicU64::new(u64::from(config.max_tokens)) }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let interval = self.config.fill_interval.max(Duration::from_millis(1));
        let ticks = (now.saturating_duration_since(self.start).as_nanos() / interval.as_nanos()) as u32;
        let update = self.state.fetch_update(Relaxed, Relaxed, |state| {
            let (seen, left) = ((state >> 32) as u32, state as u32);
            let fresh = u64::from(self.config.tokens_per_fill) * u64::from(ticks.wrapping_sub(seen).min(u32::MAX / 2));
            // A clock reading from before another worker's must not fill the bucket.
            let (seen, fresh) = if ticks >= seen { (ticks, fresh) } else { (seen, 0) };
            let left = (u64::from(left) + fresh).min(u64::from(self.config.max_tokens));
            Some(u64::from(seen) << 32 | left.checked_sub(1)?)
        });
        update.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_tokens_and_is_filled_by_the_interval() {
        let start = Instant::now();
        let config = TokenBucket { max_tokens: 3, tokens_per_fill: 2, fill_interval: Duration::from_secs(1) };
        let bucket = Bucket::new(config, start);
        let takes = |at: Duration| (0..5).filter(|_| bucket.take(start + at)).count();
        assert_eq!(takes(Duration::ZERO), 3);
        assert_eq!(takes(Duration::from_millis(999)), 0);
        assert_eq!(takes(Duration::from_millis(1000)), 2);
        assert_eq!(takes(Duration::from_millis(500)), 0, "an older reading of the clock fills nothing");
        assert_eq!(takes(Duration::from_secs(60)), 3, "never more than the bucket holds");
    }
}
