//! Between HTTP/2's heads and the one request form: pseudo-headers, cookies, extended CONNECT (RFC 8441), and what may not cross.
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use super::Settings;
use crate::codec::h1::{declared_length, is_authority, is_connection_specific, parse_length};
use crate::codec::handler::{Scheme, Upgrade};

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
    /// No authority: reset.
    NoHost,
    /// An authority that is none, which another hop could read as something else: reset.
    Host,
    /// A length that is said twice, a scheme or a target that is none: reset.
    Malformed,
    /// A target that no HTTP/1 hop could carry: 400.
    Target,
}

/// Reads a request's head.
pub(super) fn incoming(mut parts: Parts, settings: &Settings) -> Result<Incoming, Refusal> {
    let bytes = header_bytes(&parts.headers) + parts.uri.path().len();
    let pseudo =
        1 + [parts.uri.scheme().is_some(), parts.uri.authority().is_some(), parts.uri.path_and_query().is_some()]
            .into_iter()
            .filter(|given| *given)
            .count();
    if parts.headers.len() + pseudo > settings.max_headers || bytes > settings.max_head_bytes as usize {
        return Err(Refusal::TooLarge);
    }
    let uri = std::mem::take(&mut parts.uri).into_parts();
    if let Some(authority) = &uri.authority {
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Target)?;
        parts.headers.insert(header::HOST, value);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_authority(host.as_bytes()) && !host.as_bytes().contains(&b'@') => {}
        (Some(_), None) => return Err(Refusal::Host),
        _ => return Err(Refusal::NoHost),
    }
    let protocol = parts.extensions.remove::<::h2::ext::Protocol>();
    parts.extensions.clear();
    let upgrade = match (&parts.method, protocol) {
        (&Method::CONNECT, Some(protocol)) => {
            parts.method = Method::GET;
            let protocol = HeaderValue::from_str(protocol.as_str()).map_err(|_| Refusal::Target)?;
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol.clone());
            Some(Upgrade::Protocol(protocol))
        }
        (&Method::CONNECT, None) => Some(Upgrade::Connect),
        _ => None,
    };
    parts.uri = match (uri.path_and_query, uri.authority) {
        (None, Some(authority)) if upgrade == Some(Upgrade::Connect) => authority_form(authority)?,
        (Some(path), _) => origin_form(path, &parts.method)?,
        _ => return Err(Refusal::Target),
    };
    if uri.scheme.as_ref().is_some_and(|scheme| scheme.as_str().is_empty())
        || parts.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
    {
        return Err(Refusal::Malformed);
    }
    join_cookies(&mut parts.headers);
    let length = declared_length(&parts.headers);
    parts.version = Version::HTTP_2;
    let scheme = uri.scheme.and_then(|scheme| match scheme.as_str() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    });
    Ok(Incoming { parts, scheme, upgrade, length, bytes })
}

fn authority_form(authority: Authority) -> Result<Uri, Refusal> {
    Uri::builder().authority(authority).build().map_err(|_| Refusal::Target)
}

fn origin_form(path: PathAndQuery, method: &Method) -> Result<Uri, Refusal> {
    let text = path.as_str();
    match text {
        "*" if *method == Method::OPTIONS => Ok(path.into()),
        _ if !text.starts_with('/') => Err(Refusal::Malformed),
        _ if !text.is_ascii() => Err(Refusal::Target),
        _ => Ok(path.into()),
    }
}

/// The size of a header list, without the 32 bytes of overhead per entry that HPACK counts: Envoy's count.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
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

/// Keeps values that no other message repeats out of HPACK's table: there they would push out what does repeat, and be compared
/// with every later one ("never indexed", RFC 7541, section 6.2.3).
fn leave_unindexed(headers: &mut HeaderMap) {
    let unique = |name: &http::HeaderName| {
        matches!(name.as_str(), "x-request-id" | "traceparent" | "x-b3-spanid" | "x-envoy-upstream-service-time")
    };
    headers.iter_mut().filter(|(name, _)| unique(name)).for_each(|(_, value)| value.set_sensitive(true));
}

/// A request's head on its way to an HTTP/2 origin.
pub(super) fn outgoing(head: &Parts, scheme: Scheme, upgrade: Option<&Upgrade>) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    let headers = request.headers_mut();
    strip_connection_headers(headers);
    leave_unindexed(headers);
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    let host = headers.remove(header::HOST);
    let authority = host.as_ref().map(|host| Authority::try_from(host.as_bytes())).transpose().ok()?;
    let mut uri = http::uri::Parts::default();
    match upgrade {
        Some(Upgrade::Connect) => *request.method_mut() = Method::CONNECT,
        other => {
            if let Some(Upgrade::Protocol(protocol)) = other {
                *request.method_mut() = Method::CONNECT;
                request.extensions_mut().insert(::h2::ext::Protocol::from(protocol.to_str().ok()?));
            } else {
                request.method_mut().clone_from(&head.method);
            }
            uri.scheme = Some(match scheme {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            });
            uri.path_and_query = Some(head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        }
    }
    // `http` has no form for a scheme and a path without an authority: an origin that gets no host gets an empty name's place.
    uri.authority = authority.or_else(|| uri.scheme.is_some().then(|| Authority::from_static("localhost")));
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    Some(request)
}

/// A response's head on its way to an HTTP/2 client. `accepted` says that a tunnel was asked for and is open.
pub(super) fn response_head(parts: http::response::Parts) -> Response<()> {
    let mut response = Response::from_parts(parts, ());
    *response.version_mut() = Version::HTTP_2;
    strip_connection_headers(response.headers_mut());
    leave_unindexed(response.headers_mut());
    // HTTP/2 has no 101: an accepted extended CONNECT is a 200.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
    }
    response
}

/// The one valid length among the headers; an invalid one is the frame layer's to refuse.
pub(super) fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| parse_length(value.as_bytes()))
}
