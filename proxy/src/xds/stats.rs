//! What is counted of configuration updates, under Envoy's names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::Name;
use xxhash_rust::xxh64::xxh64;

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
        cluster_updated: Counter,
        cluster_updated_via_merge: Counter,
        update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter,
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
    /// What is counted besides of what is taken as a whole: route tables, secrets, filters' configurations.
    pub struct ReloadStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
    }
}

stats_group! {
    /// Of endpoints.
    pub struct RebuildStats {
        update_no_rebuild: Counter,
    }
}

stats_group! {
    pub struct EmptyStats {
        update_empty: Counter,
    }
}

/// The counters of one subscription.
#[derive(Clone)]
pub(super) struct Subscribed {
    stats: Arc<SubscriptionStats>,
    reload: Option<Arc<ReloadStats>>,
    _empty: Option<Arc<EmptyStats>>,
    rebuild: Option<Arc<RebuildStats>>,
}

impl std::ops::Deref for Subscribed {
    type Target = SubscriptionStats;

    fn deref(&self) -> &SubscriptionStats {
        &self.stats
    }
}

impl Subscribed {
    /// One resource of a subscription of its own came, and was taken with a version or refused.
    pub(super) fn answered(&self, accepted: Option<&str>) {
        match accepted {
            Some(version) => {
                self.update_attempt.inc();
                self.succeeded(version);
            }
            None => {
                self.update_attempt.inc();
                self.update_rejected.inc();
            }
        }
    }

    /// An update brought what was there already.
    pub(super) fn unchanged(&self) {
        self.rebuild.iter().for_each(|stats| stats.update_no_rebuild.inc());
    }

    /// An update was taken.
    pub(super) fn succeeded(&self, version: &str) {
        self.update_success.inc();
        self.took(version);
    }

    fn took(&self, version: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        self.update_time.set(now);
        self.update_duration.record(0.0);
        self.version.set(xxh64(version.as_bytes(), 0) as i64);
        self.version_text.set(version);
        if let Some(reload) = &self.reload {
            reload.config_reload.inc();
            reload.config_reload_time_ms.set(now);
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

    /// The counters of a kind's subscription; of RDS, SDS and EDS there is one per name.
    pub(super) fn subscription(&mut self, kind: ResourceKind, name: &Name, prefix: Option<&Name>) -> Subscribed {
        let scope = match kind {
            ResourceKind::Cluster => Scope::Fixed("cluster_manager.cds"),
            ResourceKind::Listener => Scope::Fixed("listener_manager.lds"),
            ResourceKind::Runtime => Scope::Fixed("runtime"),
            ResourceKind::Route => {
                Scope::Rds { prefix: prefix.cloned().unwrap_or_else(|| Name::from("")), route_config: name.clone() }
            }
            ResourceKind::Secret => Scope::Sds(name.clone()),
            // Beside what the cluster counts of its members.
            ResourceKind::Endpoints => Scope::Cluster(name.clone()),
            ResourceKind::ScopedRoute => Scope::Fixed("scoped_rds"),
            ResourceKind::VirtualHost => Scope::Fixed("vhds"),
            ResourceKind::ExtensionConfig => {
                Scope::Filter(Name::from(format!("extension_config_discovery.http_filter.{name}")))
            }
        };
        let registry = &self.registry;
        let reloads = !matches!(kind, ResourceKind::Listener | ResourceKind::Endpoints | ResourceKind::Runtime);
        let empties = reloads && kind != ResourceKind::Cluster;
        let leaf = matches!(kind, ResourceKind::Route | ResourceKind::Secret | ResourceKind::Runtime);
        let made = |scope: &Scope| {
            let stats: Arc<SubscriptionStats> = registry.shard(scope.clone());
            if leaf {
                // The request that asked for it.
                stats.update_attempt.inc();
            }
            Subscribed {
                stats,
                reload: reloads.then(|| registry.shard(scope.clone())),
                rebuild: (kind == ResourceKind::Endpoints).then(|| registry.shard(scope.clone())),
                _empty: empties.then(|| registry.shard(scope.clone())),
            }
        };
        self.subscriptions.entry(scope).or_insert_with_key(made).clone()
    }

    /// Lets go of what is counted of a cluster's endpoints.
    pub(super) fn forget_cluster(&mut self, name: &str) {
        self.subscriptions.remove(&Scope::Cluster(name.into()));
    }
}
