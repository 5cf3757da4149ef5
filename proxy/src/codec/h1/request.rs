//! A request head's meaning: target, host, framing, persistence, upgrade (RFC 9112, sections 3, 6 and 9; RFC 9110, section 7.6.1).
use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};

use super::decode::{Chunk, Decoder};
use super::encode::parse_length;
use super::head::{self, Fault, Field, Lines};
use super::server::Settings;
use super::spelling;
use crate::codec::handler::{Scheme, Upgrade};
use crate::codec::path;
use crate::codec::repeated::{self, Side};

/// A request that may go on.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) parts: Parts,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) body: Decoder,
    pub(crate) upgrade: Option<Upgrade>,
    pub(crate) expect_continue: bool,
    /// The client allows another request after this one.
    pub(crate) keep_alive: bool,
}

/// Why not: what the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) details: &'static str,
    pub(crate) body: &'static str,
}

impl Refusal {
    const fn bad_request(details: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, details, body: "Bad Request" }
    }

    const CODEC: Self = Self::bad_request("http1.codec_error");
    const FRAGMENT: Self = Self { body: "", ..Self::bad_request("path_normalization_failed") };
    const URL: Self = Self::bad_request("http1.invalid_url");
    const HOST: Self = Self::bad_request("http.invalid_authority");
    const VERSION: Self =
        Self { status: StatusCode::UPGRADE_REQUIRED, details: "low_version", body: "Upgrade Required" };
    const TOO_MANY: Self = Self {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        details: "http1.too_many_headers",
        body: "Request Header Fields Too Large",
    };
    const TOO_LARGE: Self = Self { details: "http1.headers_too_large", ..Self::TOO_MANY };
    const CODING: Self = Self {
        status: StatusCode::NOT_IMPLEMENTED,
        details: "http1.invalid_transfer_encoding",
        body: "Not Implemented",
    };
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::TOO_LARGE,
            Fault::TooMany => Self::TOO_MANY,
            Fault::Version => Self::VERSION,
            Fault::Value => Self::bad_request("http1.invalid_characters"),
            Fault::Malformed(_) => Self::CODEC,
        }
    }
}

/// Reads one complete head of `count` lines; `lines` are filled where they are not yet.
pub(crate) fn parse(raw: &Bytes, count: usize, lines: &mut Lines, settings: &Settings) -> Result<Incoming, Refusal> {
    if count.saturating_sub(1) > settings.limits.headers {
        return Err(Refusal::TOO_MANY);
    }
    lines.of_head(raw)?;
    let line = head::request_line(raw, lines)?;
    // A head that is no HTTP is refused as such, whatever else is wrong with it.
    interpret(raw, &line, lines, settings)
        .map_err(|refusal| lines.entries(raw).find_map(Result::err).map_or(refusal, Refusal::from))
}

/// What the fields say about the message, apart from the ones that are passed on.
#[derive(Default)]
struct Notes {
    length: Option<u64>,
    /// There is a transfer coding.
    chunked: bool,
    /// It is another one than `chunked`, or there are several.
    unknown_coding: bool,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    /// The `connection` that names `upgrade`.
    connection: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
    expect_continue: bool,
}

