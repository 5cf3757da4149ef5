//! When to renew: half way through the lifetime, spread by jitter. Pure.

use std::time::{Duration, SystemTime};

/// Share of the lifetime by which renewals spread, to either side, so that a fleet started together does not renew together.
const JITTER: f64 = 0.05;
/// Pause between attempts that failed: grows from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long to wait from `now` until a certificate got at `issued` should be renewed; zero when that moment has passed.
/// Counted from when it was got, not from its `notBefore`, which lies in the past to allow for clocks that differ.
/// `draw` is in `0.0..1.0`.
pub(super) fn renewal_delay(issued: SystemTime, not_after: SystemTime, now: SystemTime, draw: f64) -> Duration {
    let lifetime = not_after.duration_since(issued).unwrap_or(Duration::ZERO);
    let share = 0.5 + (draw - 0.5) * 2.0 * JITTER;
    let moment = issued + lifetime.mul_f64(share);
    moment.duration_since(now).unwrap_or(Duration::ZERO)
}

/// Pause after the `failures`th failed attempt in a row (from 1), fully jittered above half.
pub(super) fn retry_delay(failures: u32, draw: f64) -> Duration {
    let ceiling = RETRY_MIN.saturating_mul(1u32 << failures.saturating_sub(1).min(10)).min(RETRY_MAX);
    ceiling.mul_f64(0.5 + draw / 2.0)
}
