//! Circuit breakers: how much of a cluster may be in use at once, per routing priority.
//!
//! The counts are process-wide relaxed atomics, because the limits are: workers that race may overshoot none of them (a permit is
//! claimed by one compare-and-add), but which of two simultaneous requests gets the last one is chance. Permits give back on drop.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sidemesh_config::resource::cluster::{CircuitBreakers, RetryBudget, Thresholds};
use sidemesh_config::resource::route::Priority;

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    #[error("circuit breaker max_connections")]
    Connections,
    #[error("circuit breaker max_pending_requests")]
    Pending,
    #[error("circuit breaker max_requests")]
    Requests,
    #[error("circuit breaker max_retries or retry budget")]
    Retries,
}

/// What is in use at one priority.
#[derive(Debug, Default)]
pub struct InUse {
    pub connections: AtomicU32,
    pub pending: AtomicU32,
    pub requests: AtomicU32,
    pub retries: AtomicU32,
}

/// A worker's handle on a cluster's counts: cloning it touches no memory that another worker writes.
pub type Handle = Rc<Arc<Breakers>>;

/// A cluster's counts.
#[derive(Debug, Default)]
pub struct Breakers {
    default: InUse,
    high: InUse,
}

/// A share of one limit, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    breakers: Handle,
    priority: Priority,
    which: Overflow,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breakers.at(self.priority).count(self.which).fetch_sub(1, Relaxed);
    }
}

impl InUse {
    fn count(&self, which: Overflow) -> &AtomicU32 {
        match which {
            Overflow::Connections => &self.connections,
            Overflow::Pending => &self.pending,
            Overflow::Requests => &self.requests,
            Overflow::Retries => &self.retries,
        }
    }
}

impl Breakers {
    pub fn at(&self, priority: Priority) -> &InUse {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }

    /// Whether the limit on `which` is reached. A limit of zero that nobody has run into is not.
    pub fn is_open(&self, limits: &CircuitBreakers, priority: Priority, which: Overflow) -> bool {
        self.at(priority).count(which).load(Relaxed) > 0 && self.remaining(limits, priority, which) == 0
    }

    /// How many more of `which` may be claimed now.
    pub fn remaining(&self, limits: &CircuitBreakers, priority: Priority, which: Overflow) -> u32 {
        let in_use = self.at(priority);
        limit(thresholds(limits, priority), in_use, which).saturating_sub(in_use.count(which).load(Relaxed))
    }
}

/// Claims one more of `which`, if that stays within the limit.
pub fn claim(
    breakers: &Handle,
    limits: &CircuitBreakers,
    priority: Priority,
    which: Overflow,
) -> Result<Permit, Overflow> {
    let limit = limit(thresholds(limits, priority), breakers.at(priority), which);
    let count = breakers.at(priority).count(which);
    match count.fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1)) {
        Ok(_) => Ok(Permit { breakers: breakers.clone(), priority, which }),
        Err(_) => Err(which),
    }
}

/// Claims without a limit: the first connection to a host is always allowed.
pub fn claim_always(breakers: &Handle, priority: Priority, which: Overflow) -> Permit {
    breakers.at(priority).count(which).fetch_add(1, Relaxed);
    Permit { breakers: breakers.clone(), priority, which }
}

pub fn thresholds(limits: &CircuitBreakers, priority: Priority) -> &Thresholds {
    match priority {
        Priority::Default => &limits.default,
        Priority::High => &limits.high,
    }
}

fn limit(thresholds: &Thresholds, in_use: &InUse, which: Overflow) -> u32 {
    match which {
        Overflow::Connections => thresholds.max_connections,
        Overflow::Pending => thresholds.max_pending_requests,
        Overflow::Requests => thresholds.max_requests,
        Overflow::Retries => match &thresholds.retry_budget {
            Some(budget) => budget_limit(budget, in_use),
            None => thresholds.max_retries,
        },
    }
}

/// A budget's share of what is active or waiting, and never less than its minimum.
fn budget_limit(budget: &RetryBudget, in_use: &InUse) -> u32 {
    let active = in_use.requests.load(Relaxed).saturating_add(in_use.pending.load(Relaxed));
    ((f64::from(active) * budget.percent / 100.0) as u32).max(budget.min_concurrency)
}

#[cfg(test)]
mod tests;