fn interpret(
    raw: &Bytes,
    line: &head::RequestLine<'_>,
    lines: &Lines,
    settings: &Settings,
) -> Result<Incoming, Refusal> {
    let version = line.minor;
    if version == 0 && !settings.accept_http_10 {
        return Err(Refusal::VERSION);
    }
    let method = Method::from_bytes(line.method.as_bytes()).map_err(|_| Refusal::CODEC)?;
    if !settings.allow_custom_methods && !is_known(&method) {
        return Err(Refusal::CODEC);
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = head::header_map(lines.fields());
    let mut notes = Notes::default();
    let (mut nominated, mut repeated) = (false, false);
    for field in lines.entries(raw) {
        let Field { name, value, own } = field?;
        if !own {
            repeated |= head::append(&mut parts.headers, name, value)?;
            continue;
        }
        nominated |= name == header::CONNECTION && names_more(value.as_bytes());
        if let Some((name, value)) = note(name, value, &mut notes, settings)? {
            repeated |= head::append(&mut parts.headers, name, value)?;
        }
    }
    if repeated {
        repeated::join(&mut parts.headers, Side::Request);
    }
    if nominated {
        drop_nominated(lines.raw(raw), &mut parts.headers)?;
    }
    spelling::keep(settings.header_case, lines.raw(raw), None, &mut parts.extensions);
    let scheme = place_target(&mut parts, &method, raw.slice_ref(line.target.as_bytes()), &mut notes, settings)?;
    check_host(&mut parts, &notes, settings);
    let body = framing(&method, version, &notes, settings)?;
    if notes.chunked {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let upgrade = match (notes.upgrade, notes.connection) {
        _ if method == Method::CONNECT => Some(Upgrade::Connect),
        (Some(value), Some(connection)) if version == 1 => {
            // Routes and formats may look at them; they mean this hop no more.
            parts.headers.insert(header::CONNECTION, connection);
            parts.headers.insert(header::UPGRADE, value.clone());
            Some(Upgrade::Protocol(value))
        }
        _ => None,
    };
    parts.method = method;
    Ok(Incoming {
        scheme,
        upgrade,
        expect_continue: notes.expect_continue && version == 1,
        body,
        keep_alive: if version == 0 { notes.keep_alive } else { !notes.close },
        parts,
    })
}

/// Takes notes of a field; gives it back if it is to be passed on.
fn note(
    name: HeaderName,
    value: HeaderValue,
    notes: &mut Notes,
    settings: &Settings,
) -> Result<Option<(HeaderName, HeaderValue)>, Refusal> {
    match name.as_str() {
        "host" => {
            notes.hosts += 1;
            if notes.hosts > 1 || !is_authority(value.as_bytes()) {
                return Err(Refusal::HOST);
            }
        }
        "content-length" => match parse_length(value.as_bytes()) {
            Some(length) if notes.length.is_none() => notes.length = Some(length),
            // A second one, even if equal: which of them did the next hop read?
            _ => return Err(Refusal::CODEC),
        },
        "transfer-encoding" => {
            notes.unknown_coding |= notes.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked");
            notes.chunked = true;
            return Ok(None);
        }
        "connection" | "proxy-connection" => {
            for token in head::tokens(value.as_bytes()) {
                notes.close |= token.eq_ignore_ascii_case(b"close");
                notes.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                if name == header::CONNECTION && token.eq_ignore_ascii_case(b"upgrade") {
                    notes.connection.get_or_insert_with(|| value.clone());
                }
            }
            return Ok(None);
        }
        "upgrade" => {
            // HTTP/2 is not spoken by upgrade (RFC 9113, section 3.1); the request goes on as it is.
            let first = head::tokens(value.as_bytes()).next().unwrap_or_default();
            if !first.is_empty() && !first.eq_ignore_ascii_case(b"h2c") {
                notes.upgrade.get_or_insert(value);
            }
            return Ok(None);
        }
        "keep-alive" | "http2-settings" => return Ok(None),
        // Other transfer codings are this hop's alone; what says `trailers` is passed on as that.
        "te" if value.as_bytes() != b"trailers" => {
            let trailers = head::tokens(value.as_bytes()).any(|t| t.eq_ignore_ascii_case(b"trailers"));
            return Ok(trailers.then(|| (name, HeaderValue::from_static("trailers"))));
        }
        "expect" if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            notes.expect_continue = !settings.proxy_100_continue;
            return Ok(settings.proxy_100_continue.then_some((name, value)));
        }
        _ => {}
    }
    Ok(Some((name, value)))
}

/// Whether `connection` names fields besides its own words.
fn names_more(value: &[u8]) -> bool {
    head::tokens(value)
        .any(|t| ![&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|own| t.eq_ignore_ascii_case(own)))
}

/// Removes the fields that `connection` names. Those that other stages rely on may not be named.
fn drop_nominated<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let lists = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
    for token in lists.flat_map(|(_, list)| head::tokens(list)) {
        let Ok(name) = HeaderName::from_bytes(token) else { return Err(Refusal::CODEC) };
        match name.as_str() {
            "host" | "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" | "content-length" => {
                return Err(Refusal::bad_request("http1.connection_header_rejected"));
            }
            // Kept where it says `trailers` and nothing else: see `note`.
            "te" => {}
            _ => drop(headers.remove(&name)),
        }
    }
    Ok(())
}

