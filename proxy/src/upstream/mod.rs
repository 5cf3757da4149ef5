//! The upstream side: clusters, their hosts, limits, health and connections.
//!
//! ```text
//! Registry (process)     SharedCluster: members, health, breakers, ejections, generation      <- Control (control thread):
//!    |                        ^                                                                   DNS, health checks, sweeps
//! Upstream (worker) -> Cluster (worker): Balancer (view of the hosts), pools, counters
//!                         pick() -> Host        request(host, …) -> Response        connect_tcp(host, …) -> Io
//! ```
//!
//! A request takes its cluster once ([`Upstream::cluster`]) and keeps it for all attempts. Nothing on its way takes a lock: shared state
//! is atomics and values that are swapped whole. This module knows no routes beyond what a retry policy asks of the choice of
//! a host, and decides no retries: it says what happened, and whether it is safe to send again.

mod aggregate;
mod attempt;
pub mod balancer;
mod breaker;
mod charge;
mod cluster;
mod control;
mod dial;
mod discovery;
mod error;
pub mod grpc;
pub mod hash;
mod health;
mod host;
mod info;
mod members;
mod named;
mod outlier;
mod pool;
mod preconnect;
mod rebuild;
mod shared;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod tracked;
mod transport;
mod view;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::cluster::Discovery;
use sidemesh_config::snapshot::{ByName, ClusterEntry, Snapshot};

use crate::worker::Worker;
pub use attempt::{AttemptOptions, Downstream, TcpUpstream};
pub use balancer::{Labels, LoadReport};
pub use breaker::Overflow;
pub use charge::RetryPermit;
pub use cluster::{Cluster, PickContext};
pub use control::Control;
pub use error::{AttemptError, PickError};
pub use host::{Host, HostState, flag};
pub use info::{AttemptInfo, ConnectionFacts};
pub use named::{Naming, Session};
pub use outlier::EventLog;
pub use pool::ConnectionGuard;
pub use shared::{LocalZone, Registry, SharedCluster, Surroundings};
pub use stats::ClusterStats;
pub use tcp::{TcpConnected, TcpContext, TcpError};
pub use view::{BreakerView, ClusterView, HostView};

/// How often idle connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_millis(200);
/// Aggregates of aggregates are followed so deep.
const MAX_AGGREGATE_DEPTH: usize = 8;

/// One worker's clusters.
pub struct Upstream {
    worker: Rc<Worker>,
    registry: Arc<Registry>,
    clusters: RefCell<ByName<Rc<Cluster>>>,
}

impl Upstream {
    /// Called on the worker's own thread, inside its `LocalSet`: starts the worker's sweep of idle connections and its watch of
    /// the configuration, which both end with the last handle.
    pub fn new(worker: Rc<Worker>, registry: Arc<Registry>) -> Rc<Upstream> {
        let upstream = Rc::new(Upstream { worker, registry, clusters: RefCell::default() });
        tokio::task::spawn_local(keep(Rc::downgrade(&upstream)));
        upstream
    }

    /// The cluster `name` of a snapshot.
    #[inline]
    pub fn cluster(&self, snapshot: &Snapshot, name: &str) -> Option<Rc<Cluster>> {
        if let Some(cluster) = self.clusters.borrow().get(name)
            && cluster.seen() >= snapshot.generation
        {
            return Some(cluster.clone());
        }
        self.refreshed(snapshot, name, 0)
    }

    #[cold]
    fn refreshed(&self, snapshot: &Snapshot, name: &str, depth: usize) -> Option<Rc<Cluster>> {
        let entry = snapshot.cluster(name)?;
        let known = self.clusters.borrow().get(name).cloned();
        let shared = self.registry.get(name)?;
        let cluster = match known {
            Some(known) if Arc::ptr_eq(&known.shared, &shared) => known,
            _ => {
                let (worker, registry) = (self.worker.clone(), self.registry.clone());
                let fresh = Cluster::new(worker, registry, shared, entry.clone());
                if let Some(old) = self.clusters.borrow_mut().insert(entry.cluster.name.clone(), fresh.clone()) {
                    old.close();
                }
                fresh
            }
        };
        cluster.refresh(snapshot, entry);
        if let Discovery::Aggregate(_) = &entry.cluster.discovery {
            let mut children = Vec::new();
            self.children(snapshot, entry, depth, &mut children);
            cluster.aggregate.borrow_mut().set_children(children);
        }
        Some(cluster)
    }

    /// The clusters behind an aggregate, those of nested ones in its place.
    fn children(&self, snapshot: &Snapshot, entry: &ClusterEntry, depth: usize, into: &mut Vec<Rc<Cluster>>) {
        let Discovery::Aggregate(names) = &entry.cluster.discovery else { return };
        if depth >= MAX_AGGREGATE_DEPTH {
            tracing::warn!(cluster = %entry.cluster.name, "aggregate clusters are nested deeper than {MAX_AGGREGATE_DEPTH}: the rest is left out");
            return;
        }
        for name in names {
            match snapshot.cluster(name) {
                Some(nested) if matches!(nested.cluster.discovery, Discovery::Aggregate(_)) => {
                    self.children(snapshot, nested, depth + 1, into);
                }
                Some(_) => into.extend(self.refreshed(snapshot, name, depth + 1)),
                None => {
                    tracing::debug!(cluster = %entry.cluster.name, child = %name, "a cluster of the aggregate is not known")
                }
            }
        }
    }

    /// Lets go of clusters that `snapshot` has no more.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        let mut gone = Vec::new();
        self.clusters.borrow_mut().retain(|name, cluster| {
            let keep = snapshot.clusters.contains_key(name);
            if !keep {
                gone.push(cluster.clone());
            }
            keep
        });
        gone.iter().for_each(|c| c.close());
    }

    fn sweep(&self) {
        let all: Vec<_> = self.clusters.borrow().values().cloned().collect();
        for cluster in all {
            cluster.sweep();
        }
    }
}

/// A worker's housekeeping.
async fn keep(upstream: Weak<Upstream>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = 0;
    loop {
        ticks.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let snapshot = upstream.worker.config();
        if snapshot.generation != seen {
            seen = snapshot.generation;
            upstream.reconcile(&snapshot);
        }
        upstream.sweep();
    }
}
