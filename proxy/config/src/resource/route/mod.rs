//! Route tables (`route.v3.RouteConfiguration`): virtual hosts, routes, actions and their policies.

mod action;
mod answer;
mod index;
mod internal_redirect;
mod parse;
mod policy;
mod rate_limit;
mod scoped;
mod select;
mod tree;
pub mod virtual_cluster;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

pub(in crate::resource) use action::subset_match;
pub use answer::{DirectResponse, Redirect, RedirectPath};
pub use index::RouteIndex;
pub use internal_redirect::{InternalRedirect, RedirectPredicate};
pub(crate) use parse::match_template;
pub use parse::{parse, parse_virtual_host, route_match};
pub use policy::{custom_tags, retry_policy, upgrade_config};
pub use rate_limit::rate_limits;
pub use scoped::{KeyTaken, ScopedRoute, ScopedRoutes, parse_scoped};
pub use select::{Explanation, Mismatch};
pub use tree::RouteTree;

use crate::format::Format;
use crate::matcher::domain::DomainIndex;
use crate::matcher::header::{HeaderMatcher, HeaderName as AnyHeader};
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::path::{PathMatcher, UriTemplate};
use crate::matcher::query::QueryMatcher;
use crate::matcher::string::StringMatcher;
use crate::resource::core::HeaderEdits;
use crate::resource::http_filter::FilterOverrides;
use crate::resource::http_filter::cors::CorsPolicy;
use crate::resource::http_filter::header_mutation::Mutation;
use crate::value::{Backoff, ConfigSource, Metadata, Name, RuntimeFraction};

