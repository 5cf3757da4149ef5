//! Passive outlier detection: hosts whose answers go wrong are left out for a while.
//!
//! Consecutive failures are counted in shared relaxed atomics and eject at once, on the worker that saw the last one; success rates
//! and failure percentages are compared on the interval, which also ends ejections. [`Detector`] decides and changes [`Ejections`];
//! who calls it bumps the cluster's generation when told that health changed. It reads no clock.

mod log;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use sidemesh_config::resource::cluster::OutlierDetection;

use super::host::{HostCounters, HostState, flag};
use crate::clock::Random;
pub use log::{EventLog, When};
pub use sweep::Judged;

/// A host's record, made when it is first written to: most hosts never have one.
#[derive(Debug, Default)]
pub struct Ejections(OnceLock<Box<Record>>);

impl Ejections {
    /// Makes no record.
    pub fn get(&self) -> Option<&Record> {
        self.0.get().map(|record| &**record)
    }
}

impl std::ops::Deref for Ejections {
    type Target = Record;
    fn deref(&self) -> &Record {
        self.0.get_or_init(Box::default)
    }
}

/// What outlier detection knows of one host.
#[derive(Debug, Default)]
pub struct Record {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// How often it was ejected, all told.
    pub count: AtomicU32,
    backoff: AtomicU32,
    ejected_at: AtomicU64,
    /// When it last came back, plus one; zero: never yet.
    returned_at: AtomicU64,
    jitter: AtomicU64,
    /// Thousandths of a percent plus one as the last sweep found it; zero: not known.
    success_rate: AtomicU64,
    local_success_rate: AtomicU64,
    /// Totals at the last sweep: external total and success, local total and success.
    seen: [AtomicU64; 4],
}

impl Record {
    /// Percent of answers that were good in the last interval, when there were enough of them.
    pub fn success_rate(&self, local: bool) -> Option<f64> {
        let rate = if local { &self.local_success_rate } else { &self.success_rate };
        rate.load(Relaxed).checked_sub(1).map(|thousandths| thousandths as f64 / 1000.0)
    }
}

/// Why a host is (to be) ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
    SuccessRateLocal,
    FailurePercentage,
    FailurePercentageLocal,
}

/// How an attempt went, from the view of the host's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status (of a gRPC answer: what its grpc-status stands for).
    Status(u16),
    /// A TCP session ended in order, or connected where that is all there is to see.
    Success,
    /// There is a connection, and an answer is yet to come.
    Connected,
    /// Connecting failed, or the host broke off the exchange.
    Failed,
    Timeout,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// The host is out; its cluster's health has changed.
    Ejected(Cause),
    /// The cause is given, but not enforced (its `enforcing_*` share spared it).
    Spared(Cause),
    /// Too many are out already.
    Overflow(Cause),
}

/// The shared counts of a cluster's detector.
#[derive(Debug, Default)]
pub struct Detector {
    /// Bits of the average success rate and of the threshold, by answers and by local origin; zero: not known.
    rates: [[AtomicU64; 2]; 2],
    active: AtomicU32,
}

impl Detector {
    /// Average success rate and ejection threshold of the last sweep, if it compared hosts.
    pub fn success_rates(&self, local: bool) -> Option<(f64, f64)> {
        let [mean, threshold] =
            self.rates[usize::from(local)].each_ref().map(|bits| f64::from_bits(bits.load(Relaxed)));
        (mean > 0.0).then_some((mean, threshold))
    }

    fn set_success_rates(&self, local: bool, rates: Option<(f64, f64)>) {
        let (mean, threshold) = rates.unwrap_or_default();
        let [kept_mean, kept_threshold] = &self.rates[usize::from(local)];
        kept_mean.store(mean.to_bits(), Relaxed);
        kept_threshold.store(threshold.to_bits(), Relaxed);
    }

    /// How many hosts are ejected now.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// An ejected host has left the cluster.
    pub fn forget(&self, host: &HostState) {
        if host.is_ejected() {
            self.release();
        }
    }

