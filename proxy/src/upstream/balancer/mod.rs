//! Choosing a host: priority, then locality, then the algorithm; every step Envoy's arithmetic.
//!
//! A [`Balancer`] is one worker's view of a cluster's hosts at one moment. It is thrown away and made anew when membership, health
//! or policy change; what must outlive that is in [`HostState`](super::host::HostState). It takes the time and random numbers from its
//! caller, waits for nothing, and knows neither connections nor limits.

mod consistent;
mod edf;
mod hosts;
mod least_request;
mod load;
mod maglev;
mod pace;
mod pick_first;
mod random;
mod reported;
mod ring;
mod round_robin;
mod slow_start;
mod subset;
#[cfg(test)]
mod tests;
mod zone;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::cluster::{Cluster as Config, LbPolicy, LocalityLb, SubsetConfig};
use sidemesh_config::resource::endpoint::AssignmentPolicy;
use sidemesh_config::resource::route::RetryPolicy;
use sidemesh_config::value::{Address, Fraction, Locality, Name};

use super::host::{Health, Host};
use crate::clock::Random;
pub use hosts::{Group, HostSet, Members};
pub use load::{Availability, LoadPolicy, PriorityLoad};
pub use pace::{Pace, at_once};
pub use reported::{LoadReport, weight_of_report};
pub use subset::{Labels, Via};
pub use zone::ZoneUse;

/// Subsets kept per worker and cluster; a route's criteria beyond that are filtered anew for each request.
const MAX_SUBSETS: usize = 4096;

/// Time, chance and load, as the caller has them.
#[derive(Debug, Clone, Copy)]
pub struct Chance<'a> {
    pub random: &'a Random,
    /// Milliseconds on the registry's clock.
    pub now: u64,
    /// Requests in flight to the whole cluster.
    pub cluster_active: u64,
}

/// What is asked of the balancer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    pub hash: Option<u64>,
    pub subset: &'a Labels,
    pub retry: Option<&'a RetryPolicy>,
    pub tried: &'a [Rc<Host>],
}

/// A host, and what was unusual about choosing it.
#[derive(Debug, Default)]
pub struct Picked {
    pub host: Option<Rc<Host>>,
    pub panic: bool,
    /// How the subset was chosen, with subsets.
    pub subset: Option<Via>,
    /// What zone-aware routing did, where it was asked.
    pub zone: Option<ZoneUse>,
}

/// How many proxies of this proxy's own service run in each locality: its own first.
pub type OwnZones = Arc<[(Locality, u64)]>;

/// One worker's view of a cluster's hosts.
pub struct Balancer {
    config: Arc<Config>,
    policy: AssignmentPolicy,
    members: Vec<Members>,
    own: Option<OwnZones>,
    whole: View,
    subsets: RefCell<HashMap<u64, Vec<Subset>>>,
    by_address: OnceCell<HashMap<SocketAddr, Rc<Host>>>,
}

/// The labels of a subset and its hosts, if any.
type Subset = (Vec<(Name, serde_json::Value)>, Option<Rc<View>>);

/// All hosts, or those of one subset.
struct View {
    levels: Vec<Level>,
    load: PriorityLoad,
}

struct Level {
    set: HostSet,
    schedule: OnceCell<zone::LocalitySchedule>,
    zone: OnceCell<zone::ZoneRouting>,
    placement: OnceCell<Option<consistent::Placement>>,
}

impl Balancer {
    pub fn new(config: Arc<Config>, policy: AssignmentPolicy, members: Vec<Members>, own: Option<OwnZones>) -> Self {
        at_once(|mut pace| async move { Self::paced(config, policy, members, own, &mut pace).await })
    }

    /// The same at a pace.
    pub async fn paced(
        config: Arc<Config>,
        policy: AssignmentPolicy,
        members: Vec<Members>,
        own: Option<OwnZones>,
        pace: &mut Pace,
    ) -> Self {
        let whole = View::new(&config, &policy, &members, own.as_ref(), pace).await;
        Balancer { config, policy, members, own, whole, subsets: RefCell::default(), by_address: OnceCell::new() }
    }

    /// The hosts by priority.
    pub fn sets(&self) -> impl Iterator<Item = &HostSet> {
        self.whole.levels.iter().map(|l| &l.set)
    }

