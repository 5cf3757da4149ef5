//! A cluster as one worker uses it: its view of the hosts, its connections, its counters.
//!
//! The view is made anew when the configuration or the shared state has moved on; a request that finds nothing changed pays two
//! integer comparisons. Connections stay with the host's address through such changes, unless what they were made with changes.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::HeaderMap;
use sidemesh_config::resource::cluster::{Cluster as Config, Discovery, LbPolicy};
use sidemesh_config::resource::route::{Priority, RetryPolicy};
use sidemesh_config::resource::tls::UpstreamTls;
use sidemesh_config::snapshot::{ByName, ClusterEntry, Snapshot};
use sidemesh_config::value::{Address, Name};

use super::aggregate::Aggregate;
use super::balancer::{self, Balancer, Chance};
use super::breaker;
use super::error::PickError;
use super::host::Host;
use super::named::Session;
use super::outlier::{At, Outcome, Verdict, When};
use super::pool::HostPools;
use super::rebuild;
use super::shared::{Membership, Registry, SharedCluster};
use super::stats::{ClusterStats, HealthStats, OutlierStats, SizeStats, TimeStats};
use super::transport::{Settings, is_same_transport};
use crate::telemetry::http::Http2Stats;
use crate::telemetry::stats::Scope;
use crate::telemetry::tls::TlsStats;
use crate::tls;
use crate::worker::Worker;

/// What a host is chosen by.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickContext<'a> {
    /// Of the hash policies; without it hashing balancers choose at random.
    pub hash: Option<u64>,
    /// What the route asks of the hosts' `envoy.lb` metadata, sorted by key.
    pub subset: &'a balancer::Labels,
    /// Where an ORIGINAL_DST cluster is to connect: see [`Cluster::original_destination`].
    pub destination: Option<SocketAddr>,
    /// The hosts that the request wants, the best first: see [`Cluster::wanted`].
    pub wanted: &'a [SocketAddr],
    /// The host that the client's session is bound to.
    pub session: Option<&'a Session>,
    pub retry: Option<&'a RetryPolicy>,
    /// Hosts of earlier attempts, oldest first.
    pub tried: &'a [Rc<Host>],
}

/// One cluster on one worker.
#[allow(
    clippy::redundant_allocation,
    reason = "the outer count is the worker's own: cloning it writes no memory that workers share"
)]
pub struct Cluster {
    pub(super) shared: Arc<SharedCluster>,
    pub(super) worker: Rc<Worker>,
    pub(super) registry: Arc<Registry>,
    pub(super) stats: Arc<ClusterStats>,
    outlier_stats: OnceCell<Arc<OutlierStats>>,
    tls_stats: OnceCell<Arc<TlsStats>>,
    http2_stats: OnceCell<Arc<Http2Stats>>,
    health_stats: OnceCell<Arc<HealthStats>>,
    pub(super) sizes: OnceCell<Arc<SizeStats>>,
    pub(super) times: OnceCell<Arc<TimeStats>>,
    entry: RefCell<Rc<Arc<ClusterEntry>>>,
    config: RefCell<Rc<Arc<Config>>>,
    pub(super) breakers: breaker::Handle,
    /// Generation of the newest snapshot seen.
    seen: Cell<u64>,
    pub(super) view: RefCell<View>,
    /// A task makes the view anew: see [`super::rebuild`].
    pub(super) rebuilding: Cell<bool>,
    pub(super) me: Weak<Cluster>,
    pub(super) settings: RefCell<Rc<Settings>>,
    pub(super) pools: RefCell<HashMap<Address, Rc<HostPools>>>,
    pub(super) originals: RefCell<HashMap<SocketAddr, Rc<Host>>>,
    pub(super) aggregate: RefCell<Aggregate>,
    secrets: RefCell<ByName<Arc<sidemesh_config::resource::secret::Secret>>>,
    clients: RefCell<Vec<(Arc<UpstreamTls>, Option<Rc<tls::Client>>)>>,
}

