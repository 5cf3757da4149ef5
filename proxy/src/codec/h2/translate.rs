//! Between HTTP/2's heads and the one request form: pseudo-headers, cookies, extended CONNECT (RFC 8441), and what may not cross.
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use super::head::Head;
use super::hpack::{Encoder, Pseudo};
use crate::codec::h1::{is_authority, is_connection_specific};
use crate::codec::handler::{Scheme, Upgrade};
use crate::codec::path::{path_and_query, set_target};

/// A request as the handler gets it.
pub(super) struct Incoming {
    pub(super) parts: Parts,
    pub(super) scheme: Option<Scheme>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) length: Option<u64>,
    pub(super) bytes: usize,
}

/// Why a request's stream is reset, or answered without the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Over a limit: reset.
    TooLarge,
    /// No authority, or two: reset.
    NoHost,
    /// An authority that is none, which another hop could read as something else: reset.
    Host,
    /// A target that no HTTP/1 hop could carry: 400.
    Target,
    /// A target with a fragment: 400.
    Fragment,
    /// More fields than the limit.
    TooMany,
}

/// Reads a request's head.
pub(super) fn incoming(mut head: Head) -> Result<Incoming, Refusal> {
    if head.too_large {
        return Err(if head.too_many { Refusal::TooMany } else { Refusal::TooLarge });
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = std::mem::take(&mut head.headers);
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        // The authority was looked at with the other pseudo-headers.
        (Some(host), None) if head.authority.is_some() || is_host(host.as_bytes()) => {}
        (Some(_), None) => return Err(Refusal::Host),
        _ => return Err(Refusal::NoHost),
    }
    parts.method = head.method.ok_or(Refusal::Target)?;
    let upgrade = match (parts.method == Method::CONNECT, head.protocol) {
        (true, Some(protocol)) => {
            parts.method = Method::GET;
            let protocol = HeaderValue::from_maybe_shared(protocol).map_err(|_| Refusal::Target)?;
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol.clone());
            Some(Upgrade::Protocol(protocol))
        }
        (true, None) => Some(Upgrade::Connect),
        (false, _) => None,
    };
    match (head.path, head.authority) {
        (Some(path), _) => set_origin_form(&mut parts, path)?,
        (None, Some(authority)) => parts.uri = authority_form(authority.as_bytes())?,
        (None, None) => return Err(Refusal::Target),
    }
    if head.cookies > 1 {
        join_cookies(&mut parts.headers);
    }
    parts.version = Version::HTTP_2;
    let scheme = head.scheme.and_then(|scheme| match &scheme[..] {
        b"http" => Some(Scheme::Http),
        b"https" => Some(Scheme::Https),
        _ => None,
    });
    Ok(Incoming { parts, scheme, upgrade, length: head.length, bytes: head.bytes })
}

/// An authority without user information.
fn is_host(host: &[u8]) -> bool {
    is_authority(host) && !host.contains(&b'@')
}

fn authority_form(authority: &[u8]) -> Result<Uri, Refusal> {
    let authority = Authority::try_from(authority).map_err(|_| Refusal::Target)?;
    Uri::builder().authority(authority).build().map_err(|_| Refusal::Target)
}

fn set_origin_form(parts: &mut Parts, path: Bytes) -> Result<(), Refusal> {
    if path == "*" && parts.method == Method::OPTIONS {
        parts.uri = PathAndQuery::from_static("*").into();
        return Ok(());
    }
    let fragment = path.contains(&b'#');
    match set_target(parts, path, true) {
        true => Ok(()),
        false if fragment => Err(Refusal::Fragment),
        false => Err(Refusal::Target),
    }
}

/// RFC 9113, section 8.2.3: HTTP/2 splits cookies, everybody else wants one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (all.next(), all.next()) else { return };
    let mut joined = Vec::with_capacity(first.len() + second.len() + 2);
    joined.extend_from_slice(first.as_bytes());
    for value in std::iter::once(second).chain(all) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

/// Removes what belongs to one HTTP/1 connection (RFC 9113, section 8.2.2).
pub(super) fn strip_connection_headers(headers: &mut HeaderMap) {
    if !headers.keys().any(is_connection_specific) {
        return;
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    debug_assert!(!headers.keys().any(is_connection_specific));
}

/// A request's head on its way to an HTTP/2 origin: checked when it is made, and written once there is a stream.
pub(super) struct Outgoing<'a> {
    head: &'a Parts,
    host: Option<&'a HeaderValue>,
    scheme: Scheme,
    upgrade: Option<&'a Upgrade>,
}

impl<'a> Outgoing<'a> {
    /// `None` if the request has no HTTP/2 form.
    pub(super) fn new(head: &'a Parts, scheme: Scheme, upgrade: Option<&'a Upgrade>) -> Option<Self> {
        let host = head.headers.get(header::HOST);
        let named = host.map_or(upgrade != Some(&Upgrade::Connect), |host| is_authority(host.as_bytes()));
        named.then_some(Self { head, host, scheme, upgrade })
    }

    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    pub(super) fn write(&self, encoder: &mut Encoder, out: &mut BytesMut) {
        let method = if self.upgrade.is_some() { &Method::CONNECT } else { &self.head.method };
        encoder.method(method, out);
        if self.upgrade != Some(&Upgrade::Connect) {
            encoder.scheme(self.scheme == Scheme::Https, out);
            encoder.path(path_and_query(self.head).as_bytes(), out);
        }
        if let Some(host) = self.host {
            encoder.pseudo(Pseudo::Authority, host.as_bytes(), out);
        }
        if let Some(Upgrade::Protocol(protocol)) = self.upgrade {
            encoder.pseudo(Pseudo::Protocol, protocol.as_bytes(), out);
        }
        for (name, value) in &self.head.headers {
            let dropped = is_connection_specific(name) || *name == header::HOST;
            if !dropped && (*name != header::TE || value == "trailers") {
                encoder.header(name, value, out);
            }
        }
    }
}

/// Writes a response's head for an HTTP/2 client.
pub(super) fn write_response(status: StatusCode, headers: &HeaderMap, encoder: &mut Encoder, out: &mut BytesMut) {
    // HTTP/2 has no 101: an accepted extended CONNECT is a 200.
    encoder.status(if status == StatusCode::SWITCHING_PROTOCOLS { StatusCode::OK } else { status }, out);
    headers.iter().filter(|(name, _)| !is_connection_specific(name)).for_each(|(name, value)| {
        encoder.header(name, value, out);
    });
}
