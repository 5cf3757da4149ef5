//! A worker's view of a cluster's hosts is made anew here when membership or health has moved on.
//!
//! That costs some hundred nanoseconds a host. Up to [`AT_ONCE`] hosts the request that finds the view old makes a new one; a larger
//! cluster's is made by a task of the worker's in slices, and requests use the old view until the new one is there. What the old
//! one held is let go of in slices too.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sidemesh_config::resource::cluster::{Cluster as Config, Discovery};
use sidemesh_config::resource::endpoint::LocalityEndpoints;

use super::balancer::{Balancer, Members, Pace, at_once};
use super::cluster::{Cluster, View};
use super::host::{Health, Host, HostState};
use super::shared::Membership;

/// Hosts whose view a request may make: about a millisecond.
const AT_ONCE: usize = 4096;

/// A worker's hosts by the process's state of them.
type Known = HashMap<*const HostState, Rc<Host>, RandomState>;

impl Cluster {
    /// The hosts as they are now, or in a large cluster as they were moments ago.
    pub(super) fn balancer(&self) -> Rc<Balancer> {
        {
            let view = self.view.borrow();
            if view.generation == self.shared.generation() {
                return view.balancer.clone();
            }
        }
        if self.shared.members().len().max(self.view.borrow().members.len()) <= AT_ONCE {
            self.rebuild(true);
        } else if !self.rebuilding.replace(true) {
            let me = self.me.clone();
            tokio::task::spawn_local(async move {
                // The task that rebuilds keeps the cluster alive no longer than a rebuild takes.
                let Some(cluster) = me.upgrade() else { return };
                let mut pace = Pace::sliced();
                while cluster.view.borrow().generation != cluster.shared.generation() {
                    cluster.rebuild_at(&mut pace, true).await;
                }
                cluster.rebuilding.set(false);
            });
        }
        self.view.borrow().balancer.clone()
    }

    /// Makes the view anew at once; `keep_hosts`: what is known of them by their address still holds.
    pub(super) fn rebuild(&self, keep_hosts: bool) {
        at_once(|mut pace| async move { self.rebuild_at(&mut pace, keep_hosts).await });
    }

    async fn rebuild_at(&self, pace: &mut Pace, keep_hosts: bool) {
        let generation = self.shared.generation();
        let members = self.shared.members();
        let config = self.config();
        let (before, old) = {
            let view = self.view.borrow();
            (view.members.clone(), view.balancer.clone())
        };
        let changed = !Arc::ptr_eq(&members, &before);
        let hosts = if keep_hosts && !changed {
            copy(old.members(), pace).await
        } else {
            let known = if keep_hosts { known(&old, pace).await } else { Known::default() };
            build(&members, self.worker.index, known, pace).await
        };
        let policy = members.assignment.policy.clone();
        let zones = self.registry.own_zones();
        let balancer = Rc::new(Balancer::paced(Arc::clone(&config), policy, hosts, zones, pace).await);
        // A change of the configuration meanwhile has made a view of its own.
        if !Rc::ptr_eq(&old, &self.view.borrow().balancer) {
            return;
        }
        *self.view.borrow_mut() = View { generation, members: members.clone(), balancer };
        self.close_left(&config, &members, changed, pace).await;
        if let Ok(old) = Rc::try_unwrap(old) {
            old.let_go(pace).await;
        }
    }

    /// Closes the idle connections of hosts that have left or failed.
    async fn close_left(&self, config: &Config, members: &Membership, membership_changed: bool, pace: &mut Pace) {
        if matches!(config.discovery, Discovery::OriginalDst(_)) || self.pools.borrow().is_empty() {
            return;
        }
        let all = membership_changed && config.lb_common.close_connections_on_host_set_change;
        if !membership_changed && !config.close_connections_on_host_health_failure {
            return;
        }
        let mut left = self.pools.borrow().clone();
        let mut closing = Vec::new();
        for (_, _, host) in members.iter() {
            pace.step().await;
            let Some(pools) = left.remove(&host.address) else { continue };
            let failed = config.close_connections_on_host_health_failure && host.health() == Health::Unhealthy;
            if all || failed {
                closing.push(pools.clone());
            }
            if failed {
                pools.failure.notify_waiters();
            }
        }
        for (address, pools) in left {
            self.pools.borrow_mut().remove(&address);
            closing.push(pools);
        }
        closing.iter().for_each(|p| p.close());
    }
}

/// Hosts of a cluster that is met for the first time.
pub(super) fn hosts(members: &Membership, worker: usize) -> Vec<Members> {
    at_once(|mut pace| async move { build(members, worker, Known::default(), &mut pace).await })
}

async fn copy(members: &[Members], pace: &mut Pace) -> Vec<Members> {
    let mut all = Vec::with_capacity(members.len());
    for m in members {
        let mut hosts = Vec::with_capacity(m.hosts.len());
        for host in &m.hosts {
            pace.step().await;
            hosts.push(host.clone());
        }
        all.push(Members { locality: m.locality.clone(), hosts, ..*m });
    }
    all
}

async fn known(balancer: &Balancer, pace: &mut Pace) -> Known {
    let count = balancer.members().iter().map(|m| m.hosts.len()).sum();
    let mut known = Known::with_capacity_and_hasher(count, RandomState::default());
    for host in balancer.members().iter().flat_map(|m| &m.hosts) {
        pace.step().await;
        known.insert(Arc::as_ptr(host.state()), host.clone());
    }
    known
}

/// Hosts for `members`; those that are the same as in `known` are kept.
async fn build(members: &Membership, worker: usize, mut known: Known, pace: &mut Pace) -> Vec<Members> {
    let mut all = Vec::with_capacity(members.hosts.len());
    for (l, states) in members.assignment.localities.iter().zip(&members.hosts) {
        let locality = Rc::new(l.locality.clone());
        let mut hosts = Vec::with_capacity(states.len());
        for (endpoint, state) in l.endpoints.iter().zip(states) {
            pace.step().await;
            let kept = known.get(&Arc::as_ptr(state)).filter(|host| {
                is_of(host, l) && (Arc::ptr_eq(host.endpoint(), endpoint) || host.endpoint() == endpoint)
            });
            let fresh = || Rc::new(Host::new(endpoint.clone(), locality.clone(), l.priority, state.clone(), worker));
            hosts.push(kept.cloned().unwrap_or_else(fresh));
        }
        all.push(Members { locality: locality.clone(), priority: l.priority, weight: l.weight.unwrap_or(0), hosts });
    }
    for host in known.drain() {
        drop(host);
        pace.step().await;
    }
    all
}

fn is_of(host: &Host, locality: &LocalityEndpoints) -> bool {
    host.priority() == locality.priority && *host.locality() == locality.locality
}
