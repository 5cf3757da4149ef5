//! Finding and tokenizing a message head. What its fields mean is decided in `request` and `client`.
use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

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
    /// A character that a value must not hold.
    Value,
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

    /// The length of the head that `buf` starts with, once all of it is there. Every line must end with CRLF. A head that is whole
    /// at the first look is read at once.
    pub(crate) fn run(&mut self, buf: &[u8], limit: usize, lines: &mut Lines) -> Result<Option<usize>, Fault> {
        if self.seen == 0 && lines.read(buf, 0, AT_ONCE).is_ok_and(|end| end <= limit) {
            self.lines = lines.all.len() + 1;
            return Ok(Some(lines.end));
        }
        // What is wrong or wanting is found line by line.
        lines.clear();
        self.search(buf, limit)
    }

    /// As [`Scan::run`], line by line: also for what has no start line.
    pub(super) fn search(&mut self, buf: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
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

/// So many fields are read before they are counted.
const AT_ONCE: usize = 128;

/// Where the lines of a head, or of a trailer section, are. A name is what stands before the colon, valid or not.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Behind the start line, where there is one.
    start: usize,
    all: SmallVec<[Line; 24]>,
    /// Behind the empty line; 0 as long as nothing was read.
    end: usize,
}

/// A field as a map's entry.
pub(crate) struct Field {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
    /// It may say something about the message or its connection: it is to be looked at.
    pub(crate) own: bool,
}

/// A line: where its name and its value begin and end. The value is without the blanks around it.
#[derive(Clone, Copy, Debug)]
struct Line {
    name: [u32; 2],
    value: [u32; 2],
}

impl Lines {
    /// The lines of a whole head, unless they are known already.
    pub(crate) fn of_head(&mut self, head: &[u8]) -> Result<(), Fault> {
        if self.end == 0 { self.read(head, 0, usize::MAX).map(drop) } else { Ok(()) }
    }

    fn clear(&mut self) {
        self.all.clear();
        self.end = 0;
    }

    /// Finds a start line, at most so many fields, and an empty line.
    fn read(&mut self, head: &[u8], from: usize, most: usize) -> Result<usize, Fault> {
        let end = find(head, from, b'\n').ok_or(Fault::Malformed("incomplete head"))?;
        if end == from || head[end - 1] != b'\r' {
            return Err(Fault::Malformed("a line ends with a bare LF"));
        }
        self.start = end + 1;
        self.read_fields(head, self.start, most)
    }

    /// Finds fields, and an empty line.
    fn read_fields(&mut self, section: &[u8], mut at: usize, most: usize) -> Result<usize, Fault> {
        // Places are kept as numbers of 32 bits.
        if u32::try_from(section.len()).is_err() {
            return Err(Fault::TooLarge);
        }
        self.all.clear();
        while !section[at..].starts_with(b"\r\n") {
            if self.all.len() == most {
                return Err(Fault::TooMany);
            }
            let (line, next) = line(section, at)?;
            self.all.push(line);
            at = next;
        }
        self.end = at + 2;
        Ok(self.end)
    }

    /// How many fields there are.
    pub(crate) fn fields(&self) -> usize {
        self.all.len()
    }

    /// The fields, whose values share the section's bytes.
    #[inline]
    pub(crate) fn entries(&self, section: &Bytes) -> impl Iterator<Item = Result<Field, Fault>> {
        self.all.iter().map(|line| line.entry(section))
    }

    /// The fields as they came: name and value.
    pub(crate) fn raw<'a>(&'a self, section: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.all.iter().map(|line| (&section[range(line.name)], &section[range(line.value)]))
    }
}

fn range([from, to]: [u32; 2]) -> Range<usize> {
    from as usize..to as usize
}

/// The line that begins at `at`, and where the next one does.
#[inline]
fn line(section: &[u8], at: usize) -> Result<(Line, usize), Fault> {
    let colon = find(section, at, b':').ok_or(Fault::Malformed("invalid header name"))?;
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let mut from = colon + 1;
    while is_blank(section.get(from)) {
        from += 1;
    }
    let end = end_of_line(section, from).ok_or(Fault::Malformed("invalid header value"))?;
    let mut to = end;
    while to > from && is_blank(section.get(to - 1)) {
        to -= 1;
    }
    Ok((Line { name: [at as u32, colon as u32], value: [from as u32, to as u32] }, end + 2))
}

/// Where the next CRLF is, if no bare CR comes before it.
#[inline]
fn end_of_line(bytes: &[u8], at: usize) -> Option<usize> {
    find(bytes, at, b'\r').filter(|end| bytes.get(end + 1) == Some(&b'\n'))
}

impl Line {
    #[inline]
    fn entry(&self, section: &Bytes) -> Result<Field, Fault> {
        let name = &section[range(self.name)];
        let (name, own) = match names::known(name) {
            Some((name, own)) => (name.clone(), own),
            None => (HeaderName::from_bytes(name).map_err(|_| Fault::Malformed("invalid header name"))?, true),
        };
        let value = range(self.value);
        if value.is_empty() {
            return Ok(Field { name, value: HeaderValue::from_static(""), own });
        }
        match HeaderValue::from_maybe_shared(section.slice(value)) {
            Ok(value) => Ok(Field { name, value, own }),
            Err(_) => Err(Fault::Value),
        }
    }
}

/// The start line of a request head.
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// The digit behind `HTTP/1.`.
    pub(crate) minor: u8,
}

/// Reads the start line of a complete request head.
pub(crate) fn request_line<'a>(head: &'a [u8], lines: &Lines) -> Result<RequestLine<'a>, Fault> {
    let line = &head[..lines.start];
    let mut request = httparse::Request::new(&mut []);
    request.parse(line).map_err(|error| fault(error, first_line(line)))?;
    match (request.method, request.path, request.version) {
        (Some(method), Some(target), Some(minor)) => Ok(RequestLine { method, target, minor }),
        _ => Err(Fault::Malformed("incomplete head")),
    }
}

/// The start line of a response head.
pub(crate) struct StatusLine<'a> {
    pub(crate) code: u16,
    pub(crate) reason: Option<&'a str>,
    /// The digit behind `HTTP/1.`.
    pub(crate) minor: u8,
}

/// Reads the start line of a complete response head.
pub(crate) fn status_line<'a>(head: &'a [u8], lines: &Lines) -> Result<StatusLine<'a>, Fault> {
    let line = &head[..lines.start];
    let mut response = httparse::Response::new(&mut []);
    response.parse(line).map_err(|error| fault(error, first_line(line)))?;
    match (response.code, response.version) {
        (Some(code), Some(minor)) => Ok(StatusLine { code, reason: response.reason, minor }),
        _ => Err(Fault::Malformed("incomplete head")),
    }
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

/// Adds to a map that must not be allowed to panic when it is full. Says whether the field was there already.
pub(crate) fn append(map: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<bool, Fault> {
    map.try_append(name, value).map_err(|_| Fault::TooMany)
}

/// A trailer section, without the fields that may not be in one (RFC 9110, section 6.5.1).
pub(crate) fn parse_trailers(section: &Bytes, lines: usize, limits: &Limits) -> Result<HeaderMap, body::Error> {
    if lines > limits.headers {
        return Err(body::Error::TooLarge("the limit of trailers"));
    }
    let invalid = |_| body::Error::Malformed("invalid trailers");
    let mut fields = Lines::default();
    fields.read_fields(section, 0, lines).map_err(invalid)?;
    let mut map = header_map(fields.fields());
    for field in fields.entries(section) {
        let Field { name, value, .. } = field.map_err(invalid)?;
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
