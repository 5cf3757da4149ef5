//! Clusters: one per port of a service, found over EDS, with our defaults written out; and the application's own.

use std::collections::HashMap;
use std::net::SocketAddr;

use sidemesh_proto::envoy::config::cluster::v3 as cluster;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::endpoint::v3 as endpoint;
use sidemesh_proto::envoy::extensions::upstreams::http::v3 as upstream_http;
use sidemesh_proto::envoy::r#type::v3::Percent;
use sidemesh_proto::google;

use super::node::Flavor;
use super::{Settings, defaults, tls, wire};
use crate::model::policy::{Algorithm, Policy, Target};
use crate::model::service::{Protocol, Service, ServicePort};
use crate::model::{Endpoint, Model};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Endpoints with this label in their metadata speak mTLS.
pub(super) const MATCH_FILTER: &str = "envoy.transport_socket_match";
pub(super) const MATCH_LABEL: (&str, &str) = ("tls", "mesh");

/// The name of a service's cluster, route table and listener.
pub fn outbound_name(service: &crate::model::Name, port: u16) -> String {
    format!("outbound|{port}|{service}")
}

pub(super) fn outbound(
    model: &Model,
    settings: &Settings,
    flavor: Flavor,
    service: &Service,
    port: &ServicePort,
    endpoints: &[Endpoint],
) -> cluster::Cluster {
    let policy = model.policy_for(&Target::Service(service.name.clone())).map(|p| &**p);
    let name = outbound_name(&service.name, port.port);
    let mut cluster = cluster::Cluster {
        alt_stat_name: format!("{}_{}_{}", service.name.name, service.name.namespace, port.port),
        cluster_discovery_type: discovery(cluster::cluster::DiscoveryType::Eds),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: wire::from_ads(),
            service_name: name.clone(),
        }),
        name,
        connect_timeout: wire::duration(policy.and_then(|p| p.connect_timeout).unwrap_or(defaults::CONNECT_TIMEOUT)),
        circuit_breakers: Some(circuit_breakers(policy)),
        outlier_detection: Some(outlier(policy)),
        common_lb_config: Some(cluster::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: panic_threshold(policy).into() }),
            // A host that is ejected a second after another one must not wait for its turn.
            update_merge_window: wire::duration(std::time::Duration::ZERO),
            ..Default::default()
        }),
        ..Default::default()
    };
    let algorithm = policy.and_then(|p| p.algorithm);
    cluster.lb_policy = lb_policy(algorithm, flavor).into();
    if flavor == Flavor::Grpc {
        // gRPC knows neither our statistics' names nor Envoy's protocol options, and needs neither.
        cluster.alt_stat_name.clear();
        return cluster;
    }
    // Sidecars speak HTTP/2 to each other, whatever the application speaks.
    let meshed = endpoints.is_empty() || endpoints.iter().any(|e| e.mesh);
    let plain = endpoints.iter().any(|e| !e.mesh);
    if port.protocol != Protocol::Tcp {
        let http2 = port.protocol.is_http2() || (meshed && !plain);
        let idle = policy.and_then(|p| p.idle_timeout);
        cluster.typed_extension_protocol_options = http_options(http2, idle);
    }
    let alpn: &[&str] = match (port.protocol, plain) {
        (Protocol::Tcp, _) => &[],
        (Protocol::Http, true) => &["http/1.1"],
        _ => &["h2"],
    };
    let backend = model.backend_tls_for(&service.name, port.name.as_deref()).and_then(|policy| {
        let authorities = policy.authorities(&model.config_maps).ok()?;
        Some(tls::backend(policy, authorities, alpn))
    });
    let mesh = meshed.then(|| {
        let identities = model.identities(service);
        let identities: Vec<String> = identities.iter().map(|(ns, account)| settings.spiffe_id(ns, account)).collect();
        tls::upstream(flavor, &identities, &service.name.to_string(), alpn)
    });
    connect(&mut cluster, mesh.flatten(), plain, backend);
    cluster
}

/// How endpoints are connected to: those with a sidecar (`mesh`), and those without (`backend`, else in plain text).
fn connect(
    cluster: &mut cluster::Cluster,
    mesh: Option<core::TransportSocket>,
    plain: bool,
    backend: Option<core::TransportSocket>,
) {
    if mesh.is_some() && plain {
        // Both kinds behind one name: each endpoint's metadata says which it is.
        cluster.transport_socket_matches = vec![
            socket_match("mesh", wire::strings([MATCH_LABEL]), mesh),
            socket_match("plaintext", google::Struct::default(), Some(backend.unwrap_or_else(tls::plain))),
        ];
    } else {
        cluster.transport_socket = mesh.or(backend);
    }
}

