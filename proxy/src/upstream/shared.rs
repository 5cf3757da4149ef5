//! What the process knows of its clusters: [`Registry`] by name, [`SharedCluster`] with hosts, limits and health.
//!
//! It outlives configurations: a changed cluster keeps the state of the hosts it keeps. The registry is locked while a configuration
//! is reconciled, when a worker first meets a cluster, and for the admin pages; never per request. Workers compare a cluster's
//! [`generation`](SharedCluster::generation) and make their view anew when it moved.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use sidemesh_config::resource::cluster::{BindConfig, Cluster as Config, Discovery};
use sidemesh_config::resource::endpoint::{Endpoint, LoadAssignment};
use sidemesh_config::snapshot::{ByName, ClusterEntry, Snapshot};
use sidemesh_config::value::{Address, Locality, Name};
use tokio::sync::{Notify, watch};

use super::breaker::Breakers;
use super::host::{Health, HostState, eds_flags, flag};
pub use super::members::Membership;
use super::members::{Known, keep_healthy, with_kept};
use super::outlier::{Detector, EventLog};
use crate::telemetry::stats;

/// Hosts of ORIGINAL_DST clusters kept per cluster; requests to further destinations are refused until idle ones are cleaned up.
pub const MAX_ORIGINAL_DESTINATIONS: usize = 65_536;

/// Hosts from which on the control thread frees a membership that was replaced.
const RETIRED_APART: usize = 1024;

/// This proxy's own place, for zone-aware routing.
#[derive(Debug, Clone)]
pub struct LocalZone {
    /// `cluster_manager.local_cluster_name`: the cluster this proxy's siblings are in.
    pub cluster: Name,
    pub locality: Locality,
}

/// All clusters of the process.
pub struct Registry {
    clusters: Mutex<ByName<Arc<SharedCluster>>>,
    pub stats: Arc<stats::Registry>,
    pub workers: usize,
    pub local: Option<LocalZone>,
    pub outlier_log: Option<EventLog>,
    pub bind: Option<BindConfig>,
    put_off: Arc<PutOff>,
    epoch: Instant,
}

/// What a process's clusters share beyond their own configuration. The default is nothing.
#[derive(Default)]
pub struct Surroundings {
    pub local: Option<LocalZone>,
    pub outlier_log: Option<EventLog>,
    /// For clusters that do not say it themselves.
    pub bind: Option<BindConfig>,
}

/// Live state of one cluster.
pub struct SharedCluster {
    pub name: Name,
    entry: ArcSwap<ClusterEntry>,
    members: ArcSwap<Membership>,
    generation: AtomicU64,
    /// Changes of a priority's hosts that nobody has counted yet, and of these the ones of a warm cluster.
    changes: AtomicU64,
    updates: AtomicU64,
    merging: Merging,
    pub breakers: Arc<Breakers>,
    pub detector: Detector,
    original: Mutex<HashMap<SocketAddr, Arc<HostState>>>,
    /// How far it is; it is told of every change of its hosts.
    pub(super) ready: watch::Sender<Ready>,
    /// A connection has been made to one of its hosts.
    traffic: AtomicBool,
    /// Large memberships of before, until no worker uses them.
    retired: Mutex<Vec<Arc<Membership>>>,
    workers: usize,
    epoch: Instant,
}

/// When workers were last told of a change of hosts, for `update_merge_window`.
#[derive(Debug, Default)]
struct Merging {
    /// Milliseconds on the registry's clock, plus one; zero: not yet.
    told: AtomicU64,
    put_off: AtomicBool,
    queue: Arc<PutOff>,
}

/// Clusters whose changes were put off and wait for the end of their window.
#[derive(Debug, Default)]
struct PutOff {
    clusters: Mutex<Vec<Name>>,
    wake: Notify,
}

/// How far a new cluster is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// Discovery has given its first answer.
    discovered: bool,
    /// Every host of that answer has been checked once.
    checked: bool,
}

impl Ready {
    pub(super) fn is_ready(self) -> bool {
        self.discovered && self.checked
    }
}

impl Registry {
    pub fn new(workers: usize, stats: Arc<stats::Registry>, around: Surroundings) -> Arc<Registry> {
        let epoch = tokio::time::Instant::now().into_std();
        let Surroundings { local, outlier_log, bind } = around;
        let (clusters, put_off, workers) = (Mutex::default(), Arc::default(), workers.max(1));
        Arc::new(Registry { clusters, stats, workers, local, outlier_log, bind, put_off, epoch })
    }