    /// The members this view was made of.
    pub fn members(&self) -> &[Members] {
        &self.members
    }

    /// Gives up its hosts at a pace: a worker that is the last to hold them would free them all in one go.
    pub async fn let_go(self, pace: &mut Pace) {
        let sets = self.whole.levels.into_iter().map(|level| level.set);
        let members = self.members.into_iter().map(|m| m.hosts);
        let lists = sets.flat_map(HostSet::into_lists).chain(members);
        for host in lists.flatten() {
            drop(host);
            pace.step().await;
        }
    }

    #[cfg(test)]
    fn load(&self) -> &PriorityLoad {
        &self.whole.load
    }

    /// The first of the addresses that is a usable host not tried before.
    pub fn wanted(&self, addresses: &[SocketAddr], tried: &[Rc<Host>]) -> Option<Rc<Host>> {
        let known = addresses.iter().filter_map(|address| self.at_address(address));
        let usable = |host: &&Rc<Host>| host.state().shown_health() != Health::Unhealthy;
        known.filter(usable).find(|host| !tried.iter().any(|t| t.address() == host.address())).cloned()
    }

    /// The host with this address, whatever its health.
    pub fn at_address(&self, address: &SocketAddr) -> Option<&Rc<Host>> {
        let by_address = self.by_address.get_or_init(|| {
            let hosts = self.members.iter().flat_map(|m| &m.hosts);
            let address = |host: &Rc<Host>| match host.address() {
                Address::Socket(address) => Some((*address, host.clone())),
                _ => None,
            };
            hosts.filter_map(address).collect()
        });
        by_address.get(address)
    }

    /// Chooses a host; again, as often as the retry policy allows, while it objects to the one chosen.
    pub fn pick(&self, request: &Request<'_>, chance: &Chance<'_>) -> Picked {
        match &self.config.subsets {
            None => self.pick_in(&self.whole, request, chance),
            Some(subsets) => {
                let (view, via) = self.subset(subsets, request.subset);
                let picked = match view {
                    Some(Some(view)) => self.pick_in(&view, request, chance),
                    Some(None) => self.pick_in(&self.whole, request, chance),
                    None => Picked::default(),
                };
                Picked { subset: Some(via), ..picked }
            }
        }
    }

    /// A host of one priority, for an aggregate cluster that has chosen it.
    pub fn pick_at(
        &self,
        priority: usize,
        availability: Availability,
        request: &Request<'_>,
        chance: &Chance<'_>,
    ) -> Picked {
        let hash = request.hash.unwrap_or_else(|| chance.random.next_u64());
        self.pick_level(&self.whole, (priority, availability), hash, 0, chance)
    }

    fn pick_in(&self, view: &View, request: &Request<'_>, chance: &Chance<'_>) -> Picked {
        let retry = request.retry.filter(|_| !request.tried.is_empty());
        let adjusted = retry.and_then(|retry| adjusted_load(&view.load, retry, request.tried));
        let load = adjusted.as_ref().unwrap_or(&view.load);
        let attempts = retry.map_or(0, |r| r.host_selection_retry_max_attempts);
        let mut panic = false;
        for attempt in 0..=attempts {
            let hash = request.hash.unwrap_or_else(|| chance.random.next_u64());
            let picked = self.pick_level(view, load.choose(hash), hash, attempt, chance);
            panic |= picked.panic;
            let settled = match &picked.host {
                None => true,
                Some(host) => attempt == attempts || !retry.is_some_and(|r| objects(r, request.tried, host)),
            };
            if settled {
                return Picked { panic, ..picked };
            }
        }
        Picked { panic, ..Picked::default() }
    }

