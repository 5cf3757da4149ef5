//! `cluster.v3.Cluster` → [`Cluster`], with Envoy's defaults.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::google;

use super::discovery::discovery;
use super::health::{health_check, outlier_detection};
use super::policy::{balancing, sorted_fields};
use super::protocol::upstream_protocol;
use super::{
    BindConfig, CircuitBreakers, Cluster, Discovery, HealthChecker, LbPolicy, RetryBudget, TcpKeepalive, Thresholds,
    Tracked, TransportMatch, UpstreamVersion,
};
use crate::rejection::{Rejection, Within};
use crate::resource::socket_option;
use crate::resource::tls::{self, UpstreamTransport};
use crate::support::Hint;
use crate::value::Address;
use crate::wire;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_BUFFER_BYTES: u32 = 1 << 20;
/// `max_connections`, `max_pending_requests` and `max_requests` when not given.
const DEFAULT_LIMIT: u32 = 1024;
const DEFAULT_MAX_RETRIES: u32 = 3;

/// What of a valid cluster is not acted on, beside what the support table says: an EDS cluster has its hosts from EDS alone.
pub fn hint(cluster: &pb::Cluster) -> Option<Hint> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let is_eds = cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    (is_eds && cluster.load_assignment.is_some()).then(|| Hint {
        path: "load_assignment".to_owned(),
        why: "the cluster is of type EDS: its hosts come from EDS alone",
    })
}

pub fn parse(cluster: &pb::Cluster) -> Result<Cluster, Rejection> {
    refuse_unsupported(cluster)?;
    let name = wire::non_empty(&cluster.name, "name")?;
    let discovery = discovery(cluster)?;
    let balancing = balancing(cluster)?;
    let protocol = upstream_protocol(cluster)?;
    let transport = tls::parse_upstream(cluster.transport_socket.as_ref()).within("transport_socket")?;
    let connect_timeout = match &cluster.connect_timeout {
        Some(d) => wire::positive_duration(d, "connect_timeout")?,
        None => DEFAULT_CONNECT_TIMEOUT,
    };
    let connection_options = cluster.upstream_connection_options.as_ref();
    let cluster = Cluster {
        stat_name: wire::optional_name(&cluster.alt_stat_name).unwrap_or_else(|| name.clone()),
        name,
        lb: balancing.policy,
        lb_common: balancing.common,
        subsets: balancing.subsets.map(Arc::new),
        override_sources: balancing.override_sources,
        connect_timeout,
        buffer_limit: wire::uint32(&cluster.per_connection_buffer_limit_bytes).unwrap_or(DEFAULT_BUFFER_BYTES),
        circuit_breakers: circuit_breakers(cluster.circuit_breakers.as_ref()).within("circuit_breakers")?,
        outlier: cluster
            .outlier_detection
            .as_ref()
            .map(|o| outlier_detection(o).map(Arc::new))
            .transpose()
            .within("outlier_detection")?,
        health_checks: wire::each(&cluster.health_checks, "health_checks", |h| health_check(h).map(Arc::new))?,
        ignore_health_on_host_removal: cluster.ignore_health_on_host_removal,
        tracked: tracked(cluster),
        pool_per_downstream: cluster.connection_pool_per_downstream_connection,
        preconnect_ratio: preconnect_ratio(cluster.preconnect_policy.as_ref()).within("preconnect_policy")?,
        close_connections_on_host_health_failure: cluster.close_connections_on_host_health_failure,
        transport,
        transport_matches: wire::each(&cluster.transport_socket_matches, "transport_socket_matches", transport_match)?,
        metadata: cluster.metadata.as_ref().map(|m| Arc::new(wire::metadata(m))),
        bind: cluster.upstream_bind_config.as_ref().map(bind_config).transpose().within("upstream_bind_config")?,
        tcp_keepalive: connection_options.and_then(|o| o.tcp_keepalive.as_ref()).map(tcp_keepalive),
        max_requests_per_connection: protocol.common.max_requests_per_connection,
        protocol,
        discovery,
    };
    check(&cluster)?;
    Ok(cluster)
}

