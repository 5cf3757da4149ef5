//! Listeners: plain text from the application to each service, mTLS from peers to the application, and gRPC's API
//! listeners, which no socket belongs to.

use std::net::SocketAddr;

use sidemesh_proto::envoy::config::accesslog::v3 as accesslog;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::listener::v3 as listener;
use sidemesh_proto::envoy::config::route::v3 as route;
use sidemesh_proto::envoy::config::trace::v3 as trace;
use sidemesh_proto::envoy::extensions::access_loggers::file::v3 as file_log;
use sidemesh_proto::envoy::extensions::filters::http::router::v3::Router;
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use sidemesh_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use sidemesh_proto::envoy::extensions::tracers::opentelemetry::samplers::v3 as samplers;
use sidemesh_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent};
use sidemesh_proto::google;

use super::node::{Flavor, Node};
use super::{Settings, cors, defaults, tls, wire};
use crate::model::service::Protocol;
use crate::model::workload::MeshConfig;

/// Cluster of the span collector.
pub(super) const COLLECTOR: &str = "otel-collector";

/// From the application to a service that speaks HTTP.
pub(super) fn outbound(node: &Node, mesh: &MeshConfig, name: &str, address: SocketAddr) -> listener::Listener {
    let mut manager = manager(node, mesh, name);
    manager.route_specifier = Some(rds(name));
    manager.http_filters.insert(0, http_filter(cors::FILTER, cors::filter()));
    outbound_listener(name, address, hcm(&manager))
}

/// From the application to a service that speaks anything else: connections spread over clusters by weight.
pub(super) fn outbound_tcp(
    node: &Node,
    mesh: &MeshConfig,
    name: &str,
    address: SocketAddr,
    clusters: &[(String, u32)],
) -> listener::Listener {
    use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let specifier = match clusters {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => {
            let weight = |(name, weight): &(String, u32)| ClusterWeight {
                name: name.clone(),
                weight: *weight,
                ..Default::default()
            };
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: several.iter().map(weight).collect() })
        }
    };
    outbound_listener(name, address, tcp_filter(node, mesh, name, specifier))
}

fn outbound_listener(name: &str, address: SocketAddr, filter: listener::Filter) -> listener::Listener {
    let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
    socket_listener(name, address, core::TrafficDirection::Outbound, chain)
}

/// From peers to the application.
pub(super) fn inbound(
    node: &Node,
    settings: &Settings,
    mesh: &MeshConfig,
    name: &str,
    address: SocketAddr,
    protocol: Protocol,
) -> listener::Listener {
    let (filter, alpn): (_, &[&str]) = if protocol == Protocol::Tcp {
        (tcp_filter(node, mesh, name, tcp::tcp_proxy::ClusterSpecifier::Cluster(name.to_owned())), &[])
    } else {
        let mut manager = manager(node, mesh, name);
        manager.route_specifier =
            Some(http::http_connection_manager::RouteSpecifier::RouteConfig(to_application(name)));
        // The peer's certificate is the only truth about who called.
        manager.forward_client_cert_details =
            http::http_connection_manager::ForwardClientCertDetails::SanitizeSet.into();
        manager.set_current_client_cert_details =
            Some(http::http_connection_manager::SetCurrentClientCertDetails { uri: true, ..Default::default() });
        (hcm(&manager), &tls::ALPN_HTTP)
    };
    let chain = listener::FilterChain {
        filters: vec![filter],
        transport_socket: tls::downstream(node.flavor, &settings.trust_domain, alpn),
        ..Default::default()
    };
    socket_listener(name, address, core::TrafficDirection::Inbound, chain)
}

/// For gRPC's own xDS client; `name` is the target without its scheme.
pub(super) fn api(name: &str, route: &str) -> listener::Listener {
    let manager = http::HttpConnectionManager {
        route_specifier: Some(rds(route)),
        http_filters: vec![router()],
        ..Default::default()
    };
    listener::Listener {
        name: name.to_owned(),
        api_listener: Some(listener::ApiListener { api_listener: Some(wire::any(&manager)) }),
        ..Default::default()
    }
}

fn socket_listener(
    name: &str,
    address: SocketAddr,
    direction: core::TrafficDirection,
    chain: listener::FilterChain,
) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        address: wire::address(address),
        filter_chains: vec![chain],
        traffic_direction: direction.into(),
        ..Default::default()
    }
}

fn rds(route: &str) -> http::http_connection_manager::RouteSpecifier {
    http::http_connection_manager::RouteSpecifier::Rds(http::Rds {
        config_source: wire::from_ads(),
        route_config_name: route.to_owned(),
    })
}

