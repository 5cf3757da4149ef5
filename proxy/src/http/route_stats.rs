//! Requests that configuration counts apart from their cluster: `virtual_clusters` of a virtual host, `stat_prefix` of a route.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use sidemesh_config::resource::route::VirtualHost;
use sidemesh_config::value::{Name, name};

use super::exchange::Exchange;
use crate::stats_group;
use crate::telemetry::stats::Scope;

/// What a request of a virtual host with virtual clusters is counted under when it is none of theirs.
const OTHER: &str = "other";
/// Groups that are kept at hand; with more, as names come and go, they are looked up anew.
const KEPT: usize = 1024;

stats_group! {
    pub struct RouteStats {
        upstream_rq_total: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq: CodeCounters,
        upstream_rq_time: Histogram,
    }
}

/// The groups that this connection manager writes.
#[derive(Default)]
pub struct RouteCounters {
    groups: RefCell<HashMap<Scope, Arc<RouteStats>, RandomState>>,
}

/// The virtual cluster of a request; `None` where the virtual host has none at all.
pub fn virtual_cluster(x: &Exchange, host: &VirtualHost) -> Option<Name> {
    if host.virtual_clusters.is_empty() {
        return None;
    }
    let view = x.view();
    let found = host.virtual_clusters.iter().find(|c| c.headers.iter().all(|m| m.matches(&view)));
    Some(found.map_or_else(|| name(OTHER), |c| c.name.clone()))
}

/// A request goes out.
pub fn started(x: &Exchange) {
    each(x, |stats| stats.upstream_rq_total.inc());
}

/// It ran into its timeout.
pub fn timed_out(x: &Exchange) {
    each(x, |stats| stats.upstream_rq_timeout.inc());
}

/// It is answered.
pub fn answered(x: &Exchange, status: u16, took: Option<Duration>) {
    each(x, |stats| {
        stats.upstream_rq.record(status);
        if let Some(took) = took {
            stats.upstream_rq_time.record_duration(took);
        }
    });
}

fn each(x: &Exchange, count: impl Fn(&RouteStats)) {
    let Some(host) = &x.info.vhost else { return };
    let cluster = x.info.virtual_cluster.clone();
    let cluster = cluster.map(|name| Scope::VirtualCluster { host: host.name.clone(), name });
    let route = x.info.route.as_ref().and_then(|r| r.stat_prefix.clone());
    let route = route.map(|prefix| Scope::Route { host: host.name.clone(), prefix });
    for scope in cluster.into_iter().chain(route) {
        let mut groups = x.manager.route_counters.groups.borrow_mut();
        if groups.len() >= KEPT && !groups.contains_key(&scope) {
            groups.clear();
        }
        let shard = || x.manager.worker.stats().shard(scope.clone());
        count(groups.entry(scope.clone()).or_insert_with(shard));
    }
}