/// The four forms of a target (RFC 9112, section 3.2).
fn place_target(
    parts: &mut Parts,
    method: &Method,
    target: Bytes,
    notes: &mut Notes,
    settings: &Settings,
) -> Result<Option<Scheme>, Refusal> {
    if *method == Method::CONNECT {
        let authority = Authority::from_maybe_shared(target.clone()).map_err(|_| Refusal::URL)?;
        if !is_authority(&target) || authority.as_str().contains('@') || authority.port_u16().is_none() {
            return Err(Refusal::URL);
        }
        parts.uri = Uri::builder().authority(authority).build().map_err(|_| Refusal::CODEC)?;
        set_host(parts, target, notes)?;
        return Ok(None);
    }
    if target.as_ref() == b"*" {
        if *method != Method::OPTIONS {
            return Err(Refusal::URL);
        }
        parts.uri = Uri::from_static("*");
        return Ok(None);
    }
    if target.starts_with(b"/") {
        return set_path(parts, target).map(|()| None);
    }
    let (scheme, rest) = match target.iter().position(|&b| b == b':') {
        Some(4) if target[..4].eq_ignore_ascii_case(b"http") => (Scheme::Http, 5),
        Some(5) if target[..5].eq_ignore_ascii_case(b"https") => (Scheme::Https, 6),
        Some(at) if target[at..].starts_with(b"://") => return Err(Refusal::bad_request("http1.invalid_scheme")),
        _ => return Err(Refusal::CODEC),
    };
    if !settings.allow_absolute_url || !target[rest..].starts_with(b"//") {
        return Err(Refusal::CODEC);
    }
    let rest = target.slice(rest + 2..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = (rest.slice(..end), rest.slice(end..));
    // Who the user is stays behind, as in Envoy.
    let authority = authority.slice(memchr::memrchr(b'@', &authority).map_or(0, |at| at + 1)..);
    if authority.is_empty() || !is_authority(&authority) {
        return Err(Refusal::URL);
    }
    let path = match path.first() {
        None if *method == Method::OPTIONS => {
            parts.uri = Uri::from_static("*");
            set_host(parts, authority, notes)?;
            return Ok(Some(scheme));
        }
        None => Bytes::from_static(b"/"),
        Some(b'#') => return Err(Refusal::CODEC),
        Some(b'?') => [b"/", path.as_ref()].concat().into(),
        Some(_) => path,
    };
    set_path(parts, path)?;
    set_host(parts, authority, notes)?;
    Ok(Some(scheme))
}

fn set_path(parts: &mut Parts, path: Bytes) -> Result<(), Refusal> {
    let fragment = path.contains(&b'#');
    match path::set_target(parts, path, false) {
        true => Ok(()),
        false if fragment => Err(Refusal::FRAGMENT),
        false => Err(Refusal::CODEC),
    }
}

/// The target's authority wins over the `host` field (RFC 9112, section 3.2.2).
fn set_host(parts: &mut Parts, authority: Bytes, notes: &mut Notes) -> Result<(), Refusal> {
    let value = HeaderValue::from_maybe_shared(authority).map_err(|_| Refusal::HOST)?;
    parts.headers.insert(header::HOST, value);
    notes.hosts = 1;
    Ok(())
}

fn check_host(parts: &mut Parts, notes: &Notes, settings: &Settings) {
    // Whom a request without a host is for, its handler says.
    if notes.hosts == 0
        && parts.version == Version::HTTP_10
        && let Some(host) = &settings.default_host_for_http_10
    {
        parts.headers.insert(header::HOST, host.clone());
    }
}

fn framing(method: &Method, version: u8, notes: &Notes, settings: &Settings) -> Result<Decoder, Refusal> {
    if *method == Method::CONNECT {
        // What follows is the tunnel; a length or a coding would claim otherwise.
        return match (notes.length, notes.chunked) {
            (None | Some(0), false) => Ok(Decoder::Done),
            (None, true) => Err(Refusal::CODING),
            _ => Err(Refusal::CODEC),
        };
    }
    match (notes.length, notes.chunked) {
        (_, true) if version == 0 => Err(Refusal::CODEC),
        (Some(_), true) if notes.unknown_coding || !settings.allow_chunked_length => {
            Err(Refusal::bad_request("http1.content_length_and_chunked_not_allowed"))
        }
        (None, true) if notes.unknown_coding => Err(Refusal::CODING),
        (_, true) => Ok(Decoder::Chunked(Chunk::Size)),
        (None | Some(0), false) => Ok(Decoder::Done),
        (Some(length), false) => Ok(Decoder::Length(length)),
    }
}

/// RFC 3986's characters of an authority; nothing that could end or split a header or a URL.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    /// By byte: every request is looked at.
    static ALLOWED: [bool; 256] = {
        let (mut allowed, mut byte) = ([false; 256], 0u8);
        while byte < 128 {
            allowed[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let (marks, mut at) = (b"-._~%!$&'()*+,;=:[]@", 0);
        while at < marks.len() {
            allowed[marks[at] as usize] = true;
            at += 1;
        }
        allowed
    };
    value.iter().all(|&b| ALLOWED[usize::from(b)])
}

/// The methods that Envoy's parser knows.
fn is_known(method: &Method) -> bool {
    const EXTENSIONS: [&str; 24] = [
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "MSEARCH",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
    ];
    matches!(
        *method,
        Method::GET
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS
            | Method::PATCH
            | Method::CONNECT
            | Method::TRACE
    ) || EXTENSIONS.contains(&method.as_str())
        || method.as_str() == "UNSUBSCRIBE"
}
