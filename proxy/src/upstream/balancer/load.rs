//! How traffic spreads over priorities and health: Envoy's arithmetic, in whole percents.
//!
//! A priority is worth its share of healthy hosts times the overprovisioning factor (140 %), at most 100. Load goes to the healthy
//! hosts of the first priorities up to their worth, what is left likewise to the degraded ones; when all of them together are worth
//! less than 100 the shares are scaled up. A priority whose usable share is below the panic threshold, while the whole is worth less
//! than 100, uses all its hosts.

use super::hosts::HostSet;
use crate::upstream::host::Host;

/// What of a priority is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Healthy,
    Degraded,
}

/// The spread over priorities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriorityLoad {
    pub healthy: Vec<u32>,
    pub degraded: Vec<u32>,
    pub panic: Vec<bool>,
    health: Vec<u32>,
    degradation: Vec<u32>,
}

/// What of a cluster's policy the spread depends on.
#[derive(Debug, Clone, Copy)]
pub struct LoadPolicy {
    /// Percent, 140 by default.
    pub overprovisioning: u32,
    /// Whether weights count instead of heads.
    pub weighted: bool,
    /// Percent; zero switches panic off.
    pub panic_threshold: f64,
}

impl PriorityLoad {
    pub fn of(sets: &[&HostSet], policy: LoadPolicy) -> PriorityLoad {
        let n = sets.len().max(1);
        let mut load = PriorityLoad {
            healthy: vec![0; n],
            degraded: vec![0; n],
            panic: vec![false; n],
            health: sets.iter().map(|s| worth(s, &s.healthy.hosts, policy)).collect(),
            degradation: sets.iter().map(|s| worth(s, &s.degraded.hosts, policy)).collect(),
        };
        load.health.resize(n, 0);
        load.degradation.resize(n, 0);
        let (healthy, degraded) = distribute(&load.health, &load.degradation);
        (load.healthy, load.degraded) = (healthy, degraded);
        load.decide_panic(sets, policy.panic_threshold);
        load
    }

    fn decide_panic(&mut self, sets: &[&HostSet], threshold: f64) {
        let total = total(&self.health, &self.degradation);
        if threshold <= 0.0 && total == 0 {
            // Nobody is usable and panic is off: all goes to the first priority, which has nobody.
            self.healthy[0] = 100;
            return;
        }
        if total < 100 {
            for (panic, set) in self.panic.iter_mut().zip(sets) {
                *panic = in_panic(set, threshold);
            }
            if sets.is_empty() || self.panic.iter().all(|p| *p) {
                self.spread_in_total_panic(sets);
            }
        }
    }

    fn spread_in_total_panic(&mut self, sets: &[&HostSet]) {
        self.degraded.fill(0);
        self.healthy.fill(0);
        let hosts: usize = sets.iter().map(|s| s.all.hosts.len()).sum();
        let Some(first) = sets.iter().position(|s| !s.all.hosts.is_empty()) else {
            self.healthy[0] = 100;
            return;
        };
        for (load, set) in self.healthy.iter_mut().zip(sets) {
            *load = (100 * set.all.hosts.len() / hosts) as u32;
        }
        self.healthy[first] += 100 - self.healthy.iter().sum::<u32>();
    }

    /// The priority and the kind of hosts that the draw `random` falls on.
    pub fn choose(&self, random: u64) -> (usize, Availability) {
        let draw = (random % 100 + 1) as u32;
        let mut sum = 0;
        for (loads, availability) in [(&self.healthy, Availability::Healthy), (&self.degraded, Availability::Degraded)]
        {
            for (priority, load) in loads.iter().enumerate() {
                sum += load;
                if draw <= sum {
                    return (priority, availability);
                }
            }
        }
        (0, Availability::Healthy)
    }

    /// The spread when the priorities that `excluded` names have been tried: the others take their load. `None` when none is left.
    pub fn without(&self, excluded: &[bool]) -> Option<PriorityLoad> {
        let keep = |worth: &[u32]| -> Vec<u32> {
            let kept = |(i, w): (usize, &u32)| if excluded.get(i).copied().unwrap_or(false) { 0 } else { *w };
            worth.iter().enumerate().map(kept).collect()
        };
        let (health, degradation) = (keep(&self.health), keep(&self.degradation));
        if total(&health, &degradation) == 0 {
            return None;
        }
        let (healthy, degraded) = distribute(&health, &degradation);
        Some(PriorityLoad { healthy, degraded, panic: self.panic.clone(), health, degradation })
    }
}

/// Whether so few hosts of `set` are usable that all are used.
pub fn in_panic(set: &HostSet, threshold: f64) -> bool {
    let counted = set.counted();
    let usable = set.healthy.hosts.len() + set.degraded.hosts.len();
    let percent = if counted == 0 { 0.0 } else { 100.0 * usable as f64 / counted as f64 };
    percent < threshold.min(100.0)
}

fn worth(set: &HostSet, usable: &[std::rc::Rc<Host>], policy: LoadPolicy) -> u32 {
    let (part, whole) = if policy.weighted {
        let sum = |hosts: &[std::rc::Rc<Host>]| hosts.iter().map(|h| u64::from(h.weight())).sum::<u64>();
        let excluded: u64 =
            set.all.hosts.iter().filter(|h| h.state().shown_excluded()).map(|h| u64::from(h.weight())).sum();
        (sum(usable), sum(&set.all.hosts) - excluded)
    } else {
        (usable.len() as u64, set.counted() as u64)
    };
    (u64::from(policy.overprovisioning) * part).checked_div(whole).unwrap_or(0).min(100) as u32
}

fn total(health: &[u32], degradation: &[u32]) -> u32 {
    health.iter().chain(degradation).sum::<u32>().min(100)
}

/// Loads of healthy and degraded hosts by priority; together 100, or 0 when nobody is worth anything.
fn distribute(health: &[u32], degradation: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let total = total(health, degradation);
    if total == 0 {
        return (vec![0; health.len()], vec![0; degradation.len()]);
    }
    let mut left = 100;
    let mut spread = |worth: &[u32]| -> Vec<u32> {
        let share = |w: &u32| {
            let load = left.min(w * 100 / total);
            left -= load;
            load
        };
        worth.iter().map(share).collect()
    };
    let (mut healthy, mut degraded) = (spread(health), spread(degradation));
    // What rounding left over.
    if let Some(first) = health.iter().position(|w| *w > 0) {
        healthy[first] += left;
    } else if let Some(first) = degradation.iter().position(|w| *w > 0) {
        degraded[first] += left;
    }
    (healthy, degraded)
}