    fn pick_level(
        &self,
        view: &View,
        at: (usize, Availability),
        hash: u64,
        attempt: u32,
        chance: &Chance<'_>,
    ) -> Picked {
        let Some(level) = view.levels.get(at.0) else { return Picked::default() };
        let panic = view.load.panic.get(at.0).copied().unwrap_or(false);
        if let LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } = self.config.lb {
            let by_locality = self.config.lb_common.locality == LocalityLb::Weighted;
            let make = || consistent::Placement::new(&self.config.lb, &level.set, panic, by_locality);
            let placement = level.placement.get_or_init(make);
            let host = placement.as_ref().and_then(|p| p.pick(hash, attempt, chance));
            return Picked { host, panic, ..Picked::default() };
        }
        let (group, zone) = self.group(level, at.1, panic, chance);
        Picked { host: group.and_then(|group| self.pick_from(group, chance)), panic, zone, ..Picked::default() }
    }

    /// The hosts that the request is balanced among.
    fn group<'a>(
        &self,
        level: &'a Level,
        availability: Availability,
        panic: bool,
        chance: &Chance<'_>,
    ) -> (Option<&'a Group>, Option<ZoneUse>) {
        let set = &level.set;
        let fail_on_panic =
            matches!(self.config.lb_common.locality, LocalityLb::ZoneAware { fail_traffic_on_panic: true, .. });
        if panic {
            return ((!fail_on_panic).then_some(&set.all), None);
        }
        let degraded = availability == Availability::Degraded;
        let whole = if degraded { &set.degraded } else { &set.healthy };
        if set.localities.len() < 2 {
            return (Some(whole), None);
        }
        let mut used = None;
        let locality = match self.config.lb_common.locality {
            LocalityLb::None => None,
            LocalityLb::Weighted => {
                let over = self.policy.overprovisioning_factor;
                let make = || zone::LocalitySchedule::new(set, over, chance.random.next_u64());
                level.schedule.get_or_init(make).pick(set, degraded, over)
            }
            LocalityLb::ZoneAware { routing_enabled, min_cluster_size, force_local_zone_min, .. } => {
                let policy = zone::ZonePolicy { min_cluster_size, force_local_min: force_local_zone_min };
                let (locality, zone) = self.zone(level, routing_enabled, policy, chance);
                used = zone;
                locality
            }
        };
        let Some(locality) = locality.and_then(|i| set.localities.get(i)) else { return (Some(whole), used) };
        let group = if degraded { &locality.degraded } else { &locality.healthy };
        (Some(if group.hosts.is_empty() { whole } else { group }), used)
    }

    fn zone(
        &self,
        level: &Level,
        enabled: Fraction,
        policy: zone::ZonePolicy,
        chance: &Chance<'_>,
    ) -> (Option<usize>, Option<ZoneUse>) {
        let Some(own) = self.own.as_ref() else { return (None, None) };
        let fresh = level.zone.get().is_none();
        let routing = level.zone.get_or_init(|| zone::ZoneRouting::new(&level.set, own, policy));
        if !enabled.hit(chance.random.next_u64()) {
            return (None, None);
        }
        let (locality, used) = routing.pick(chance);
        // Why there is none is told once per change of hosts.
        (locality, used.filter(|used| fresh || !matches!(used, ZoneUse::TooSmall | ZoneUse::LocalClusterNotOk)))
    }

    fn pick_from(&self, group: &Group, chance: &Chance<'_>) -> Option<Rc<Host>> {
        match &self.config.lb {
            LbPolicy::RoundRobin { slow_start } => round_robin::pick(group, slow_start.as_ref(), chance),
            LbPolicy::LeastRequest { choice_count, active_request_bias, slow_start, full_scan } => {
                let policy = least_request::LeastRequest {
                    choices: *choice_count,
                    bias: *active_request_bias,
                    full_scan: *full_scan,
                    slow_start: slow_start.as_ref(),
                };
                least_request::pick(group, policy, chance)
            }
            LbPolicy::Random => random::pick(group, chance),
            LbPolicy::ClientSideWeightedRoundRobin(config) => reported::pick(group, config, chance),
            LbPolicy::PickFirst { shuffle } => pick_first::pick(group, *shuffle, chance),
            // Hashing policies were served above; `ClusterProvided` clusters choose by address.
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } | LbPolicy::ClusterProvided => None,
        }
    }

    /// The view for a request's criteria: `Some(None)` is all hosts, `None` nobody.
    fn subset(&self, config: &SubsetConfig, wanted: &Labels) -> (Option<Option<Rc<View>>>, Via) {
        let (choice, via) = subset::choose(config, wanted, &|labels| self.labelled(config, labels).is_some());
        let view = match choice {
            subset::Choice::Any => Some(None),
            subset::Choice::Nobody => None,
            subset::Choice::Labelled(labels) => self.labelled(config, &labels).map(Some),
        };
        (view, via)
    }

    fn labelled(&self, config: &SubsetConfig, labels: &Labels) -> Option<Rc<View>> {
        let key = subset::fingerprint(labels);
        if let Some((_, view)) = self.subsets.borrow().get(&key).into_iter().flatten().find(|(l, _)| l == labels) {
            return view.clone();
        }
        let view = self.filter(config, labels).map(Rc::new);
        let mut subsets = self.subsets.borrow_mut();
        if subsets.len() < MAX_SUBSETS {
            subsets.entry(key).or_default().push((labels.to_vec(), view.clone()));
        }
        view
    }

    fn filter(&self, config: &SubsetConfig, labels: &Labels) -> Option<View> {
        let single = config.selectors.iter().any(|s| {
            s.single_host_per_subset
                && s.keys.len() == labels.len()
                && s.keys.iter().zip(labels).all(|(k, (l, _))| k == l)
        });
        let mut members = Vec::new();
        for m in &self.members {
            let matching = |h: &&Rc<Host>| subset::matches(h, labels, config.list_as_any);
            let mut hosts: Vec<_> = m.hosts.iter().filter(matching).cloned().collect();
            if single {
                hosts.truncate(1);
            }
            let weight = match (config.locality_weight_aware, config.scale_locality_weight) {
                (false, _) => 0,
                (true, false) => m.weight,
                (true, true) => scaled(m.weight, hosts.len(), m.hosts.len()),
            };
            members.push(Members { hosts, weight, ..m.clone() });
        }
        let any = members.iter().any(|m| !m.hosts.is_empty());
        any.then(|| {
            let view = |mut pace| async move {
                View::new(&self.config, &self.policy, &members, self.own.as_ref(), &mut pace).await
            };
            at_once(view)
        })
    }
}

