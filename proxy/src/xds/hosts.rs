//! Virtual hosts that come by themselves (VHDS): pushed by the server or asked for by a request, and put into their tables. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::resource::route::{RouteConfig, VirtualHost};
use sidemesh_config::snapshot::ByName;
use sidemesh_config::value::Name;

use super::cascade::{self, Need};
use super::leaf::Leaf;
use crate::telemetry::stats::Scope;

/// Names that requests ask for; further ones are not asked for.
const MAX_DEMANDED: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// By resource name, `<table>/<anything>`.
    arrived: BTreeMap<Name, Arc<VirtualHost>>,
    /// What requests asked for: `<table>/<host>`.
    demanded: BTreeSet<Name>,
    waits: Leaf<()>,
    /// Tables with their hosts, as they were put together last.
    joined: BTreeMap<Name, Joined>,
}

#[derive(Debug)]
struct Joined {
    table: Arc<RouteConfig>,
    hosts: Vec<Arc<VirtualHost>>,
    result: Arc<RouteConfig>,
}

impl Hosts {
    /// A request asks for a host; whether that is new.
    pub(super) fn demand(&mut self, name: &Name) -> bool {
        if self.demanded.len() >= MAX_DEMANDED && !self.demanded.contains(name) {
            tracing::warn!(%name, "a virtual host is not asked for: {MAX_DEMANDED} names are");
            return false;
        }
        self.demanded.insert(name.clone())
    }

    /// What the tables with VHDS need; demands for other tables are forgotten.
    pub(super) fn needs<'a>(
        &mut self,
        tables: impl Iterator<Item = &'a Arc<RouteConfig>> + Clone,
        counted: impl Fn(&Name) -> Scope,
    ) -> Vec<Need> {
        let with_vhds = tables.filter(|t| t.vhds.is_some());
        let is_of_a_table = |name: &Name| with_vhds.clone().any(|t| cascade::is_under(name, &t.name));
        self.demanded.retain(is_of_a_table);
        self.arrived.retain(|name, _| is_of_a_table(name));
        with_vhds.clone().flat_map(|t| cascade::of_table(t, &self.demanded, &counted(&t.name))).collect()
    }

    pub(super) fn need(&mut self, needs: &[Need], now: Instant) {
        // Nobody waits for what the server pushes under the table's own name.
        self.waits.need(needs.iter().filter(|n| self.demanded.contains(&n.name)), now);
    }

    pub(super) fn arrive(&mut self, name: &Name, host: Arc<VirtualHost>) {
        self.waits.settle(name);
        self.arrived.insert(name.clone(), host);
    }

    /// The server has no such host (any more).
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.waits.settle(name);
        self.arrived.remove(name).is_some()
    }

    pub(super) fn settle(&mut self, name: &str) {
        self.waits.settle(name);
    }

    pub(super) fn is_needed(&self, name: &str, routes: &Leaf<RouteConfig>) -> bool {
        let table = name.match_indices('/').map(|(at, _)| &name[..at]);
        table.into_iter().any(|table| routes.get(table).is_some_and(|t| t.vhds.is_some()))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waits.next_deadline()
    }

    pub(super) fn expire(&mut self, now: Instant, late: &mut Vec<(ResourceKind, Name)>) {
        self.waits.expire(now, ResourceKind::VirtualHost, late);
    }

    /// Puts the hosts into their tables.
    pub(super) fn join(&mut self, routes: &mut ByName<Arc<RouteConfig>>) {
        self.joined.retain(|name, _| routes.get(name).is_some_and(|t| t.vhds.is_some()));
        for table in routes.values_mut().filter(|t| t.vhds.is_some()) {
            let under = self.arrived.iter().filter(|(name, _)| cascade::is_under(name, &table.name));
            let hosts: Vec<_> = under.map(|(_, host)| host.clone()).collect();
            let same = |j: &&Joined| {
                let pairs = || j.hosts.iter().zip(&hosts);
                Arc::ptr_eq(&j.table, table) && j.hosts.len() == hosts.len() && pairs().all(|(a, b)| Arc::ptr_eq(a, b))
            };
            if let Some(joined) = self.joined.get(&table.name).filter(same) {
                *table = joined.result.clone();
                continue;
            }
            let (result, left_out) = table.with_hosts(hosts.iter().cloned());
            for host in left_out {
                tracing::warn!(table = %table.name, %host, "a virtual host is left out: another one has one of its domains");
            }
            let result = Arc::new(result);
            let joined = Joined { table: table.clone(), hosts, result: result.clone() };
            self.joined.insert(table.name.clone(), joined);
            *table = result;
        }
    }

    /// What was asked for and did not come.
    pub(super) fn absent(&self) -> BTreeSet<Name> {
        let missing = |name: &&Name| self.waits.is_settled(name) && !self.arrived.contains_key(*name);
        self.demanded.iter().filter(missing).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use sidemesh_config::resource::route;
    use sidemesh_proto::envoy::config::route::v3 as wire;

    use super::*;

    fn table() -> Arc<RouteConfig> {
        let value = json!({"name": "t", "vhds": {"config_source": {"ads": {}, "resource_api_version": "V3"}},
            "virtual_hosts": [{"name": "own", "domains": ["own.test"]}]});
        let wire: wire::RouteConfiguration = parse("envoy.config.route.v3.RouteConfiguration", &value);
        Arc::new(route::parse(&wire).expect("valid"))
    }

    fn parse<T: sidemesh_proto::prost::Message + Default>(name: &str, value: &Value) -> T {
        sidemesh_proto::json::parse(name, value).expect("well-formed")
    }

    fn host(domain: &str) -> Arc<VirtualHost> {
        let wire: wire::VirtualHost =
            parse("envoy.config.route.v3.VirtualHost", &json!({"name": domain, "domains": [domain]}));
        Arc::new(route::parse_virtual_host(&wire).expect("valid"))
    }

    #[test]
    fn hosts_are_asked_for_put_into_their_table_and_missed() {
        let (table, now) = (table(), Instant::now());
        let mut hosts = Hosts::default();
        assert!(hosts.demand(&"t/a.test".into()) && hosts.demand(&"t/b.test".into()));
        assert!(!hosts.demand(&"t/a.test".into()), "known");
        hosts.demand(&"other/a.test".into());
        let needs = hosts.needs([&table].into_iter(), |_| Scope::Fixed("vhds"));
        let names: Vec<&str> = needs.iter().map(|n| &*n.name).collect();
        assert_eq!(names, ["t", "t/a.test", "t/b.test"], "nothing for a table that is not there");
        hosts.need(&needs, now);

        hosts.arrive(&"t/a.test".into(), host("a.test"));
        hosts.arrive(&"t/taken".into(), host("own.test"));
        let mut routes = ByName::default();
        routes.insert(table.name.clone(), table.clone());
        hosts.join(&mut routes);
        let joined = routes[&table.name].clone();
        let found = |name: &str| joined.virtual_host(name).map(|h| h.name.to_string());
        assert_eq!(found("a.test").as_deref(), Some("a.test"));
        assert_eq!(found("own.test").as_deref(), Some("own"), "the table's own hosts win");
        routes.insert(table.name.clone(), table.clone());
        hosts.join(&mut routes);
        assert!(Arc::ptr_eq(&routes[&table.name], &joined), "nothing changed");

        assert!(hosts.absent().is_empty(), "b.test may still come");
        hosts.expire(now + Duration::from_secs(15), &mut Vec::new());
        assert_eq!(hosts.absent(), BTreeSet::from(["t/b.test".into()]));
    }
}
