//! Histograms over Envoy's default buckets, in the unit their name says (milliseconds for `*_time`, bytes for `*_size`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of Envoy's default Prometheus buckets, inclusive; a last one holds everything above.
pub const BUCKETS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram with one writer.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    /// Thousandths of the unit.
    sum_milli: AtomicU64,
}

/// A histogram read: counts per bucket (not cumulative) and the sum, in the unit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramValue {
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    pub sum: f64,
}

impl Histogram {
    /// Records a value. The calling thread must be the only writer.
    pub fn record(&self, value: f64) {
        let index = BUCKETS_MS.iter().position(|bound| value <= *bound).unwrap_or(BUCKETS_MS.len());
        let bucket = &self.buckets[index];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        let add = (value.max(0.0) * 1000.0) as u64;
        self.sum_milli.store(self.sum_milli.load(Relaxed).wrapping_add(add), Relaxed);
    }

    /// Records a length of time in milliseconds.
    pub fn record_duration(&self, d: std::time::Duration) {
        self.record(d.as_secs_f64() * 1000.0);
    }

    /// Something was recorded.
    pub fn is_used(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.load(Relaxed) > 0)
    }

    pub(super) fn add_to(&self, total: &mut HistogramValue) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(bucket.load(Relaxed));
        }
        total.sum += self.sum_milli.load(Relaxed) as f64 / 1000.0;
    }
}

impl HistogramValue {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value below which the share `q` (0..=1) of the records lie, interpolated inside its bucket.
    pub fn quantile(&self, q: f64) -> f64 {
        let total = self.count();
        if total == 0 {
            return 0.0;
        }
        let rank = q * total as f64;
        let mut below = 0.0;
        for (i, n) in self.buckets.iter().enumerate() {
            let n = *n as f64;
            if n > 0.0 && below + n >= rank {
                let low = if i == 0 { 0.0 } else { BUCKETS_MS[i - 1] };
                let high = BUCKETS_MS.get(i).copied().unwrap_or(low);
                return low + (high - low) * ((rank - below) / n).clamp(0.0, 1.0);
            }
            below += n;
        }
        BUCKETS_MS[BUCKETS_MS.len() - 1]
    }
}
