//! The control thread's half: discovery, health checks, outlier sweeps and gauges, one set of tasks per cluster.
//!
//! [`Control::reconcile`] goes before a snapshot is published, so that workers find the clusters of a snapshot they see. Tasks are
//! restarted when their cluster's own configuration changes, not when only its endpoints do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sidemesh_config::resource::cluster::{Cluster as Config, Discovery, HealthCheck, OutlierDetection};
use sidemesh_config::resource::endpoint::LoadAssignment;
use sidemesh_config::resource::route::Priority;
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::resource::tls::UpstreamTls;
use sidemesh_config::snapshot::{ByName, Snapshot};
use sidemesh_config::value::Name;

use super::breaker::Overflow;
use super::host::{Health, HostState};
use super::outlier::{At, Judged, When};
use super::shared::{Registry, SharedCluster};
use super::stats::{HealthStats, MatchStats, MembershipStats, OutlierStats, RemainingStats, UpdateStats};
use super::{discovery, health};
use crate::codec::Local;
use crate::telemetry::stats::Scope;

/// How often the gauges of circuit breakers are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_millis(100);

/// A task that ends when this is dropped.
pub struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(super) fn spawn(future: impl Future<Output = ()> + 'static) -> Task {
        Task(tokio::task::spawn_local(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the control thread's tasks share.
pub struct Context {
    pub local: Local,
    registry: Arc<Registry>,
    secrets: RefCell<ByName<Arc<Secret>>>,
    secrets_version: Cell<u64>,
    outlier_stats: RefCell<HashMap<Name, Arc<OutlierStats>>>,
    updates: Arc<UpdateStats>,
    /// By the clusters' names.
    apart: RefCell<HashMap<Name, Apart>>,
}

/// What is counted of one cluster, over all its configurations, only where it has these parts.
#[derive(Default)]
struct Apart {
    health: Option<Arc<HealthStats>>,
    /// Under the cluster's part of that name.
    matches: HashMap<Name, Arc<MatchStats>>,
    remaining: HashMap<Name, Arc<RemainingStats>>,
}

impl Context {
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(super) fn secrets(&self) -> ByName<Arc<Secret>> {
        self.secrets.borrow().clone()
    }
    pub(super) fn secrets_version(&self) -> u64 {
        self.secrets_version.get()
    }

    /// A cluster's TLS context as its health checks use it: with their own ALPN, if they have one.
    pub(super) fn for_checks(&self, tls: &Arc<UpstreamTls>, check: &HealthCheck) -> Arc<UpstreamTls> {
        if check.alpn.is_empty() {
            return tls.clone();
        }
        let mut own = UpstreamTls::clone(tls);
        own.common.alpn = check.alpn.clone();
        Arc::new(own)
    }

    /// A cluster is gone, and what is counted of its parts with it.
    fn forget_apart(&self, cluster: &Name, stat_name: &Name) {
        let Some(apart) = self.apart.borrow_mut().remove(cluster) else { return };
        for part in apart.matches.into_keys().chain(apart.remaining.into_keys()) {
            self.registry.stats.remove(&Scope::ClusterPart { cluster: stat_name.clone(), part });
        }
    }

    fn health_stats(&self, config: &Config) -> Arc<HealthStats> {
        let make = || self.registry.stats.shard(Scope::Cluster(config.stat_name.clone()));
        let mut all = self.apart.borrow_mut();
        all.entry(config.name.clone()).or_default().health.get_or_insert_with(make).clone()
    }

    fn outlier_stats(&self, shared: &SharedCluster) -> Arc<OutlierStats> {
        let scope = || Scope::Cluster(shared.entry().cluster.stat_name.clone());
        let mut stats = self.outlier_stats.borrow_mut();
        stats.entry(shared.name.clone()).or_insert_with(|| self.registry.stats.shard(scope())).clone()
    }

    /// A host has come back from its ejection.
    pub(super) fn count_return(&self, shared: &SharedCluster, host: &HostState) {
        self.outlier_stats(shared).ejections_active.dec();
        if let Some(log) = &self.registry.outlier_log {
            log.returned(&shared.name, host, self.when(shared));
        }
    }

    fn when(&self, shared: &SharedCluster) -> When {
        When { millis: shared.millis(self.local.clock.now()), wall: self.local.clock.system() }
    }
}

/// What runs for one cluster.
struct Running {
    shared: Arc<SharedCluster>,
    config: Arc<Config>,
    stats: Arc<MembershipStats>,
    /// By priority, where the configuration asks for them.
    remaining: Vec<(Priority, Arc<RemainingStats>)>,
    /// Removes endpoints that are not updated in time.
    stale: RefCell<Option<Task>>,
    _tasks: Vec<Task>,
}

/// The control thread's half of the upstream side.
pub struct Control {
    context: Rc<Context>,
    running: RefCell<HashMap<Name, Running>>,
    _merging: Task,
}

impl Control {
    /// Called on the control thread, inside its `LocalSet`. Its tasks end when it is dropped.
    pub fn new(registry: Arc<Registry>, local: Local) -> Rc<Control> {
        let updates = registry.stats.shard(Scope::Fixed("cluster_manager"));
        let context = Context {
            updates,
            local,
            registry,
            secrets: RefCell::default(),
            secrets_version: Cell::new(0),
            outlier_stats: RefCell::default(),
            apart: RefCell::default(),
        };
        let context = Rc::new(context);
        let merging = Task::spawn(merge(context.clone()));
        let control = Rc::new(Control { context, running: RefCell::default(), _merging: merging });
        let weak = Rc::downgrade(&control);
        tokio::task::spawn_local(async move {
            let mut siblings = 0;
            loop {
                tokio::time::sleep(GAUGES_EVERY).await;
                let Some(control) = weak.upgrade() else { return };
                control.running.borrow().values().for_each(|running| {
                    running.gauge();
                    running.shared.free_retired();
                });
                control.follow_siblings(&mut siblings);
            }
        });
        control
    }

    /// Brings the gauges of all circuit breakers up to date.
    pub fn gauge(&self) {
        self.running.borrow().values().for_each(Running::gauge);
    }

    /// Zone-aware views depend on where this proxy's siblings run: when those change, all views are made anew.
    fn follow_siblings(&self, seen: &mut u64) {
        let registry = &self.context.registry;
        let Some(local) = registry.local.as_ref().and_then(|zone| registry.get(&zone.cluster)) else { return };
        if local.generation() != *seen {
            for cluster in registry.all() {
                cluster.touch();
            }
            // The local cluster was touched with the others.
            *seen = local.generation();
        }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.context.registry
    }

    /// Takes up a configuration that is about to be published.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        *self.context.secrets.borrow_mut() = snapshot.secrets.clone();
        self.context.secrets_version.set(self.context.secrets_version.get() + 1);
        let done = self.context.registry.reconcile(snapshot, self.context.local.clock.now());
        let mut running = self.running.borrow_mut();
        for gone in &done.removed {
            running.remove(&gone.name);
            self.context.forget_apart(&gone.name, &gone.entry().cluster.stat_name);
            self.context.outlier_stats.borrow_mut().remove(&gone.name);
        }
        for shared in done.changed {
            let config = shared.entry().cluster.clone();
            match running.get(&shared.name) {
                Some(known) if Arc::ptr_eq(&known.shared, &shared) && Arc::ptr_eq(&known.config, &config) => {
                    known.gauge();
                    known.count_matches(&self.context);
                    known.watch_staleness(&self.context);
                }
                known => {
                    let stats = known.filter(|k| Arc::ptr_eq(&k.shared, &shared)).map(|k| k.stats.clone());
                    let fresh = self.start(shared, config, stats);
                    running.insert(fresh.shared.name.clone(), fresh);
                }
            }
        }
    }

    fn start(&self, shared: Arc<SharedCluster>, config: Arc<Config>, stats: Option<Arc<MembershipStats>>) -> Running {
        let context = &self.context;
        let scope = || Scope::Cluster(config.stat_name.clone());
        let stats = stats.unwrap_or_else(|| context.registry.stats.shard(scope()));
        shared.begin_anew();
        let mut tasks = Vec::new();
        match &config.discovery {
            Discovery::StrictDns(dns) | Discovery::LogicalDns(dns) => {
                let logical = matches!(config.discovery, Discovery::LogicalDns(_));
                if !dns.wait_for_warm_on_init {
                    shared.discovered();
                }
                tasks.push(Task::spawn(discovery::run(
                    context.clone(),
                    shared.clone(),
                    dns.clone(),
                    logical,
                    stats.clone(),
                )));
            }
            Discovery::OriginalDst(original) => {
                shared.discovered();
                tasks.push(Task::spawn(clean_originals(shared.clone(), original.cleanup_interval)));
            }
            _ => shared.discovered(),
        }
        let health: Option<Arc<HealthStats>> = config.health_checks.first().map(|_| context.health_stats(&config));
        match config.health_checks.first().zip(health.clone()) {
            Some((check, stats)) => {
                tasks.push(Task::spawn(health::run(context.clone(), shared.clone(), check.clone(), stats)));
            }
            None => shared.unchecked(),
        }
        if let Some(outlier) = &config.outlier {
            tasks.push(Task::spawn(sweep(context.clone(), shared.clone(), outlier.clone())));
        }
        stats.warming_state.set(0);
        tasks.push(Task::spawn(count_members(context.clone(), shared.clone(), stats.clone(), health)));
        let remaining = remaining(context, &config);
        let running = Running { shared, config, stats, remaining, stale: RefCell::default(), _tasks: tasks };
        running.gauge();
        running.count_matches(&self.context);
        running.watch_staleness(&self.context);
        running
    }

    /// Resolves when the clusters named have had their first answer from discovery and their first round of health checks.
    /// Names that are not known do not hold it up.
    pub async fn ready(&self, names: &[Name]) {
        let waiting: Vec<_> = names.iter().filter_map(|n| self.context.registry.get(n)).collect();
        for shared in waiting {
            // The sender lives in `shared`: an error is impossible.
            let _ = shared.ready.subscribe().wait_for(|ready| ready.is_ready()).await;
        }
    }
}

impl Running {
    /// Which transport the endpoints of an update get.
    fn count_matches(&self, context: &Context) {
        let matches = &self.config.transport_matches;
        if matches.is_empty() {
            return self.stats.default_match_count.add(self.shared.members().len() as u64);
        }
        let mut counts: HashMap<&str, u64> = matches.iter().map(|m| (&*m.name, 0)).collect();
        for (_, endpoint, _) in self.shared.members().iter() {
            *counts.entry(self.config.transport_match(endpoint).map_or("default", |m| &m.name)).or_default() += 1;
        }
        let mut all = context.apart.borrow_mut();
        let apart = all.entry(self.shared.name.clone()).or_default();
        self.stats.default_match_count.add(counts.remove("default").unwrap_or(0));
        for (name, count) in counts {
            let part = Name::from(name);
            let scope = Scope::ClusterPart { cluster: self.config.stat_name.clone(), part: part.clone() };
            let stats = apart.matches.entry(part).or_insert_with(|| context.registry.stats.shard(scope));
            stats.total_match_count.add(count);
        }
    }

    /// `endpoint_stale_after`: without another update by then the endpoints are gone.
    fn watch_staleness(&self, context: &Rc<Context>) {
        let assignment = self.shared.entry().endpoints.clone();
        let after = assignment.as_ref().and_then(|a| a.policy.endpoint_stale_after);
        *self.stale.borrow_mut() = after.zip(assignment).map(|(after, assignment)| {
            let (context, shared, stats) = (context.clone(), self.shared.clone(), self.stats.clone());
            stats.assignment_timeout_received.inc();
            Task::spawn(async move {
                tokio::time::sleep(after).await;
                stats.assignment_stale.inc();
                tracing::warn!(cluster = %shared.name, "the endpoints were not updated within endpoint_stale_after and are removed");
                let none = LoadAssignment { localities: Vec::new(), ..LoadAssignment::clone(&assignment) };
                shared.set_members(Arc::new(none), context.local.clock.now());
            })
        });
    }

    /// Brings the gauges of the circuit breakers up to date.
    fn gauge(&self) {
        let stats = &self.stats;
        let breakers = self.shared.breakers.clone();
        let limits = &self.config.circuit_breakers;
        let open = |priority, which| i64::from(breakers.is_open(limits, priority, which));
        use Overflow::{Connections, Pending, Requests, Retries};
        stats.cx_open.set(open(Priority::Default, Connections));
        stats.rq_open.set(open(Priority::Default, Requests));
        stats.rq_pending_open.set(open(Priority::Default, Pending));
        stats.rq_retry_open.set(open(Priority::Default, Retries));
        stats.high_cx_open.set(open(Priority::High, Connections));
        stats.high_rq_open.set(open(Priority::High, Requests));
        stats.high_rq_pending_open.set(open(Priority::High, Pending));
        stats.high_rq_retry_open.set(open(Priority::High, Retries));
        for (priority, stats) in &self.remaining {
            let left = |which| breakers.remaining(limits, *priority, which).into();
            stats.remaining_cx.set(left(Connections));
            stats.remaining_rq.set(left(Requests));
            stats.remaining_pending.set(left(Pending));
            stats.remaining_retries.set(left(Retries));
        }
    }
}

/// What is left of the limits, of the priorities that are to show it.
fn remaining(context: &Context, config: &Config) -> Vec<(Priority, Arc<RemainingStats>)> {
    let limits = &config.circuit_breakers;
    let all = [(Priority::Default, &limits.default, "default"), (Priority::High, &limits.high, "high")];
    let mut apart = context.apart.borrow_mut();
    let mut shown = Vec::new();
    if !all.iter().any(|(_, limits, _)| limits.track_remaining) && !apart.contains_key(&config.name) {
        return shown;
    }
    let known = &mut apart.entry(config.name.clone()).or_default().remaining;
    for (priority, limits, name) in all {
        let part = Name::from(format!("circuit_breakers.{name}"));
        let scope = Scope::ClusterPart { cluster: config.stat_name.clone(), part: part.clone() };
        if limits.track_remaining {
            let stats = known.entry(part).or_insert_with(|| context.registry.stats.shard(scope));
            shown.push((priority, stats.clone()));
        } else if known.remove(&part).is_some() {
            context.registry.stats.remove(&scope);
        }
    }
    shown
}

/// Keeps the gauges of membership and health up to date.
async fn count_members(
    context: Rc<Context>,
    shared: Arc<SharedCluster>,
    stats: Arc<MembershipStats>,
    health: Option<Arc<HealthStats>>,
) {
    let weighs = !matches!(shared.entry().cluster.discovery, Discovery::Static(_));
    let mut changed = shared.subscribe();
    loop {
        changed.mark_unchanged();
        let (changes, updates) = shared.take_changes();
        stats.membership_change.add(changes);
        context.updates.cluster_updated.add(updates);
        let members = shared.members();
        let (mut healthy, mut degraded, mut excluded, mut max_weight) = (0, 0, 0, 0);
        for (_, endpoint, host) in members.iter() {
            match host.health() {
                Health::Healthy => healthy += 1,
                Health::Degraded => degraded += 1,
                Health::Unhealthy => {}
            }
            excluded += i64::from(host.is_excluded());
            max_weight = max_weight.max(i64::from(endpoint.weight));
        }
        stats.membership_total.set(members.len() as i64);
        stats.membership_healthy.set(healthy);
        stats.membership_degraded.set(degraded);
        stats.membership_excluded.set(excluded);
        if weighs {
            stats.max_host_weight.set(max_weight.max(1));
        }
        if let Some(stats) = &health {
            stats.healthy.set(healthy);
            stats.degraded.set(degraded);
        }
        // Held over the wait, it would keep the hosts of before.
        drop(members);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Tells of changes that were put off, each at the end of its cluster's window.
async fn merge(context: Rc<Context>) {
    let mut waiting = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            due = context.registry.put_off() => {
                for shared in due {
                    let clock = context.local.clock.clone();
                    waiting.spawn_local(async move { shared.tell_merged(|| shared.millis(clock.now())).await });
                }
            }
            Some(_) = waiting.join_next() => {}
        }
    }
}

async fn clean_originals(shared: Arc<SharedCluster>, every: Duration) {
    loop {
        tokio::time::sleep(every.max(Duration::from_secs(1))).await;
        shared.clean_originals();
    }
}

/// Ends ejections and compares success rates, on the configured interval.
async fn sweep(context: Rc<Context>, shared: Arc<SharedCluster>, config: Arc<OutlierDetection>) {
    // Shown as zeros from the start, not from the first ejection on.
    drop(context.outlier_stats(&shared));
    loop {
        tokio::time::sleep(config.interval.max(Duration::from_millis(10))).await;
        let members = shared.members();
        let hosts: Vec<_> = members.iter().map(|(_, _, h)| h.clone()).collect();
        let at =
            At { now: shared.millis(context.local.clock.now()), hosts: hosts.len(), random: &context.local.random };
        let swept = shared.detector.sweep(&config, &hosts, at);
        if swept.returned.is_empty() && swept.judged.is_empty() {
            continue;
        }
        let stats = context.outlier_stats(&shared);
        for Judged { host, verdict, rates } in &swept.judged {
            stats.record(*verdict);
            if let Some(log) = &context.registry.outlier_log {
                log.judged(&shared.name, &hosts[*host], *verdict, Some(*rates), context.when(&shared));
            }
            tracing::info!(cluster = %shared.name, host = %hosts[*host].address, ?verdict, "host judged by its success rate");
        }
        for index in &swept.returned {
            context.count_return(&shared, &hosts[*index]);
            let host = &hosts[*index];
            tracing::info!(cluster = %shared.name, host = %host.address, times = host.ejections.count.load(Relaxed), "host returned");
        }
        if swept.changed() {
            shared.touch_health(at.now);
        }
    }
}