pub(super) struct View {
    pub(super) generation: u64,
    pub(super) members: Arc<Membership>,
    pub(super) balancer: Rc<Balancer>,
}

impl Cluster {
    pub(super) fn new(
        worker: Rc<Worker>,
        registry: Arc<Registry>,
        shared: Arc<SharedCluster>,
        entry: Arc<ClusterEntry>,
    ) -> Rc<Self> {
        let config = entry.cluster.clone();
        let stats = registry.stats.shard::<ClusterStats>(Scope::Cluster(config.stat_name.clone()));
        let members = shared.members();
        let generation = shared.generation();
        let hosts = rebuild::hosts(&members, worker.index);
        let policy = members.assignment.policy.clone();
        let balancer = Rc::new(Balancer::new(config.clone(), policy, hosts, registry.own_zones()));
        Rc::new_cyclic(|me| Cluster {
            view: RefCell::new(View { generation, members, balancer }),
            rebuilding: Cell::new(false),
            me: me.clone(),
            settings: RefCell::new(Rc::new(Settings::new(&config))),
            entry: RefCell::new(Rc::new(entry)),
            config: RefCell::new(Rc::new(config)),
            breakers: Rc::new(shared.breakers.clone()),
            outlier_stats: OnceCell::new(),
            tls_stats: OnceCell::new(),
            http2_stats: OnceCell::new(),
            health_stats: OnceCell::new(),
            sizes: OnceCell::new(),
            times: OnceCell::new(),
            seen: Cell::new(0),
            pools: RefCell::default(),
            originals: RefCell::default(),
            aggregate: RefCell::default(),
            secrets: RefCell::default(),
            clients: RefCell::default(),
            shared,
            worker,
            registry,
            stats,
        })
    }

    pub fn name(&self) -> &Name {
        &self.shared.name
    }

    /// The configuration as the newest snapshot seen has it. The outer count is this worker's own: cloning it is no atomic operation.
    pub fn entry(&self) -> Rc<Arc<ClusterEntry>> {
        self.entry.borrow().clone()
    }

    pub fn config(&self) -> Rc<Arc<Config>> {
        self.config.borrow().clone()
    }

    /// This worker's counters of the cluster.
    pub fn stats(&self) -> &ClusterStats {
        &self.stats
    }

    /// Of a cluster that speaks TLS: its handshakes.
    pub(super) fn tls_stats(&self) -> &TlsStats {
        let scope = || Scope::Cluster(self.config.borrow().stat_name.clone());
        self.tls_stats.get_or_init(|| self.registry.stats.shard(scope()))
    }

    /// Of a cluster with health checks: what its traffic says of its hosts.
    pub(super) fn health_stats(&self) -> &HealthStats {
        let scope = || Scope::Cluster(self.config.borrow().stat_name.clone());
        self.health_stats.get_or_init(|| self.registry.stats.shard(scope()))
    }

    /// Of a cluster that speaks HTTP/2: what happens on its connections.
    pub(super) fn http2_stats(&self) -> Arc<Http2Stats> {
        let cluster = self.config.borrow().stat_name.clone();
        let scope = || Scope::ClusterPart { cluster, part: Name::from("http2") };
        self.http2_stats.get_or_init(|| self.registry.stats.shard(scope())).clone()
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.get()
    }

    /// How many hosts are healthy or degraded, and how many there are.
    pub fn health(&self) -> (usize, usize) {
        let balancer = self.balancer();
        let usable = balancer.sets().map(|s| s.healthy.hosts.len() + s.degraded.hosts.len()).sum();
        (usable, balancer.sets().map(|s| s.all.hosts.len()).sum())
    }

