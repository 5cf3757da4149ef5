//! Operators about sizes. Of heads, HTTP/1's spelling is measured: the codecs do not tell what compression made of one.

use http::HeaderMap;
use sidemesh_config::format::{Operator, Original};

use super::Field;
use super::operator::{ORIGINAL_PATH, number, original};
use crate::telemetry::stream_info::{LogContext, Protocol, RequestHead};

/// `None`: another operator.
pub(super) fn value<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    let info = ctx.info;
    number(match operator {
        Operator::BytesRetransmitted => 0,
        Operator::RequestHeadersBytes => ctx.request.map_or(0, request_bytes),
        Operator::ResponseHeadersBytes => match ctx.response_headers {
            Some(headers) if info.status > 0 => spelled(headers, 0) + ":status200".len() as u64,
            _ => 0,
        },
        Operator::ResponseTrailersBytes => ctx.response_trailers.map_or(0, |t| spelled(t, 0)),
        Operator::DownstreamWireBytesReceived => info.request_header_bytes + info.request_body_bytes,
        Operator::DownstreamWireBytesSent if info.protocol.is_none() => info.response_body_bytes,
        Operator::DownstreamWireBytesSent => {
            info.response_header_bytes + info.response_body_bytes + status_line(info.protocol, info.status)
        }
        Operator::UpstreamWireBytesSent if info.protocol.is_some() => sent(ctx, request_line, info.request_body_bytes),
        Operator::UpstreamWireBytesReceived if info.protocol.is_some() => match info.upstream.head_received {
            (0, _) => 0,
            (head, headers) => {
                head + headers + info.response_body_bytes + status_line(info.upstream.protocol, info.status)
            }
        },
        Operator::UpstreamWireBytesSent => info.upstream.bytes_sent,
        Operator::UpstreamWireBytesReceived => info.upstream.bytes_received,
        Operator::HeaderBytes { .. } if info.protocol.is_none() => 0,
        Operator::HeaderBytes { upstream: false, sent: false } => received_head(ctx),
        Operator::HeaderBytes { upstream: false, sent: true } => match info.protocol {
            Some(Protocol::Http2) => ctx.response_headers.map_or(0, |h| spelled(h, 0) + ":status200".len() as u64),
            _ => info.response_header_bytes,
        },
        Operator::HeaderBytes { upstream: true, sent: true } => sent(ctx, |_| 0, 0),
        Operator::HeaderBytes { upstream: true, sent: false } => info.upstream.head_received.0,
        _ => return None,
    })
}

/// An operator about sizes as a number.
pub fn bytes(operator: &Operator, ctx: &LogContext<'_>) -> u64 {
    match value(operator, ctx) {
        Some(Field::Number(n)) => n as u64,
        _ => 0,
    }
}

/// What all attempts sent: the head with a request `line`, and the body.
fn sent(ctx: &LogContext<'_>, line: impl Fn(&RequestHead<'_>) -> u64, body: u64) -> u64 {
    let upstream = &ctx.info.upstream;
    let attempts = if upstream.attempted.is_empty() { 0 } else { u64::from(upstream.attempts) };
    ctx.request.map_or(0, |r| attempts * (spelled(r.headers, 4) + line(&r) + body))
}

/// The head without its request line and blanks, as Envoy measures HTTP/1.
fn received_head(ctx: &LogContext<'_>) -> u64 {
    let info = ctx.info;
    match ctx.request {
        Some(request) if info.protocol != Some(Protocol::Http2) => {
            let path = original(ctx, Original::OriginalElsePresent, &ORIGINAL_PATH, |r| r.path);
            let line = request_line(&RequestHead { path: path.as_deref().unwrap_or_default(), ..request });
            info.request_header_bytes.saturating_sub(line + u64::from(info.received_headers))
        }
        _ => info.request_header_bytes,
    }
}

/// `GET / HTTP/1.1` and the blank line at the end.
fn request_line(request: &RequestHead<'_>) -> u64 {
    (request.method.as_str().len() + request.path.len() + "  HTTP/1.1\r\n\r\n".len()) as u64
}

/// `HTTP/1.1 200 OK` and the blank line at the end; HTTP/2 has none.
pub fn status_line(protocol: Option<Protocol>, status: u16) -> u64 {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
    match protocol {
        Some(Protocol::Http2) | None => 0,
        Some(_) if status == 0 => 0,
        Some(_) => ("HTTP/1.1 200 \r\n\r\n".len() + reason.len()) as u64,
    }
}

/// Names and values, those of pseudo-headers too.
fn request_bytes(request: RequestHead<'_>) -> u64 {
    // `host` stands for `:authority`.
    let pseudo = [(":method", request.method.as_str()), (":path", request.path), (":scheme", request.scheme)];
    let authority =
        if request.headers.contains_key(http::header::HOST) { ":authority".len() - "host".len() } else { 0 };
    let pseudo: usize = pseudo.iter().map(|(k, v)| k.len() + v.len()).sum();
    spelled(request.headers, 0) + (pseudo + authority) as u64
}

/// Names and values, with `more` bytes for each pair.
fn spelled(headers: &HeaderMap, more: usize) -> u64 {
    headers.iter().map(|(k, v)| k.as_str().len() + v.len() + more).sum::<usize>() as u64
}
