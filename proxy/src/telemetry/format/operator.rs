//! The value of each operator.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use sidemesh_config::format::{
    AddressPart, GrpcStatusFormat, Operator, Original, Precision, ServerName, TimeFormat, TimePoint, TlsPart,
};
use sidemesh_config::matcher::header::HeaderName;
use sidemesh_config::value::{Metadata, Name};

use super::Field;
use super::time::{Civil, strftime};
use crate::telemetry::stream_info::{LogContext, Moment, RequestHead, StreamInfo};

/// `None` where the request has no such value.
pub(super) fn value<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    message(operator, ctx)
        .or_else(|| routing(operator, ctx))
        .or_else(|| connection(operator, ctx))
        .or_else(|| duration(operator, ctx))
}

/// Operators about the request's and the answer's own words.
fn message<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    match operator {
        Operator::RequestHeader { name, fallback, without_query } => request_header(ctx, name)
            .or_else(|| fallback.as_ref().and_then(|f| request_header(ctx, f)))
            .map(|t| if *without_query { strip_query(t) } else { t })
            .map(Field::Text),
        Operator::ResponseHeader { name, fallback } => either_header(ctx.response_headers, name, fallback.as_ref()),
        Operator::ResponseTrailer { name, fallback } => either_header(ctx.response_trailers, name, fallback.as_ref()),
        Operator::Path { with_query, source } => {
            let path = original(ctx, *source, &ORIGINAL_PATH, |r| r.path)?;
            Some(Field::Text(if *with_query { path } else { strip_query(path) }))
        }
        Operator::QueryParams { decoded } => {
            let (_, query) = ctx.request?.path.split_once('?')?;
            match decoded {
                false => text(query),
                true => Some(Field::Text(percent_encoding::percent_decode_str(query).decode_utf8_lossy())),
            }
        }
        Operator::QueryParam(key) => {
            let (_, query) = ctx.request?.path.split_once('?')?;
            let pair = query.split('&').find_map(|p| p.split_once('=').filter(|(k, _)| k == key))?;
            text(pair.1)
        }
        Operator::Protocol => text(info.protocol?.as_str()),
        Operator::ResponseCode => Some(Field::Number(i64::from(info.status))),
        Operator::ResponseCodeDetails { allow_whitespace: true } => nonempty(&info.details),
        Operator::ResponseCodeDetails { allow_whitespace: false } => {
            nonempty(&info.details).map(|_| Field::Text(without_spaces(&info.details)))
        }
        Operator::ConnectionTerminationDetails => nonempty(info.termination_details.as_deref()?),
        Operator::ResponseFlags { long: false } => Some(Field::Text(Cow::Owned(info.flags.short()))),
        Operator::ResponseFlags { long: true } => Some(Field::Text(Cow::Owned(info.flags.long()))),
        Operator::BytesReceived => number(info.request_body_bytes),
        Operator::BytesSent => number(info.response_body_bytes),
        Operator::RequestHeadersBytes => number(info.request_header_bytes),
        Operator::ResponseHeadersBytes => number(info.response_header_bytes),
        Operator::DownstreamWireBytesReceived => number(info.request_header_bytes + info.request_body_bytes),
        Operator::DownstreamWireBytesSent => number(info.response_header_bytes + info.response_body_bytes),
        Operator::UpstreamWireBytesSent => number(info.upstream.bytes_sent),
        Operator::UpstreamWireBytesReceived => number(info.upstream.bytes_received),
        Operator::LocalReplyBody => text(ctx.local_reply_body),
        Operator::GrpcStatus(format) => grpc_status(ctx).map(|code| grpc_status_field(code, *format)),
        Operator::GrpcStatusNumber => grpc_status(ctx).map(Field::Number),
        _ => None,
    }
}