    /// Milliseconds since the registry was made.
    pub fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, ByName<Arc<SharedCluster>>> {
        // Nothing panics while it is held; the map is whole in any case.
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live state of a cluster, made when it is not there yet.
    pub fn cluster(&self, entry: &Arc<ClusterEntry>) -> Arc<SharedCluster> {
        let name = &entry.cluster.name;
        if let Some(found) = self.lock().get(name) {
            return found.clone();
        }
        let fresh = Arc::new(SharedCluster::new(entry.clone(), self));
        fresh.apply(entry, tokio::time::Instant::now().into_std());
        self.lock().entry(name.clone()).or_insert(fresh).clone()
    }

    /// The clusters whose changes of health were put off since this was asked last. Waits for one.
    pub(super) async fn put_off(&self) -> Vec<Arc<SharedCluster>> {
        self.put_off.wake.notified().await;
        let names = std::mem::take(&mut *self.put_off.clusters.lock().unwrap_or_else(PoisonError::into_inner));
        names.iter().filter_map(|name| self.get(name)).collect()
    }

    pub fn get(&self, name: &str) -> Option<Arc<SharedCluster>> {
        self.lock().get(name).cloned()
    }

    /// All clusters, by name.
    pub fn all(&self) -> Vec<Arc<SharedCluster>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Takes up a configuration: new clusters are made, changed ones learn of it, removed ones go. Gives what changed and what went.
    pub fn reconcile(&self, snapshot: &Snapshot, now: Instant) -> Reconciled {
        let mut done = Reconciled::default();
        for entry in snapshot.clusters.values() {
            let known = self.get(&entry.cluster.name);
            let shared = self.cluster(entry);
            if known.is_none() || !Arc::ptr_eq(&shared.entry(), entry) {
                shared.apply(entry, now);
                done.changed.push(shared);
            }
        }
        let mut clusters = self.lock();
        clusters.retain(|name, shared| {
            let keep = snapshot.clusters.contains_key(name);
            if !keep {
                done.removed.push(shared.clone());
            }
            keep
        });
        drop(clusters);
        for gone in &done.removed {
            self.stats.remove(&stats::Scope::Cluster(gone.entry().cluster.stat_name.clone()));
        }
        done
    }

    /// How many healthy siblings this proxy has in each locality, its own first; `None` without zone-aware routing.
    pub fn own_zones(&self) -> Option<super::balancer::OwnZones> {
        let local = self.local.as_ref()?;
        let members = self.get(&local.cluster)?.members();
        let mut zones = vec![(local.locality.clone(), 0u64)];
        for (locality, _, _) in members.iter().filter(|(_, _, h)| h.health() == Health::Healthy) {
            match zones.iter_mut().find(|(l, _)| *l == locality.locality) {
                Some((_, n)) => *n += 1,
                None => zones.push((locality.locality.clone(), 1)),
            }
        }
        Some(zones.into())
    }
}

/// What a reconciliation found.
#[derive(Default)]
pub struct Reconciled {
    pub changed: Vec<Arc<SharedCluster>>,
    pub removed: Vec<Arc<SharedCluster>>,
}

impl SharedCluster {
    fn new(entry: Arc<ClusterEntry>, registry: &Registry) -> Self {
        let name = entry.cluster.name.clone();
        SharedCluster {
            members: ArcSwap::from_pointee(Membership::none(&name)),
            name,
            entry: ArcSwap::new(entry),
            generation: AtomicU64::new(1),
            changes: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            merging: Merging { queue: registry.put_off.clone(), ..Merging::default() },
            breakers: Arc::default(),
            detector: Detector::default(),
            original: Mutex::default(),
            ready: watch::Sender::default(),
            traffic: AtomicBool::new(false),
            retired: Mutex::default(),
            workers: registry.workers,
            epoch: registry.epoch,
        }
    }

    /// The configuration last taken up.
    pub fn entry(&self) -> Arc<ClusterEntry> {
        self.entry.load_full()
    }

    pub fn members(&self) -> Arc<Membership> {
        self.members.load_full()
    }

    /// Moves when membership or health changes.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Tells workers at once that something has changed.
    pub fn touch(&self) {
        self.members().iter().for_each(|(_, _, host)| host.show());
        self.generation.fetch_add(1, Ordering::Release);
        self.ready.send_modify(|_| {});
    }