/// A locality's weight for a subset that holds `part` of its `whole` hosts.
fn scaled(weight: u32, part: usize, whole: usize) -> u32 {
    match (part, whole) {
        (0, _) | (_, 0) => 0,
        _ => ((f64::from(weight) * part as f64 / whole as f64).round() as u32).max(1),
    }
}

impl View {
    async fn new(
        config: &Config,
        policy: &AssignmentPolicy,
        members: &[Members],
        own: Option<&OwnZones>,
        pace: &mut Pace,
    ) -> View {
        let local = own.and_then(|zones| zones.first()).map(|(locality, _)| locality);
        let sets = HostSet::by_priority(members, local, pace).await;
        let load = PriorityLoad::of(
            &sets.iter().collect::<Vec<_>>(),
            LoadPolicy {
                overprovisioning: policy.overprovisioning_factor,
                weighted: policy.weighted_priority_health,
                panic_threshold: config.lb_common.panic_threshold,
            },
        );
        let level = |set| Level { set, schedule: OnceCell::new(), zone: OnceCell::new(), placement: OnceCell::new() };
        View { levels: sets.into_iter().map(level).collect(), load }
    }
}

/// Whether the retry policy wants another host than `host`.
fn objects(retry: &RetryPolicy, tried: &[Rc<Host>], host: &Host) -> bool {
    let again = || tried.iter().any(|t| t.address() == host.address());
    let omitted = || retry.omit_hosts.iter().any(|labels| !labels.0.is_empty() && host.has_labels(&labels.0));
    (retry.avoid_previous_hosts && again()) || omitted()
}

/// The load without the priorities of earlier attempts (`previous_priorities`), once there are enough of them.
fn adjusted_load(load: &PriorityLoad, retry: &RetryPolicy, tried: &[Rc<Host>]) -> Option<PriorityLoad> {
    let every = retry.previous_priorities? as usize;
    let complete = tried.len().checked_div(every)? * every;
    if complete == 0 {
        return None;
    }
    let mut excluded = vec![false; load.healthy.len()];
    let mut adjusted = None;
    for batch in tried[..complete].chunks(every) {
        for host in batch {
            if let Some(slot) = excluded.get_mut(host.priority() as usize) {
                *slot = true;
            }
        }
        adjusted = load.without(&excluded);
        if adjusted.is_none() {
            // Every priority was tried: the original load applies again, and the round begins anew.
            excluded.fill(false);
        }
    }
    adjusted
}
