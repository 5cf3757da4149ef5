//! Whose metrics a group holds: the dotted prefix and the Prometheus name and tags, as Envoy writes them.

use sidemesh_config::value::Name;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `server.`
    Server,
    /// `cluster_manager.`, `listener_manager.`, `control_plane.`, `runtime.`…: a fixed prefix without tags.
    Fixed(&'static str),
    /// `cluster.NAME.`
    Cluster(Name),
    /// `http.PREFIX.`
    Http(Name),
    /// `http.PREFIX.FILTER.`: counters that a filter keeps apart from its manager's.
    HttpFilter { prefix: Name, filter: Name },
    /// `cluster.NAME.PART.`: what a filter counts of a cluster.
    ClusterPart { cluster: Name, part: Name },
    /// `vhost.HOST.vcluster.NAME.`
    VirtualCluster { host: Name, name: Name },
    /// `vhost.HOST.route.NAME.`
    Route { host: Name, name: Name },
    /// `cluster.NAME.grpc.` with, of calls that are counted apart, `SERVICE.METHOD.`
    Grpc { cluster: Name, method: Option<(Name, Name)> },
    /// `listener.ADDRESS.`
    Listener(Name),
    /// `listener.ADDRESS.worker_N.`
    ListenerWorker { address: Name, worker: Name },
    /// `listener.ADDRESS.http.PREFIX.`
    ListenerHttp { address: Name, prefix: Name },
    /// `tcp.PREFIX.`
    Tcp(Name),
    /// `http.PREFIX.rds.ROUTE_CONFIG.`
    Rds { prefix: Name, route_config: Name },
    /// `http.PREFIX.scoped_rds.SCOPES.`
    ScopedRds { prefix: Name, scopes: Name },
    /// `sds.NAME.`
    Sds(Name),
    /// A filter's own prefix, e.g. `rl.http_local_rate_limit` or `http.ingress.rbac.`, given without the last dot.
    Filter(Name),
}

impl Scope {
    /// The dotted prefix, with its last dot.
    pub fn prefix(&self) -> String {
        match self {
            Scope::Server => "server.".to_owned(),
            Scope::Fixed(p) => format!("{p}."),
            Scope::Cluster(n) => format!("cluster.{n}."),
            Scope::Http(p) => format!("http.{p}."),
            Scope::HttpFilter { prefix, filter } => format!("http.{prefix}.{filter}."),
            Scope::ClusterPart { cluster, part } => format!("cluster.{cluster}.{part}."),
            Scope::VirtualCluster { host, name } => format!("vhost.{host}.vcluster.{name}."),
            Scope::Route { host, name } => format!("vhost.{host}.route.{name}."),
            Scope::Grpc { cluster, method: None } => format!("cluster.{cluster}.grpc."),
            Scope::Grpc { cluster, method: Some((service, method)) } => {
                format!("cluster.{cluster}.grpc.{service}.{method}.")
            }
            Scope::Listener(a) => format!("listener.{a}."),
            Scope::ListenerWorker { address, worker } => format!("listener.{address}.worker_{worker}."),
            Scope::ListenerHttp { address, prefix } => format!("listener.{address}.http.{prefix}."),
            Scope::Tcp(p) => format!("tcp.{p}."),
            Scope::Rds { prefix, route_config } => format!("http.{prefix}.rds.{route_config}."),
            Scope::ScopedRds { prefix, scopes } => format!("http.{prefix}.scoped_rds.{scopes}."),
            Scope::Sds(n) => format!("sds.{n}."),
            Scope::Filter(p) => format!("{p}."),
        }
    }

    /// The Prometheus name's part between `envoy_` and the metric, and the tags.
    pub fn prometheus(&self) -> (String, Vec<(&'static str, &str)>) {
        match self {
            Scope::Server => ("server".to_owned(), vec![]),
            Scope::Fixed(p) => (sanitize(p), vec![]),
            Scope::Cluster(n) => ("cluster".to_owned(), vec![("envoy_cluster_name", n)]),
            Scope::Http(p) => ("http".to_owned(), vec![("envoy_http_conn_manager_prefix", p)]),
            Scope::HttpFilter { prefix, filter } => {
                (format!("http_{}", sanitize(filter)), vec![("envoy_http_conn_manager_prefix", prefix)])
            }
            Scope::ClusterPart { cluster, part } => {
                (format!("cluster_{}", sanitize(part)), vec![("envoy_cluster_name", cluster)])
            }
            Scope::VirtualCluster { host, name } => {
                ("vhost_vcluster".to_owned(), vec![("envoy_virtual_cluster", name), ("envoy_virtual_host", host)])
            }
            Scope::Route { host, name } => {
                ("vhost_route".to_owned(), vec![("envoy_virtual_host", host), ("envoy_route", name)])
            }
            Scope::Grpc { cluster, method } => {
                let mut tags: Vec<(&'static str, &str)> = vec![("envoy_cluster_name", cluster)];
                if let Some((service, method)) = method {
                    tags.insert(0, ("envoy_grpc_bridge_method", method));
                    tags.insert(1, ("envoy_grpc_bridge_service", service));
                }
                ("cluster_grpc".to_owned(), tags)
            }
            Scope::Listener(a) => ("listener".to_owned(), vec![("envoy_listener_address", a)]),
            Scope::ListenerWorker { address, worker } => {
                ("listener_worker".to_owned(), vec![("envoy_worker_id", worker), ("envoy_listener_address", address)])
            }
            Scope::ListenerHttp { address, prefix } => (
                "listener_http".to_owned(),
                vec![("envoy_http_conn_manager_prefix", prefix), ("envoy_listener_address", address)],
            ),
            Scope::Tcp(p) => ("tcp".to_owned(), vec![("envoy_tcp_prefix", p)]),
            Scope::Rds { prefix, route_config } => (
                "http_rds".to_owned(),
                vec![("envoy_rds_route_config", route_config), ("envoy_http_conn_manager_prefix", prefix)],
            ),
            Scope::ScopedRds { prefix, scopes } => (
                "http_scoped_rds".to_owned(),
                vec![("envoy_scoped_rds_config", scopes), ("envoy_http_conn_manager_prefix", prefix)],
            ),
            Scope::Sds(n) => (format!("sds_{}", sanitize(n)), vec![]),
            Scope::Filter(p) => (sanitize(p), vec![]),
        }
    }
}

/// Names in statistics hold no colon, as in Envoy.
pub(super) fn without_colons(name: &str) -> std::borrow::Cow<'_, str> {
    match name.contains(':') {
        true => name.replace(':', "_").into(),
        false => name.into(),
    }
}

/// Prometheus metric names hold `[a-zA-Z0-9_:]` alone.
pub(super) fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
