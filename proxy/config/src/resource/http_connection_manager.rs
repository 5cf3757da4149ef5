//! The HTTP connection manager (`http_connection_manager.v3.HttpConnectionManager`).

mod ip_detection;
mod parse;
mod source;
#[cfg(test)]
mod tests;
mod tracing;

use std::sync::Arc;
use std::time::Duration;

pub use ip_detection::{HeaderDetection, IpDetection, XffDetection};
pub use parse::parse;

use crate::format::Format;
use crate::resource::access_log::{AccessLog, AccessLogFilter, JsonFormat};
use crate::resource::cluster::{CommonHttpOptions, HeaderCase, Http2Options};
use crate::resource::core::HeaderEdits;
use crate::resource::http_filter::HttpFilter;
use crate::resource::http_filter::header_mutation::Mutation;
use crate::resource::route::{RouteConfig, ScopedRoutes, UpgradeConfig};
use crate::value::{Cidr, ConfigSource, DataSource, Fraction, GrpcService, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct HttpConnectionManager {
    pub stat_prefix: Name,
    pub codec: CodecType,
    pub routes: RouteSource,
    pub filters: Vec<Arc<HttpFilter>>,
    pub add_user_agent: bool,
    pub tracing: Option<Arc<Tracing>>,
    pub common: CommonHttpOptions,
    pub http1: DownstreamHttp1,
    pub http2: Http2Options,
    pub server_name: Name,
    pub server_header: ServerHeader,
    pub scheme_override: Option<Name>,
    /// `match_upstream`: the upstream is told the scheme of the connection to it.
    pub scheme_matches_upstream: bool,
    pub max_request_headers_kb: u32,
    /// `None`: off. Default 5 min.
    pub stream_idle_timeout: Option<Duration>,
    /// `None`: as `stream_idle_timeout`. Zero: off.
    pub stream_flush_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
    pub drain_timeout: Duration,
    pub delayed_close_timeout: Option<Duration>,
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Requests are logged when they come, too.
    pub log_new_requests: bool,
    /// Requests are logged again and again while they last.
    pub log_interval: Option<Duration>,
    /// Tunnels are logged when they stand.
    pub log_tunnels: bool,
    pub use_remote_address: bool,
    pub xff_num_trusted_hops: u32,
    pub skip_xff_append: bool,
    /// `original_ip_detection_extensions`: the first that knows an address is believed.
    pub ip_detection: Vec<IpDetection>,
    pub via: Option<Name>,
    pub internal_addresses: Option<Vec<Cidr>>,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub request_id_pack_trace_reason: bool,
    pub forward_client_cert: ForwardClientCert,
    pub client_cert_details: ClientCertDetails,
    pub proxy_100_continue: bool,
    pub upgrades: Vec<HcmUpgrade>,
    /// Default false, as in Envoy without its runtime switch.
    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    pub local_reply: Option<Arc<LocalReply>>,
    pub strip_matching_host_port: bool,
    pub strip_any_host_port: bool,
    pub strip_trailing_host_dot: bool,
    pub proxy_status: Option<Arc<ProxyStatus>>,
    pub append_x_forwarded_port: bool,
    pub early_header_mutation: Vec<Mutation>,
    /// `max_connection_duration` ends an HTTP/1 connection with a response, never between requests.
    pub http1_safe_max_connection_duration: bool,
}

/// `ProxyStatusConfig`: the `proxy-status` header of RFC 9209.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyStatus {
    pub remove_details: bool,
    pub remove_connection_termination_details: bool,
    pub remove_response_flags: bool,
    pub set_recommended_response_code: bool,
    pub name: ProxyStatusName,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ProxyStatusName {
    NodeId,
    /// The literal name, or `server_name`.
    Literal(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    Auto,
    Http1,
    Http2,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    Inline(Arc<RouteConfig>),
    Rds { name: Name, source: ConfigSource },
    Scoped { name: Name, key: Vec<ScopeKeyPart>, scopes: ScopeSource, rds: Option<ConfigSource> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum ScopeSource {
    Inline(Arc<ScopedRoutes>),
    Srds { source: ConfigSource },
}

/// `ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeKeyPart {
    pub header: http::HeaderName,
    pub element_separator: String,
    pub extract: ScopeExtract,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ScopeExtract {
    Index(u32),
    Element { separator: String, key: String },
}

/// `Http1ProtocolOptions` of the downstream side.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamHttp1 {
    pub allow_absolute_url: bool,
    pub accept_http_10: bool,
    pub default_host_for_http_10: Option<Name>,
    pub enable_trailers: bool,
    pub header_case: HeaderCase,
    pub allow_chunked_length: bool,
    pub allow_custom_methods: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

/// `upgrade_configs` of the connection manager. `filters`: a chain of its own for such requests.
#[derive(Debug, Clone, PartialEq)]
pub struct HcmUpgrade {
    pub config: UpgradeConfig,
    pub filters: Option<Vec<Arc<HttpFilter>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// `LocalReplyConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalReply {
    pub mappers: Vec<LocalReplyMapper>,
    pub body_format: Option<BodyFormat>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LocalReplyMapper {
    pub filter: AccessLogFilter,
    pub status: Option<u16>,
    pub body: Option<DataSource>,
    pub body_format: Option<BodyFormat>,
    pub headers: HeaderEdits,
}

/// `SubstitutionFormatString` used for bodies.
#[derive(Debug, Clone, PartialEq)]
pub struct BodyFormat {
    pub kind: BodyFormatKind,
    pub content_type: Option<Name>,
    pub omit_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum BodyFormatKind {
    Text(Arc<Format>),
    Json(Arc<JsonFormat>),
}

/// Tracing of the connection manager: sampling, tags and the OpenTelemetry provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    pub client_sampling: Fraction,
    pub random_sampling: Fraction,
    pub overall_sampling: Fraction,
    pub max_path_tag_length: u32,
    pub custom_tags: Vec<CustomTag>,
    /// A span per upstream attempt of its own (else the one server span is joined).
    pub spawn_upstream_span: bool,
    pub provider: Option<Arc<TraceProvider>>,
    pub operation: Option<Arc<Format>>,
    pub upstream_operation: Option<Arc<Format>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TraceProvider {
    pub service: Option<GrpcService>,
    /// OTLP over HTTP: `http_service`.
    pub http: Option<HttpService>,
    pub service_name: Name,
    pub resource_attributes: Vec<(Name, Name)>,
    pub sampler: Option<Sampler>,
    /// Zipkin instead of OpenTelemetry: spans are posted to `http`.
    pub zipkin: Option<Zipkin>,
}

/// `trace.v3.ZipkinConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zipkin {
    pub trace_id_128bit: bool,
    /// The server's span is the caller's client span.
    pub shared_span: bool,
    /// The protobuf form instead of JSON.
    pub protobuf: bool,
    /// W3C contexts are read where there is no B3 one, and written besides.
    pub with_w3c: bool,
    /// Trace ids begin with the time.
    pub timestamp_ids: bool,
}

/// `core.v3.HttpService` / `HttpUri`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpService {
    pub uri: Name,
    pub cluster: Name,
    pub timeout: Duration,
    pub headers: Vec<(http::HeaderName, Name)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    AlwaysOn,
    TraceIdRatio(Fraction),
    ParentBased(Box<Sampler>),
}

/// `type.tracing.v3.CustomTag`.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomTag {
    pub tag: Name,
    pub value: TagValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    Literal(Name),
    RequestHeader { name: http::HeaderName, default: Option<Name> },
    Environment { name: Name, default: Option<Name> },
    Metadata { kind: MetadataKind, filter: Name, path: Vec<Name>, default: Option<Name> },
    Format(Arc<Format>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    Request,
    Route,
    Cluster,
    Host,
}
