//! Counters that filters keep per upstream cluster (`cluster.<name>.ratelimit.`, `cluster.<name>.ext_authz.`).

use std::rc::Rc;

use sidemesh_config::value::Name;

use super::Exchange;
use crate::telemetry::stats::{Group, Scope, Shards};
use crate::worker::Worker;

/// Clusters remembered before the list is begun anew: a bound for configurations that change for ever.
pub(super) const KEPT_CLUSTERS: usize = 4096;

/// One group per cluster that requests were routed to.
pub struct ByCluster<T> {
    part: Name,
    worker: Rc<Worker>,
    groups: Shards<Name, T>,
}

impl<T: Group + Default> ByCluster<T> {
    pub fn new(part: Name, worker: &Rc<Worker>) -> Self {
        ByCluster { part, worker: worker.clone(), groups: Shards::new(KEPT_CLUSTERS) }
    }

    /// Counts for the cluster that the route names; a request without one is not counted.
    pub fn count(&self, x: &Exchange, count: impl FnOnce(&T)) {
        let Some(cluster) = &x.info.cluster else { return };
        let scope = |cluster: &Name| Scope::ClusterPart { cluster: cluster.clone(), part: self.part.clone() };
        count(&self.groups.get(self.worker.stats(), cluster, scope));
    }
}

/// Counts an answer that a filter gives in its place for the cluster that the route names.
pub fn charge_cluster(x: &Exchange, status: u16) {
    if let Some(cluster) = x.info.cluster.as_deref()
        && let Some(cluster) = x.manager.upstream.cluster(&x.config, cluster)
    {
        cluster.charge_own(status, None);
    }
}