/// The application behind this sidecar.
pub(super) fn inbound(name: &str, app: SocketAddr, protocol: Protocol) -> cluster::Cluster {
    let host = endpoint::Endpoint { address: wire::address(app), ..Default::default() };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() };
    let mut cluster = cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: discovery(cluster::cluster::DiscoveryType::Static),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![locality],
            ..Default::default()
        }),
        connect_timeout: wire::duration(defaults::CONNECT_TIMEOUT),
        circuit_breakers: Some(circuit_breakers(None)),
        ..Default::default()
    };
    if protocol != Protocol::Tcp {
        cluster.typed_extension_protocol_options = http_options(protocol.is_http2(), None);
    }
    cluster
}

/// The collector of spans.
pub(super) fn collector(name: &str, address: SocketAddr) -> cluster::Cluster {
    inbound(name, address, Protocol::Http2)
}

fn discovery(kind: cluster::cluster::DiscoveryType) -> Option<cluster::cluster::ClusterDiscoveryType> {
    Some(cluster::cluster::ClusterDiscoveryType::Type(kind.into()))
}

fn socket_match(
    name: &str,
    labels: google::Struct,
    socket: Option<core::TransportSocket>,
) -> cluster::cluster::TransportSocketMatch {
    cluster::cluster::TransportSocketMatch { name: name.into(), r#match: Some(labels), transport_socket: socket }
}

fn lb_policy(algorithm: Option<Algorithm>, flavor: Flavor) -> cluster::cluster::LbPolicy {
    use cluster::cluster::LbPolicy;
    match (algorithm, flavor) {
        (Some(Algorithm::RingHash), _) => LbPolicy::RingHash,
        // gRPC refuses what it does not implement: it has round robin and ring hash everywhere.
        (_, Flavor::Grpc) => LbPolicy::RoundRobin,
        (None | Some(Algorithm::LeastRequest), _) => LbPolicy::LeastRequest,
        (Some(Algorithm::RoundRobin), _) => LbPolicy::RoundRobin,
        (Some(Algorithm::Random), _) => LbPolicy::Random,
    }
}

fn http_options(http2: bool, idle: Option<std::time::Duration>) -> HashMap<String, google::Any> {
    use upstream_http::http_protocol_options as options;
    let config = if http2 {
        options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())
    } else {
        options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())
    };
    let explicit = options::ExplicitHttpConfig { protocol_config: Some(config) };
    let message = upstream_http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: wire::duration(idle.unwrap_or(defaults::CONNECTION_IDLE_TIMEOUT)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), wire::any(&message))])
}

fn circuit_breakers(policy: Option<&Policy>) -> cluster::CircuitBreakers {
    use cluster::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let breaker = policy.map(|p| p.breaker.clone()).unwrap_or_default();
    let percent = policy.and_then(|p| p.budget_percent).unwrap_or(defaults::RETRY_BUDGET_PERCENT);
    let min = policy.and_then(|p| p.budget_min_concurrency).unwrap_or(defaults::RETRY_BUDGET_MIN_CONCURRENCY);
    let thresholds = Thresholds {
        priority: core::RoutingPriority::Default.into(),
        max_connections: wire::u32_value(breaker.max_connections.unwrap_or(defaults::MAX_CONNECTIONS)),
        max_pending_requests: wire::u32_value(breaker.max_pending_requests.unwrap_or(defaults::MAX_PENDING_REQUESTS)),
        max_requests: wire::u32_value(breaker.max_requests.unwrap_or(defaults::MAX_REQUESTS)),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(Percent { value: percent }),
            min_retry_concurrency: wire::u32_value(min),
            ..Default::default()
        }),
        track_remaining: true,
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn outlier(policy: Option<&Policy>) -> cluster::OutlierDetection {
    let outlier = policy.map(|p| p.outlier.clone()).unwrap_or_default();
    let enabled = outlier.enabled.unwrap_or(true);
    let percent = outlier.max_ejection_percent.unwrap_or(defaults::MAX_EJECTION_PERCENT);
    cluster::OutlierDetection {
        consecutive_5xx: wire::u32_value(outlier.consecutive_5xx.unwrap_or(defaults::CONSECUTIVE_5XX)),
        interval: wire::duration(outlier.interval.unwrap_or(defaults::EJECTION_INTERVAL)),
        base_ejection_time: wire::duration(outlier.base_ejection_time.unwrap_or(defaults::BASE_EJECTION_TIME)),
        max_ejection_percent: wire::u32_value(percent),
        enforcing_consecutive_5xx: wire::u32_value(if enabled { 100 } else { 0 }),
        // On by default in Envoy; ours is the one above.
        enforcing_success_rate: wire::u32_value(0),
        ..Default::default()
    }
}

fn panic_threshold(policy: Option<&Policy>) -> u32 {
    policy.and_then(|p| p.outlier.panic_threshold_percent).unwrap_or(defaults::PANIC_THRESHOLD_PERCENT)
}