fn refuse_unsupported(cluster: &pb::Cluster) -> Result<(), Rejection> {
    for (set, field) in [
        (cluster.transport_socket_matcher.is_some(), "transport_socket_matcher"),
        (!cluster.filters.is_empty(), "filters"),
        (cluster.upstream_config.is_some(), "upstream_config"),
        (cluster.queuing_policies.is_some(), "queuing_policies"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    Ok(())
}

fn tracked(cluster: &pb::Cluster) -> Tracked {
    let asked = cluster.track_cluster_stats.unwrap_or_default();
    Tracked {
        timeout_budgets: asked.timeout_budgets || cluster.track_timeout_budgets,
        sizes: asked.request_response_sizes,
    }
}

fn preconnect_ratio(policy: Option<&pb::cluster::PreconnectPolicy>) -> Result<f64, Rejection> {
    match policy.and_then(|p| p.per_upstream_preconnect_ratio.as_ref()).map(|r| r.value) {
        None => Ok(1.0),
        Some(ratio) if (1.0..=3.0).contains(&ratio) => Ok(ratio),
        Some(ratio) => {
            Err(Rejection::invalid("per_upstream_preconnect_ratio", format!("{ratio} is not between 1 and 3")))
        }
    }
}

/// Rules between fields.
fn check(cluster: &Cluster) -> Result<(), Rejection> {
    let original_dst = matches!(cluster.discovery, Discovery::OriginalDst(_));
    let aggregate = matches!(cluster.discovery, Discovery::Aggregate(_));
    match (&cluster.lb, original_dst || aggregate) {
        (LbPolicy::ClusterProvided, false) => {
            return Err(Rejection::invalid(
                "lb_policy",
                "CLUSTER_PROVIDED needs type ORIGINAL_DST or an aggregate cluster",
            ));
        }
        (LbPolicy::ClusterProvided, true) => {}
        (_, true) => {
            let kind = if original_dst { "ORIGINAL_DST" } else { "aggregate" };
            return Err(Rejection::invalid("lb_policy", format!("must be CLUSTER_PROVIDED for an {kind} cluster")));
        }
        _ => {}
    }
    let tls = |t: &UpstreamTransport| match t {
        UpstreamTransport::Tls(_) => true,
        UpstreamTransport::ProxyProtocol { inner, .. } => matches!(**inner, UpstreamTransport::Tls(_)),
        UpstreamTransport::Raw => false,
    };
    if cluster.protocol.version == UpstreamVersion::Auto && !tls(&cluster.transport) {
        return Err(Rejection::invalid(
            "transport_socket",
            "auto_config chooses by ALPN: the transport socket must be tls",
        ));
    }
    if cluster.health_checks.len() > 1 {
        return Err(Rejection::unsupported("health_checks[1]", "one health check is supported; leave out the others"));
    }
    let grpc = cluster.health_checks.iter().any(|h| matches!(h.checker, HealthChecker::Grpc { .. }));
    if grpc && cluster.protocol.version == UpstreamVersion::Http1 {
        return Err(Rejection::invalid("health_checks", "grpc_health_check needs a cluster that speaks HTTP/2"));
    }
    Ok(())
}

fn transport_match(m: &pb::cluster::TransportSocketMatch) -> Result<TransportMatch, Rejection> {
    Ok(TransportMatch {
        name: wire::non_empty(&m.name, "name")?,
        labels: m.r#match.as_ref().map_or_else(Vec::new, sorted_fields),
        transport: tls::parse_upstream(m.transport_socket.as_ref()).within("transport_socket")?,
    })
}

fn circuit_breakers(breakers: Option<&pb::CircuitBreakers>) -> Result<CircuitBreakers, Rejection> {
    let empty = pb::CircuitBreakers::default();
    let breakers = breakers.unwrap_or(&empty);
    let of = |priority: core::RoutingPriority| {
        let found = breakers.thresholds.iter().enumerate().find(|(_, t)| t.priority == priority as i32);
        match found {
            Some((i, t)) => thresholds(t).within_index("thresholds", i),
            None => thresholds(&pb::circuit_breakers::Thresholds::default()),
        }
    };
    let per_host = breakers.per_host_thresholds.iter().find(|t| t.priority == core::RoutingPriority::Default as i32);
    Ok(CircuitBreakers {
        default: of(core::RoutingPriority::Default)?,
        high: of(core::RoutingPriority::High)?,
        per_host_max_connections: per_host.and_then(|t| wire::uint32(&t.max_connections)),
    })
}

fn thresholds(t: &pb::circuit_breakers::Thresholds) -> Result<Thresholds, Rejection> {
    let or = |v: &Option<google::UInt32Value>, default| wire::uint32(v).unwrap_or(default);
    let retry_budget = match &t.retry_budget {
        Some(b) => Some(RetryBudget {
            percent: match &b.budget_percent {
                Some(p) => wire::percent(p, "retry_budget.budget_percent")?,
                None => 20.0,
            },
            min_concurrency: or(&b.min_retry_concurrency, 3),
        }),
        None => None,
    };
    Ok(Thresholds {
        max_connections: or(&t.max_connections, DEFAULT_LIMIT),
        max_pending_requests: or(&t.max_pending_requests, DEFAULT_LIMIT),
        max_requests: or(&t.max_requests, DEFAULT_LIMIT),
        max_retries: or(&t.max_retries, DEFAULT_MAX_RETRIES),
        retry_budget,
        track_remaining: t.track_remaining,
    })
}

pub(crate) fn bind_config(bind: &core::BindConfig) -> Result<BindConfig, Rejection> {
    for (set, field) in [
        (!bind.additional_source_addresses.is_empty(), "additional_source_addresses"),
        (bind.local_address_selector.is_some(), "local_address_selector"),
    ] {
        if set {
            return Err(Rejection::unsupported(
                field,
                "give source_address, and one of the other family in extra_source_addresses",
            ));
        }
    }
    let options = socket_option::parse_all(&bind.socket_options)?;
    let freebind = wire::flag(&bind.freebind, false);
    let Some(source) = &bind.source_address else {
        return match bind.extra_source_addresses.is_empty() {
            true => Ok(BindConfig { source: None, extra: None, freebind, options }),
            false => Err(Rejection::invalid("extra_source_addresses", "there is no source_address to add to")),
        };
    };
    let source = source_address(source, "source_address")?;
    let extra = match &bind.extra_source_addresses[..] {
        [] => None,
        [one] => {
            let address = one
                .address
                .as_ref()
                .ok_or_else(|| Rejection::invalid("extra_source_addresses[0].address", "required"))?;
            Some(source_address(address, "extra_source_addresses[0].address")?)
        }
        _ => {
            return Err(Rejection::invalid(
                "extra_source_addresses",
                "more than one: give one for each address family",
            ));
        }
    };
    if extra.is_some_and(|extra| extra.is_ipv4() == source.is_ipv4()) {
        return Err(Rejection::invalid(
            "extra_source_addresses",
            "two addresses of one family: the second is never used",
        ));
    }
    Ok(BindConfig { source: Some(source), extra, freebind, options })
}

fn source_address(address: &core::SocketAddress, field: &'static str) -> Result<std::net::SocketAddr, Rejection> {
    match wire::socket_address(address, field)? {
        Address::Socket(address) => Ok(address),
        other => Err(Rejection::invalid(field, format!("`{other}` is no IP address"))),
    }
}

/// Times are in seconds on the wire.
pub(in crate::resource) fn tcp_keepalive(k: &core::TcpKeepalive) -> TcpKeepalive {
    let seconds = |v: &Option<google::UInt32Value>| wire::uint32(v).map(|s| Duration::from_secs(u64::from(s)));
    TcpKeepalive {
        probes: wire::uint32(&k.keepalive_probes),
        time: seconds(&k.keepalive_time),
        interval: seconds(&k.keepalive_interval),
    }
}
