//! Which further resources an accepted one needs, and from where: listeners need routes, secrets, filters; clusters need
//! endpoints and secrets; scoped routes need route tables. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::resource::cluster::{Cluster, Discovery};
use sidemesh_config::resource::http_connection_manager::{HttpConnectionManager, RouteSource, ScopeSource};
use sidemesh_config::resource::http_filter::{HttpFilter, HttpFilterKind};
use sidemesh_config::resource::listener::{FilterChain, Listener};
use sidemesh_config::resource::network_filter::NetworkFilter;
use sidemesh_config::resource::route::{RouteConfig, ScopedRoute};
use sidemesh_config::resource::tls::{CommonTls, DownstreamTransport, UpstreamTransport};
use sidemesh_config::value::{ConfigOrigin, ConfigSource, GrpcSource, Name};

use crate::telemetry::stats::Scope;

/// A channel that resources come by: `Own` of the API is resolved to the holder's.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The bootstrap's `static_resources`.
    Static,
    /// The aggregated stream.
    Ads,
    /// A stream for one type.
    Grpc(Arc<GrpcSource>),
    Path {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
    },
}

impl Source {
    /// Where `config` says, seen from a resource that came by `own`.
    pub fn of(config: &ConfigSource, own: &Source) -> Source {
        match &config.origin {
            ConfigOrigin::Ads => Source::Ads,
            ConfigOrigin::Own => own.clone(),
            ConfigOrigin::Grpc(grpc) => Source::Grpc(grpc.clone()),
            ConfigOrigin::Path { path, watched_directory } => {
                Source::Path { path: path.clone(), watched_directory: watched_directory.clone() }
            }
        }
    }
}

/// One resource that another one needs before it is warm.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    pub kind: ResourceKind,
    /// Empty for everything of the kind (scoped routes).
    pub name: Name,
    pub source: Source,
    /// How long to wait for it; zero waits for ever.
    pub timeout: Duration,
    /// Where its updates are counted.
    pub counted: Scope,
}

/// The timeout of what is not waited for; zero would be for ever.
const NO_WAIT: Duration = Duration::from_millis(1);

/// Collects the needs of one resource that came by `own`.
struct Collector<'a> {
    own: &'a Source,
    needs: Vec<Need>,
}

/// The virtual hosts of a table that come by VHDS: everything under the table's name, and those asked for.
pub fn of_table(table: &RouteConfig, demanded: &BTreeSet<Name>, counted: &Scope) -> Vec<Need> {
    let Some(config) = &table.vhds else { return Vec::new() };
    let source = Source::of(config, &Source::Ads);
    let need = |name: &Name| Need {
        kind: ResourceKind::VirtualHost,
        name: name.clone(),
        source: source.clone(),
        timeout: config.initial_fetch_timeout,
        counted: counted.clone(),
    };
    let under = demanded.iter().filter(|name| is_under(name, &table.name));
    std::iter::once(&table.name).chain(under).map(need).collect()
}

/// Whether `name` is `<table>/<host>`.
pub fn is_under(name: &str, table: &str) -> bool {
    name.strip_prefix(table).is_some_and(|rest| rest.starts_with('/'))
}

/// What a cluster needs.
pub fn of_cluster(cluster: &Cluster, own: &Source) -> Vec<Need> {
    let mut c = Collector { own, needs: Vec::new() };
    if let Discovery::Eds { service_name, source } = &cluster.discovery {
        c.add(ResourceKind::Endpoints, service_name, source, Scope::Cluster(cluster.stat_name.clone()));
    }
    c.upstream_transport(&cluster.transport);
    for m in &cluster.transport_matches {
        c.upstream_transport(&m.transport);
    }
    c.needs
}

/// What a listener needs.
pub fn of_listener(listener: &Listener, own: &Source) -> Vec<Need> {
    let mut c = Collector { own, needs: Vec::new() };
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        c.chain(chain);
    }
    c.needs
}

/// What a scoped route needs from the `rds` source of the connection manager with this `stat_prefix`.
pub fn of_scoped_route(route: &ScopedRoute, rds: &ConfigSource, own: &Source, prefix: &Name) -> Option<Need> {
    if route.inline.is_some() {
        return None;
    }
    Some(Need {
        kind: ResourceKind::Route,
        name: route.route_config_name.clone(),
        source: Source::of(rds, own),
        timeout: rds.initial_fetch_timeout,
        counted: Scope::Rds { prefix: prefix.clone(), route_config: route.route_config_name.clone() },
    })
}

/// The connection managers of a listener.
pub fn connection_managers(listener: &Listener) -> impl Iterator<Item = &Arc<HttpConnectionManager>> {
    listener.chains.iter().chain(&listener.default_chain).flat_map(|chain| &chain.filters).filter_map(|f| match f {
        NetworkFilter::Http(hcm) => Some(hcm),
        _ => None,
    })
}

/// Whether the filters that a configuration is for take its type (`type_urls`).
pub fn admits<'a>(
    listeners: impl Iterator<Item = &'a Arc<Listener>>,
    wanted: &Name,
    config: &HttpFilterKind,
) -> Result<(), String> {
    for hcm in listeners.flat_map(|l| connection_managers(l)) {
        for filter in hcm.filters.iter().chain(hcm.upgrades.iter().filter_map(|u| u.filters.as_ref()).flatten()) {
            if let HttpFilterKind::Discovered { name, type_urls, .. } = &filter.kind
                && name == wanted
                && !config.is_one_of(type_urls)
            {
                let given = config.message();
                return Err(format!(
                    "filter config has type URL envoy.extensions.filters.http.{given} but expect {}",
                    type_urls.join(", ")
                ));
            }
        }
    }
    Ok(())
}