    /// Tells workers that hosts' health has changed: at once the first time, together with what follows within the
    /// cluster's `update_merge_window` after that. `now` is in milliseconds on the registry's clock.
    pub fn touch_health(&self, now: u64) {
        let window = self.merge_window().as_millis() as u64;
        let told = self.merging.told.load(Ordering::Relaxed);
        // While the cluster warms up nobody has a view of it yet.
        if window == 0 || !self.ready.borrow().is_ready() {
            return self.touch();
        }
        if told == 0 || (now + 1).saturating_sub(told) > window {
            return self.tell(now);
        }
        if !self.merging.put_off.swap(true, Ordering::Relaxed) {
            let queue = &self.merging.queue;
            queue.clusters.lock().unwrap_or_else(PoisonError::into_inner).push(self.name.clone());
            queue.wake.notify_one();
        }
        self.ready.send_modify(|_| {});
    }

    /// Tells workers at once; the merge window starts anew.
    fn tell(&self, now: u64) {
        self.merging.put_off.store(false, Ordering::Relaxed);
        if self.ready.borrow().is_ready() {
            self.merging.told.store(now + 1, Ordering::Relaxed);
        }
        self.touch();
    }

    fn merge_window(&self) -> Duration {
        self.entry.load().cluster.lb_common.update_merge_window
    }

    /// Tells of what was put off, when its window is over. `millis` is the time on the registry's clock.
    pub(super) async fn tell_merged(&self, millis: impl Fn() -> u64) {
        tokio::time::sleep(self.merge_window()).await;
        if self.merging.put_off.load(Ordering::Relaxed) {
            self.tell(millis());
        }
    }

    /// Hears of each change that [`SharedCluster::touch`] tells.
    pub(super) fn subscribe(&self) -> watch::Receiver<Ready> {
        self.ready.subscribe()
    }

    pub(super) fn discovered(&self) {
        self.ready.send_if_modified(|r| !std::mem::replace(&mut r.discovered, true));
    }

    /// Nobody checks the hosts: discovery alone makes the cluster ready.
    pub(super) fn unchecked(&self) {
        self.ready.send_if_modified(|r| !std::mem::replace(&mut r.checked, true));
    }

    pub(super) fn is_discovered(&self) -> bool {
        self.ready.borrow().discovered
    }

    pub(super) fn health_round_done(&self) {
        self.ready.send_if_modified(|r| !std::mem::replace(&mut r.checked, true));
    }

    /// The changes of hosts since this was asked last, of one priority each; and of these the ones of a warm cluster.
    pub(super) fn take_changes(&self) -> (u64, u64) {
        (self.changes.swap(0, Ordering::Relaxed), self.updates.swap(0, Ordering::Relaxed))
    }

    fn note_changes(&self, priorities: usize) {
        self.changes.fetch_add(priorities as u64, Ordering::Relaxed);
        if self.ready.borrow().is_ready() {
            self.updates.fetch_add(priorities as u64, Ordering::Relaxed);
        }
    }

    /// A cluster that is made anew begins with its hosts.
    pub(super) fn begin_anew(&self) {
        self.changes.store(self.members().priorities() as u64, Ordering::Relaxed);
    }

    /// Whether any connection to it was ever made.
    pub fn has_traffic(&self) -> bool {
        self.traffic.load(Ordering::Relaxed)
    }

    pub(super) fn note_traffic(&self) {
        if !self.has_traffic() {
            self.traffic.store(true, Ordering::Relaxed);
        }
    }

    /// Removes hosts that only their health had kept and that have lost it.
    pub(super) fn drop_unnamed(&self, now: Instant) {
        let members = self.members();
        let mut assignment = LoadAssignment::clone(&members.assignment);
        for (locality, states) in assignment.localities.iter_mut().zip(&members.hosts) {
            let mut states = states.iter();
            locality.endpoints.retain(|_| states.next().is_some_and(|s| s.flags() & flag::PENDING_REMOVAL == 0));
        }
        self.set_members(Arc::new(assignment), now);
    }

    pub fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn apply(&self, entry: &Arc<ClusterEntry>, now: Instant) {
        self.entry.store(entry.clone());
        // What DNS finds is set by its task, and stays while a new configuration is being resolved.
        let endpoints = match &entry.cluster.discovery {
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) => None,
            Discovery::Static(own) => entry.endpoints.as_ref().or(Some(own)),
            _ => entry.endpoints.as_ref(),
        };
        match endpoints {
            Some(endpoints) => self.set_members(endpoints.clone(), now),
            None => self.touch(),
        }
    }

