//! What the admin endpoint `/clusters` shows: read from shared state alone, by the control thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sidemesh_config::resource::cluster::Thresholds;
use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::resource::route::Priority;
use sidemesh_config::snapshot::ClusterEntry;
use sidemesh_config::value::{Address, Locality, Name};

use super::breaker::thresholds;
use super::host::{HostState, flag};
use super::shared::{Registry, SharedCluster};

/// A cluster as it is now.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Average success rate and ejection threshold of the last sweep that compared hosts, by answers and by local origin.
    pub success_rates: [Option<(f64, f64)>; 2],
    pub name: Name,
    pub entry: Arc<ClusterEntry>,
    pub default: BreakerView,
    pub high: BreakerView,
    pub hosts: Vec<HostView>,
}

/// Limits and use of one priority.
#[derive(Debug, Clone)]
pub struct BreakerView {
    pub limits: Thresholds,
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
}

/// A host as it is now.
#[derive(Debug, Clone)]
pub struct HostView {
    pub address: Address,
    pub endpoint: Option<Arc<Endpoint>>,
    pub locality: Locality,
    pub priority: u32,
    pub weight: u32,
    pub hostname: String,
    pub flags: u32,
    pub success_rate: Option<f64>,
    pub local_origin_success_rate: Option<f64>,
    pub ejections: u32,
    pub cx_total: u64,
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub rq_total: u64,
    pub rq_active: u64,
    pub rq_success: u64,
    pub rq_error: u64,
    pub rq_timeout: u64,
}

impl HostView {
    fn new(state: &HostState, endpoint: Option<&Arc<Endpoint>>, locality: Locality, priority: u32) -> Self {
        HostView {
            address: state.address.clone(),
            endpoint: endpoint.cloned(),
            locality,
            priority,
            weight: endpoint.map_or(1, |e| e.weight),
            hostname: endpoint.map_or(String::new(), |e| e.hostname.to_string()),
            flags: state.flags(),
            success_rate: state.ejections.get().and_then(|e| e.success_rate(false)),
            local_origin_success_rate: state.ejections.get().and_then(|e| e.success_rate(true)),
            ejections: state.ejections.get().map_or(0, |e| e.count.load(Relaxed)),
            cx_total: state.sum(|c| c.cx_total.get()),
            cx_active: state.active_connections(),
            cx_connect_fail: state.sum(|c| c.cx_connect_fail.get()),
            rq_total: state.sum(|c| c.rq_total.get()),
            rq_active: state.active_requests(),
            rq_success: state.sum(|c| c.rq_success.get()),
            rq_error: state.sum(|c| c.rq_error.get()),
            rq_timeout: state.sum(|c| c.rq_timeout.get()),
        }
    }

    /// The endpoint's `envoy.lb` metadata call it a canary.
    pub fn is_canary(&self) -> bool {
        let metadata = self.endpoint.as_ref().and_then(|e| e.metadata.as_deref());
        let lb = metadata.and_then(|m| m.0.get("envoy.lb"));
        lb.and_then(|lb| lb.get("canary")).and_then(|c| c.as_bool()).unwrap_or(false)
    }

    /// `healthy`, or the flags that are set: `/failed_eds_health/…`.
    pub fn health_flags(&self) -> String {
        let names: String =
            flag::NAMES.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, name)| *name).collect();
        if names.is_empty() { "healthy".to_owned() } else { names }
    }
}

impl SharedCluster {
    pub fn view(&self) -> ClusterView {
        let entry = self.entry();
        let members = self.members();
        let breakers = |priority| {
            let in_use = self.breakers.at(priority);
            BreakerView {
                limits: thresholds(&entry.cluster.circuit_breakers, priority).clone(),
                connections: in_use.connections.load(Relaxed),
                pending: in_use.pending.load(Relaxed),
                requests: in_use.requests.load(Relaxed),
                retries: in_use.retries.load(Relaxed),
            }
        };
        let mut hosts: Vec<_> = members
            .iter()
            .map(|(l, endpoint, state)| HostView::new(state, Some(endpoint), l.locality.clone(), l.priority))
            .collect();
        let originals = self.originals();
        hosts.extend(originals.iter().map(|state| HostView::new(state, None, Locality::default(), 0)));
        ClusterView {
            success_rates: [self.detector.success_rates(false), self.detector.success_rates(true)],
            name: self.name.clone(),
            default: breakers(Priority::Default),
            high: breakers(Priority::High),
            hosts,
            entry,
        }
    }
}

impl Registry {
    /// Every cluster with its hosts, by name.
    pub fn clusters(&self) -> Vec<ClusterView> {
        self.all().iter().map(|c| c.view()).collect()
    }
}
