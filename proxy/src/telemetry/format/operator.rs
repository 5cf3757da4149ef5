//! The value of each operator.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use sidemesh_config::format::{
    AddressPart, GrpcStatusFormat, Operator, Original, Precision, ServerName, TimeFormat, TimePoint, TlsPart, Zone,
};
use sidemesh_config::matcher::header::HeaderName;
use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::resource::route::virtual_cluster::OTHER;
use sidemesh_config::value::{Address, Metadata, Name};

use super::Field;
use super::time::{Civil, strftime};
use crate::telemetry::stream_info::{LogContext, RequestHead};

/// `None` where the request has no such value.
pub(super) fn value<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    message(operator, ctx)
        .or_else(|| routing(operator, ctx))
        .or_else(|| connection(operator, ctx))
        .or_else(|| duration(operator, ctx))
        .or_else(|| super::size::value(operator, ctx))
}

const NORMAL: Field<'static> = Field::Text(Cow::Borrowed("Normal"));
const EMPTY: Field<'static> = Field::Text(Cow::Borrowed(""));

/// Keys and values decoded; what must not stand in a query is encoded again.
fn decoded_query(query: &str) -> String {
    const KEPT_OUT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'%');
    let decoded = |part: &str| {
        let plain = percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        percent_encoding::utf8_percent_encode(&plain, KEPT_OUT).to_string()
    };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => decoded(key) + "=" + &decoded(value),
        None => decoded(pair) + "=",
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
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
            if *decoded { owned(decoded_query(query)) } else { text(query) }
        }
        Operator::QueryParam(key) => {
            let (_, query) = ctx.request?.path.split_once('?')?;
            let pair = query.split('&').find_map(|p| p.split_once('=').filter(|(k, _)| k == key))?;
            Some(Field::Text(percent_encoding::percent_decode_str(pair.1).decode_utf8_lossy()))
        }
        Operator::Protocol => text(info.protocol?.as_str()),
        Operator::ResponseStatus => text_number(info.status),
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
        Operator::LocalReplyBody => text(ctx.local_reply_body),
        Operator::GrpcStatus(_) | Operator::GrpcStatusNumber if !asks_grpc(ctx) => None,
        Operator::GrpcStatus(format) => grpc_outcome(ctx).map(|code| grpc_status_field(code, *format)),
        Operator::GrpcStatusNumber => grpc_outcome(ctx).map(Field::Number),
        _ => None,
    }
}