    /// Replaces the endpoints. Hosts that stay keep their state.
    pub fn set_members(&self, assignment: Arc<LoadAssignment>, now: Instant) {
        let config = self.entry().cluster.clone();
        let old = self.members();
        let count = old.len() + assignment.localities.iter().map(|l| l.endpoints.len()).sum::<usize>();
        let mut known: HashMap<&Address, Known<'_>, RandomState> = HashMap::default();
        known.reserve(count.div_ceil(2));
        known.extend(old.iter().map(|(l, _, s)| (&s.address, Known::Old(l.priority, s))));
        let mut hosts = Vec::with_capacity(assignment.localities.len());
        let mut changed = BTreeSet::new();
        for locality in &assignment.localities {
            let mut states = Vec::with_capacity(locality.endpoints.len());
            for endpoint in &locality.endpoints {
                let eds = eds_flags(endpoint.health);
                let state = match known.entry(&endpoint.address) {
                    Entry::Occupied(mut found) => {
                        if let Known::Old(before, _) = found.get()
                            && *before != locality.priority
                        {
                            changed.extend([*before, locality.priority]);
                        }
                        let state = found.get().state().clone();
                        found.insert(Known::Named(state.clone()));
                        state
                    }
                    Entry::Vacant(free) => {
                        changed.insert(locality.priority);
                        let state = self.new_host(&config, endpoint, now);
                        free.insert(Known::Named(state.clone()));
                        state
                    }
                };
                state.change_flags(eds, (flag::FROM_EDS | flag::PENDING_REMOVAL) & !eds);
                states.push(state);
            }
            hosts.push(states);
        }
        let left = |address: &Address| matches!(known.get(address), Some(Known::Old(..)));
        let kept = keep_healthy(&config, &old, left);
        let stay: HashSet<*const HostState, RandomState> = kept.iter().map(|(_, _, s)| Arc::as_ptr(s)).collect();
        for (locality, _, gone) in old.iter().filter(|(_, _, s)| left(&s.address)) {
            if !stay.contains(&Arc::as_ptr(gone)) {
                changed.insert(locality.priority);
                self.detector.forget(gone);
            }
        }
        self.note_changes(changed.len());
        let (assignment, hosts) = with_kept(assignment.clone(), hosts, kept);
        drop(known);
        self.members.store(Arc::new(Membership { assignment, hosts }));
        if old.len() > RETIRED_APART {
            self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
        // What discovery says is never put off.
        self.tell(self.millis(now));
    }

    /// Frees the large memberships that no worker uses any more. For the control thread: a worker that freed one would do nothing
    /// else for some ten milliseconds.
    pub(super) fn free_retired(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = retired.extract_if(.., |m| Arc::strong_count(m) == 1).collect::<Vec<_>>();
        drop(retired);
        drop(unused);
    }

    fn new_host(&self, config: &Config, endpoint: &Endpoint, now: Instant) -> Arc<HostState> {
        let checked = !config.health_checks.is_empty() && !endpoint.disable_active_health_check;
        let mut flags = 0;
        if checked {
            flags |= flag::FAILED_ACTIVE_HC;
            if config.lb_common.ignore_new_hosts_until_first_health_check {
                flags |= flag::PENDING_ACTIVE_HC;
            }
        }
        let host = HostState::new(self.name.clone(), endpoint.address.clone(), self.workers, flags);
        if !checked {
            host.set_healthy_since(self.millis(now));
        }
        Arc::new(host)
    }

    /// A destination of an ORIGINAL_DST cluster. `None` when there are too many.
    pub fn original(&self, address: SocketAddr) -> Option<Arc<HostState>> {
        let mut original = self.original.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = original.get(&address) {
            return Some(known.clone());
        }
        if original.len() >= MAX_ORIGINAL_DESTINATIONS {
            return None;
        }
        let host = Arc::new(HostState::new(self.name.clone(), Address::Socket(address), self.workers, 0));
        original.insert(address, host.clone());
        Some(host)
    }

    /// Forgets destinations nobody holds.
    pub fn clean_originals(&self) {
        let mut original = self.original.lock().unwrap_or_else(PoisonError::into_inner);
        original.retain(|_, host| Arc::strong_count(host) > 1);
    }

    pub fn originals(&self) -> Vec<Arc<HostState>> {
        self.original.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
