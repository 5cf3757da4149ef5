//! Consistent hashing over one priority: shares of hosts, the ring or table made of them, and the bound on a host's load.

use std::rc::Rc;

use sidemesh_config::resource::cluster::{ConsistentHashing, LbPolicy};

use super::Chance;
use super::hosts::{Group, HostSet};
use super::maglev::Table;
use super::ring::Ring;
use crate::clock::Random;
use crate::upstream::host::Host;

/// A ring or table over the usable hosts of a priority.
#[derive(Debug)]
pub struct Placement {
    hosts: Vec<(Rc<Host>, f64)>,
    kind: Kind,
    balance_factor: Option<u32>,
}

#[derive(Debug)]
enum Kind {
    Ring(Ring),
    Maglev(Table),
}

impl Placement {
    /// `None` for a policy that does not hash.
    pub fn new(policy: &LbPolicy, set: &HostSet, panic: bool, by_locality: bool) -> Option<Placement> {
        let hashing: &ConsistentHashing = match policy {
            LbPolicy::RingHash { hashing, .. } | LbPolicy::Maglev { hashing, .. } => hashing,
            _ => return None,
        };
        let hosts = shares(set, panic, by_locality);
        let keyed: Vec<_> = hosts.iter().map(|(h, share)| (h.hash_key(hashing.use_hostname), *share)).collect();
        let kind = match policy {
            LbPolicy::RingHash { min, max, function, .. } => Kind::Ring(Ring::new(&keyed, *min, *max, *function)),
            LbPolicy::Maglev { table_size, .. } => Kind::Maglev(Table::new(&keyed, *table_size)),
            _ => return None,
        };
        Some(Placement { hosts, kind, balance_factor: hashing.balance_factor })
    }

    pub fn pick(&self, hash: u64, attempt: u32, chance: &Chance<'_>) -> Option<Rc<Host>> {
        let index = match &self.kind {
            Kind::Ring(ring) => ring.pick(hash, attempt),
            Kind::Maglev(table) => table.pick(hash, attempt),
        }?;
        match self.balance_factor {
            Some(factor) if factor > 0 => self.bounded(index, hash, factor, chance.cluster_active),
            _ => self.hosts.get(index).map(|(host, _)| host.clone()),
        }
    }

    /// `index` unless it has more than `factor` percent of its share of the requests in flight; else the first other host that has not,
    /// in an order that `hash` fixes (Mirrokni, Thorup, Zadimoghaddam: consistent hashing with bounded loads).
    fn bounded(&self, index: usize, hash: u64, factor: u32, cluster_active: u64) -> Option<Rc<Host>> {
        let slots = ((cluster_active + 1) * u64::from(factor)).div_ceil(100) as f64;
        let overload = |i: usize| {
            let (host, share) = &self.hosts[i];
            host.state().active_requests() as f64 / (slots * share).ceil().max(1.0)
        };
        let mut best = (index, overload(index));
        if best.1 < 1.0 {
            return self.hosts.get(index).map(|(host, _)| host.clone());
        }
        let random = Random::seeded(hash);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        for i in 0..order.len() {
            let j = i + random.below((order.len() - i) as u64) as usize;
            order.swap(i, j);
            let load = overload(order[i]);
            if load < best.1 {
                best = (order[i], load);
            }
            if load < 1.0 {
                break;
            }
        }
        self.hosts.get(best.0).map(|(host, _)| host.clone())
    }
}

/// Each usable host's share of the traffic: by weight, and by locality weight where that counts.
fn shares(set: &HostSet, panic: bool, by_locality: bool) -> Vec<(Rc<Host>, f64)> {
    let mut shares = Vec::new();
    let mut add = |group: &Group, of: f64| {
        let sum: u64 = group.hosts.iter().map(|h| u64::from(h.weight())).sum();
        shares.extend(group.hosts.iter().map(|h| (h.clone(), f64::from(h.weight()) * of / sum as f64)));
    };
    let usable = if panic { &set.all } else { &set.healthy };
    if !by_locality || set.localities.len() < 2 {
        add(usable, 1.0);
        return shares;
    }
    let groups = || set.localities.iter().map(|l| (if panic { &l.all } else { &l.healthy }, l.weight));
    let sum: u64 = groups().filter(|(g, _)| !g.hosts.is_empty()).map(|(_, w)| u64::from(w)).sum();
    for (group, weight) in groups().filter(|(g, weight)| *weight > 0 && !g.hosts.is_empty()) {
        add(group, f64::from(weight) / sum as f64);
    }
    shares
}