/// Operators about where the request went.
fn routing<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    match operator {
        Operator::RouteName => nonempty(&info.route.as_deref()?.name),
        Operator::VirtualClusterName => nonempty(info.virtual_cluster.as_deref().filter(|n| *n != OTHER)?),
        Operator::VirtualHostName => nonempty(&info.vhost.as_deref()?.name),
        Operator::UpstreamCluster => nonempty(info.upstream.cluster_stat_name.as_deref().or(info.cluster.as_deref())?),
        Operator::UpstreamClusterRaw => nonempty(info.cluster.as_deref()?),
        Operator::UpstreamHost { part } => info.upstream.host.map(|a| address(a, *part)).or_else(|| pipe(info)),
        Operator::UpstreamHostsAttempted(part) => {
            joined_of(&info.upstream.attempted, |(e, _)| socket(e).map(|a| address_text(a, *part)))
        }
        Operator::UpstreamHostNamesAttempted { with_port } => {
            joined_of(&info.upstream.attempted, |(e, _)| host_name(e, *with_port))
        }
        Operator::UpstreamConnectionIdsAttempted => {
            joined_of(&info.upstream.attempted, |(_, id)| (*id != 0).then(|| id.to_string()))
        }
        Operator::UpstreamServerName => nonempty(info.upstream.tls.as_deref()?.server_name()?),
        Operator::CloseType { upstream } => (!upstream || info.upstream.host.is_some()).then_some(NORMAL),
        Operator::RouteResolutionCount => number(info.route_resolutions.into()),
        Operator::RouteResolutionTime => (info.route_resolutions > 0).then_some(Field::Number(0)),
        Operator::UpstreamHostName { with_port } => owned(host_name(info.upstream.endpoint.as_deref()?, *with_port)?),
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
        Operator::VirtualHostMetadata { filter, path } => {
            metadata(info.vhost.as_deref()?.metadata.as_deref()?, filter, path)
        }
        Operator::DynamicMetadata { filter, path } => metadata(&info.metadata, filter, path),
        Operator::FilterState { key, upstream: false, .. } => text(info.filter_state.get(key)?),
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
        Operator::DownstreamDirectLocalAddress(part) => Some(address(connection.direct_local, *part)),
        Operator::DownstreamTransportFailureReason => {
            Some(Field::Text(without_spaces(info.transport_failure.as_deref().or(info.connection.not_tls)?)))
        }
        Operator::DownstreamLocalCloseReason => nonempty(info.local_close?),
        Operator::DownstreamTls(part) => tls(connection.tls.as_deref()?, *part),
        Operator::CertificateTime { upstream, end, format } => {
            let peer = if *upstream { info.upstream.tls.as_deref() } else { connection.tls.as_deref() };
            owned(time(format, Zone::Utc, peer?.validity(*end)?))
        }
        Operator::ConnectionId => number(connection.id),
        Operator::StreamId => stream_id(ctx),
        Operator::UniqueId => owned(uuid(info.stream_id)),
        Operator::FilterChainName => nonempty(&connection.chain),
        Operator::ListenerMetadata { filter, path } => metadata(connection.listener_metadata.as_deref()?, filter, path),
        Operator::FilterChainMetadata { filter, path } => {
            metadata(connection.filter_chain.metadata.as_deref()?, filter, path)
        }
        Operator::TraceId if info.trace.trace_id != 0 => owned(format!("{:032x}", info.trace.trace_id)),
        Operator::SpanId if info.trace.span_id != 0 => owned(format!("{:016x}", info.trace.span_id)),
        Operator::Hostname => owned(crate::telemetry::hostname().to_owned()),
        Operator::Environment(value) => owned(value.clone()),
        Operator::AccessLogType => text(info.log_type().1),
        Operator::StartTime(format, zone) => owned(time(format, *zone, info.start_time)),
        Operator::EmitTime(format, zone) => owned(time(format, *zone, SystemTime::now())),
        Operator::EndpointId { upstream } => (!upstream || info.upstream.remote.is_some()).then_some(EMPTY),
        Operator::Constant(value) => text(value),
        _ => None,
    }
}

fn time(format: &TimeFormat, zone: Zone, at: SystemTime) -> String {
    let civil = match zone {
        Zone::Utc => Civil::of(at),
        Zone::Local => Civil::local(at),
    };
    match format {
        TimeFormat::Default if zone == Zone::Local => strftime("%Y-%m-%dT%H:%M:%E3S%z", &civil),
        TimeFormat::Default => civil.iso_millis(),
        TimeFormat::Strftime(pattern) => strftime(pattern, &civil),
    }
}

pub(super) const ORIGINAL_PATH: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");

/// A path or host as it was received (kept in `header` when it was rewritten), or as it is.
pub(super) fn original<'a>(
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
        Operator::DownstreamHandshakeDuration => {
            let connection = &info.connection;
            Some(millis(connection.handshake_complete?.saturating_duration_since(connection.start)))
        }
        Operator::PoolReadyDuration => {
            let begin = info.timing.upstream_begin?;
            Some(millis(info.timing.upstream_pool_ready.unwrap_or(begin).saturating_duration_since(begin)))
        }
        Operator::ResponseTxDuration => {
            let begin = info.timing.upstream_rx_begin?;
            Some(millis(info.timing.downstream_tx_end.unwrap_or(ctx.now).saturating_duration_since(begin)))
        }
        Operator::CommonDuration { from, to, precision } => {
            let span = point(ctx, *to)?.saturating_duration_since(point(ctx, *from)?);
            Some(Field::Number(match precision {
                Precision::Millis => clamp(span.as_millis()),
                Precision::Micros => clamp(span.as_micros()),
                Precision::Nanos => clamp(span.as_nanos()),
            }))
        }
        _ => None,
    }
}

