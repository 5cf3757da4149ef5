//! Token buckets of rate limits (`type.v3.TokenBucket`), shared by all workers.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sidemesh_config::resource::http_filter::rate_limit::TokenBucket;

/// Tokens come one by one, at the rate of `token_bucket`. Lock-free: one word holds when the bucket was (or would
/// have been) empty, in nanoseconds since `start`; the time since then is what has come.
#[derive(Debug)]
pub struct Bucket {
    max_tokens: u32,
    start: Instant,
    /// Nanoseconds that a token takes to come.
    pace: i64,
    empty_at: AtomicI64,
}

impl Bucket {
    pub fn new(config: TokenBucket, start: Instant) -> Self {
        let interval = i64::try_from(config.fill_interval.as_nanos()).unwrap_or(i64::MAX);
        let pace = (interval / i64::from(config.tokens_per_fill.max(1))).max(1);
        let bucket = Bucket { max_tokens: config.max_tokens, start, pace, empty_at: AtomicI64::new(0) };
        bucket.empty_at.store(bucket.capacity().saturating_neg(), Relaxed);
        bucket
    }

    pub fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Nanoseconds from one token to the next.
    pub fn pace(&self) -> i64 {
        self.pace
    }

    /// The time that fills an empty bucket.
    fn capacity(&self) -> i64 {
        self.pace.saturating_mul(i64::from(self.max_tokens))
    }

    fn since_start(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(i64::MAX)
    }

    /// Takes a token.
    pub fn take(&self, now: Instant) -> bool {
        let now = self.since_start(now);
        let taken = |empty_at: i64| {
            let empty_at = empty_at.max(now.saturating_sub(self.capacity()));
            (now.saturating_sub(empty_at) >= self.pace).then(|| empty_at.saturating_add(self.pace))
        };
        self.empty_at.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    /// Tokens left.
    pub fn left(&self, now: Instant) -> u32 {
        let filled = self.since_start(now).saturating_sub(self.empty_at.load(Relaxed)).clamp(0, self.capacity());
        u32::try_from(filled / self.pace).unwrap_or(u32::MAX)
    }

    /// How long until there is a token; nothing while there is one.
    pub fn next(&self, now: Instant) -> Duration {
        let filled = self.since_start(now).saturating_sub(self.empty_at.load(Relaxed));
        Duration::from_nanos(u64::try_from(self.pace.saturating_sub(filled)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_one_by_one() {
        let start = Instant::now();
        let config = TokenBucket { max_tokens: 3, tokens_per_fill: 2, fill_interval: Duration::from_secs(1) };
        let bucket = Bucket::new(config, start);
        let taken = |at| (0..5).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 3);
        assert_eq!(bucket.next(start), Duration::from_millis(500));
        assert_eq!(taken(start + Duration::from_millis(400)), 0);
        assert_eq!(taken(start + Duration::from_millis(600)), 1);
        assert_eq!(taken(start + Duration::from_secs(1)), 1);
        assert_eq!(taken(start + Duration::from_secs(10)), 3);
    }
}
