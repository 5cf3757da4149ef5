//! What is counted of configuration updates, under Envoy's names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::Name;
use xxhash_rust::xxh64::xxh64;

use super::cascade::Source;
use super::manager::Manager;
use crate::stats_group;
use crate::telemetry::stats::{Registry, Scope};

stats_group! {
    /// `control_plane.`
    pub struct ControlPlaneStats {
        connected_state: Gauge,
        pending_requests: Gauge,
        rate_limit_enforced: Counter,
        identifier: TextReadout,
        /// 1 while what an earlier run left serves, because no server answers.
        serving_saved_configuration: Gauge,
    }
}

stats_group! {
    /// `cluster_manager.`
    pub struct ClusterManagerStats {
        cluster_added: Counter,
        cluster_modified: Counter,
        cluster_removed: Counter,
        active_clusters: Gauge,
        warming_clusters: Gauge,
    }
}

stats_group! {
    /// `listener_manager.`
    pub struct ListenerManagerStats {
        listener_added: Counter,
        listener_modified: Counter,
        listener_removed: Counter,
        listener_create_success: Counter,
        listener_create_failure: Counter,
        listener_in_place_updated: Counter,
        listener_stopped: Counter,
        total_listeners_active: Gauge,
        total_listeners_warming: Gauge,
        workers_started: Gauge,
        workers_pinned: Gauge,
    }
}

stats_group! {
    /// One subscription: `cluster_manager.cds.`, `listener_manager.lds.`, `http.PREFIX.rds.NAME.`, ...
    pub struct SubscriptionStats {
        init_fetch_timeout: Counter,
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_rejected: Counter,
        update_time: Gauge,
        update_duration: Histogram,
        version: Gauge,
        version_text: TextReadout,
    }
}

stats_group! {
    /// Of what is taken as a whole: clusters, route tables, scopes.
    pub struct ReloadStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
    }
}

stats_group! {
    pub struct EmptyStats {
        update_empty: Counter,
    }
}

stats_group! {
    pub struct ScopesStats {
        update_empty: Counter,
        all_scopes: Gauge,
        active_scopes: Gauge,
        on_demand_scopes: Gauge,
    }
}

stats_group! {
    pub struct HostsStats {
        config_reload: Counter,
        update_empty: Counter,
    }
}

stats_group! {
    pub struct SecretStats {
        key_rotation_failed: Counter,
    }
}

stats_group! {
    pub struct ExtensionStats {
        config_reload: Counter,
        config_fail: Counter,
        config_conflict: Counter,
    }
}

stats_group! {
    /// Beside what a cluster counts of its members.
    pub struct EndpointsStats {
        update_no_rebuild: Counter,
    }
}

/// What a kind of resource has besides [`SubscriptionStats`].
#[derive(Clone)]
enum Besides {
    Nothing,
    Clusters(Arc<ReloadStats>),
    Routes(Arc<ReloadStats>, #[expect(dead_code, reason = "kept to be shown")] Arc<EmptyStats>),
    Scopes(Arc<ReloadStats>, Arc<ScopesStats>),
    Hosts(Arc<HostsStats>),
    Secrets(#[expect(dead_code, reason = "kept to be shown")] Arc<SecretStats>),
    Extensions(Arc<ExtensionStats>),
    Endpoints(Arc<EndpointsStats>),
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome<'a> {
    /// Taken at this version; whether it brought anything new.
    Accepted {
        version: &'a str,
        changed: bool,
    },
    Rejected,
    /// The stream broke, or the file could not be read.
    Failed,
    /// It did not come within `initial_fetch_timeout`.
    TimedOut,
}

/// The counters of one subscription.
#[derive(Clone)]
pub(super) struct Subscribed {
    stats: Arc<SubscriptionStats>,
    besides: Besides,
}

impl Subscribed {
    fn new(registry: &Registry, kind: ResourceKind, scope: &Scope) -> Self {
        let at = || scope.clone();
        let besides = match kind {
            ResourceKind::Listener | ResourceKind::Runtime => Besides::Nothing,
            ResourceKind::Cluster => Besides::Clusters(registry.shard(at())),
            ResourceKind::Route => Besides::Routes(registry.shard(at()), registry.shard(at())),
            ResourceKind::ScopedRoute => Besides::Scopes(registry.shard(at()), registry.shard(at())),
            ResourceKind::VirtualHost => Besides::Hosts(registry.shard(at())),
            ResourceKind::Secret => Besides::Secrets(registry.shard(at())),
            ResourceKind::ExtensionConfig => Besides::Extensions(registry.shard(at())),
            ResourceKind::Endpoints => Besides::Endpoints(registry.shard(at())),
        };
        Subscribed { stats: registry.shard(at()), besides }
    }

    /// It is asked for.
    pub(super) fn asked(&self) {
        self.stats.update_attempt.inc();
    }

    /// An attempt is over, and with it the next one begins.
    pub(super) fn answered(&self, outcome: Outcome<'_>) {
        let stats = &self.stats;
        stats.update_attempt.inc();
        match outcome {
            Outcome::Accepted { version, changed } => {
                stats.update_success.inc();
                self.took(version, changed);
            }
            Outcome::Rejected => stats.update_rejected.inc(),
            Outcome::Failed => stats.update_failure.inc(),
            Outcome::TimedOut => stats.init_fetch_timeout.inc(),
        }
        if let (Besides::Extensions(stats), Outcome::Rejected | Outcome::TimedOut) = (&self.besides, outcome) {
            stats.config_fail.inc();
        }
    }

    fn took(&self, version: &str, changed: bool) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        self.stats.update_time.set(now);
        self.stats.update_duration.record(0.0);
        self.stats.version.set(xxh64(version.as_bytes(), 0) as i64);
        self.stats.version_text.set(version);
        match &self.besides {
            Besides::Clusters(stats) | Besides::Routes(stats, _) | Besides::Scopes(stats, _) if changed => {
                stats.config_reload.inc();
                stats.config_reload_time_ms.set(now);
            }
            Besides::Hosts(stats) if changed => stats.config_reload.inc(),
            Besides::Extensions(stats) if changed => stats.config_reload.inc(),
            Besides::Endpoints(stats) if !changed => stats.update_no_rebuild.inc(),
            _ => {}
        }
    }

    /// How many scopes there are.
    pub(super) fn scopes(&self, count: usize) {
        if let Besides::Scopes(_, stats) = &self.besides {
            stats.all_scopes.set(count as i64);
            stats.active_scopes.set(count as i64);
            stats.on_demand_scopes.set(0);
        }
    }
}

/// All counters of this module's parts.
pub(super) struct Stats {
    registry: Arc<Registry>,
    pub(super) control_plane: Arc<ControlPlaneStats>,
    pub(super) clusters: Arc<ClusterManagerStats>,
    pub(super) listeners: Arc<ListenerManagerStats>,
    subscriptions: BTreeMap<Scope, Subscribed>,
}

impl Stats {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Stats {
            control_plane: registry.shard(Scope::Fixed("control_plane")),
            clusters: registry.shard(Scope::Fixed("cluster_manager")),
            listeners: registry.shard(Scope::Fixed("listener_manager")),
            subscriptions: BTreeMap::new(),
            registry,
        }
    }