    /// Takes up a newer snapshot.
    pub(super) fn refresh(&self, snapshot: &Snapshot, entry: &Arc<ClusterEntry>) {
        self.seen.set(snapshot.generation);
        self.refresh_secrets(snapshot);
        let old = self.entry.replace(Rc::new(entry.clone()));
        if Arc::ptr_eq(&old.cluster, &entry.cluster) {
            return;
        }
        *self.config.borrow_mut() = Rc::new(entry.cluster.clone());
        *self.settings.borrow_mut() = Rc::new(Settings::new(&entry.cluster));
        let keep = is_same_transport(&old.cluster, &entry.cluster);
        if !keep {
            self.clients.borrow_mut().clear();
            self.originals.borrow_mut().clear();
            let pools = std::mem::take(&mut *self.pools.borrow_mut());
            pools.values().for_each(|p| p.close());
        }
        self.rebuild(keep);
    }

    /// New connections use new certificates; those that are open stay.
    fn refresh_secrets(&self, snapshot: &Snapshot) {
        let mut secrets = self.secrets.borrow_mut();
        let same =
            |(name, held): (&Name, &Arc<_>)| snapshot.secrets.get(name).is_some_and(|new| Arc::ptr_eq(new, held));
        if secrets.len() != snapshot.secrets.len() || !secrets.iter().all(same) {
            *secrets = snapshot.secrets.clone();
            self.clients.borrow_mut().clear();
        }
    }

    /// The TLS side of a transport; `None` while its secrets are missing or unusable.
    pub(super) fn tls_client(&self, config: &Arc<UpstreamTls>) -> Option<Rc<tls::Client>> {
        if let Some((_, client)) = self.clients.borrow().iter().find(|(c, _)| Arc::ptr_eq(c, config)) {
            return client.clone();
        }
        let client = match tls::Client::new(config, &self.secrets.borrow()) {
            Ok(client) => Some(Rc::new(client)),
            Err(error) => {
                tracing::warn!(cluster = %self.name(), %error, "the cluster's TLS context cannot be used: its connections fail");
                None
            }
        };
        self.clients.borrow_mut().push((config.clone(), client.clone()));
        client
    }

    /// The connections to a host's address.
    pub(super) fn host_pools(&self, host: &Host) -> Rc<HostPools> {
        host.pools(|| self.pools.borrow_mut().entry(host.address().clone()).or_default().clone()).clone()
    }

    /// Closes what idles too long; whether any connection is left.
    pub(super) fn sweep(&self) -> bool {
        let now = self.worker.local.clock.now();
        let limits = self.settings.borrow().limits;
        // What the shared state has dropped since the last request is let go of here.
        drop(self.balancer());
        let all: Vec<_> = self.pools.borrow().values().cloned().collect();
        let busy = all.iter().filter(|p| p.sweep(now, &limits)).count() > 0;
        let mut originals = self.originals.borrow_mut();
        let mut pools = self.pools.borrow_mut();
        originals
            .retain(|_, host| Rc::strong_count(host) > 1 || pools.get(host.address()).is_some_and(|p| !p.is_empty()));
        if !originals.is_empty() || matches!(self.config().discovery, Discovery::OriginalDst(_)) {
            pools.retain(|_, p| !p.is_empty() || Rc::strong_count(p) > 1);
        }
        busy
    }

    /// Closes everything that idles: the cluster is gone.
    pub(super) fn close(&self) {
        std::mem::take(&mut *self.pools.borrow_mut()).values().for_each(|p| p.close());
    }

