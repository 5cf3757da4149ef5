//! Clusters (`cluster.v3.Cluster`): discovery, balancing, limits, health, upstream protocol and transport.

mod discovery;
mod extension;
mod health;
mod parse;
mod policy;
mod protocol;
mod flood;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use flood::FloodLimits;
pub(crate) use parse::bind_config;
pub(in crate::resource) use parse::tcp_keepalive;
pub use parse::{hint, parse};
pub(in crate::resource) use protocol::{common_options, header_case, http2_options};

use crate::matcher::string::StringMatcher;
use crate::resource::endpoint::{Endpoint, HealthStatus, LoadAssignment};
use crate::resource::socket_option::SocketOption;
use crate::resource::tls::UpstreamTransport;
use crate::value::{ConfigSource, Fraction, Metadata, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: Name,
    /// `alt_stat_name`, else the name.
    pub stat_name: Name,
    pub discovery: Discovery,
    pub lb: LbPolicy,
    pub lb_common: LbCommon,
    pub subsets: Option<Arc<SubsetConfig>>,
    /// `override_host`: where requests name the hosts they want, in order; the policy is for those that name none.
    pub override_sources: Vec<OverrideSource>,
    pub connect_timeout: Duration,
    /// `per_connection_buffer_limit_bytes`; default 1 MiB.
    pub buffer_limit: u32,
    pub circuit_breakers: CircuitBreakers,
    pub outlier: Option<Arc<OutlierDetection>>,
    /// One at most.
    pub health_checks: Vec<Arc<HealthCheck>>,
    pub ignore_health_on_host_removal: bool,
    pub close_connections_on_host_health_failure: bool,
    /// `connection_pool_per_downstream_connection`: upstream connections are not shared between clients.
    pub pool_per_downstream: bool,
    pub tracked: Tracked,
    /// `per_upstream_preconnect_ratio`: so many connections are held for each request in flight; 1 to 3, default 1.
    pub preconnect_ratio: f64,
    pub protocol: UpstreamProtocol,
    pub transport: UpstreamTransport,
    /// `transport_socket_matches`: the first whose labels all match the endpoint's `envoy.transport_socket_match` metadata.
    pub transport_matches: Vec<TransportMatch>,
    pub metadata: Option<Arc<Metadata>>,
    pub bind: Option<BindConfig>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// TCP connections are closed this many at a time (`max_downstream...` does not apply); `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
}