#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    pub name: Name,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Chooses among `virtual_hosts` by authority.
    pub domains: DomainIndex,
    /// Headers that are stripped from requests of external callers.
    pub internal_only_headers: Vec<HeaderName>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub most_specific_header_mutations_wins: bool,
    pub validate_clusters: bool,
    pub ignore_port_in_host_matching: bool,
    /// The header that chooses the virtual host, instead of the authority.
    pub vhost_header: Option<HeaderName>,
    pub ignore_path_parameters: bool,
    pub request_mirrors: Arc<[MirrorPolicy]>,
    pub overrides: FilterOverrides,
    pub metadata: Option<Arc<Metadata>>,
    /// More virtual hosts come from here, by name `<table>/<host>` (VHDS).
    pub vhds: Option<ConfigSource>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    pub name: Name,
    pub domains: Vec<Name>,
    pub routes: Vec<Arc<Route>>,
    /// Narrows `routes` by path.
    pub index: RouteIndex,
    /// `matcher`: which of `routes` may take a request.
    pub tree: Option<RouteTree>,
    pub require_tls: RequireTls,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub include_request_attempt_count: bool,
    pub include_attempt_count_in_response: bool,
    pub include_is_timeout_retry_header: bool,
    pub retry_policy: Option<Arc<RetryPolicy>>,
    pub hedge_policy: Option<HedgePolicy>,
    pub rate_limits: Arc<[RateLimit]>,
    pub per_request_buffer_limit: Option<u64>,
    pub request_mirrors: Arc<[MirrorPolicy]>,
    /// The deprecated `cors`; policies among the overrides replace it.
    pub cors: Option<Arc<CorsPolicy>>,
    pub overrides: FilterOverrides,
    pub metadata: Option<Arc<Metadata>>,
    pub virtual_clusters: Vec<virtual_cluster::VirtualCluster>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireTls {
    None,
    ExternalOnly,
    All,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: Name,
    /// Its requests are counted apart under this name.
    pub stat_prefix: Option<Name>,
    pub matcher: RouteMatch,
    pub action: RouteAction,
    pub metadata: Option<Arc<Metadata>>,
    pub decorator: Option<Decorator>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub tracing: Option<RouteTracing>,
    pub per_request_buffer_limit: Option<u64>,
    pub overrides: FilterOverrides,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatcher,
    pub headers: Vec<HeaderMatcher>,
    pub query: Vec<QueryMatcher>,
    pub runtime_fraction: Option<RuntimeFraction>,
    pub grpc: bool,
    pub tls: Option<TlsMatch>,
    pub dynamic_metadata: Vec<MetadataMatcher>,
    pub cookies: Vec<(String, StringMatcher, bool)>,
    pub filter_state: Vec<(Name, StringMatcher)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsMatch {
    pub presented: Option<bool>,
    pub validated: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decorator {
    pub operation: Name,
    pub propagate: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RouteTracing {
    pub client_sampling: Option<crate::value::Fraction>,
    pub random_sampling: Option<crate::value::Fraction>,
    pub overall_sampling: Option<crate::value::Fraction>,
    pub custom_tags: Vec<crate::resource::http_connection_manager::CustomTag>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse(Box<DirectResponse>),
    /// `non_forwarding_action`.
    NonForwarding,
}

/// `route.v3.RouteAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    pub cluster: ClusterChoice,
    /// Status when the named cluster does not exist; default 503.
    pub cluster_not_found_status: u16,
    pub metadata_match: Option<Arc<SubsetMatch>>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HostRewrite>,
    /// `append_x_forwarded_host`.
    pub append_forwarded_host: bool,
    /// `None`: off (zero, or the route has a `max_stream_duration`). Default 15 s.
    pub timeout: Option<Duration>,
    /// Takes the place of `timeout` for gRPC requests.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// `None`: the connection manager's.
    pub idle_timeout: Option<Option<Duration>>,
    pub max_stream_duration: Option<RouteStreamDuration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub hedge: Option<HedgePolicy>,
    pub mirrors: Arc<[MirrorPolicy]>,
    pub priority: Priority,
    pub rate_limits: Arc<[RateLimit]>,
    pub include_vhost_rate_limits: Option<bool>,
    pub hash_policy: Vec<HashPolicy>,
    pub upgrades: Vec<UpgradeConfig>,
    pub internal_redirect: Option<InternalRedirect>,
    /// As the virtual host's.
    pub cors: Option<Arc<CorsPolicy>>,
}

/// `metadata_match` (`envoy.lb`), sorted by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubsetMatch(pub Vec<(Name, serde_json::Value)>);

#[derive(Debug, Clone, PartialEq)]
pub enum ClusterChoice {
    Cluster(Name),
    Header(AnyHeader),
    Weighted(Box<WeightedClusters>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct WeightedClusters {
    pub clusters: Vec<WeightedCluster>,
    pub total_weight: u64,
    pub runtime_key_prefix: Option<Name>,
    /// `header_name`: the choice is taken from this request header's number.
    pub random_value_header: Option<HeaderName>,
    /// The choice is taken from the hash that the route's `hash_policy` makes.
    pub use_hash_policy: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    pub cluster: ClusterChoiceLeaf,
    pub weight: u32,
    pub metadata_match: Option<Arc<SubsetMatch>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub host_rewrite: Option<Name>,
    pub overrides: FilterOverrides,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClusterChoiceLeaf {
    Cluster(Name),
    Header(AnyHeader),
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    Prefix(Name),
    /// `regex_rewrite`: RE2 with `\1` substitutions, kept as the `regex` crate's `${1}`.
    Regex {
        pattern: RegexPattern,
        substitution: String,
    },
    /// `path_rewrite_policy` with a URI template.
    Template {
        rewrite: Vec<TemplatePiece>,
        from: UriTemplate,
    },
    /// Whole new path (`path_rewrite`: a format).
    Format(Arc<Format>),
}

/// An unanchored regular expression, compared by its source.
#[derive(Debug, Clone)]
pub struct RegexPattern(pub regex::Regex);

impl PartialEq for RegexPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum TemplatePiece {
    Text(String),
    Variable(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    Literal(Name),
    /// `auto_host_rewrite`: the chosen endpoint's hostname.
    Auto,
    Header(HeaderName),
    PathRegex {
        pattern: RegexPattern,
        substitution: String,
    },
    Format(Arc<Format>),
}

/// `max_grpc_timeout` (zero: the caller's own `grpc-timeout` alone counts) and `grpc_timeout_offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcTimeout {
    pub max: Duration,
    pub offset: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteStreamDuration {
    pub max_stream_duration: Option<Duration>,
    pub grpc_timeout_header_max: Option<Duration>,
    pub grpc_timeout_header_offset: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// `RetryPolicy`, conditions parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Default 1.
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub retriable_status_codes: Vec<u16>,
    /// Response headers that make an answer retriable (`retriable-headers`).
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Only requests that match one of these are retried, when not empty.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// Default 25 ms base, ten times that at most.
    pub backoff: Backoff,
    pub rate_limited_backoff: Option<RateLimitedBackoff>,
    pub avoid_previous_hosts: bool,
    pub omit_hosts: Vec<Arc<SubsetMatch>>,
    pub host_selection_retry_max_attempts: u32,
    /// `previous_priorities`: after this many attempts the priority is excluded.
    pub previous_priorities: Option<u32>,
}

/// `retry_on` conditions as a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(pub u32);

impl RetryOn {
    pub const E5XX: u32 = 1;
    pub const GATEWAY_ERROR: u32 = 1 << 1;
    pub const RESET: u32 = 1 << 2;
    pub const RESET_BEFORE_REQUEST: u32 = 1 << 3;
    pub const CONNECT_FAILURE: u32 = 1 << 4;
    pub const ENVOY_RATE_LIMITED: u32 = 1 << 5;
    pub const RETRIABLE_4XX: u32 = 1 << 6;
    pub const REFUSED_STREAM: u32 = 1 << 7;
    pub const RETRIABLE_STATUS_CODES: u32 = 1 << 8;
    pub const RETRIABLE_HEADERS: u32 = 1 << 9;
    pub const HTTP3_POST_CONNECT_FAILURE: u32 = 1 << 10;
    pub const GRPC_CANCELLED: u32 = 1 << 11;
    pub const GRPC_DEADLINE_EXCEEDED: u32 = 1 << 12;
    pub const GRPC_INTERNAL: u32 = 1 << 13;
    pub const GRPC_RESOURCE_EXHAUSTED: u32 = 1 << 14;
    pub const GRPC_UNAVAILABLE: u32 = 1 << 15;

    pub fn has(self, condition: u32) -> bool {
        self.0 & condition != 0
    }

    /// Parses a comma-separated list; names that are not known are returned, as Envoy ignores them in request headers.
    pub fn parse(list: &str) -> (RetryOn, Vec<&str>) {
        let mut on = 0;
        let mut unknown = Vec::new();
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match Self::condition(word) {
                Some(bit) => on |= bit,
                None => unknown.push(word),
            }
        }
        (RetryOn(on), unknown)
    }

    fn condition(word: &str) -> Option<u32> {
        Some(match word {
            "5xx" => Self::E5XX,
            "gateway-error" => Self::GATEWAY_ERROR,
            "reset" => Self::RESET,
            "reset-before-request" => Self::RESET_BEFORE_REQUEST,
            "connect-failure" => Self::CONNECT_FAILURE,
            "envoy-ratelimited" => Self::ENVOY_RATE_LIMITED,
            "retriable-4xx" => Self::RETRIABLE_4XX,
            "refused-stream" => Self::REFUSED_STREAM,
            "retriable-status-codes" => Self::RETRIABLE_STATUS_CODES,
            "retriable-headers" => Self::RETRIABLE_HEADERS,
            "http3-post-connect-failure" => Self::HTTP3_POST_CONNECT_FAILURE,
            "cancelled" => Self::GRPC_CANCELLED,
            "deadline-exceeded" => Self::GRPC_DEADLINE_EXCEEDED,
            "internal" => Self::GRPC_INTERNAL,
            "resource-exhausted" => Self::GRPC_RESOURCE_EXHAUSTED,
            "unavailable" => Self::GRPC_UNAVAILABLE,
            _ => return None,
        })
    }
}

/// `RateLimitedRetryBackOff`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitedBackoff {
    pub reset_headers: Vec<(HeaderName, ResetFormat)>,
    /// Default 300 s.
    pub max_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HedgePolicy {
    pub hedge_on_per_try_timeout: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MirrorPolicy {
    pub cluster: ClusterChoiceLeaf,
    pub fraction: RuntimeFraction,
    /// `None`: as the request's own decision.
    pub trace_sampled: Option<bool>,
    pub disable_shadow_host_suffix: bool,
    /// Steps on the copy's head, in order.
    pub request_headers: Vec<Mutation>,
    pub host_rewrite: Option<Name>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    pub terminal: bool,
    pub source: HashSource,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    Header {
        name: AnyHeader,
        rewrite: Option<(RegexPattern, String)>,
    },
    /// `ttl`: `None` never generates; `Some(0)` a session cookie.
    Cookie {
        name: String,
        path: String,
        ttl: Option<Duration>,
        attributes: Vec<(String, String)>,
    },
    SourceIp,
    QueryParameter(String),
    FilterState(Name),
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpgradeConfig {
    /// Lower-cased; `connect` for CONNECT.
    pub kind: Name,
    pub enabled: bool,
    pub connect: Option<ConnectConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectConfig {
    pub allow_post: bool,
}

/// `route.v3.RateLimit`: the actions that make one descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    pub stage: u32,
    pub disable_key: Option<Name>,
    pub actions: Vec<RateLimitAction>,
    pub limit: Option<OwnLimit>,
    pub hits_addend: Option<u64>,
}

/// `limit` of a `RateLimit`: what the service is asked to apply in place of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnLimit {
    /// Requests per unit, and the unit's number.
    Fixed(u32, i32),
    /// Both in a struct of the dynamic metadata, as `requests_per_unit` and `unit`.
    Metadata { filter: Name, path: Vec<Name> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum RateLimitAction {
    SourceCluster,
    DestinationCluster,
    RequestHeader { name: AnyHeader, key: Name, skip_if_absent: bool },
    QueryParameter { name: String, key: Name, skip_if_absent: bool },
    RemoteAddress,
    MaskedRemoteAddress { v4_len: u8, v6_len: u8 },
    Generic { key: Name, value: Name },
    HeaderValueMatch { key: Name, value: Name, expect: bool, headers: Vec<HeaderMatcher> },
    QueryParameterValueMatch { key: Name, value: Name, expect: bool, query: Vec<QueryMatcher> },
    Metadata { key: Name, filter: Name, path: Vec<Name>, default: Name, dynamic: bool, skip_if_absent: bool },
}
