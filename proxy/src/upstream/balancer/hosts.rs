//! The hosts of a cluster as the balancer sees them: by priority and locality, parted by health.

use std::cell::RefCell;
use std::rc::Rc;

use sidemesh_config::value::Locality;

use super::edf::Edf;
use crate::upstream::host::{Health, Host};

/// Hosts that are balanced among each other, with the state of the algorithm that does it.
#[derive(Debug, Default)]
pub struct Group {
    pub hosts: Vec<Rc<Host>>,
    pub(super) turn: RefCell<Turn>,
}

/// Whose turn it is in a [`Group`].
#[derive(Debug, Default)]
pub(super) enum Turn {
    /// Nobody has asked yet.
    #[default]
    Unset,
    Next(usize),
    Weighted(Edf),
}

impl Group {
    pub fn new(hosts: Vec<Rc<Host>>) -> Self {
        Group { hosts, turn: RefCell::default() }
    }

    /// Whether every host has the same weight.
    pub fn is_even(&self) -> bool {
        self.hosts.windows(2).all(|pair| pair[0].weight() == pair[1].weight())
    }
}

/// The hosts of one locality within a priority.
#[derive(Debug)]
pub struct LocalityHosts {
    pub locality: Rc<Locality>,
    /// Zero where none is given.
    pub weight: u32,
    pub all: Group,
    pub healthy: Group,
    pub degraded: Group,
    pub excluded: usize,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub struct HostSet {
    pub all: Group,
    pub healthy: Group,
    pub degraded: Group,
    pub excluded: usize,
    pub localities: Vec<LocalityHosts>,
}

/// Hosts of one locality as a member list gives them.
#[derive(Debug, Clone)]
pub struct Members {
    pub locality: Rc<Locality>,
    pub priority: u32,
    pub weight: u32,
    pub hosts: Vec<Rc<Host>>,
}

impl HostSet {
    /// The hosts of `members` by priority, without gaps: priorities that nobody has are empty sets. `own` (this proxy's locality)
    /// comes first in its priority, as zone-aware routing expects.
    pub fn by_priority(members: &[Members], own: Option<&Locality>) -> Vec<HostSet> {
        let levels = members.iter().map(|m| m.priority + 1).max().unwrap_or(1);
        (0..levels)
            .map(|priority| {
                let mut of_level: Vec<_> = members.iter().filter(|m| m.priority == priority).collect();
                of_level.sort_by_key(|m| own.is_none_or(|own| *m.locality != *own));
                HostSet::new(&of_level)
            })
            .collect()
    }

    fn new(members: &[&Members]) -> HostSet {
        let localities: Vec<_> = members.iter().map(|m| LocalityHosts::new(m)).collect();
        let gather = |of: fn(&LocalityHosts) -> &Group| {
            Group::new(localities.iter().flat_map(|l| of(l).hosts.iter().cloned()).collect())
        };
        HostSet {
            all: gather(|l| &l.all),
            healthy: gather(|l| &l.healthy),
            degraded: gather(|l| &l.degraded),
            excluded: localities.iter().map(|l| l.excluded).sum(),
            // With one locality there is nothing to choose: its lists would only repeat the ones above.
            localities: if localities.len() > 1 {
                localities
            } else {
                localities.into_iter().map(LocalityHosts::hollow).collect()
            },
        }
    }

    /// Hosts that count when healthy ones are compared with all.
    pub fn counted(&self) -> usize {
        self.all.hosts.len() - self.excluded
    }
}

impl LocalityHosts {
    fn new(members: &Members) -> Self {
        let of = |health: Health| {
            let excluded_too = |h: &&Rc<Host>| h.state().shown_health() == health && !h.state().shown_excluded();
            Group::new(members.hosts.iter().filter(excluded_too).cloned().collect())
        };
        LocalityHosts {
            locality: members.locality.clone(),
            weight: members.weight,
            all: Group::new(members.hosts.clone()),
            healthy: of(Health::Healthy),
            degraded: of(Health::Degraded),
            excluded: members.hosts.iter().filter(|h| h.state().shown_excluded()).count(),
        }
    }

    fn hollow(self) -> Self {
        LocalityHosts { all: Group::default(), healthy: Group::default(), degraded: Group::default(), ..self }
    }
}
