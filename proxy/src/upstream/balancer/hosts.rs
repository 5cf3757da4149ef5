//! The hosts of a cluster as the balancer sees them: by priority and locality, parted by health.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use sidemesh_config::value::Locality;

use super::edf::Edf;
use super::pace::Pace;
use crate::upstream::host::{Health, Host};

/// Hosts that are balanced among each other, with the state of the algorithm that does it.
#[derive(Debug, Default)]
pub struct Group {
    pub hosts: Vec<Rc<Host>>,
    /// Whether weights differ: told as hosts are put in, as requests ask for it.
    uneven: bool,
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
    fn with_capacity(hosts: usize) -> Self {
        Group { hosts: Vec::with_capacity(hosts), ..Group::default() }
    }

    fn push(&mut self, host: &Rc<Host>) {
        self.uneven |= self.hosts.first().is_some_and(|first| first.weight() != host.weight());
        self.hosts.push(host.clone());
    }

    /// Whether every host has the same weight.
    pub fn is_even(&self) -> bool {
        !self.uneven
    }
}

/// Hosts parted by health.
#[derive(Debug, Default)]
pub struct ByHealth {
    pub all: Group,
    pub healthy: Group,
    pub degraded: Group,
    /// How many do not count when healthy ones are compared with all.
    pub excluded: usize,
}

/// The hosts of one locality within a priority.
#[derive(Debug)]
pub struct LocalityHosts {
    pub locality: Rc<Locality>,
    /// Zero where none is given.
    pub weight: u32,
    hosts: ByHealth,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: ByHealth,
    pub localities: Vec<LocalityHosts>,
}

impl Deref for LocalityHosts {
    type Target = ByHealth;
    fn deref(&self) -> &ByHealth {
        &self.hosts
    }
}

impl Deref for HostSet {
    type Target = ByHealth;
    fn deref(&self) -> &ByHealth {
        &self.hosts
    }
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
    pub async fn by_priority(members: &[Members], own: Option<&Locality>, pace: &mut Pace) -> Vec<HostSet> {
        let levels = members.iter().map(|m| m.priority + 1).max().unwrap_or(1);
        let mut sets = Vec::with_capacity(levels as usize);
        for priority in 0..levels {
            let mut of_level: Vec<_> = members.iter().filter(|m| m.priority == priority).collect();
            of_level.sort_by_key(|m| own.is_none_or(|own| *m.locality != *own));
            sets.push(HostSet::new(&of_level, pace).await);
        }
        sets
    }

    async fn new(members: &[&Members], pace: &mut Pace) -> HostSet {
        let count = members.iter().map(|m| m.hosts.len()).sum();
        let mut set = HostSet { hosts: ByHealth::with_capacity(count), localities: Vec::new() };
        // With one locality there is nothing to choose: its lists would only repeat those of the whole.
        let several = members.len() > 1;
        for m in members {
            let (locality, weight) = (m.locality.clone(), m.weight);
            let mut locality = LocalityHosts { locality, weight, hosts: ByHealth::default() };
            for host in &m.hosts {
                pace.step().await;
                set.hosts.take(host);
                if several {
                    locality.hosts.take(host);
                }
            }
            if !several {
                locality.hosts.excluded = set.excluded;
            }
            set.localities.push(locality);
        }
        set.hosts.healthy.hosts.shrink_to_fit();
        set
    }

    /// Every list of hosts in it.
    pub(super) fn into_lists(self) -> impl Iterator<Item = Vec<Rc<Host>>> {
        let of_localities = self.localities.into_iter().flat_map(|l| l.hosts.into_lists());
        self.hosts.into_lists().into_iter().chain(of_localities)
    }
}

impl ByHealth {
    fn with_capacity(hosts: usize) -> Self {
        ByHealth { all: Group::with_capacity(hosts), healthy: Group::with_capacity(hosts), ..ByHealth::default() }
    }

    /// Puts a host into the lists it belongs to.
    fn take(&mut self, host: &Rc<Host>) {
        self.all.push(host);
        let state = host.state();
        if state.shown_excluded() {
            self.excluded += 1;
            return;
        }
        match state.shown_health() {
            Health::Healthy => self.healthy.push(host),
            Health::Degraded => self.degraded.push(host),
            Health::Unhealthy => {}
        }
    }

    fn into_lists(self) -> [Vec<Rc<Host>>; 3] {
        [self.all.hosts, self.healthy.hosts, self.degraded.hosts]
    }

    /// Hosts that count when healthy ones are compared with all.
    pub fn counted(&self) -> usize {
        self.all.hosts.len() - self.excluded
    }
}
