//! The hosts of a cluster as the balancer sees them: by priority and locality, parted by health.

use std::cell::RefCell;
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
        let mut set =
            HostSet { all: Group::with_capacity(count), healthy: Group::with_capacity(count), ..HostSet::default() };
        // With one locality there is nothing to choose: its lists would only repeat those of the whole.
        let several = members.len() > 1;
        for m in members {
            let mut locality = LocalityHosts::empty(m);
            for host in &m.hosts {
                pace.step().await;
                set.take(host);
                if several {
                    locality.take(host);
                }
            }
            locality.excluded = if several { locality.excluded } else { set.excluded };
            set.localities.push(locality);
        }
        set.healthy.hosts.shrink_to_fit();
        set
    }

    fn take(&mut self, host: &Rc<Host>) {
        let HostSet { all, healthy, degraded, excluded, .. } = self;
        sort_in(host, all, healthy, degraded, excluded);
    }

    /// Every list of hosts in it.
    pub(super) fn into_lists(self) -> impl Iterator<Item = Vec<Rc<Host>>> {
        let of_localities = self.localities.into_iter().flat_map(|l| [l.all, l.healthy, l.degraded]);
        [self.all, self.healthy, self.degraded].into_iter().chain(of_localities).map(|group| group.hosts)
    }

    /// Hosts that count when healthy ones are compared with all.
    pub fn counted(&self) -> usize {
        self.all.hosts.len() - self.excluded
    }
}

impl LocalityHosts {
    fn empty(members: &Members) -> Self {
        LocalityHosts {
            locality: members.locality.clone(),
            weight: members.weight,
            all: Group::default(),
            healthy: Group::default(),
            degraded: Group::default(),
            excluded: 0,
        }
    }

    fn take(&mut self, host: &Rc<Host>) {
        let LocalityHosts { all, healthy, degraded, excluded, .. } = self;
        sort_in(host, all, healthy, degraded, excluded);
    }
}

/// Puts a host into the lists it belongs to.
fn sort_in(host: &Rc<Host>, all: &mut Group, healthy: &mut Group, degraded: &mut Group, excluded: &mut usize) {
    all.push(host);
    let state = host.state();
    if state.shown_excluded() {
        *excluded += 1;
        return;
    }
    match state.shown_health() {
        Health::Healthy => healthy.push(host),
        Health::Degraded => degraded.push(host),
        Health::Unhealthy => {}
    }
}
