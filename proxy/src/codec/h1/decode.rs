//! Where a message body ends: by its length, by its chunks (RFC 9112, section 7.1), or with the connection.
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{Limits, head};
use crate::codec::body::Error;

/// A chunk-size line with its extensions may not be longer.
const CHUNK_LINE_BYTES: usize = 4096;

/// The framing of the body that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// Complete.
    Done,
    /// This many bytes to go.
    Length(u64),
    /// In a chunked body.
    Chunked(Chunk),
    /// Everything until the peer ends the connection; also a tunnel.
    UntilEnd,
}

/// The place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Size,
    Data(u64),
    /// The CRLF behind a chunk's data.
    DataEnd,
    Trailers,
}

/// What a decoder made of the bytes at hand.
#[derive(Debug)]
pub(crate) enum Item {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing before more bytes come.
    More,
}

impl Decoder {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Length(0))
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(n) => Some(*n),
            Self::Chunked(_) | Self::UntilEnd => None,
        }
    }

    /// How much to make room for in the next read.
    pub(crate) fn appetite(&self) -> usize {
        const LARGE: u64 = 64 * 1024;
        match self {
            Self::Length(n) | Self::Chunked(Chunk::Data(n)) if *n >= LARGE => LARGE as usize,
            Self::UntilEnd => LARGE as usize / 2,
            _ => crate::io::READ_BUFFER_BYTES,
        }
    }

    /// Takes the next piece from the front of `buf`. `ended` says that no byte will follow those.
    pub(crate) fn next(&mut self, buf: &mut BytesMut, ended: bool, limits: &Limits) -> Result<Item, Error> {
        match self {
            Self::Done | Self::Length(0) => Ok(Item::End),
            Self::Length(_) | Self::UntilEnd | Self::Chunked(Chunk::Data(_)) if buf.is_empty() => match self {
                Self::UntilEnd if ended => {
                    *self = Self::Done;
                    Ok(Item::End)
                }
                _ if ended => Err(Error::Closed),
                _ => Ok(Item::More),
            },
            Self::Length(left) => {
                let data = take(buf, *left);
                *left -= data.len() as u64;
                Ok(Item::Data(data))
            }
            Self::UntilEnd => Ok(Item::Data(buf.split().freeze())),
            Self::Chunked(_) => self.next_chunked(buf, ended, limits),
        }
    }

    fn next_chunked(&mut self, buf: &mut BytesMut, ended: bool, limits: &Limits) -> Result<Item, Error> {
        let more = |ended: bool| if ended { Err(Error::Closed) } else { Ok(Item::More) };
        loop {
            let Self::Chunked(state) = self else { return Ok(Item::End) };
            match state {
                Chunk::Size => match size_line(buf)? {
                    Some(0) => *state = Chunk::Trailers,
                    Some(n) => *state = Chunk::Data(n),
                    None => return more(ended),
                },
                Chunk::Data(_) if buf.is_empty() => return more(ended),
                Chunk::Data(left) => {
                    let data = take(buf, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *state = Chunk::DataEnd;
                    }
                    return Ok(Item::Data(data));
                }
                Chunk::DataEnd => {
                    if !buf.is_empty() && buf[0] != b'\r' || buf.len() > 1 && buf[1] != b'\n' {
                        return Err(Error::Malformed("no CRLF after the chunk data"));
                    }
                    if buf.len() < 2 {
                        return more(ended);
                    }
                    buf.advance(2);
                    *state = Chunk::Size;
                }
                Chunk::Trailers => {
                    let Some(section) = trailer_section(buf, limits)? else { return more(ended) };
                    *self = Self::Done;
                    return match section {
                        Some(trailers) if limits.trailers => Ok(Item::Trailers(trailers)),
                        _ => Ok(Item::End),
                    };
                }
            }
        }
    }
}

fn take(buf: &mut BytesMut, at_most: u64) -> Bytes {
    let n = usize::try_from(at_most).map_or(buf.len(), |n| n.min(buf.len()));
    buf.split_to(n).freeze()
}

/// `1*HEXDIG [ chunk-ext ] CRLF`.
fn size_line(buf: &mut BytesMut) -> Result<Option<u64>, Error> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return match buf.len() {
            n if n > CHUNK_LINE_BYTES => Err(Error::Malformed("chunk size line too long")),
            _ => Ok(None),
        };
    };
    if end > CHUNK_LINE_BYTES {
        return Err(Error::Malformed("chunk size line too long"));
    }
    let line = buf[..end].strip_suffix(b"\r").ok_or(Error::Malformed("bare LF after the chunk size"))?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 {
        return Err(Error::Malformed("invalid chunk size"));
    }
    let size = line[..digits].iter().fold(0u64, |n, &b| n << 4 | u64::from((b as char).to_digit(16).unwrap_or(0)));
    let rest = &line[digits..];
    let clean = rest.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    // No control character is left by now: what is trimmed are spaces and tabs.
    if !clean || !(rest.is_empty() || rest.trim_ascii_start().starts_with(b";")) {
        return Err(Error::Malformed("invalid chunk extension"));
    }
    // No peer sends a chunk that large; a sum over chunks must not wrap either.
    if size > i64::MAX as u64 {
        return Err(Error::Malformed("chunk size overflows"));
    }
    buf.advance(end + 1);
    Ok(Some(size))
}

/// Field lines up to the empty line. `Some(None)` is an empty section.
fn trailer_section(buf: &mut BytesMut, limits: &Limits) -> Result<Option<Option<HeaderMap>>, Error> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(None));
    }
    let mut scan = head::Scan::default();
    match scan.search(buf, limits.head_bytes) {
        Ok(None) => Ok(None),
        Ok(Some(end)) => {
            let section = buf.split_to(end).freeze();
            let trailers = head::parse_trailers(&section, scan.lines(), limits)?;
            Ok(Some((!trailers.is_empty()).then_some(trailers)))
        }
        Err(head::Fault::TooLarge) => Err(Error::TooLarge("the limit of the trailers' size")),
        Err(_) => Err(Error::Malformed("invalid trailers")),
    }
}
