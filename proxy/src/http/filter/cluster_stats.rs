//! Counters that filters keep per upstream cluster (`cluster.<name>.ratelimit.`, `cluster.<name>.ext_authz.`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::value::Name;

use super::Exchange;
use crate::telemetry::stats::{Group, Scope};
use crate::worker::Worker;

/// Clusters remembered before the list is begun anew: a bound for configurations that change for ever.
const KEPT_CLUSTERS: usize = 4096;

/// One group per cluster that requests were routed to.
pub struct ByCluster<T> {
    part: Name,
    worker: Rc<Worker>,
    groups: RefCell<HashMap<Name, Arc<T>>>,
}

impl<T: Group + Default> ByCluster<T> {
    pub fn new(part: Name, worker: &Rc<Worker>) -> Self {
        ByCluster { part, worker: worker.clone(), groups: RefCell::default() }
    }

    /// Counts for the cluster that the route names; a request without one is not counted.
    pub fn count(&self, x: &Exchange, count: impl FnOnce(&T)) {
        let Some(cluster) = &x.info.cluster else { return };
        let mut groups = self.groups.borrow_mut();
        if let Some(group) = groups.get(cluster) {
            return count(group);
        }
        if groups.len() >= KEPT_CLUSTERS {
            groups.clear();
        }
        let scope = Scope::ClusterPart { cluster: cluster.clone(), part: self.part.clone() };
        let group = self.worker.stats().shard::<T>(scope);
        count(&group);
        groups.insert(cluster.clone(), group);
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
