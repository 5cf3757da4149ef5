//! What requests are counted under besides their cluster: virtual clusters, routes with a `stat_prefix`, and the name that a
//! caller within the mesh gives (`x-envoy-upstream-alt-stat-name`).

use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::route::{VirtualHost, virtual_cluster};
use sidemesh_config::value::Name;

use super::exchange::Exchange;
use super::names::X_ENVOY_UPSTREAM_ALT_STAT_NAME;
use crate::stats_group;
use crate::telemetry::stats::{Registry, Scope, Shards};

stats_group! {
    /// `vhost.<host>.vcluster.<name>.`, `vhost.<host>.route.<prefix>.`, `cluster.<name>.<alternative name>.`
    pub struct Tally {
        upstream_rq: Answers,
        upstream_rq_total: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_retry: Counter,
    }
}

/// Tallies remembered before the list is begun anew: a bound for names that come without end.
const KEPT: usize = 4096;

/// The tallies of a worker's connection manager.
pub struct Tallies(Shards<Key, Tally>);

impl Default for Tallies {
    fn default() -> Self {
        Tallies(Shards::new(KEPT))
    }
}

/// Which kind of part, of what, called what.
type Key = (Part, Name, Name);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    VirtualCluster,
    Route,
    Alternative,
}

impl Tallies {
    fn get(&self, registry: &Registry, key: Key) -> Arc<Tally> {
        self.0.get(registry, &key, |(part, of, name)| {
            let (of, name) = (of.clone(), name.clone());
            match part {
                Part::VirtualCluster => Scope::VirtualCluster { host: of, name },
                Part::Route => Scope::Route { host: of, name },
                Part::Alternative => Scope::ClusterPart { cluster: of, part: name },
            }
        })
    }
}

/// The tallies of one request.
#[derive(Default)]
pub struct Counted(Vec<Arc<Tally>>);

impl Counted {
    /// Begins to count a request that goes to `cluster`. It may name a tally itself where it `asks` for anything.
    pub fn begin(x: &mut Exchange, cluster: &Name, asks: bool) {
        let alternative = if asks { x.parts.headers.remove(X_ENVOY_UPSTREAM_ALT_STAT_NAME) } else { None };
        let parts = |host: &VirtualHost| !host.virtual_clusters.is_empty();
        let prefixed = x.info.route.as_ref().is_some_and(|r| r.stat_prefix.is_some());
        if alternative.is_none() && !prefixed && !x.info.vhost.as_deref().is_some_and(parts) {
            // Most requests are counted nowhere else.
            (x.info.virtual_cluster, x.counted) = (None, Counted::default());
            return;
        }
        let Some(host) = x.info.vhost.clone() else { return };
        x.info.virtual_cluster = virtual_cluster::select(&host.virtual_clusters, &x.view());
        let route = x.info.route.as_ref().and_then(|r| r.stat_prefix.clone());
        let alternative = alternative.and_then(|v| v.to_str().ok().filter(|v| !v.is_empty()).map(Name::from));
        let of_host = |part, name: Option<Name>| name.map(|name| (part, host.name.clone(), name));
        let keys = [
            of_host(Part::VirtualCluster, x.info.virtual_cluster.clone()),
            of_host(Part::Route, route),
            alternative.map(|name| (Part::Alternative, cluster.clone(), name)),
        ];
        let registry = x.manager.worker.stats();
        let all = keys.into_iter().flatten().map(|key| x.manager.tallies.get(registry, key)).collect();
        x.counted = Counted(all);
        x.counted.each(|tally| tally.upstream_rq_total.inc());
    }

    pub fn each(&self, count: impl Fn(&Tally)) {
        self.0.iter().for_each(|tally| count(tally));
    }

    /// Counts the answer.
    pub fn answered(&self, status: u16, took: Option<Duration>) {
        self.each(|tally| tally.upstream_rq.record(status, took));
    }
}
