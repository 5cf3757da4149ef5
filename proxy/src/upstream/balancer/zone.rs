//! Which locality serves a request: by locality weights, or by zone-aware routing that keeps traffic in this proxy's own zone as
//! long as every zone's hosts get the same share.

use std::cell::RefCell;

use super::edf::Edf;
use super::hosts::{HostSet, LocalityHosts};
use super::{Chance, Group};

/// Percentages of zone-aware routing are counted in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// A priority's schedule over its localities by their effective weights.
#[derive(Debug, Default)]
pub struct LocalitySchedule {
    healthy: Option<RefCell<Edf>>,
    degraded: Option<RefCell<Edf>>,
}

impl LocalitySchedule {
    pub fn new(set: &HostSet, overprovisioning: u32, seed: u64) -> Self {
        let make = |of: fn(&LocalityHosts) -> &Group| {
            let weights = set.localities.iter().map(|l| effective_weight(l, of(l), overprovisioning));
            let edf = Edf::new(weights, seed);
            (!edf.is_empty()).then(|| RefCell::new(edf))
        };
        LocalitySchedule { healthy: make(|l| &l.healthy), degraded: make(|l| &l.degraded) }
    }

    /// The next locality that has hosts of the kind asked for.
    pub fn pick(&self, set: &HostSet, degraded: bool, overprovisioning: u32) -> Option<usize> {
        let schedule = if degraded { &self.degraded } else { &self.healthy };
        let weight = |i: usize| {
            let locality = &set.localities[i];
            effective_weight(locality, if degraded { &locality.degraded } else { &locality.healthy }, overprovisioning)
        };
        schedule.as_ref()?.borrow_mut().pick(weight)
    }
}

/// A locality's weight, less as fewer of its hosts are usable than overprovisioning makes up for.
fn effective_weight(locality: &LocalityHosts, usable: &Group, overprovisioning: u32) -> f64 {
    let counted = locality.counted();
    if counted == 0 {
        return 0.0;
    }
    let available = usable.hosts.len() as f64 / counted as f64;
    f64::from(locality.weight) * (available * f64::from(overprovisioning) / 100.0).min(1.0)
}

/// How a priority's traffic leaves this proxy's zone, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneRouting {
    /// All hosts alike, as there are too few of them, or too few localities.
    Off,
    /// All hosts alike: nothing is known of this proxy's siblings, or none of the hosts is near.
    Apart,
    /// All traffic stays.
    Direct,
    /// So many hundredths of a percent stay; the rest goes to localities in proportion to `residual` (running sums).
    Residual { local: u64, residual: Vec<u64> },
}

/// What zone-aware routing did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneUse {
    AllDirectly,
    /// This zone's share of the traffic stays.
    Sampled,
    CrossZone,
    /// By rounding no zone seemed to have room.
    NoCapacityLeft,
    TooSmall,
    LocalClusterNotOk,
}

/// What zone-aware routing depends on.
#[derive(Debug, Clone, Copy)]
pub struct ZonePolicy {
    pub min_cluster_size: u64,
    /// With at least so many healthy hosts in the own zone everything stays there.
    pub force_local_min: Option<u32>,
}

impl ZoneRouting {
    /// `own` holds how many healthy proxies there are by locality: this proxy's locality first, then the others by name.
    pub fn new(set: &HostSet, own: &[(sidemesh_config::value::Locality, u64)], policy: ZonePolicy) -> ZoneRouting {
        let healthy = |l: &LocalityHosts| l.healthy.hosts.len() as u64;
        let total_upstream = set.healthy.hosts.len() as u64;
        if set.localities.len() < 2 || total_upstream < policy.min_cluster_size {
            return ZoneRouting::Off;
        }
        let Some((local, _)) = own.first() else { return ZoneRouting::Apart };
        let here = set.localities.first().filter(|l| *l.locality == *local && healthy(l) > 0);
        if here.is_none() {
            return ZoneRouting::Apart;
        }
        if let (Some(min), Some(here)) = (policy.force_local_min, here)
            && healthy(here) >= u64::from(min)
        {
            return ZoneRouting::Direct;
        }
        let total_own: u64 = own.iter().map(|(_, n)| n).sum();
        let percent = |part: u64, whole: u64| (WHOLE * part).checked_div(whole).unwrap_or(0);
        let own_share = |l: &LocalityHosts| {
            percent(own.iter().find(|(name, _)| *name == *l.locality).map_or(0, |(_, n)| *n), total_own)
        };
        let shares: Vec<_> =
            set.localities.iter().map(|l| (own_share(l), percent(healthy(l), total_upstream))).collect();
        let (own_here, up_here) = shares[0];
        if up_here >= own_here {
            return ZoneRouting::Direct;
        }
        let mut sum = 0;
        let mut residual = vec![0];
        for (own, upstream) in &shares[1..] {
            sum += upstream.saturating_sub(*own);
            residual.push(sum);
        }
        ZoneRouting::Residual { local: up_here * WHOLE / own_here, residual }
    }

    /// The locality for one request; `None`: any host.
    pub fn pick(&self, chance: &Chance<'_>) -> (Option<usize>, Option<ZoneUse>) {
        let (locality, used) = match self {
            ZoneRouting::Off => (None, ZoneUse::TooSmall),
            ZoneRouting::Apart => (None, ZoneUse::LocalClusterNotOk),
            ZoneRouting::Direct => (Some(0), ZoneUse::AllDirectly),
            ZoneRouting::Residual { local, .. } if chance.random.below(WHOLE) < *local => (Some(0), ZoneUse::Sampled),
            ZoneRouting::Residual { residual, .. } => match residual.last() {
                // Only by rounding: no locality seems to have room.
                None | Some(0) => (Some(chance.random.below(residual.len() as u64) as usize), ZoneUse::NoCapacityLeft),
                Some(sum) => {
                    let draw = chance.random.below(*sum);
                    (residual.iter().position(|upto| draw < *upto), ZoneUse::CrossZone)
                }
            },
        };
        (locality, Some(used))
    }
}