    /// The counters of a subscription.
    pub(super) fn subscription(&mut self, kind: ResourceKind, scope: &Scope) -> &Subscribed {
        let registry = &self.registry;
        self.subscriptions.entry(scope.clone()).or_insert_with_key(|scope| Subscribed::new(registry, kind, scope))
    }

    /// Lets go of the subscriptions of resources that nobody needs any more, and of their figures; a cluster's own stay with it.
    pub(super) fn keep(&mut self, needed: &HashSet<&Scope>) {
        let registry = &self.registry;
        self.subscriptions.retain(|scope, _| {
            let kept = matches!(scope, Scope::Fixed(_)) || needed.contains(scope);
            if !kept && !matches!(scope, Scope::Cluster(_)) {
                registry.remove(scope);
            }
            kept
        });
    }
}

impl Manager {
    /// Where updates of a resource are counted; of clusters and listeners all together.
    fn counted(&self, kind: ResourceKind, name: &Name) -> Vec<Scope> {
        match kind {
            ResourceKind::Cluster => vec![Scope::Fixed("cluster_manager.cds")],
            ResourceKind::Listener => vec![Scope::Fixed("listener_manager.lds")],
            _ => self.assembler.counted(kind, name),
        }
    }

    /// The same of several resources, each place once.
    fn counted_once(&self, kind: ResourceKind, names: &[Name]) -> BTreeSet<Scope> {
        names.iter().flat_map(|name| self.counted(kind, name)).collect()
    }

    /// Counts what became of an attempt to get a resource.
    pub(super) fn count(&mut self, kind: ResourceKind, name: &Name, outcome: Outcome<'_>) {
        for scope in self.counted(kind, name) {
            self.stats.subscription(kind, &scope).answered(outcome);
        }
    }

    /// Counts that resources are asked for by a stream. A file is no attempt before it is read.
    pub(super) fn count_asked(&mut self, channel: usize, kind: ResourceKind, names: &[Name]) {
        if matches!(self.channels[channel].source, Source::Path { .. }) {
            return;
        }
        for scope in self.counted_once(kind, names) {
            self.stats.subscription(kind, &scope).asked();
        }
    }

    /// Counts for everything asked for by a channel that it gave no answer.
    pub(super) fn count_failed(&mut self, asked: Vec<(ResourceKind, Vec<Name>)>) {
        for (kind, names) in asked {
            for scope in self.counted_once(kind, &names) {
                self.stats.subscription(kind, &scope).answered(Outcome::Failed);
            }
        }
    }

    /// Counts an update of a kind that is taken as a whole.
    pub(super) fn count_whole(&mut self, kind: ResourceKind, outcome: Outcome<'_>) {
        self.count(kind, &Name::from(""), outcome);
        if kind == ResourceKind::ScopedRoute {
            let count = self.assembler.scopes().len();
            for scope in self.counted(kind, &Name::from("")) {
                self.stats.subscription(kind, &scope).scopes(count);
            }
        }
    }
}