/// `track_cluster_stats`: histograms that are kept where they are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tracked {
    pub timeout_budgets: bool,
    pub sizes: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    Static(Arc<LoadAssignment>),
    StrictDns(DnsConfig),
    LogicalDns(DnsConfig),
    Eds { service_name: Name, source: ConfigSource },
    OriginalDst(OriginalDst),
    Aggregate(Vec<Name>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    pub assignment: Arc<LoadAssignment>,
    /// Default 5 s.
    pub refresh_rate: Duration,
    pub failure_refresh: Option<crate::value::Backoff>,
    pub jitter: Duration,
    pub respect_ttl: bool,
    pub family: DnsFamily,
    /// Resolver addresses; empty for the system's.
    pub resolvers: Vec<std::net::SocketAddr>,
    pub wait_for_warm_on_init: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OriginalDst {
    /// `use_http_header`, with the header's name.
    pub header: Option<http::HeaderName>,
    /// `metadata_key`: what stands there, of the request or else of the connection, wins over the header.
    pub metadata: Option<(Name, Vec<Name>)>,
    pub port_override: Option<u16>,
    pub cleanup_interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    RoundRobin {
        slow_start: Option<SlowStart>,
    },
    LeastRequest {
        choice_count: u32,
        active_request_bias: f64,
        slow_start: Option<SlowStart>,
        full_scan: bool,
    },
    Random,
    RingHash {
        min: u64,
        max: u64,
        function: HashFunction,
        hashing: ConsistentHashing,
    },
    Maglev {
        table_size: u64,
        hashing: ConsistentHashing,
    },
    /// The address named by the request; goes with `Discovery::OriginalDst`.
    ClusterProvided,
    ClientSideWeightedRoundRobin(ClientSideWrr),
    PickFirst {
        shuffle: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClientSideWrr {
    pub blackout_period: Duration,
    pub weight_expiration_period: Duration,
    pub error_utilization_penalty: f64,
    pub slow_start: Option<SlowStart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    XxHash,
    Murmur2,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ConsistentHashing {
    pub use_hostname: bool,
    /// `hash_balance_factor`, percent over the mean; `None`: unbounded loads.
    pub balance_factor: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    pub aggression: f64,
    /// Share of the full weight, 0..=1; default 0.1.
    pub min_weight: f64,
}

/// `CommonLbConfig` and what load-balancing policies share.
#[derive(Debug, Clone, PartialEq)]
pub struct LbCommon {
    /// Percent of healthy hosts below which all are used; default 50, zero switches panic off.
    pub panic_threshold: f64,
    pub locality: LocalityLb,
    pub ignore_new_hosts_until_first_health_check: bool,
    pub close_connections_on_host_set_change: bool,
    /// Changes of health and weights that follow one another within it reach the workers together; default 1 s, zero: each at once.
    pub update_merge_window: Duration,
    /// Of what health a host may be that a request names itself; default unknown, healthy and degraded.
    pub override_host_status: Vec<HealthStatus>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LocalityLb {
    None,
    Weighted,
    ZoneAware {
        routing_enabled: Fraction,
        min_cluster_size: u64,
        fail_traffic_on_panic: bool,
        force_local_zone_min: Option<u32>,
    },
}

/// Where a request names the hosts it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverrideSource {
    Header(http::HeaderName),
    /// Dynamic metadata.
    Metadata(Name, Vec<Name>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct SubsetConfig {
    pub fallback: SubsetFallback,
    pub default_subset: Vec<(Name, serde_json::Value)>,
    pub selectors: Vec<SubsetSelector>,
    pub locality_weight_aware: bool,
    pub scale_locality_weight: bool,
    pub panic_mode_any: bool,
    pub list_as_any: bool,
    pub metadata_fallback_list: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSelector {
    /// Sorted.
    pub keys: Vec<Name>,
    pub fallback: SubsetSelectorFallback,
    pub single_host_per_subset: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    NoFallback,
    AnyEndpoint,
    DefaultSubset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubsetSelectorFallback {
    /// As the whole config says.
    Inherit,
    NoFallback,
    AnyEndpoint,
    DefaultSubset,
    KeysSubset(Vec<Name>),
}

/// Limits per routing priority.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakers {
    pub default: Thresholds,
    pub high: Thresholds,
    /// `per_host_thresholds` (only max_connections applies).
    pub per_host_max_connections: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Default 1024.
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    /// Default 3. Not used when `retry_budget` is set.
    pub max_retries: u32,
    pub retry_budget: Option<RetryBudget>,
    pub track_remaining: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of active requests; default 20.
    pub percent: f64,
    /// Default 3.
    pub min_concurrency: u32,
}

/// `OutlierDetection`, Envoy's defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    pub enforcing_consecutive_5xx: u32,
    pub enforcing_success_rate: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation; default 1900.
    pub success_rate_stdev_factor: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub failure_percentage_threshold: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    pub successful_active_health_check_uneject_host: bool,
    pub always_eject_one_host: bool,
}

/// `core.v3.HealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    pub initial_jitter: Duration,
    pub interval_jitter: Duration,
    pub interval_jitter_percent: u32,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub reuse_connection: bool,
    pub no_traffic_interval: Duration,
    pub no_traffic_healthy_interval: Duration,
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    pub alt_port: Option<u16>,
    pub event_log_path: Option<std::path::PathBuf>,
    pub always_log_failures: bool,
    pub always_log_success: bool,
    pub alpn: Vec<Vec<u8>>,
    pub checker: HealthChecker,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HealthChecker {
    Http(HttpHealthCheck),
    Tcp { send: Vec<u8>, receive: Vec<Vec<u8>> },
    Grpc { service: Name, authority: Name, metadata: crate::resource::core::HeaderEdits },
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpHealthCheck {
    /// Empty: the cluster's name.
    pub host: Name,
    pub path: Name,
    pub method: http::Method,
    pub headers: crate::resource::core::HeaderEdits,
    /// Half-open ranges; empty means 200 only.
    pub expected_statuses: Vec<std::ops::Range<u16>>,
    pub retriable_statuses: Vec<std::ops::Range<u16>>,
    pub service_name: Option<StringMatcher>,
    pub http2: bool,
    pub send: Vec<u8>,
    pub receive: Vec<Vec<u8>>,
    pub response_buffer_size: u64,
}

/// How requests are carried to the cluster's hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamProtocol {
    pub version: UpstreamVersion,
    pub http1: UpstreamHttp1,
    pub http2: Http2Options,
    pub common: CommonHttpOptions,
    pub auto_sni: bool,
    pub auto_san_validation: bool,
    pub override_auto_sni_header: Option<http::HeaderName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamVersion {
    Http1,
    Http2,
    /// `auto_config`: by ALPN.
    Auto,
    /// `use_downstream_protocol_config`.
    Downstream,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpstreamHttp1 {
    pub enable_trailers: bool,
    pub header_case: HeaderCase,
    pub allow_chunked_length: bool,
    pub send_fully_qualified_url: bool,
}

/// `Http2ProtocolOptions`, both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Options {
    pub max_concurrent_streams: u32,
    pub initial_stream_window_size: u32,
    pub initial_connection_window_size: u32,
    pub hpack_table_size: u32,
    pub allow_connect: bool,
    pub keepalive: Option<KeepalivePing>,
    /// A malformed message ends its stream alone; `None` is "not set".
    pub stream_error_on_invalid_message: Option<bool>,
    pub floods: FloodLimits,
}

/// `header_key_format` of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCase {
    #[default]
    Lower,
    /// `Content-Type`: the first letter and each one that follows a character that is no letter or digit.
    ProperWords,
    /// `preserve_case`: as they came.
    Preserve {
        /// The reason phrase, too.
        reason: bool,
        /// The names of our own are written in proper words, not in lower case.
        own_proper: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeepalivePing {
    pub interval: Option<Duration>,
    pub timeout: Duration,
    pub interval_jitter_percent: f64,
}

/// `HttpProtocolOptions` (common options of either side). `None` is "not set": each side has its own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommonHttpOptions {
    /// Outer `None`: not set (1 h); inner `None`: zero, off.
    pub idle_timeout: Option<Option<Duration>>,
    pub max_connection_duration: Option<Duration>,
    pub max_headers_count: Option<u32>,
    pub max_response_headers_kb: Option<u32>,
    pub max_stream_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub headers_with_underscores: UnderscoresAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnderscoresAction {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    pub name: Name,
    pub labels: Vec<(Name, serde_json::Value)>,
    pub transport: UpstreamTransport,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BindConfig {
    /// `None`: the kernel chooses.
    pub source: Option<std::net::SocketAddr>,
    /// Of the other address family.
    pub extra: Option<std::net::SocketAddr>,
    pub freebind: bool,
    pub options: Vec<SocketOption>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

impl Cluster {
    /// The name EDS is asked for, when the cluster is of that kind.
    pub fn eds_name(&self) -> Option<&Name> {
        match &self.discovery {
            Discovery::Eds { service_name, .. } => Some(service_name),
            _ => None,
        }
    }

    /// The transport for `endpoint`: the first match, else the cluster's.
    pub fn transport_for(&self, endpoint: &Endpoint) -> &UpstreamTransport {
        self.transport_match(endpoint).map_or(&self.transport, |m| &m.transport)
    }

    /// The first of `transport_socket_matches` that `endpoint` has the labels of.
    pub fn transport_match(&self, endpoint: &Endpoint) -> Option<&TransportMatch> {
        let labels = endpoint.metadata.as_deref().and_then(|m| m.0.get("envoy.transport_socket_match"));
        let fits = |m: &&TransportMatch| m.labels.iter().all(|(k, v)| labels.and_then(|l| l.get(&**k)) == Some(v));
        self.transport_matches.iter().find(fits)
    }
}
