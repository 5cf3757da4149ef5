//! One upstream host: what the whole process knows of it ([`HostState`]) and how one worker uses it ([`Host`]).
//!
//! Health flags and ejection state are shared atomics, written when something changes. Counters have one writer each: every worker
//! has its own set, made when it first uses the host, so that an endpoint that is never used costs next to nothing.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use sidemesh_config::resource::endpoint::{Endpoint, HealthStatus};
use sidemesh_config::value::{Address, Locality, Name};

use super::outlier::Ejections;
use super::pool::HostPools;
use crate::telemetry::stats::{Counter, Gauge};

/// Why a host is not (fully) healthy: bits of [`HostState::flags`].
pub mod flag {
    pub const FAILED_ACTIVE_HC: u32 = 1;
    pub const FAILED_OUTLIER: u32 = 1 << 1;
    pub const FAILED_EDS: u32 = 1 << 2;
    pub const DEGRADED_ACTIVE_HC: u32 = 1 << 3;
    pub const DEGRADED_EDS: u32 = 1 << 4;
    pub const PENDING_REMOVAL: u32 = 1 << 5;
    pub const PENDING_ACTIVE_HC: u32 = 1 << 6;
    pub const EXCLUDED_IMMEDIATE_HC: u32 = 1 << 7;
    pub const ACTIVE_HC_TIMEOUT: u32 = 1 << 8;
    pub const EDS_DRAINING: u32 = 1 << 9;

    /// What discovery alone decides.
    pub const FROM_EDS: u32 = FAILED_EDS | DEGRADED_EDS | EDS_DRAINING;
    pub(super) const UNHEALTHY: u32 = FAILED_ACTIVE_HC | FAILED_OUTLIER | FAILED_EDS;
    pub(super) const DEGRADED: u32 = DEGRADED_ACTIVE_HC | DEGRADED_EDS;
    pub(super) const EXCLUDED: u32 = PENDING_ACTIVE_HC | EXCLUDED_IMMEDIATE_HC | EDS_DRAINING;

    /// The flags' names as `/clusters` prints them.
    pub const NAMES: [(u32, &str); 10] = [
        (FAILED_ACTIVE_HC, "/failed_active_hc"),
        (FAILED_OUTLIER, "/failed_outlier_check"),
        (FAILED_EDS, "/failed_eds_health"),
        (DEGRADED_ACTIVE_HC, "/degraded_active_hc"),
        (DEGRADED_EDS, "/degraded_eds_health"),
        (PENDING_REMOVAL, "/pending_dynamic_removal"),
        (PENDING_ACTIVE_HC, "/pending_active_hc"),
        (EXCLUDED_IMMEDIATE_HC, "/excluded_via_immediate_hc_fail"),
        (ACTIVE_HC_TIMEOUT, "/active_hc_timeout"),
        (EDS_DRAINING, "/eds_status_draining"),
    ];
}

/// What the balancer makes of the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Healthy,
    Degraded,
    Unhealthy,
}

