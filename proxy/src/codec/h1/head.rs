//! Finding and tokenizing a message head. What its fields mean is decided in `request` and `client`.
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::memmem::Finder;

use super::{Limits, names};
use crate::codec::body;

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
        if self.seen == 0
            && let Some((end, lines)) = whole(buf, limit)
        {
            self.lines = lines;
            return Ok(Some(end));
        }
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

/// The length and the lines of a head that `buf` starts with and that nothing is wrong with: what is usual, in fewer steps than
/// line by line.
fn whole(buf: &[u8], limit: usize) -> Option<(usize, usize)> {
    static END: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    let end = END.find(buf)? + 4;
    let head = &buf[..end];
    // A bare LF in it is refused with the field or the start line it is in; the empty line is not counted.
    let lines = memchr::memchr_iter(b'\n', head).count() - 1;
    (end <= limit && !head.starts_with(b"\r\n")).then_some((end, lines))
}

/// The start line of a request head.
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// The digit behind `HTTP/1.`.
    pub(crate) minor: u8,
    /// Where the fields begin.
    pub(crate) end: usize,
}

/// Reads the start line of a complete request head.
pub(crate) fn request_line(head: &[u8]) -> Result<RequestLine<'_>, Fault> {
    let line = start_line(head)?;
    let mut request = httparse::Request::new(&mut []);
    request.parse(line).map_err(|error| fault(error, first_line(head)))?;
    match (request.method, request.path, request.version) {
        (Some(method), Some(target), Some(minor)) => Ok(RequestLine { method, target, minor, end: line.len() }),
        _ => Err(Fault::Malformed("incomplete head")),
    }
}

/// The start line of a response head.
pub(crate) struct StatusLine<'a> {
    pub(crate) code: u16,
    pub(crate) reason: Option<&'a str>,
    /// The digit behind `HTTP/1.`.
    pub(crate) minor: u8,
    /// Where the fields begin.
    pub(crate) end: usize,
}

/// Reads the start line of a complete response head.
pub(crate) fn status_line(head: &[u8]) -> Result<StatusLine<'_>, Fault> {
    let line = start_line(head)?;
    let mut response = httparse::Response::new(&mut []);
    response.parse(line).map_err(|error| fault(error, first_line(head)))?;
    match (response.code, response.version) {
        (Some(code), Some(minor)) => Ok(StatusLine { code, reason: response.reason, minor, end: line.len() }),
        _ => Err(Fault::Malformed("incomplete head")),
    }
}

/// The first line with its CRLF.
fn start_line(head: &[u8]) -> Result<&[u8], Fault> {
    let end = memchr::memchr(b'\n', head).ok_or(Fault::Malformed("incomplete head"))?;
    let line = &head[..=end];
    if line.ends_with(b"\r\n") { Ok(line) } else { Err(Fault::Malformed("a line ends with a bare LF")) }
}

/// What is wrong with the start line of a request head that is not complete.
pub(crate) fn fault_in_start(read: &[u8]) -> Option<Fault> {
    match httparse::Request::new(&mut [httparse::EMPTY_HEADER; 1]).parse(read) {
        Ok(_) | Err(httparse::Error::TooManyHeaders) => None,
        Err(error) => Some(fault(error, first_line(read))),
    }
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

/// The fields of a complete head or trailer section, from `at` on: as map entries, whose values share its bytes.
pub(crate) struct Fields<'a> {
    section: &'a Bytes,
    lines: Lines<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(section: &'a Bytes, at: usize) -> Self {
        Self { section, lines: Lines::new(section, at) }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(HeaderName, HeaderValue), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.lines.next()?.and_then(|line| line.entry(self.section)))
    }
}

/// The field lines of a complete head or trailer section, which ends with an empty line. A name is what stands before the colon,
/// valid or not.
#[derive(Clone)]
pub(crate) struct Lines<'a> {
    section: &'a [u8],
    at: usize,
}

/// A field line as it came.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a [u8],
    /// Where the value is, without the blanks around it.
    value: Range<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(section: &'a [u8], at: usize) -> Self {
        Self { section, at }
    }

    /// The value of a line that this yielded.
    pub(crate) fn value(&self, line: &Line<'a>) -> &'a [u8] {
        &self.section[line.value.clone()]
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, Fault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.section.get(self.at..).unwrap_or_default();
        if rest.is_empty() || rest.starts_with(b"\r\n") {
            return None;
        }
        let line = line(self.section, self.at);
        // Behind an error there is nothing.
        self.at = line.as_ref().map_or(self.section.len(), |(_, next)| *next);
        Some(line.map(|(line, _)| line))
    }
}

/// The line that begins at `at`, and where the next one does.
#[inline]
fn line(section: &[u8], at: usize) -> Result<(Line<'_>, usize), Fault> {
    let colon = find(section, at, b':').ok_or(Fault::Malformed("invalid header name"))?;
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let mut from = colon + 1;
    while is_blank(section.get(from)) {
        from += 1;
    }
    let end = find(section, from, b'\r').filter(|end| section.get(end + 1) == Some(&b'\n'));
    let end = end.ok_or(Fault::Malformed("invalid header value"))?;
    let mut to = end;
    while to > from && is_blank(section.get(to - 1)) {
        to -= 1;
    }
    Ok((Line { name: &section[at..colon], value: from..to }, end + 2))
}

impl Line<'_> {
    fn entry(&self, section: &Bytes) -> Result<(HeaderName, HeaderValue), Fault> {
        let name = match names::known(self.name) {
            Some(name) => name.clone(),
            None => HeaderName::from_bytes(self.name).map_err(|_| Fault::Malformed("invalid header name"))?,
        };
        let value = if self.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(section.slice(self.value.clone()))
                .map_err(|_| Fault::Malformed("invalid header value"))?
        };
        Ok((name, value))
    }
}

/// Where `byte` is next, from `at` on. Names and values are short: eight bytes at a time, without a call.
#[inline]
fn find(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (eights, rest) = bytes.get(at..)?.as_chunks();
    for (n, eight) in eights.iter().enumerate() {
        let differing = u64::from_le_bytes(*eight) ^ (LOW * u64::from(byte));
        // The lowest high bit that is set marks the first byte that is zero.
        let zero = differing.wrapping_sub(LOW) & !differing & HIGH;
        if zero != 0 {
            return Some(at + 8 * n + zero.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&b| b == byte).map(|n| at + 8 * eights.len() + n)
}

/// An empty map with room for `lines` and a few of our own. `HeaderMap` panics when asked for more than it can hold.
pub(crate) fn header_map(lines: usize) -> HeaderMap {
    HeaderMap::with_capacity(lines.min(1024) + 4)
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
    let mut map = header_map(lines);
    for field in Fields::new(section, 0) {
        let (name, value) = field.map_err(|_| body::Error::Malformed("invalid trailers"))?;
        if !is_forbidden_trailer(&name) {
            append(&mut map, name, value).map_err(|_| body::Error::TooLarge("the limit of trailers"))?;
        }
    }
    Ok(map)
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
    is_specific(name.as_str())
}

/// As [`is_connection_specific`], for the name's text.
pub(super) fn is_specific(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// The comma-separated tokens of a list header.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