fn point(ctx: &LogContext<'_>, point: TimePoint) -> Option<Instant> {
    let (info, now) = (ctx.info, ctx.now);
    let t = &info.timing;
    let http = info.protocol.is_some();
    match point {
        TimePoint::DownstreamConnectionBegin => Some(info.connection.start),
        TimePoint::DownstreamConnectionEnd => Some(now).filter(|_| !http),
        TimePoint::Unknown => None,
        TimePoint::DownstreamHandshakeBegin => info.connection.handshake_complete.map(|_| info.connection.start),
        TimePoint::UpstreamRxBodyBegin => t.upstream_rx_begin,
        TimePoint::DownstreamRxBegin => Some(info.start),
        TimePoint::DownstreamRxHeadEnd => http.then_some(info.start),
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

/// A status in words of a header; `None` before there is one.
fn text_number<'a>(status: u16) -> Option<Field<'a>> {
    owned((status != 0).then(|| status.to_string())?)
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

pub(super) fn number<'a>(n: u64) -> Option<Field<'a>> {
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
        HeaderName::Authority => Some(Cow::Borrowed(request.authority)).filter(|authority| !authority.is_empty()),
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
fn pipe(info: &crate::telemetry::stream_info::StreamInfo) -> Option<Field<'_>> {
    match &info.upstream.endpoint.as_deref()?.address {
        Address::Pipe(path) => owned(path.display().to_string()),
        _ => None,
    }
}

/// The endpoint's name; without one its address.
fn host_name(endpoint: &Endpoint, with_port: bool) -> Option<String> {
    if !endpoint.hostname.is_empty() {
        return Some(endpoint.hostname.to_string());
    }
    let part = if with_port { AddressPart::AddressAndPort } else { AddressPart::Address };
    socket(endpoint).map(|a| address_text(a, part))
}

fn socket(endpoint: &Endpoint) -> Option<SocketAddr> {
    match &endpoint.address {
        Address::Socket(address) => Some(*address),
        _ => None,
    }
}

fn address_text(address: SocketAddr, part: AddressPart) -> String {
    match part {
        AddressPart::AddressAndPort => address.to_string(),
        _ => address.ip().to_string(),
    }
}

/// The texts of all that have one, with commas between; `None` where there are none.
fn joined_of<'a, T>(all: &[T], one: impl Fn(&T) -> Option<String>) -> Option<Field<'a>> {
    owned(all.iter().filter_map(one).reduce(|all, next| all + "," + &next)?)
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

fn asks_grpc(ctx: &LogContext<'_>) -> bool {
    ctx.request.is_some_and(|r| crate::grpc::is_request(r.headers))
}

/// `grpc-status` of the trailers, else of the headers.
pub(super) fn grpc_status(ctx: &LogContext<'_>) -> Option<i64> {
    let name = http::HeaderName::from_static("grpc-status");
    let value =
        ctx.response_trailers.and_then(|t| t.get(&name)).or_else(|| ctx.response_headers.and_then(|h| h.get(&name)))?;
    value.to_str().ok()?.parse().ok()
}

/// The status, else what the answer's HTTP status stands for.
fn grpc_outcome(ctx: &LogContext<'_>) -> Option<i64> {
    let of_http = || (ctx.info.status != 0).then(|| crate::grpc::from_http(ctx.info.status).into());
    grpc_status(ctx).or_else(of_http)
}

fn grpc_status_field<'a>(code: i64, format: GrpcStatusFormat) -> Field<'a> {
    let names = u32::try_from(code).ok().and_then(crate::grpc::names);
    match (format, names) {
        (GrpcStatusFormat::CamelString, Some((camel, _))) => Field::Text(Cow::Borrowed(camel)),
        (GrpcStatusFormat::SnakeString, Some((_, snake))) => Field::Text(Cow::Borrowed(snake)),
        _ => Field::Number(code),
    }
}