/// Operators about where the request went.
fn routing<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    match operator {
        Operator::RouteName => nonempty(&info.route.as_deref()?.name),
        Operator::VirtualClusterName => nonempty(info.virtual_cluster.as_deref()?),
        Operator::VirtualHostName => nonempty(&info.vhost.as_deref()?.name),
        Operator::UpstreamCluster => nonempty(info.upstream.cluster_stat_name.as_deref().or(info.cluster.as_deref())?),
        Operator::UpstreamClusterRaw => nonempty(info.cluster.as_deref()?),
        Operator::UpstreamHost { part } => info.upstream.host.map(|a| address(a, *part)).or_else(|| pipe(info)),
        Operator::UpstreamHostsAttempted(part) => hosts(&info.upstream.attempted, *part),
        Operator::UpstreamHostName { with_port } => upstream_host_name(info, *with_port),
        Operator::UpstreamRemoteAddress(part) => {
            let connected = || pipe(info).filter(|_| info.upstream.connection_id != 0);
            info.upstream.remote.map(|a| address(a, *part)).or_else(connected)
        }
        Operator::UpstreamLocalAddress(part) => info.upstream.local.map(|a| address(a, *part)),
        Operator::UpstreamProtocol => text(info.upstream.protocol?.as_str()),
        Operator::UpstreamTransportFailureReason => {
            let reason = info.upstream.failure.as_deref().filter(|r| !r.is_empty())?;
            Some(Field::Text(without_spaces(reason)))
        }
        Operator::UpstreamRequestAttemptCount => Some(Field::Number(i64::from(info.upstream.attempts))),
        Operator::UpstreamConnectionId => number(info.upstream.connection_id),
        Operator::UpstreamTls(part) => tls(info.upstream.tls.as_deref()?, *part),
        Operator::RouteMetadata { filter, path } => metadata(info.route.as_deref()?.metadata.as_deref()?, filter, path),
        Operator::ClusterMetadata { filter, path } => {
            metadata(info.upstream.cluster_metadata.as_deref()?, filter, path)
        }
        Operator::UpstreamHostMetadata { filter, path } => {
            metadata(info.upstream.endpoint.as_deref()?.metadata.as_deref()?, filter, path)
        }
        Operator::DynamicMetadata { filter, path } => metadata(&info.metadata, filter, path),
        Operator::SidemeshError => text(info.error_code?),
        Operator::SidemeshRevision => nonempty(info.revision.as_deref()?),
        _ => None,
    }
}

/// Operators about the downstream connection and the proxy itself.
fn connection<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    let connection = &info.connection;
    match operator {
        Operator::RequestedServerName(name) => {
            let sni = || connection.server_name.as_deref().filter(|n| !n.is_empty()).map(Cow::Borrowed);
            let host = |source| original(ctx, source, &ORIGINAL_HOST, |r| r.authority);
            match name {
                ServerName::Sni => sni(),
                ServerName::SniElseHost(source) => sni().or_else(|| host(*source)),
                ServerName::Host(source) => host(*source),
            }
            .map(Field::Text)
        }
        Operator::DownstreamRemoteAddress(part) => Some(address(info.remote, *part)),
        Operator::DownstreamDirectRemoteAddress(part) => Some(address(connection.direct_remote, *part)),
        Operator::DownstreamLocalAddress(part) => Some(address(connection.local, *part)),
        Operator::DownstreamTls(part) => tls(connection.tls.as_deref()?, *part),
        Operator::CertificateTime { upstream, end, format } => {
            let peer = if *upstream { info.upstream.tls.as_deref() } else { connection.tls.as_deref() };
            owned(time(format, peer?.validity(*end)?))
        }
        Operator::ConnectionId => number(connection.id),
        Operator::StreamId => stream_id(ctx),
        Operator::UniqueId => owned(uuid(info.stream_id)),
        Operator::FilterChainName => nonempty(&connection.chain),
        Operator::ListenerMetadata { filter, path } => metadata(connection.listener_metadata.as_deref()?, filter, path),
        Operator::TraceId if info.trace.trace_id != 0 => owned(format!("{:032x}", info.trace.trace_id)),
        Operator::SpanId if info.trace.span_id != 0 => owned(format!("{:016x}", info.trace.span_id)),
        Operator::Hostname => owned(crate::telemetry::hostname().to_owned()),
        Operator::Environment(value) => owned(value.clone()),
        Operator::AccessLogType => text(match (info.protocol, info.moment) {
            (Some(_), _) => "DownstreamEnd",
            (None, Moment::UpstreamConnected) => "TcpUpstreamConnected",
            (None, Moment::Periodic) => "TcpPeriodic",
            (None, Moment::End) => "TcpConnectionEnd",
        }),
        Operator::StartTime(format) => owned(time(format, info.start_time)),
        Operator::EmitTime(format) => owned(time(format, SystemTime::now())),
        _ => None,
    }
}

fn time(format: &TimeFormat, at: SystemTime) -> String {
    let civil = Civil::of(at);
    match format {
        TimeFormat::Default => civil.iso_millis(),
        TimeFormat::Strftime(pattern) => strftime(pattern, &civil),
    }
}

