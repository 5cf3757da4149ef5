//! Leases: pure bookkeeping of who is still there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::Name;

/// All leases; the time is the caller's.
#[derive(Debug)]
pub struct Leases {
    /// How long a sidecar may be silent.
    ttl: Duration,
    live: HashMap<String, Lease>,
    /// The lease of each workload: one at a time.
    holders: HashMap<Name, String>,
}

#[derive(Debug)]
struct Lease {
    workload: Name,
    ends: Instant,
}

impl Leases {
    pub fn new(ttl: Duration) -> Leases {
        Leases { ttl, live: HashMap::new(), holders: HashMap::new() }
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Begins a lease. An older one of the same workload ends, without consequences.
    pub fn grant(&mut self, id: String, workload: Name, now: Instant) {
        if let Some(older) = self.holders.insert(workload.clone(), id.clone()) {
            self.live.remove(&older);
        }
        self.live.insert(id, Lease { workload, ends: now + self.ttl });
    }

    /// Extends a lease; `None`: there is none.
    pub fn extend(&mut self, id: &str, now: Instant) -> Option<Name> {
        let lease = self.live.get_mut(id)?;
        lease.ends = now + self.ttl;
        Some(lease.workload.clone())
    }

    pub fn end(&mut self, id: &str) -> Option<Name> {
        let workload = self.live.remove(id)?.workload;
        self.holders.remove(&workload);
        Some(workload)
    }

    /// Takes out the leases that are over.
    pub fn expired(&mut self, now: Instant) -> Vec<(String, Name)> {
        let over: Vec<String> = self.live.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| id.clone()).collect();
        over.into_iter().filter_map(|id| self.end(&id).map(|workload| (id, workload))).collect()
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_leases_end_and_heard_ones_do_not() {
        let start = Instant::now();
        let mut leases = Leases::new(Duration::from_secs(15));
        let name = |n: &str| Name::new("default", n);
        leases.grant("1".into(), name("a"), start);
        leases.grant("2".into(), name("b"), start);
        let later = start + Duration::from_secs(14);
        assert_eq!(leases.extend("2", later), Some(name("b")));
        assert!(leases.expired(later).is_empty());
        assert_eq!(leases.expired(start + Duration::from_secs(15)), [("1".into(), name("a"))]);
        assert_eq!(leases.extend("1", later), None);
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_new_lease_ends_the_old_one_of_the_same_workload() {
        let start = Instant::now();
        let mut leases = Leases::new(Duration::from_secs(15));
        leases.grant("1".into(), Name::new("default", "a"), start);
        leases.grant("2".into(), Name::new("default", "a"), start);
        assert_eq!(leases.extend("1", start), None);
        assert!(leases.extend("2", start).is_some());
    }
}