fn health_of(flags: u32) -> Health {
    if flags & flag::UNHEALTHY != 0 {
        Health::Unhealthy
    } else if flags & flag::DEGRADED != 0 {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

/// Counts of one host as one worker sees them. One writer.
#[derive(Debug, Default)]
pub struct HostCounters {
    pub cx_total: Counter,
    pub cx_active: Gauge,
    pub cx_dialling: Gauge,
    pub cx_connect_fail: Counter,
    pub rq_total: Counter,
    pub rq_success: Counter,
    pub rq_error: Counter,
    pub rq_timeout: Counter,
    pub rq_active: Gauge,
    /// Answers and failures charged to the host's service, for success rates.
    pub external_total: Counter,
    pub external_success: Counter,
    /// The same for what failed on this side (connects, timeouts), when the two are kept apart.
    pub local_total: Counter,
    pub local_success: Counter,
}

/// What the process knows of one host of one cluster. Lives as long as the host is a member or somebody uses it.
#[derive(Debug)]
pub struct HostState {
    pub cluster: Name,
    pub address: Address,
    flags: AtomicU32,
    /// The flags as workers were last told of them: what they balance by.
    shown: AtomicU32,
    /// Milliseconds on the registry's clock since when the host is in use and healthy, plus one; zero: not yet.
    healthy_since: AtomicU64,
    workers: u32,
    /// Made with the first report.
    reported: OnceLock<Box<Reported>>,
    pub ejections: Ejections,
    /// By worker; made with the first use.
    shards: OnceLock<Box<[OnceLock<Arc<HostCounters>>]>>,
}

/// What the host's own load reports say.
#[derive(Debug, Default)]
struct Reported {
    /// Client-side weight in thousandths; zero: none.
    weight: AtomicU64,
    /// Since when there are reports, and when the last one came: milliseconds on the registry's clock, plus one.
    since: AtomicU64,
    at: AtomicU64,
}

impl HostState {
    /// A host with room for the counters of `workers` workers.
    pub fn new(cluster: Name, address: Address, workers: usize, flags: u32) -> Self {
        HostState {
            cluster,
            address,
            flags: AtomicU32::new(flags),
            shown: AtomicU32::new(flags),
            healthy_since: AtomicU64::new(0),
            workers: u32::try_from(workers.max(1)).unwrap_or(u32::MAX),
            reported: OnceLock::new(),
            ejections: Ejections::default(),
            shards: OnceLock::new(),
        }
    }

    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// Sets and clears flags. Whether anything changed; the caller then tells the cluster.
    pub fn change_flags(&self, set: u32, clear: u32) -> bool {
        // Most often nothing does, and memory that workers read is not written.
        self.flags.fetch_update(Relaxed, Relaxed, |f| Some((f & !clear) | set).filter(|new| *new != f)).is_ok()
    }

    /// From now on workers are to balance by the flags as they are.
    pub(super) fn show(&self) {
        let flags = self.flags();
        if self.shown.load(Relaxed) != flags {
            self.shown.store(flags, Relaxed);
        }
    }

    pub fn health(&self) -> Health {
        health_of(self.flags())
    }

    /// The health that workers balance by.
    pub fn shown_health(&self) -> Health {
        health_of(self.shown.load(Relaxed))
    }

    /// Whether the host is left out of the count of hosts that healthy ones are compared with.
    pub fn is_excluded(&self) -> bool {
        self.flags() & flag::EXCLUDED != 0
    }

    /// The same as workers know it.
    pub fn shown_excluded(&self) -> bool {
        self.shown.load(Relaxed) & flag::EXCLUDED != 0
    }

    pub fn is_ejected(&self) -> bool {
        self.flags() & flag::FAILED_OUTLIER != 0
    }

    /// Since when the host serves, in milliseconds on the registry's clock.
    pub fn healthy_since(&self) -> Option<u64> {
        self.healthy_since.load(Relaxed).checked_sub(1)
    }

    pub fn set_healthy_since(&self, millis: u64) {
        self.healthy_since.store(millis + 1, Relaxed);
    }

    /// The weight that the host's own load reports give it: not before `blackout` milliseconds of them, nor `expiration`
    /// milliseconds after the last (zero: for ever).
    pub fn reported_weight(&self, now: u64, blackout: u64, expiration: u64) -> Option<f64> {
        let reported = self.reported.get()?;
        let thousandths = reported.weight.load(Relaxed);
        let since = reported.since.load(Relaxed).checked_sub(1)?;
        let at = reported.at.load(Relaxed).checked_sub(1)?;
        let usable = thousandths > 0 && now.saturating_sub(since) >= blackout;
        let fresh = expiration == 0 || now.saturating_sub(at) < expiration;
        (usable && fresh).then_some(thousandths as f64 / 1000.0)
    }

    /// Takes up a weight reported at `now`; after a gap longer than `expiration` the reports start anew.
    pub fn set_reported_weight(&self, weight: f64, now: u64, expiration: u64) {
        let reported = self.reported.get_or_init(Box::default);
        let last = reported.at.swap(now + 1, Relaxed);
        if last == 0 || (expiration > 0 && (now + 1).saturating_sub(last) >= expiration) {
            reported.since.store(now + 1, Relaxed);
        }
        reported.weight.store((weight * 1000.0).max(1.0) as u64, Relaxed);
    }

    /// The counters of worker `index`; only that worker may write them.
    pub fn counters(&self, index: usize) -> Arc<HostCounters> {
        let shards = self.shards.get_or_init(|| (0..self.workers).map(|_| OnceLock::new()).collect());
        shards[index.min(shards.len() - 1)].get_or_init(Arc::default).clone()
    }

    /// The sum of one counter over the workers.
    pub fn sum(&self, of: impl Fn(&HostCounters) -> u64) -> u64 {
        self.used().map(|c| of(c)).fold(0, u64::wrapping_add)
    }

    /// The counters of the workers that use it.
    fn used(&self) -> impl Iterator<Item = &Arc<HostCounters>> {
        self.shards.get().into_iter().flatten().filter_map(OnceLock::get)
    }

    /// Requests in flight, over all workers.
    pub fn active_requests(&self) -> u64 {
        self.used().map(|c| c.rq_active.get()).sum::<i64>().max(0) as u64
    }

    /// Connections that are open or being made, over all workers.
    pub fn claimed_connections(&self) -> u64 {
        let of = |c: &Arc<HostCounters>| c.cx_active.get() + c.cx_dialling.get();
        self.used().map(of).sum::<i64>().max(0) as u64
    }

    /// Open connections, over all workers.
    pub fn active_connections(&self) -> u64 {
        self.used().map(|c| c.cx_active.get()).sum::<i64>().max(0) as u64
    }
}

/// The flags that a status from EDS gives a host.
pub fn eds_flags(status: HealthStatus) -> u32 {
    match status {
        HealthStatus::Unknown | HealthStatus::Healthy => 0,
        HealthStatus::Unhealthy | HealthStatus::Timeout => flag::FAILED_EDS,
        HealthStatus::Draining => flag::FAILED_EDS | flag::EDS_DRAINING,
        HealthStatus::Degraded => flag::DEGRADED_EDS,
    }
}

/// A host as a worker's balancer hands it out.
pub struct Host {
    endpoint: Arc<Endpoint>,
    locality: Rc<Locality>,
    priority: u32,
    state: Arc<HostState>,
    worker: usize,
    counters: OnceCell<Arc<HostCounters>>,
    pools: OnceCell<Rc<HostPools>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("address", &self.state.address.to_string())
            .field("priority", &self.priority)
            .finish()
    }
}

impl Host {
    pub fn new(
        endpoint: Arc<Endpoint>,
        locality: Rc<Locality>,
        priority: u32,
        state: Arc<HostState>,
        worker: usize,
    ) -> Self {
        Host { endpoint, locality, priority, state, worker, counters: OnceCell::new(), pools: OnceCell::new() }
    }

    /// Where it is reached (resolved, for hosts of DNS clusters).
    pub fn address(&self) -> &Address {
        &self.state.address
    }
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
    pub fn locality(&self) -> &Locality {
        &self.locality
    }
    pub fn priority(&self) -> u32 {
        self.priority
    }
    pub fn state(&self) -> &Arc<HostState> {
        &self.state
    }
    /// The endpoint's hostname; empty where none was given.
    pub fn hostname(&self) -> &str {
        &self.endpoint.hostname
    }
    pub fn weight(&self) -> u32 {
        self.endpoint.weight
    }

    /// This worker's counters of the host.
    #[inline]
    pub fn counters(&self) -> &HostCounters {
        self.counters.get_or_init(|| self.state.counters(self.worker))
    }

    /// Its health in the words of `core.v3.HealthStatus`: what active checks and ejections say counts before what EDS says.
    pub fn status(&self) -> HealthStatus {
        let flags = self.state.flags();
        match (self.endpoint.health, flags) {
            (_, flags) if flags & (flag::FAILED_ACTIVE_HC | flag::FAILED_OUTLIER) != 0 => HealthStatus::Unhealthy,
            (told @ (HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout), _) => told,
            (_, flags) if flags & flag::DEGRADED_ACTIVE_HC != 0 => HealthStatus::Degraded,
            (told, _) => told,
        }
    }

    /// A gRPC answer is over: its trailers say how it went; without any it has failed.
    pub fn charge_trailers(&self, trailers: Option<&http::HeaderMap>) {
        let counters = self.counters();
        match trailers.is_some_and(super::grpc::succeeded) {
            true => counters.rq_success.inc(),
            false => counters.rq_error.inc(),
        }
    }

    /// The connections of this worker to the host's address.
    pub(super) fn pools(&self, make: impl FnOnce() -> Rc<HostPools>) -> &Rc<HostPools> {
        self.pools.get_or_init(make)
    }

    /// What consistent hashing places the host by: the endpoint's `envoy.lb` `hash_key`, else its hostname or address.
    pub fn hash_key(&self, use_hostname: bool) -> String {
        let metadata = self.endpoint.metadata.as_deref();
        match metadata.and_then(|m| m.0.get("envoy.lb")).and_then(|lb| lb.get("hash_key")).and_then(|k| k.as_str()) {
            Some(key) if !key.is_empty() => key.to_owned(),
            _ if use_hostname && !self.hostname().is_empty() => self.hostname().to_owned(),
            _ => self.state.address.to_string(),
        }
    }

    /// Whether the endpoint's `envoy.lb` metadata holds all of `labels`.
    pub fn has_labels(&self, labels: &[(Name, serde_json::Value)]) -> bool {
        let lb = self.endpoint.metadata.as_deref().and_then(|m| m.0.get("envoy.lb"));
        labels.iter().all(|(key, value)| lb.and_then(|lb| lb.get(&**key)) == Some(value))
    }
}
