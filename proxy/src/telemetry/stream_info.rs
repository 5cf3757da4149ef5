//! The record of one request (or one TCP session) that logs, header formats and spans read.
//!
//! The stages fill it as the request passes; nothing in it is formatted until somebody asks. Times are offsets on the
//! worker's clock.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::resource::route::{Route, VirtualHost};
use sidemesh_config::value::{FilterState, Metadata, Name};
use smallvec::SmallVec;

use super::flags::ResponseFlags;
pub use crate::codec::Protocol;
use crate::connection::ConnectionInfo;

/// When what happened; `None` where it has not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    pub downstream_rx_end: Option<Instant>,
    /// The last attempt begins, and has its connection.
    pub upstream_begin: Option<Instant>,
    pub upstream_pool_ready: Option<Instant>,
    pub upstream_connect_start: Option<Instant>,
    pub upstream_connect_end: Option<Instant>,
    pub upstream_handshake_complete: Option<Instant>,
    pub upstream_tx_begin: Option<Instant>,
    pub upstream_tx_end: Option<Instant>,
    pub upstream_rx_begin: Option<Instant>,
    pub upstream_rx_end: Option<Instant>,
    pub downstream_tx_begin: Option<Instant>,
    pub downstream_tx_end: Option<Instant>,
}

/// The upstream side of the last attempt.
#[derive(Debug, Clone, Default)]
pub struct UpstreamInfo {
    /// The host chosen.
    pub endpoint: Option<Arc<Endpoint>>,
    /// The host's address.
    pub host: Option<SocketAddr>,
    /// The other end of the connection, once there is one.
    pub remote: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub protocol: Option<Protocol>,
    pub connection_id: u64,
    /// Why the transport failed (TLS or connect error text).
    pub failure: Option<Box<str>>,
    pub tls: Option<Arc<crate::tls::PeerInfo>>,
    pub attempts: u32,
    /// The hosts of all attempts that got a connection, in order, and the connections' numbers.
    pub attempted: SmallVec<[(Arc<Endpoint>, u64); 1]>,
    /// Names and values of the answer's head with three bytes for each pair, as Envoy measures HTTP/1; and the pairs.
    pub head_received: (u64, u64),
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub cluster_metadata: Option<Arc<Metadata>>,
    /// The cluster's name in statistics (`alt_stat_name`).
    pub cluster_stat_name: Option<Name>,
}

/// The trace a request belongs to and what was decided about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_id: u64,
    pub sampled: bool,
    /// The caller spoke of it in one `b3` header, and so shall the callee.
    pub single_header: bool,
}

/// When in the life of a request or a TCP session it is logged (`data.accesslog.v3.AccessLogType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moment {
    /// A request's head has come; a TCP session begins.
    Start,
    /// A connection is over: the listener's own log, which Envoy gives no type.
    Connection,
    /// An attempt at an upstream host is over.
    Attempt,
    UpstreamConnected,
    Periodic,
    TunnelEstablished,
    #[default]
    End,
}