    /// Chooses a host. Does not wait.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Rc<Host>, PickError> {
        if context.tried.is_empty() {
            self.shed()?;
        }
        let config = self.config();
        match &config.discovery {
            Discovery::OriginalDst(_) => self.original(context.destination),
            Discovery::Aggregate(_) => self.pick_from_children(context, &config),
            _ => {
                let balancer = self.balancer();
                if let Some(session) = context.session.filter(|_| context.tried.is_empty())
                    && let Some(host) = self.session_host(&balancer, session)?
                {
                    return Ok(host);
                }
                if let Some(host) = balancer.wanted(context.wanted, context.tried) {
                    return Ok(host);
                }
                self.picked(balancer.pick(&request(context), &self.chance()))
            }
        }
    }

    /// `drop_overloads`: a share of the requests is turned away before a host is chosen.
    fn shed(&self) -> Result<(), PickError> {
        let random = &self.worker.local.random;
        for (_, share) in &self.view.borrow().members.assignment.policy.drop_overloads {
            if share.hit(random.next_u64()) {
                let unconditional = share.is_always();
                if !unconditional {
                    self.stats.upstream_rq_drop_overload.inc();
                }
                return Err(PickError::Dropped { unconditional });
            }
        }
        Ok(())
    }

    pub(super) fn picked(&self, picked: balancer::Picked) -> Result<Rc<Host>, PickError> {
        self.stats.record_pick(&picked);
        picked.host.ok_or_else(|| {
            self.stats.upstream_cx_none_healthy.inc();
            PickError::NoHealthyHost
        })
    }

    pub(super) fn chance(&self) -> Chance<'_> {
        use std::sync::atomic::Ordering::Relaxed;
        let active = |priority| u64::from(self.breakers.at(priority).requests.load(Relaxed));
        Chance {
            random: &self.worker.local.random,
            now: self.registry.millis(self.worker.local.clock.coarse()),
            cluster_active: active(Priority::Default) + active(Priority::High),
        }
    }

    /// Milliseconds on the registry's clock.
    pub(super) fn now(&self) -> u64 {
        self.registry.millis(self.worker.local.clock.coarse())
    }

    /// Charges an outcome to a host.
    pub(super) fn judge(&self, host: &Host, outcome: Outcome) {
        let config = self.config();
        let Some(outlier) = &config.outlier else { return };
        let at = At {
            now: self.registry.millis(self.worker.local.clock.coarse()),
            hosts: self.view.borrow().members.len(),
            random: &self.worker.local.random,
        };
        for verdict in self.shared.detector.handle(outlier, host.state(), host.counters(), outcome, at) {
            if verdict != Verdict::Nothing {
                self.judged(&config, host, verdict, at.now);
            }
        }
    }

    /// Counts, logs and takes up what was decided about a host.
    fn judged(&self, config: &Config, host: &Host, verdict: Verdict, now: u64) {
        let scope = || Scope::Cluster(config.stat_name.clone());
        self.outlier_stats.get_or_init(|| self.registry.stats.shard(scope())).record(verdict);
        if let Some(log) = &self.registry.outlier_log {
            let when = When { millis: now, wall: self.worker.local.clock.system() };
            log.judged(self.name(), host.state(), verdict, None, when);
        }
        if let Verdict::Ejected(cause) = verdict {
            tracing::info!(cluster = %self.name(), host = %host.address(), ?cause, "host ejected");
            self.shared.touch_health(now);
        }
    }

    /// Whether the policy weighs hosts by what they report.
    pub fn weighs_reports(&self) -> bool {
        matches!(self.config.borrow().lb, LbPolicy::ClientSideWeightedRoundRobin(_))
    }

    /// Takes up the host's own load report (`endpoint-load-metrics`) in the headers or trailers of a response, where the policy
    /// uses them.
    pub fn on_load_report(&self, host: &Host, headers: &HeaderMap) {
        if let LbPolicy::ClientSideWeightedRoundRobin(config) = &self.config.borrow().lb
            && let Some(report) = balancer::LoadReport::of(headers)
            && let Some(weight) = balancer::weight_of_report(config, &report)
        {
            let now = self.registry.millis(self.worker.local.clock.coarse());
            let expiration = config.weight_expiration_period.as_millis() as u64;
            host.state().set_reported_weight(weight, now, expiration);
        }
    }
}

pub(super) fn request<'a>(context: &PickContext<'a>) -> balancer::Request<'a> {
    balancer::Request { hash: context.hash, subset: context.subset, retry: context.retry, tried: context.tried }
}