impl Collector<'_> {
    fn add(&mut self, kind: ResourceKind, name: &Name, source: &ConfigSource, counted: Scope) {
        let timeout = source.initial_fetch_timeout;
        self.push(Need { kind, name: name.clone(), source: Source::of(source, self.own), timeout, counted });
    }

    fn push(&mut self, need: Need) {
        if !self.needs.contains(&need) {
            self.needs.push(need);
        }
    }

    fn chain(&mut self, chain: &FilterChain) {
        if let DownstreamTransport::Tls(tls) = &chain.transport {
            self.tls(&tls.common);
        }
        for filter in &chain.filters {
            if let NetworkFilter::Http(hcm) = filter {
                self.connection_manager(hcm);
            }
        }
    }

    fn connection_manager(&mut self, hcm: &HttpConnectionManager) {
        match &hcm.routes {
            RouteSource::Inline(_) => {}
            RouteSource::Rds { name, source } => {
                let counted = Scope::Rds { prefix: hcm.stat_prefix.clone(), route_config: name.clone() };
                self.add(ResourceKind::Route, name, source, counted);
            }
            RouteSource::Scoped { name, scopes: ScopeSource::Srds { source, .. }, .. } => {
                let counted = Scope::ScopedRds { prefix: hcm.stat_prefix.clone(), scopes: name.clone() };
                self.add(ResourceKind::ScopedRoute, &Name::from(""), source, counted);
            }
            RouteSource::Scoped { scopes: ScopeSource::Inline(scopes), rds: Some(rds), .. } => {
                let own = self.own;
                self.needs.extend(scopes.iter().filter_map(|s| of_scoped_route(s, rds, own, &hcm.stat_prefix)));
            }
            RouteSource::Scoped { .. } => {}
        }
        hcm.filters.iter().for_each(|f| self.http_filter(f));
        hcm.upgrades.iter().filter_map(|u| u.filters.as_ref()).flatten().for_each(|f| self.http_filter(f));
    }

    fn http_filter(&mut self, filter: &HttpFilter) {
        if let HttpFilterKind::Discovered { name, source, without_warming, .. } = &filter.kind {
            self.push(Need {
                kind: ResourceKind::ExtensionConfig,
                name: name.clone(),
                source: Source::of(source, self.own),
                timeout: if *without_warming { NO_WAIT } else { source.initial_fetch_timeout },
                counted: Scope::Filter(format!("extension_config_discovery.http_filter.{name}").into()),
            });
        }
    }

    fn upstream_transport(&mut self, transport: &UpstreamTransport) {
        match transport {
            UpstreamTransport::Raw => {}
            UpstreamTransport::Tls(tls) => self.tls(&tls.common),
            UpstreamTransport::ProxyProtocol { inner, .. } => self.upstream_transport(inner),
        }
    }

    fn tls(&mut self, tls: &CommonTls) {
        for secret in tls.certificate_secrets.iter().chain(&tls.validation_secret) {
            let counted = Scope::Sds(secret.name.clone());
            match &secret.source {
                Some(source) => self.add(ResourceKind::Secret, &secret.name, source, counted),
                // Of the bootstrap, or this proxy's own identity.
                None => self.needs.push(Need {
                    kind: ResourceKind::Secret,
                    name: secret.name.clone(),
                    source: Source::Static,
                    timeout: Duration::ZERO,
                    counted,
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sidemesh_config::resource::{Resource, decode};

    fn of(value: serde_json::Value, own: &Source) -> Vec<(ResourceKind, String, bool)> {
        let any = sidemesh_proto::json::any_from_json(&value).expect("JSON of a known message");
        let needs = match decode(&any).result.expect("a valid resource") {
            Resource::Cluster(c) => of_cluster(&c, own),
            Resource::Listener(l) => of_listener(&l, own),
            other => panic!("not expected: {other:?}"),
        };
        needs.into_iter().map(|n| (n.kind, n.name.to_string(), n.source == Source::Ads)).collect()
    }

    #[test]
    fn a_cluster_needs_its_endpoints_and_secrets() {
        let sds = json!({"name": "cert", "sds_config": {"self": {}, "resource_api_version": "V3"}});
        let tls = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [sds],
                "validation_context_sds_secret_config": {"name": "ca"},
            },
        });
        let cluster = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a", "type": "EDS",
            "eds_cluster_config": {"service_name": "b", "eds_config": {"ads": {}, "resource_api_version": "V3"}},
            "transport_socket": {"name": "tls", "typed_config": tls},
        });
        let needs = of(cluster, &Source::Ads);
        assert!(needs.contains(&(ResourceKind::Endpoints, "b".into(), true)));
        assert!(needs.contains(&(ResourceKind::Secret, "cert".into(), true)), "`self` is where the cluster came from");
    }

    #[test]
    fn a_listener_needs_each_route_table_once() {
        let chain = |name: &str| {
            json!({"name": name, "filter_chain_match": {"server_names": [name]}, "filters": [{"name": "http", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "x",
                "rds": {"route_config_name": "r", "config_source": {"ads": {}, "resource_api_version": "V3"}},
                "http_filters": [{"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]})
        };
        let listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
            "filter_chains": [chain("a.test"), chain("b.test")],
        });
        assert_eq!(of(listener, &Source::Ads), [(ResourceKind::Route, "r".to_owned(), true)]);
    }
}
