//! Substitution format strings (`%REQ(:PATH)%`, ...), compiled: access logs, added headers, response bodies, custom tags.
//!
//! Operators and their meaning: Envoy's "access logging" page. Evaluation against a request lives in the proxy.

mod operator;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::{FormatError, parse};

use crate::matcher::header::HeaderName;
use crate::value::Name;

/// The format of an access log that gives none.
pub const DEFAULT_ACCESS_LOG: &str = "[%START_TIME%] \"%REQUEST_HEADER(:METHOD)% \
    %REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% \
    %BYTES_SENT% %DURATION% %RESPONSE_HEADER(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQUEST_HEADER(X-FORWARDED-FOR)%\" \
    \"%REQUEST_HEADER(USER-AGENT)%\" \"%REQUEST_HEADER(X-REQUEST-ID)%\" \"%REQUEST_HEADER(:AUTHORITY)%\" \
    \"%UPSTREAM_HOST%\"\n";

/// A compiled format string.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    pub pieces: Vec<Piece>,
}

impl Format {
    /// A format of plain text only.
    pub fn text(s: &str) -> Self {
        Format { pieces: vec![Piece::Text(s.to_owned())] }
    }

    /// The text, when no operator is in it: such a value is built once.
    pub fn as_static(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(t)] => Some(t),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(String),
    Operator { operator: Operator, max_length: Option<usize> },
}

/// One command operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    RequestHeader {
        name: HeaderName,
        fallback: Option<HeaderName>,
        without_query: bool,
    },
    ResponseHeader {
        name: http::HeaderName,
        fallback: Option<http::HeaderName>,
    },
    ResponseTrailer {
        name: http::HeaderName,
        fallback: Option<http::HeaderName>,
    },
    RequestedServerName(ServerName),
    StartTime(TimeFormat, Zone),
    /// When the line is written.
    EmitTime(TimeFormat, Zone),
    /// `TRACE_ID`.
    TraceId,
    SpanId,
    Protocol,
    UpstreamProtocol,
    /// `PATH(...)`, `QUERY_PARAM(x)`.
    Path {
        with_query: bool,
        source: Original,
    },
    QueryParam(String),
    /// The whole query; percent-decoded when asked for.
    QueryParams {
        decoded: bool,
    },
    ResponseCode,
    /// `RESPONSE_HEADER(:STATUS)`.
    ResponseStatus,
    /// White space becomes `_`, unless it is allowed.
    ResponseCodeDetails {
        allow_whitespace: bool,
    },
    ConnectionTerminationDetails,
    ResponseFlags {
        long: bool,
    },
    BytesReceived,
    BytesSent,
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    /// Of the heads alone, of one side and direction.
    HeaderBytes {
        upstream: bool,
        sent: bool,
    },
    UpstreamWireBytesSent,
    UpstreamWireBytesReceived,
    DownstreamWireBytesSent,
    DownstreamWireBytesReceived,
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    /// From the acceptance of the connection to the end of its TLS handshake.
    DownstreamHandshakeDuration,
    /// From the beginning of the attempt to the connection that serves it.
    PoolReadyDuration,
    /// `COMMON_DURATION(START:END:PRECISION)`.
    CommonDuration {
        from: TimePoint,
        to: TimePoint,
        precision: Precision,
    },
    UpstreamHost {
        part: AddressPart,
    },
    UpstreamHostName {
        with_port: bool,
    },
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocalAddress(AddressPart),
    UpstreamRemoteAddress(AddressPart),
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    /// The hosts of all attempts, in order.
    UpstreamHostsAttempted(AddressPart),
    UpstreamHostNamesAttempted {
        with_port: bool,
    },
    UpstreamConnectionId,
    /// The connections of all attempts, in order.
    UpstreamConnectionIdsAttempted,
    /// The name that was sent to the host.
    UpstreamServerName,
    UpstreamTls(TlsPart),
    DownstreamTransportFailureReason,
    DownstreamRemoteAddress(AddressPart),
    DownstreamDirectRemoteAddress(AddressPart),
    DownstreamLocalAddress(AddressPart),
    DownstreamDirectLocalAddress(AddressPart),
    /// How the transport of a side was closed, and why the proxy closed it.
    CloseType {
        upstream: bool,
    },
    DownstreamLocalCloseReason,
    RouteResolutionCount,
    RouteResolutionTime,
    DownstreamTls(TlsPart),
    /// When the peer's certificate begins or ends to be valid.
    CertificateTime {
        upstream: bool,
        end: bool,
        format: TimeFormat,
    },
    ConnectionId,
    StreamId,
    RouteName,
    VirtualHostName,
    VirtualClusterName,
    FilterChainName,
    ListenerMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    FilterChainMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    VirtualHostMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    RouteMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    ClusterMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    UpstreamHostMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    DynamicMetadata {
        filter: Name,
        path: Vec<Name>,
    },
    FilterState {
        key: Name,
        upstream: bool,
        typed: bool,
    },
    /// The endpoint id of an internal listener: none has one.
    EndpointId {
        upstream: bool,
    },
    /// Always this.
    Constant(&'static str),
    GrpcStatus(GrpcStatusFormat),
    GrpcStatusNumber,
    Hostname,
    LocalReplyBody,
    UniqueId,
    /// The value the variable had when the format was read; `-` when it is not set.
    Environment(String),
    AccessLogType,
    BytesRetransmitted,
    /// Has no value in this proxy.
    Nothing,
    /// Ours: why a request went where it went (`x-sidemesh-error` code; configuration revision).
    SidemeshError,
    SidemeshRevision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    AddressAndPort,
    Address,
    Port,
    /// The address masked to so many bits, in CIDR notation.
    Network(u8),
}

/// `REQUESTED_SERVER_NAME(X:Y)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerName {
    Sni,
    /// The host when there is no SNI.
    SniElseHost(Original),
    Host(Original),
}

/// Whether a path or host is the one that was received (`x-envoy-original-path`, `x-envoy-original-host`) or the present
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    Original,
    Present,
    OriginalElsePresent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPart {
    Version,
    Cipher,
    SessionId,
    PeerSubject,
    PeerIssuer,
    PeerUriSan,
    PeerDnsSan,
    PeerIpSan,
    PeerEmailSan,
    LocalSubject,
    LocalUriSan,
    LocalDnsSan,
    LocalIpSan,
    LocalEmailSan,
    LocalOtherNameSan,
    PeerOtherNameSan,
    /// The key exchange.
    Group,
    IssuerFingerprint256,
    IssuerSerial,
    PeerChainFingerprints1,
    PeerFingerprint256,
    PeerFingerprint1,
    PeerSerial,
    PeerCert,
    PeerCertValidFrom,
    PeerCertValidTo,
    PeerChainFingerprints256,
    PeerChainSerials,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatusFormat {
    CamelString,
    SnakeString,
    Number,
}

/// `strftime` with Envoy's `%1f`...`%9f`, `%s`, `%3s`-style extensions; `Default` is ISO 8601 with milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    Default,
    Strftime(String),
}

/// In which zone a time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    Utc,
    /// The machine's.
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimePoint {
    DownstreamConnectionBegin,
    DownstreamConnectionEnd,
    DownstreamRxBegin,
    DownstreamRxHeadEnd,
    DownstreamRxEnd,
    UpstreamRxBodyBegin,
    /// A point that no filter of this proxy sets.
    Unknown,
    UpstreamConnectStart,
    UpstreamConnectEnd,
    UpstreamHandshakeComplete,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
    DownstreamHandshakeBegin,
    DownstreamHandshakeComplete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Millis,
    Micros,
    Nanos,
}
