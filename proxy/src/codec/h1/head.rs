//! Finding and tokenizing a message head. What its fields mean is decided in `request` and `client`.
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use httparse::{EMPTY_HEADER, Header};

use super::Limits;
use crate::codec::body;

/// Heads with at most this many lines are tokenized on the stack.
const STACK_HEADERS: usize = 32;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Larger than the limit of bytes.
    TooLarge,
    /// More header lines than the limit.
    TooMany,
    /// An HTTP version other than 1.0 and 1.1.
    Version,
    /// Not HTTP; the words say where.
    Malformed(&'static str),
}

/// A resumable search for the end of a head, so that a head in many small pieces costs one pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Bytes that are known to hold no end of a head.
    seen: usize,
    line_start: usize,
    lines: usize,
}

impl Scan {
    /// Lines found, the start line among them, the empty one not.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// The length of the head that `buf` starts with, once all of it is there. Every line must end with CRLF.
    pub(crate) fn run(&mut self, buf: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
        for at in memchr::memchr_iter(b'\n', &buf[self.seen..]) {
            let at = self.seen + at;
            if at == 0 || buf[at - 1] != b'\r' {
                return Err(Fault::Malformed("a line ends with a bare LF"));
            }
            if at + 1 > limit {
                return Err(Fault::TooLarge);
            }
            if at - 1 == self.line_start {
                return Ok(Some(at + 1));
            }
            self.line_start = at + 1;
            self.lines += 1;
        }
        self.seen = buf.len();
        if buf.len() > limit { Err(Fault::TooLarge) } else { Ok(None) }
    }
}

/// Calls `f` with the tokens of a complete request head.
pub(crate) fn with_request<R>(
    head: &Bytes,
    lines: usize,
    f: impl FnOnce(&httparse::Request<'_, '_>) -> R,
) -> Result<R, Fault> {
    let mut stack = [EMPTY_HEADER; STACK_HEADERS];
    let mut heap = Vec::new();
    let mut request = httparse::Request::new(room(&mut stack, &mut heap, lines));
    match request.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => Ok(f(&request)),
        Ok(_) => Err(Fault::Malformed("incomplete head")),
        Err(error) => Err(fault(error, first_line(head))),
    }
}

/// What is wrong with the start line of a request head that is not complete.
pub(crate) fn fault_in_start(read: &[u8]) -> Option<Fault> {
    match httparse::Request::new(&mut [EMPTY_HEADER; 1]).parse(read) {
        Ok(_) | Err(httparse::Error::TooManyHeaders) => None,
        Err(error) => Some(fault(error, first_line(read))),
    }
}

/// Calls `f` with the tokens of a complete response head.
pub(crate) fn with_response<R>(
    head: &Bytes,
    lines: usize,
    f: impl FnOnce(&httparse::Response<'_, '_>) -> R,
) -> Result<R, Fault> {
    let mut stack = [EMPTY_HEADER; STACK_HEADERS];
    let mut heap = Vec::new();
    let mut response = httparse::Response::new(room(&mut stack, &mut heap, lines));
    match response.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => Ok(f(&response)),
        Ok(_) => Err(Fault::Malformed("incomplete head")),
        Err(error) => Err(fault(error, first_line(head))),
    }
}

fn room<'a, 'b>(stack: &'a mut [Header<'b>], heap: &'a mut Vec<Header<'b>>, lines: usize) -> &'a mut [Header<'b>] {
    if lines <= stack.len() {
        return stack;
    }
    heap.resize(lines, EMPTY_HEADER);
    heap
}

fn first_line(head: &[u8]) -> &[u8] {
    &head[..memchr::memchr(b'\r', head).unwrap_or(head.len())]
}

fn fault(error: httparse::Error, line: &[u8]) -> Fault {
    match error {
        // "GET / HTTP/9.9" speaks HTTP, but not ours; "GET /a b HTTP/1.1" does not.
        httparse::Error::Version => match line.split(|&b| b == b' ').collect::<Vec<_>>()[..] {
            [_, _, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                Fault::Version
            }
            _ => Fault::Malformed("invalid start line"),
        },
        httparse::Error::TooManyHeaders => Fault::TooMany,
        httparse::Error::HeaderName => Fault::Malformed("invalid header name"),
        httparse::Error::HeaderValue => Fault::Malformed("invalid header value"),
        httparse::Error::Status => Fault::Malformed("invalid status"),
        httparse::Error::NewLine | httparse::Error::Token => Fault::Malformed("invalid token"),
    }
}

/// One field as map entries; the value shares the head's bytes.
pub(crate) fn field(head: &Bytes, raw: &Header<'_>) -> Result<(HeaderName, HeaderValue), Fault> {
    let name = HeaderName::from_bytes(raw.name.as_bytes()).map_err(|_| Fault::Malformed("invalid header name"))?;
    let value = if raw.value.is_empty() {
        HeaderValue::from_static("")
    } else {
        HeaderValue::from_maybe_shared(head.slice_ref(raw.value))
            .map_err(|_| Fault::Malformed("invalid header value"))?
    };
    Ok((name, value))
}

/// An empty map with room for `lines` and a few of our own. `HeaderMap` panics when asked for more than it can hold.
pub(crate) fn header_map(lines: usize) -> HeaderMap {
    HeaderMap::with_capacity(lines.min(1024) + 8)
}

/// Adds to a map that must not be allowed to panic when it is full.
pub(crate) fn append(map: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), Fault> {
    map.try_append(name, value).map(drop).map_err(|_| Fault::TooMany)
}

/// A trailer section, without the fields that may not be in one (RFC 9110, section 6.5.1).
pub(crate) fn parse_trailers(section: &Bytes, lines: usize, limits: &Limits) -> Result<HeaderMap, body::Error> {
    if lines > limits.headers {
        return Err(body::Error::TooLarge("the limit of trailers"));
    }
    let mut stack = [EMPTY_HEADER; STACK_HEADERS];
    let mut heap = Vec::new();
    let invalid = body::Error::Malformed("invalid trailers");
    match httparse::parse_headers(section, room(&mut stack, &mut heap, lines)) {
        Ok(httparse::Status::Complete((_, raw))) => {
            let mut map = header_map(raw.len());
            for one in raw {
                let (name, value) = field(section, one).map_err(|_| invalid.clone())?;
                if !is_forbidden_trailer(&name) {
                    append(&mut map, name, value).map_err(|_| body::Error::TooLarge("the limit of trailers"))?;
                }
            }
            Ok(map)
        }
        _ => Err(invalid),
    }
}

/// Fields that frame, route or authenticate a message mean nothing, or something else to the next hop, in trailers.
pub(crate) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    is_connection_specific(name)
        || [
            header::CONTENT_LENGTH,
            header::HOST,
            header::TRAILER,
            header::AUTHORIZATION,
            header::COOKIE,
            header::SET_COOKIE,
        ]
        .contains(name)
        || [header::TE, header::CONTENT_ENCODING, header::CONTENT_TYPE, header::CONTENT_RANGE].contains(name)
}

/// Fields that belong to one connection: a codec reads or writes them, and never passes them on.
pub(crate) fn is_connection_specific(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// The comma-separated tokens of a list header.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