const ORIGINAL_PATH: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");

/// A path or host as it was received (kept in `header` when it was rewritten), or as it is.
fn original<'a>(
    ctx: &LogContext<'a>,
    source: Original,
    header: &http::HeaderName,
    present: impl Fn(&RequestHead<'a>) -> &'a str,
) -> Option<Cow<'a, str>> {
    let request = ctx.request?;
    let kept = || request.headers.get(header).map(|v| String::from_utf8_lossy(v.as_bytes()));
    match source {
        Original::Original => kept(),
        Original::Present => Some(Cow::Borrowed(present(&request))),
        Original::OriginalElsePresent => kept().or_else(|| Some(Cow::Borrowed(present(&request)))),
    }
}

fn without_spaces(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_whitespace) {
        Cow::Owned(text.replace(char::is_whitespace, "_"))
    } else {
        Cow::Borrowed(text)
    }
}

fn duration<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    let since_start = |t: Option<Instant>| t.map(|t| millis(t.saturating_duration_since(info.start)));
    match operator {
        Operator::Duration => {
            Some(millis(info.timing.downstream_tx_end.unwrap_or(ctx.now).saturating_duration_since(info.start)))
        }
        Operator::RequestDuration => since_start(info.timing.downstream_rx_end),
        Operator::RequestTxDuration => since_start(info.timing.upstream_tx_end),
        Operator::ResponseDuration => since_start(info.timing.upstream_rx_begin),
        Operator::ResponseTxDuration => {
            let begin = info.timing.upstream_rx_begin?;
            Some(millis(info.timing.downstream_tx_end.unwrap_or(ctx.now).saturating_duration_since(begin)))
        }
        Operator::CommonDuration { from, to, precision } => {
            let span = point(info, *to)?.saturating_duration_since(point(info, *from)?);
            Some(Field::Number(match precision {
                Precision::Millis => clamp(span.as_millis()),
                Precision::Micros => clamp(span.as_micros()),
                Precision::Nanos => clamp(span.as_nanos()),
            }))
        }
        _ => None,
    }
}

fn point(info: &StreamInfo, point: TimePoint) -> Option<Instant> {
    let t = &info.timing;
    match point {
        TimePoint::DownstreamRxBegin => Some(info.start),
        TimePoint::DownstreamRxEnd => t.downstream_rx_end,
        TimePoint::UpstreamConnectStart => t.upstream_connect_start,
        TimePoint::UpstreamConnectEnd => t.upstream_connect_end,
        TimePoint::UpstreamHandshakeComplete => t.upstream_handshake_complete,
        TimePoint::UpstreamTxBegin => t.upstream_tx_begin,
        TimePoint::UpstreamTxEnd => t.upstream_tx_end,
        TimePoint::UpstreamRxBegin => t.upstream_rx_begin,
        TimePoint::UpstreamRxEnd => t.upstream_rx_end,
        TimePoint::DownstreamTxBegin => t.downstream_tx_begin,
        TimePoint::DownstreamTxEnd => t.downstream_tx_end,
        TimePoint::DownstreamHandshakeComplete => info.connection.handshake_complete,
    }
}

fn millis<'a>(d: Duration) -> Field<'a> {
    Field::Number(clamp(d.as_millis()))
}

fn clamp(n: u128) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn text(t: &str) -> Option<Field<'_>> {
    Some(Field::Text(Cow::Borrowed(t)))
}

fn owned<'a>(t: String) -> Option<Field<'a>> {
    Some(Field::Text(Cow::Owned(t)))
}

fn nonempty(t: &str) -> Option<Field<'_>> {
    if t.is_empty() { None } else { text(t) }
}

fn number<'a>(n: u64) -> Option<Field<'a>> {
    Some(Field::Number(i64::try_from(n).unwrap_or(i64::MAX)))
}

fn strip_query(path: Cow<'_, str>) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(p) => Cow::Borrowed(p.split('?').next().unwrap_or(p)),
        Cow::Owned(p) => Cow::Owned(p.split('?').next().unwrap_or(&p).to_owned()),
    }
}

fn request_header<'a>(ctx: &LogContext<'a>, name: &HeaderName) -> Option<Cow<'a, str>> {
    let request = ctx.request?;
    match name {
        HeaderName::Method => Some(Cow::Borrowed(request.method.as_str())),
        // CONNECT has none.
        HeaderName::Path => Some(Cow::Borrowed(request.path)).filter(|path| !path.is_empty()),
        HeaderName::Authority => Some(Cow::Borrowed(request.authority)),
        HeaderName::Scheme => Some(Cow::Borrowed(request.scheme)),
        HeaderName::Header(name) => joined(request.headers, name),
    }
}