    fn release(&self) {
        // Never below zero: a host may leave while its ejection ends.
        let _ = self.active.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    /// Charges `outcome` to `host`. `counters` are the calling worker's own. What was decided comes in the order of its finding.
    pub fn handle(
        &self,
        config: &OutlierDetection,
        host: &HostState,
        counters: &HostCounters,
        outcome: Outcome,
        at: At<'_>,
    ) -> [Verdict; 2] {
        const NOTHING: [Verdict; 2] = [Verdict::Nothing; 2];
        if config.split_external_local_origin_errors {
            match outcome {
                Outcome::Success | Outcome::Connected => {
                    local_origin_good(host, counters);
                    return NOTHING;
                }
                Outcome::Failed | Outcome::Timeout => {
                    return [self.local_origin_bad(config, host, counters, at), Verdict::Nothing];
                }
                Outcome::Status(_) => {}
            }
        }
        let status = match outcome {
            Outcome::Status(status) => status,
            Outcome::Success => 200,
            Outcome::Connected => return NOTHING,
            Outcome::Failed => 503,
            Outcome::Timeout => 504,
        };
        counters.external_total.inc();
        if (500..600).contains(&status) {
            return self.bad_status(config, host, status, at);
        }
        counters.external_success.inc();
        clear(&host.ejections.consecutive_5xx);
        clear(&host.ejections.consecutive_gateway);
        NOTHING
    }

    fn bad_status(&self, config: &OutlierDetection, host: &HostState, status: u16, at: At<'_>) -> [Verdict; 2] {
        let record = &host.ejections;
        let mut verdicts = [Verdict::Nothing; 2];
        if matches!(status, 502..=504) {
            if reached(&record.consecutive_gateway, config.consecutive_gateway_failure) {
                verdicts[0] = self.eject(config, host, Cause::ConsecutiveGateway, at);
            }
        } else {
            clear(&record.consecutive_gateway);
        }
        if reached(&record.consecutive_5xx, config.consecutive_5xx) && !matches!(verdicts[0], Verdict::Ejected(_)) {
            verdicts[1] = self.eject(config, host, Cause::Consecutive5xx, at);
        }
        verdicts
    }

    fn local_origin_bad(
        &self,
        config: &OutlierDetection,
        host: &HostState,
        counters: &HostCounters,
        at: At<'_>,
    ) -> Verdict {
        counters.local_total.inc();
        if reached(&host.ejections.consecutive_local, config.consecutive_local_origin_failure) {
            return self.eject(config, host, Cause::ConsecutiveLocal, at);
        }
        Verdict::Nothing
    }

    fn eject(&self, config: &OutlierDetection, host: &HostState, cause: Cause, at: At<'_>) -> Verdict {
        if host.is_ejected() {
            return Verdict::Nothing;
        }
        let allowed = |active: u32| {
            let percent = 100.0 * f64::from(active + 1) / at.hosts.max(1) as f64;
            percent <= f64::from(config.max_ejection_percent.min(100)) || (config.always_eject_one_host && active == 0)
        };
        if !allowed(self.active()) {
            return Verdict::Overflow(cause);
        }
        if !at.random.chance(u64::from(enforcing(config, cause)), 100) {
            return Verdict::Spared(cause);
        }
        // Several workers may come here at once: the share that may be out is claimed first, the host second.
        if self.active.fetch_update(Relaxed, Relaxed, |n| allowed(n).then_some(n + 1)).is_err() {
            return Verdict::Overflow(cause);
        }
        if !host.change_flags(flag::FAILED_OUTLIER, 0) {
            self.release();
            return Verdict::Nothing;
        }
        let record = &host.ejections;
        record.count.fetch_add(1, Relaxed);
        record.ejected_at.store(at.now, Relaxed);
        let jitter = config.max_ejection_time_jitter.as_millis() as u64;
        record.jitter.store(at.random.below(jitter + 1), Relaxed);
        let base = config.base_ejection_time.as_millis() as u64;
        let max = config.max_ejection_time.as_millis() as u64;
        if u64::from(record.backoff.load(Relaxed)).saturating_mul(base) < max.saturating_add(base) {
            record.backoff.fetch_add(1, Relaxed);
        }
        Verdict::Ejected(cause)
    }
}

/// When and where a decision is made.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Milliseconds on the registry's clock.
    pub now: u64,
    /// Hosts of the cluster.
    pub hosts: usize,
    pub random: &'a Random,
}

fn local_origin_good(host: &HostState, counters: &HostCounters) {
    counters.local_total.inc();
    counters.local_success.inc();
    clear(&host.ejections.consecutive_local);
}

/// Counts one more; true (and back to zero) when it is the `threshold`th in a row. Zero never is.
fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    let reached = counter.fetch_add(1, Relaxed) + 1 == threshold;
    if reached {
        counter.store(0, Relaxed);
    }
    reached
}

/// Writes only when there is something to clear: the line stays shared while all is well.
fn clear(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

fn enforcing(config: &OutlierDetection, cause: Cause) -> u32 {
    match cause {
        Cause::Consecutive5xx => config.enforcing_consecutive_5xx,
        Cause::ConsecutiveGateway => config.enforcing_consecutive_gateway_failure,
        Cause::ConsecutiveLocal => config.enforcing_consecutive_local_origin_failure,
        Cause::SuccessRate => config.enforcing_success_rate,
        Cause::SuccessRateLocal => config.enforcing_local_origin_success_rate,
        Cause::FailurePercentage => config.enforcing_failure_percentage,
        Cause::FailurePercentageLocal => config.enforcing_failure_percentage_local_origin,
    }
}

/// The hosts of a cluster as a sweep takes them.
pub type Hosts<'a> = &'a [Arc<HostState>];
