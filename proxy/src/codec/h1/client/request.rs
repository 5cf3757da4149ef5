//! Writing a request head.
use http::request::Parts;
use http::{Method, Version, header};

use super::Inner;
use super::exchange::Kind;
use crate::codec::h1::encode::{self, Encoder};
use crate::codec::h1::head;
use crate::codec::h1::spelling::Names;
use crate::codec::handler::Upgrade;
use crate::codec::path::path_and_query;

/// Puts the head into the output, and settles how the body is framed.
pub(super) fn put_head(inner: &mut Inner, head: &Parts) {
    let names = Names::of(inner.settings.header_case, &head.extensions);
    let host = || head.headers.get(header::HOST).map_or(&b""[..], |value| value.as_bytes());
    let buf = inner.out.buf(&inner.local.buffers);
    buf.extend_from_slice(head.method.as_str().as_bytes());
    buf.extend_from_slice(b" ");
    match inner.exchange.kind {
        Kind::Connect => buf.extend_from_slice(host()),
        _ => {
            if inner.settings.send_fully_qualified_url && !host().is_empty() {
                buf.extend_from_slice(inner.exchange.scheme.as_str().as_bytes());
                buf.extend_from_slice(b"://");
                buf.extend_from_slice(host());
            }
            buf.extend_from_slice(path_and_query(head).as_bytes());
        }
    }
    buf.extend_from_slice(b" HTTP/1.1\r\n");
    let own = encode::put_fields(buf, &head.headers, names);
    let (encoder, length) = framing(inner, head, own.length);
    inner.exchange.encoder = encoder;
    let buf = inner.out.buf(&inner.local.buffers);
    if let Some(length) = length {
        encode::put_length(buf, length, names);
    }
    if matches!(encoder, Encoder::Chunked { .. }) {
        encode::put_field(buf, "transfer-encoding", b"chunked", names);
    }
    if let Some(Upgrade::Protocol(protocol)) = &inner.exchange.upgrade {
        let connection =
            head.headers.get(header::CONNECTION).map(|value| value.as_bytes()).filter(|value| is_own(value));
        encode::put_field(buf, "connection", connection.unwrap_or(b"Upgrade"), names);
        encode::put_field(buf, "upgrade", protocol.as_bytes(), names);
    }
    buf.extend_from_slice(b"\r\n");
}

/// A `connection` that says nothing but what holds for the next hop, too.
fn is_own(value: &[u8]) -> bool {
    head::tokens(value).all(|t| t.eq_ignore_ascii_case(b"upgrade") || t.eq_ignore_ascii_case(b"keep-alive"))
}

fn framing(inner: &Inner, head: &Parts, declared: Option<u64>) -> (Encoder, Option<u64>) {
    if inner.exchange.kind != Kind::Plain && inner.exchange.kind != Kind::Head {
        return (Encoder::None, None);
    }
    match inner.exchange.upload.exact_len().or(declared) {
        // A length of nothing says something only where a body would be usual.
        Some(0) if declared.is_none() && is_bodiless(&head.method) => (Encoder::None, None),
        Some(length) => (Encoder::Length(length), Some(length)),
        None => (Encoder::Chunked { trailers: inner.settings.limits.trailers }, None),
    }
}

fn is_bodiless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT | Method::OPTIONS)
}

/// Whether the response's version allows another request by default.
pub(super) fn persists(version: Version) -> bool {
    version == Version::HTTP_11
}