fn either_header<'a>(
    headers: Option<&'a HeaderMap>,
    name: &http::HeaderName,
    fallback: Option<&http::HeaderName>,
) -> Option<Field<'a>> {
    let headers = headers?;
    joined(headers, name).or_else(|| fallback.and_then(|f| joined(headers, f))).map(Field::Text)
}

/// The header's first value; several are not joined, as Envoy prints the first.
fn joined<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, str>> {
    headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()))
}

fn address<'a>(address: SocketAddr, part: AddressPart) -> Field<'a> {
    match part {
        AddressPart::AddressAndPort => Field::Text(Cow::Owned(address.to_string())),
        AddressPart::Address => Field::Text(Cow::Owned(address.ip().to_string())),
        AddressPart::Port => Field::Number(i64::from(address.port())),
        AddressPart::Network(bits) => Field::Text(Cow::Owned(network(address.ip(), bits))),
    }
}

/// The address with all but its first `bits` cleared, in CIDR notation.
fn network(ip: IpAddr, bits: u8) -> String {
    let masked = match ip {
        IpAddr::V4(v4) => IpAddr::from(
            (u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)).to_be_bytes(),
        ),
        IpAddr::V6(v6) => IpAddr::from(
            (u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)).to_be_bytes(),
        ),
    };
    format!("{masked}/{bits}")
}

/// The path of an endpoint that is a Unix-domain socket.
fn pipe(info: &StreamInfo) -> Option<Field<'_>> {
    match &info.upstream.endpoint.as_deref()?.address {
        sidemesh_config::value::Address::Pipe(path) => owned(path.display().to_string()),
        _ => None,
    }
}

/// The endpoint's name; without one its address.
fn upstream_host_name<'a>(info: &'a StreamInfo, with_port: bool) -> Option<Field<'a>> {
    let endpoint = info.upstream.endpoint.as_deref()?;
    if endpoint.hostname.is_empty() {
        let part = if with_port { AddressPart::AddressAndPort } else { AddressPart::Address };
        return info.upstream.host.map(|a| address(a, part));
    }
    text(&endpoint.hostname)
}

fn hosts<'a>(attempted: &[SocketAddr], part: AddressPart) -> Option<Field<'a>> {
    let all = attempted.iter().map(|a| match part {
        AddressPart::Address => a.ip().to_string(),
        _ => a.to_string(),
    });
    owned(all.reduce(|all, next| all + "," + &next)?)
}

/// The request's id, as far as it has one; else the stream's own.
fn stream_id<'a>(ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let id = ctx.request.and_then(|r| r.headers.get("x-request-id")).and_then(|v| v.to_str().ok());
    match id {
        Some(id) => text(id),
        None => owned(uuid(ctx.info.stream_id)),
    }
}

fn uuid(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn metadata<'a>(metadata: &'a Metadata, filter: &Name, path: &[Name]) -> Option<Field<'a>> {
    metadata.get(filter, path).map(|v| Field::Json(Cow::Borrowed(v)))
}

fn tls<'a>(peer: &'a crate::tls::PeerInfo, part: TlsPart) -> Option<Field<'a>> {
    peer.part(part).filter(|t| !t.is_empty()).map(Field::Text)
}

/// `grpc-status` of the trailers, else of the headers.
pub(super) fn grpc_status(ctx: &LogContext<'_>) -> Option<i64> {
    let name = http::HeaderName::from_static("grpc-status");
    let value =
        ctx.response_trailers.and_then(|t| t.get(&name)).or_else(|| ctx.response_headers.and_then(|h| h.get(&name)))?;
    value.to_str().ok()?.parse().ok()
}

fn grpc_status_field<'a>(code: i64, format: GrpcStatusFormat) -> Field<'a> {
    let names = u32::try_from(code).ok().and_then(crate::grpc::names);
    match (format, names) {
        (GrpcStatusFormat::CamelString, Some((camel, _))) => Field::Text(Cow::Borrowed(camel)),
        (GrpcStatusFormat::SnakeString, Some((_, snake))) => Field::Text(Cow::Borrowed(snake)),
        _ => Field::Number(code),
    }
}
