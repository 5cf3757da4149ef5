//! Who belongs to a cluster, and who stays when discovery names others.

use std::collections::BTreeSet;
use std::sync::Arc;

use sidemesh_config::resource::cluster::Cluster as Config;
use sidemesh_config::resource::endpoint::{AssignmentPolicy, Endpoint, LoadAssignment, LocalityEndpoints};
use sidemesh_config::value::{Address, Locality, Name};

use super::host::{HostState, flag};

/// Who belongs to a cluster now: the endpoints, resolved, and their states in the same order.
#[derive(Debug)]
pub struct Membership {
    pub assignment: Arc<LoadAssignment>,
    pub hosts: Vec<Vec<Arc<HostState>>>,
}

impl Membership {
    pub(super) fn none(cluster: &Name) -> Self {
        let policy = AssignmentPolicy { overprovisioning_factor: 140, ..AssignmentPolicy::default() };
        let assignment = LoadAssignment { cluster: cluster.clone(), localities: Vec::new(), policy };
        Membership { assignment: Arc::new(assignment), hosts: Vec::new() }
    }

    /// Every host with its endpoint and locality.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalityEndpoints, &Arc<Endpoint>, &Arc<HostState>)> {
        self.assignment
            .localities
            .iter()
            .zip(&self.hosts)
            .flat_map(|(l, states)| l.endpoints.iter().zip(states).map(move |(e, s)| (l, e, s)))
    }

    pub fn len(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum()
    }

    /// How many priorities have hosts.
    pub(super) fn priorities(&self) -> usize {
        let used = self.assignment.localities.iter().filter(|l| !l.endpoints.is_empty());
        used.map(|l| l.priority).collect::<BTreeSet<_>>().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A host while the endpoints are replaced.
pub(super) enum Known<'a> {
    /// It was a member, of this priority, and has not been named so far.
    Old(u32, &'a Arc<HostState>),
    Named(Arc<HostState>),
}

impl Known<'_> {
    pub(super) fn state(&self) -> &Arc<HostState> {
        match self {
            Known::Old(_, state) => state,
            Known::Named(state) => state,
        }
    }
}

pub(super) type Kept = Vec<(Locality, Arc<Endpoint>, Arc<HostState>)>;

/// Hosts that discovery no longer names, but that pass their health checks: they stay until one fails.
pub(super) fn keep_healthy(config: &Config, old: &Membership, left: impl Fn(&Address) -> bool) -> Kept {
    if config.health_checks.is_empty() || config.ignore_health_on_host_removal {
        return Vec::new();
    }
    old.iter()
        .filter(|(_, e, s)| {
            let passes = s.flags() & flag::FAILED_ACTIVE_HC == 0 && !e.disable_active_health_check;
            passes && left(&s.address)
        })
        .map(|(l, e, s)| {
            s.change_flags(flag::PENDING_REMOVAL, 0);
            (l.locality.clone(), e.clone(), s.clone())
        })
        .collect()
}

pub(super) fn with_kept(
    assignment: Arc<LoadAssignment>,
    mut hosts: Vec<Vec<Arc<HostState>>>,
    kept: Kept,
) -> (Arc<LoadAssignment>, Vec<Vec<Arc<HostState>>>) {
    if kept.is_empty() {
        return (assignment, hosts);
    }
    let mut assignment = LoadAssignment::clone(&assignment);
    for (locality, endpoint, state) in kept {
        let at = match assignment.localities.iter().position(|l| l.locality == locality) {
            Some(at) => at,
            None => {
                let fresh = LocalityEndpoints { locality, endpoints: Vec::new(), weight: None, priority: 0 };
                assignment.localities.push(fresh);
                hosts.push(Vec::new());
                assignment.localities.len() - 1
            }
        };
        assignment.localities[at].endpoints.push(endpoint);
        hosts[at].push(state);
    }
    (Arc::new(assignment), hosts)
}