#[derive(Clone)]
pub struct StreamInfo {
    pub moment: Moment,
    pub start: Instant,
    pub start_time: SystemTime,
    pub timing: Timing,
    /// `None` for a TCP session.
    pub protocol: Option<Protocol>,
    /// The answer's status; zero while there is none.
    pub status: u16,
    pub flags: ResponseFlags,
    /// `via_upstream`, `route_not_found`, ...: see the response-code details of Envoy.
    pub details: Cow<'static, str>,
    pub termination_details: Option<Cow<'static, str>>,
    /// Why the client's transport failed (TLS error text).
    pub transport_failure: Option<Box<str>>,
    /// Why the proxy closed the client's connection.
    pub local_close: Option<&'static str>,
    pub request_body_bytes: u64,
    pub response_body_bytes: u64,
    pub request_header_bytes: u64,
    pub response_header_bytes: u64,
    /// Headers that came with the request.
    pub received_headers: u32,
    pub connection: Rc<ConnectionInfo>,
    /// The trusted client address (after XFF or PROXY protocol); the connection's where nothing else says.
    pub remote: SocketAddr,
    pub stream_id: u128,
    pub vhost: Option<Arc<VirtualHost>>,
    /// Under which the request is counted.
    pub virtual_cluster: Option<Name>,
    pub route: Option<Arc<Route>>,
    pub cluster: Option<Name>,
    pub upstream: UpstreamInfo,
    /// Dynamic metadata set by filters.
    pub metadata: Metadata,
    /// What filters say to filters and logs under a name (`set_filter_state`).
    pub filter_state: FilterState,
    /// Times a route was looked for.
    pub route_resolutions: u32,
    pub trace: TraceContext,
    /// Why Envoy traces the request, for the x-request-id.
    pub health_check: bool,
    /// Our stable code for answers the proxy made itself.
    pub error_code: Option<&'static str>,
    pub revision: Option<Name>,
}

impl StreamInfo {
    pub fn new(connection: Rc<ConnectionInfo>, protocol: Option<Protocol>, now: Instant, wall: SystemTime) -> Self {
        StreamInfo {
            moment: Moment::default(),
            start: now,
            start_time: wall,
            timing: Timing::default(),
            protocol,
            status: 0,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            termination_details: None,
            transport_failure: None,
            local_close: None,
            request_body_bytes: 0,
            response_body_bytes: 0,
            request_header_bytes: 0,
            response_header_bytes: 0,
            received_headers: 0,
            remote: connection.remote,
            connection,
            stream_id: 0,
            vhost: None,
            virtual_cluster: None,
            route: None,
            cluster: None,
            upstream: UpstreamInfo::default(),
            metadata: Metadata::default(),
            filter_state: FilterState::default(),
            route_resolutions: 0,
            trace: TraceContext::default(),
            health_check: false,
            error_code: None,
            revision: None,
        }
    }
}

impl StreamInfo {
    /// The number and the name of `data.accesslog.v3.AccessLogType`.
    pub fn log_type(&self) -> (i32, &'static str) {
        match (self.protocol, self.moment) {
            (_, Moment::Connection) => (0, "NotSet"),
            (None, Moment::UpstreamConnected) => (1, "TcpUpstreamConnected"),
            (None, Moment::Start) => (14, "TcpConnectionStart"),
            (None, Moment::Periodic) => (2, "TcpPeriodic"),
            (None, _) => (3, "TcpConnectionEnd"),
            (Some(_), Moment::Start) => (4, "DownstreamStart"),
            (Some(_), Moment::Periodic) => (5, "DownstreamPeriodic"),
            (Some(_), Moment::TunnelEstablished) => (10, "DownstreamTunnelSuccessfullyEstablished"),
            (Some(_), Moment::Attempt) => (9, "UpstreamEnd"),
            (Some(_), _) => (6, "DownstreamEnd"),
        }
    }
}

/// The number that all proxies on a request's way draw alike: the first 32 bits of its id.
pub fn request_number(headers: &http::HeaderMap) -> Option<u64> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    u32::from_str_radix(id.get(..8)?, 16).ok().map(u64::from)
}

/// The request as it stands: pseudo-headers apart, `path` with its query.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a http::Method,
    pub scheme: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    pub headers: &'a http::HeaderMap,
}

/// What a format or log filter may read.
#[derive(Clone, Copy)]
pub struct LogContext<'a> {
    pub info: &'a StreamInfo,
    pub request: Option<RequestHead<'a>>,
    pub response_headers: Option<&'a http::HeaderMap>,
    pub response_trailers: Option<&'a http::HeaderMap>,
    /// The body of a local reply, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
    pub now: Instant,
}

impl<'a> LogContext<'a> {
    pub fn of(info: &'a StreamInfo, now: Instant) -> Self {
        LogContext { info, request: None, response_headers: None, response_trailers: None, local_reply_body: "", now }
    }
}
