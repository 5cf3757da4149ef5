//! Retry budgets of routes (`TrafficPolicy`): at most a share of the requests in flight may be retries.
//!
//! Counted per worker and policy, so that no line is shared between workers; the least number of retries holds per worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::cluster::RetryBudget;
use sidemesh_config::resource::route::RetryPolicy;

/// The budgets in use, by the policy they belong to.
#[derive(Default)]
pub struct Budgets {
    by_policy: RefCell<HashMap<usize, (Arc<RetryPolicy>, Rc<Counts>)>>,
}

/// Policies kept before unused ones are let go.
const KEPT: usize = 256;

#[derive(Default)]
struct Counts {
    active: Cell<u32>,
    retries: Cell<u32>,
}

impl Budgets {
    /// Counts one request under `policy` until the claim is dropped.
    pub fn claim(&self, policy: &Arc<RetryPolicy>, budget: RetryBudget) -> Claim {
        let mut all = self.by_policy.borrow_mut();
        if all.len() > KEPT {
            all.retain(|_, (_, counts)| Rc::strong_count(counts) > 1);
        }
        // The address is the policy's for as long as the map holds it.
        let key = Arc::as_ptr(policy).addr();
        let (_, counts) = all.entry(key).or_insert_with(|| (policy.clone(), Rc::default()));
        counts.active.set(counts.active.get() + 1);
        Claim { counts: counts.clone(), budget, retrying: false }
    }
}

/// One request's share.
pub struct Claim {
    counts: Rc<Counts>,
    budget: RetryBudget,
    retrying: bool,
}

impl Claim {
    /// Asks for a retry.
    pub fn retry(&mut self) -> bool {
        if self.retrying {
            return true;
        }
        let allowed = (f64::from(self.counts.active.get()) * self.budget.percent / 100.0) as u32;
        if self.counts.retries.get() >= allowed.max(self.budget.min_concurrency) {
            return false;
        }
        self.counts.retries.set(self.counts.retries.get() + 1);
        self.retrying = true;
        true
    }
}

impl Claim {
    /// The retry has its answer.
    pub fn retried(&mut self) {
        if std::mem::take(&mut self.retrying) {
            self.counts.retries.set(self.counts.retries.get() - 1);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.counts.active.set(self.counts.active.get() - 1);
        self.retried();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_free_again_when_the_retry_has_its_answer_or_is_dropped() {
        let counts: Rc<Counts> = Rc::default();
        let claim = || {
            counts.active.set(counts.active.get() + 1);
            let budget = RetryBudget { percent: 0.0, min_concurrency: 1 };
            Claim { counts: counts.clone(), budget, retrying: false }
        };
        let (mut one, mut two) = (claim(), claim());
        assert!(one.retry() && !two.retry());
        one.retried();
        assert!(two.retry() && !one.retry());
        drop(two);
        assert!(one.retry());
        drop(one);
        assert_eq!((counts.active.get(), counts.retries.get()), (0, 0));
    }
}
