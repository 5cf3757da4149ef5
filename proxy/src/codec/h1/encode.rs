//! Writing heads and framing bodies.
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version};

use super::HeaderCase;
use super::head::{is_specific, tokens};
use super::spelling::Names;
use super::writer::Writer;
use crate::codec::body::Error;
use crate::io::Buffers;

/// The framing of the body that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// The message has no body; what the handler's body holds is not sent.
    None,
    /// This many bytes to go.
    Length(u64),
    /// Chunks, and trailers if allowed.
    Chunked { trailers: bool },
    /// Raw bytes until the connection ends (HTTP/1.0, tunnels).
    UntilEnd,
}

impl Encoder {
    /// Adds one piece of the body.
    pub(crate) fn data(&mut self, out: &mut Writer, data: Bytes, buffers: &Buffers) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Self::None => {}
            Self::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(Error::Malformed("the body is longer than its content-length"))?;
                out.push(data, b"", buffers);
            }
            Self::Chunked { .. } => {
                put_hex(out.buf(buffers), data.len());
                out.push(data, b"\r\n", buffers);
            }
            Self::UntilEnd => out.push(data, b"", buffers),
        }
        Ok(())
    }

    /// Ends the body, with trailers where the framing has a place for them.
    pub(crate) fn end(
        &mut self,
        out: &mut Writer,
        fields: Option<&HeaderMap>,
        case: HeaderCase,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        match self {
            Self::Length(left) if *left > 0 => {
                return Err(Error::Malformed("the body is shorter than its content-length"));
            }
            Self::Chunked { trailers } => {
                let buf = out.buf(buffers);
                buf.extend_from_slice(b"0\r\n");
                if let Some(fields) = fields
                    && *trailers
                {
                    for (name, value) in fields {
                        if !super::head::is_forbidden_trailer(name) {
                            put_field(buf, name.as_str(), value.as_bytes(), case.into());
                        }
                    }
                }
                buf.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        Ok(())
    }
}

/// `size CRLF` in hexadecimal.
fn put_hex(buf: &mut BytesMut, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0u8; 18];
    let mut at = 16;
    let mut rest = size;
    text[16..].copy_from_slice(b"\r\n");
    loop {
        at -= 1;
        text[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    buf.extend_from_slice(&text[at..]);
}

/// `name: value CRLF`.
#[inline]
pub(crate) fn put_field(buf: &mut BytesMut, name: &str, value: &[u8], names: Names<'_>) {
    if names.are_as_kept() {
        buf.extend_from_slice(name.as_bytes());
    } else {
        put_name(buf, name, names);
    }
    buf.extend_from_slice(b": ");
    buf.extend_from_slice(value);
    buf.extend_from_slice(b"\r\n");
}

fn put_name(buf: &mut BytesMut, name: &str, names: Names<'_>) {
    match names.spelled(name) {
        Ok(own) => buf.extend_from_slice(own.as_bytes()),
        Err(HeaderCase::Lower | HeaderCase::Preserve { .. }) => buf.extend_from_slice(name.as_bytes()),
        Err(HeaderCase::ProperWords) => {
            let mut start = true;
            for b in name.bytes() {
                buf.put_u8(if start { b.to_ascii_uppercase() } else { b });
                start = !b.is_ascii_alphanumeric();
            }
        }
    }
}

/// `content-length: n CRLF`.
pub(crate) fn put_length(buf: &mut BytesMut, length: u64, names: Names<'_>) {
    let mut digits = itoa::Buffer::new();
    put_field(buf, "content-length", digits.format(length).as_bytes(), names);
}

/// What a message's headers say about its framing and its connection: for the codec, which writes those fields by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// `content-length`; several, or one that is no number, count as none.
    pub(crate) length: Option<u64>,
    /// `connection: close`
    pub(crate) close: bool,
    lengths: usize,
}

/// Puts all fields that are not the codec's own, and says what those others say.
pub(crate) fn put_fields(buf: &mut BytesMut, headers: &HeaderMap, names: Names<'_>) -> Own {
    let mut own = Own::default();
    for (name, value) in headers {
        match name.as_str() {
            "content-length" => {
                own.lengths += 1;
                own.length = if own.lengths == 1 { parse_length(value.as_bytes()) } else { None };
            }
            "connection" => own.close |= tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close")),
            text if is_specific(text) => {}
            text => put_field(buf, text, value.as_bytes(), names),
        }
    }
    own
}

/// Digits only: no sign, no list, no space.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

/// `HTTP/1.1 200 OK CRLF`.
pub(crate) fn put_status(buf: &mut BytesMut, version: Version, status: StatusCode, reason: Option<&[u8]>) {
    if version == Version::HTTP_11 && status == StatusCode::OK && reason.is_none() {
        return buf.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    buf.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    buf.extend_from_slice(status.as_str().as_bytes());
    buf.put_u8(b' ');
    buf.extend_from_slice(reason.unwrap_or_else(|| status.canonical_reason().unwrap_or("Unknown").as_bytes()));
    buf.extend_from_slice(b"\r\n");
}
