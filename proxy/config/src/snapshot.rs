//! Everything resolved and cross-linked; built once, never mutated, swapped whole.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::resource::cluster::Cluster;
use crate::resource::endpoint::LoadAssignment;
use crate::resource::http_filter::HttpFilterKind;
use crate::resource::listener::Listener;
use crate::resource::route::{RouteConfig, ScopedRoutes};
use crate::resource::secret::Secret;
use crate::value::{Name, Runtime};

/// A map by resource name with a fast hasher.
pub type ByName<T> = HashMap<Name, T, foldhash::fast::RandomState>;

/// One consistent configuration. Everything in it is shared: a new snapshot clones the maps' `Arc`s, not the resources,
/// so `Arc::ptr_eq` tells what changed.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts swaps, from 1.
    pub generation: u64,
    /// The control plane's revision, when it sends one; goes to logs, spans and `x-sidemesh-*` answers.
    pub revision: Option<Name>,
    pub listeners: ByName<Arc<Listener>>,
    pub clusters: ByName<Arc<ClusterEntry>>,
    /// RDS tables by name. Inline tables live in their connection manager.
    pub routes: ByName<Arc<RouteConfig>>,
    /// Scoped routes that came by SRDS.
    pub scopes: Arc<ScopedRoutes>,
    /// `<table>/<host>` that was asked for on demand and that the server does not have.
    pub absent_hosts: Arc<BTreeSet<Name>>,
    pub secrets: ByName<Arc<Secret>>,
    pub extension_configs: ByName<Arc<HttpFilterKind>>,
    pub runtime: Arc<Runtime>,
    /// What `runtime` is made of, the first layer first.
    pub runtime_layers: Vec<(Name, Arc<Runtime>)>,
}

/// A cluster and, once they are known, its endpoints.
#[derive(Debug, PartialEq)]
pub struct ClusterEntry {
    pub cluster: Arc<Cluster>,
    /// From EDS or from the cluster itself; DNS results are live state, not configuration. `None`: not arrived
    /// (the fetch timed out) or not of a kind that has them.
    pub endpoints: Option<Arc<LoadAssignment>>,
}

impl Snapshot {
    pub fn cluster(&self, name: &str) -> Option<&Arc<ClusterEntry>> {
        self.clusters.get(name)
    }
    pub fn route_config(&self, name: &str) -> Option<&Arc<RouteConfig>> {
        self.routes.get(name)
    }
}
