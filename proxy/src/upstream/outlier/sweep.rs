//! What happens on the interval: ejections end, success rates are compared.

use std::sync::atomic::Ordering::Relaxed;

use sidemesh_config::resource::cluster::OutlierDetection;

use super::log::Rates;
use super::{At, Cause, Detector, Hosts, Verdict, clear};
use crate::upstream::host::{HostState, flag};

/// What a sweep did.
#[derive(Debug, Default, PartialEq)]
pub struct Swept {
    /// Indexes of hosts that are back.
    pub returned: Vec<usize>,
    /// What was decided about hosts.
    pub judged: Vec<Judged>,
}

/// A host, by its index, and what was decided about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub host: usize,
    pub verdict: Verdict,
    pub rates: Rates,
}

impl Swept {
    /// Whether any host's health has changed.
    pub fn changed(&self) -> bool {
        !self.returned.is_empty() || self.judged.iter().any(|j| matches!(j.verdict, Verdict::Ejected(_)))
    }
}

/// A host's success rate and volume in the interval.
#[derive(Debug, Clone, Copy)]
struct Rate {
    host: usize,
    percent: f64,
}

impl Detector {
    /// To be called every `interval`.
    pub fn sweep(&self, config: &OutlierDetection, hosts: Hosts<'_>, at: At<'_>) -> Swept {
        let mut swept = Swept::default();
        for (index, host) in hosts.iter().enumerate() {
            if self.end_ejection(config, host, at.now) {
                swept.returned.push(index);
            }
        }
        self.compare(config, hosts, false, at, &mut swept);
        if config.split_external_local_origin_errors {
            self.compare(config, hosts, true, at, &mut swept);
        }
        swept
    }

    /// Puts an ejected host back (its active health check has passed).
    pub fn uneject(&self, host: &HostState, now: u64) -> bool {
        if !host.change_flags(0, flag::FAILED_OUTLIER) {
            return false;
        }
        self.release();
        let record = &host.ejections;
        record.returned_at.store(now + 1, Relaxed);
        [&record.consecutive_5xx, &record.consecutive_gateway, &record.consecutive_local].into_iter().for_each(clear);
        true
    }

    fn end_ejection(&self, config: &OutlierDetection, host: &HostState, now: u64) -> bool {
        let record = &host.ejections;
        if !host.is_ejected() {
            // A quiet interval makes the next ejection shorter again.
            let _ = record.backoff.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
            return false;
        }
        let base = config.base_ejection_time.as_millis() as u64;
        let max = (config.max_ejection_time.as_millis() as u64).max(base);
        let time = base.saturating_mul(u64::from(record.backoff.load(Relaxed))).min(max) + record.jitter.load(Relaxed);
        now.saturating_sub(record.ejected_at.load(Relaxed)) >= time && self.uneject(host, now)
    }

    fn compare(&self, config: &OutlierDetection, hosts: Hosts<'_>, local: bool, at: At<'_>, swept: &mut Swept) {
        let volumes: Vec<_> = hosts.iter().map(|h| interval(h, local)).collect();
        let rates = |minimum: u32| -> Vec<Rate> {
            let rate = |(host, (total, success)): (usize, &(u64, u64))| {
                let known = *total >= u64::from(minimum.max(1)) && !hosts[host].is_ejected();
                known.then(|| Rate { host, percent: 100.0 * *success as f64 / *total as f64 })
            };
            volumes.iter().enumerate().filter_map(rate).collect()
        };
        let by_rate = rates(config.success_rate_request_volume);
        let by_percentage = rates(config.failure_percentage_request_volume);
        for (index, host) in hosts.iter().enumerate() {
            let of = |rates: &[Rate]| rates.iter().find(|r| r.host == index).map(|r| r.percent);
            let rate = of(&by_rate).or_else(|| of(&by_percentage));
            let slot = if local { &host.ejections.local_success_rate } else { &host.ejections.success_rate };
            slot.store(rate.map_or(0, |r| (r * 1000.0) as u64 + 1), Relaxed);
        }
        let mut judge = |rate: &Rate, cause, cluster| {
            let verdict = self.eject(config, &hosts[rate.host], cause, at);
            if verdict != Verdict::Nothing {
                let rates = Rates { host: rate.percent, cluster };
                swept.judged.push(Judged { host: rate.host, verdict, rates });
            }
        };
        if !by_rate.is_empty() && by_rate.len() >= config.success_rate_minimum_hosts as usize {
            let (mean, threshold) =
                success_rate_threshold(&by_rate, f64::from(config.success_rate_stdev_factor) / 1000.0);
            self.set_success_rates(local, Some((mean, threshold)));
            let cause = if local { Cause::SuccessRateLocal } else { Cause::SuccessRate };
            by_rate.iter().filter(|r| r.percent < threshold).for_each(|r| judge(r, cause, Some((mean, threshold))));
        } else {
            self.set_success_rates(local, None);
        }
        if !by_percentage.is_empty() && by_percentage.len() >= config.failure_percentage_minimum_hosts as usize {
            let threshold = f64::from(config.failure_percentage_threshold);
            let cause = if local { Cause::FailurePercentageLocal } else { Cause::FailurePercentage };
            by_percentage.iter().filter(|r| 100.0 - r.percent >= threshold).for_each(|r| judge(r, cause, None));
        }
    }
}

/// The mean, and the mean less so many standard deviations.
fn success_rate_threshold(rates: &[Rate], factor: f64) -> (f64, f64) {
    let n = rates.len() as f64;
    let mean = rates.iter().map(|r| r.percent).sum::<f64>() / n;
    let variance = rates.iter().map(|r| (r.percent - mean).powi(2)).sum::<f64>() / n;
    (mean, mean - factor * variance.sqrt())
}

/// Total and success since the last sweep.
fn interval(host: &HostState, local: bool) -> (u64, u64) {
    let since = |slot: usize, now: u64| now.wrapping_sub(host.ejections.seen[slot].swap(now, Relaxed));
    if local {
        (since(2, host.sum(|c| c.local_total.get())), since(3, host.sum(|c| c.local_success.get())))
    } else {
        (since(0, host.sum(|c| c.external_total.get())), since(1, host.sum(|c| c.external_success.get())))
    }
}