/// Inbound: everything to the application. The caller's sidecar has the timeout and the retries.
fn to_application(name: &str) -> route::RouteConfiguration {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(name.to_owned())),
        timeout: Some(google::Duration::default()),
        ..Default::default()
    };
    let everything = route::Route {
        name: name.to_owned(),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    let host = route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".into()],
        routes: vec![everything],
        ..Default::default()
    };
    route::RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

fn manager(node: &Node, mesh: &MeshConfig, name: &str) -> http::HttpConnectionManager {
    http::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![router()],
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: wire::duration(defaults::CONNECTION_IDLE_TIMEOUT),
            ..Default::default()
        }),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_concurrent_streams: wire::u32_value(defaults::MAX_CONCURRENT_STREAMS),
            ..Default::default()
        }),
        stream_idle_timeout: wire::duration(defaults::STREAM_IDLE_TIMEOUT),
        request_headers_timeout: wire::duration(defaults::REQUEST_HEADERS_TIMEOUT),
        normalize_path: wire::yes(),
        access_log: access_log(node, mesh),
        tracing: tracing(node, mesh),
        ..Default::default()
    }
}

fn router() -> http::HttpFilter {
    http_filter("envoy.filters.http.router", wire::any(&Router::default()))
}

fn http_filter(name: &str, config: google::Any) -> http::HttpFilter {
    let config = http::http_filter::ConfigType::TypedConfig(config);
    http::HttpFilter { name: name.to_owned(), config_type: Some(config), ..Default::default() }
}

fn hcm(manager: &http::HttpConnectionManager) -> listener::Filter {
    filter("envoy.filters.network.http_connection_manager", wire::any(manager))
}

fn tcp_filter(
    node: &Node,
    mesh: &MeshConfig,
    name: &str,
    clusters: tcp::tcp_proxy::ClusterSpecifier,
) -> listener::Filter {
    let proxy = tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(clusters),
        idle_timeout: wire::duration(defaults::CONNECTION_IDLE_TIMEOUT),
        access_log: access_log(node, mesh),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", wire::any(&proxy))
}

fn filter(name: &str, config: google::Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

/// The node's own word goes before the mesh's.
fn access_log(node: &Node, mesh: &MeshConfig) -> Vec<accesslog::AccessLog> {
    let path = node.access_log.as_ref().or(mesh.access_log.as_ref().map(|log| &log.path));
    let Some(path) = path else { return Vec::new() };
    let format = mesh.access_log.as_ref().and_then(|log| log.format.as_ref()).map(|format| {
        let source = core::substitution_format_string::Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(format!("{format}\n"))),
            ..Default::default()
        });
        file_log::file_access_log::AccessLogFormat::LogFormat(core::SubstitutionFormatString {
            format: Some(source),
            ..Default::default()
        })
    });
    let log = file_log::FileAccessLog { path: path.clone(), access_log_format: format };
    vec![accesslog::AccessLog {
        name: "envoy.access_loggers.file".into(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(wire::any(&log))),
        ..Default::default()
    }]
}

fn tracing(node: &Node, mesh: &MeshConfig) -> Option<http::http_connection_manager::Tracing> {
    let tracing = mesh.tracing.as_ref()?;
    if node.flavor == Flavor::Grpc {
        return None;
    }
    let grpc = core::grpc_service::EnvoyGrpc { cluster_name: COLLECTOR.into(), ..Default::default() };
    let config = trace::OpenTelemetryConfig {
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)),
            timeout: Some(google::Duration { seconds: 5, nanos: 0 }),
            ..Default::default()
        }),
        service_name: node.service.clone(),
        sampler: Some(sampler(tracing.sampling_percent)),
        ..Default::default()
    };
    Some(http::http_connection_manager::Tracing {
        provider: Some(trace::tracing::Http {
            name: "envoy.tracers.opentelemetry".into(),
            config_type: Some(trace::tracing::http::ConfigType::TypedConfig(wire::any(&config))),
        }),
        spawn_upstream_span: wire::yes(),
        ..Default::default()
    })
}

/// The first sidecar on a request's way decides by the trace's id; every other does as its caller did, so that traces are whole.
fn sampler(percent: f64) -> core::TypedExtensionConfig {
    let extension = |name: &str, config| core::TypedExtensionConfig { name: name.into(), typed_config: Some(config) };
    let ratio = samplers::TraceIdRatioBasedSamplerConfig {
        sampling_percentage: Some(FractionalPercent {
            numerator: (percent * 10_000.0).round() as u32,
            denominator: fractional_percent::DenominatorType::Million as i32,
        }),
    };
    let root = extension("envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", wire::any(&ratio));
    let by_parent = samplers::ParentBasedSamplerConfig { wrapped_sampler: Some(root) };
    extension("envoy.tracers.opentelemetry.samplers.parent_based", wire::any(&by_parent))
}
