//! Frames on the wire (RFC 9113, sections 4 and 6): reading their heads and payloads, and writing them. What a frame means for a stream or
//! the connection is not decided here.
use bytes::{BufMut, BytesMut};

use super::reason::Reason;

/// What a client says first (section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;
/// The largest payload that either side sends: SETTINGS_MAX_FRAME_SIZE as it is when nobody speaks of it.
pub(super) const MAX_PAYLOAD: usize = 16_384;
/// The largest window, and the largest number of a stream.
pub(super) const MAX_31_BITS: u32 = (1 << 31) - 1;

/// The frame types of the RFC; others are ignored.
pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags; what a bit means depends on the type.
pub(super) mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// The parameters of SETTINGS (section 6.5.2; RFC 8441).
pub(super) mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The nine bytes before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEAD_BYTES>()?;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes([d, e, f, g]) & MAX_31_BITS;
        Some(Self { len, kind, flags, stream })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a payload cannot be: with the code that the RFC has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) Reason);

const SIZE: Malformed = Malformed(Reason::FRAME_SIZE_ERROR);

/// The stream that a PRIORITY payload, or the five bytes in HEADERS, makes this one depend on.
pub(super) fn dependency(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|id| u32::from_be_bytes(*id) & MAX_31_BITS)
}

/// Takes the padding off a payload that has some.
pub(super) fn unpad<'a>(header: &Header, payload: &'a [u8]) -> Result<&'a [u8], Malformed> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(SIZE)?;
    let len = rest.len().checked_sub(usize::from(padding)).ok_or(Malformed(Reason::PROTOCOL_ERROR))?;
    Ok(&rest[..len])
}

/// The part of a header block in a HEADERS frame, and the stream it depends on.
pub(super) fn fragment<'a>(header: &Header, payload: &'a [u8]) -> Result<(&'a [u8], Option<u32>), Malformed> {
    let rest = unpad(header, payload)?;
    if !header.has(flag::PRIORITY) {
        return Ok((rest, None));
    }
    let (priority, rest) = rest.split_at_checked(5).ok_or(SIZE)?;
    Ok((rest, dependency(priority)))
}

/// The number in a WINDOW_UPDATE or RST_STREAM.
pub(super) fn number(payload: &[u8]) -> Result<u32, Malformed> {
    <[u8; 4]>::try_from(payload).map(u32::from_be_bytes).map_err(|_| SIZE)
}

/// The opaque bytes of a PING.
pub(super) fn ping(payload: &[u8]) -> Result<[u8; 8], Malformed> {
    payload.try_into().map_err(|_| SIZE)
}

/// The last stream and the reason of a GOAWAY.
pub(super) fn goaway(payload: &[u8]) -> Result<(u32, Reason), Malformed> {
    let &[a, b, c, d, e, f, g, h] = payload.first_chunk::<8>().ok_or(SIZE)?;
    Ok((u32::from_be_bytes([a, b, c, d]) & MAX_31_BITS, u32::from_be_bytes([e, f, g, h]).into()))
}

/// The parameters of a SETTINGS frame.
pub(super) fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, Malformed> {
    let (all, rest) = payload.as_chunks::<6>();
    let read = |&[a, b, c, d, e, f]: &[u8; 6]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
    if rest.is_empty() { Ok(all.iter().map(read)) } else { Err(SIZE) }
}

#[inline]
pub(super) fn put_head(kind: u8, flags: u8, stream: u32, len: usize, out: &mut BytesMut) {
    let ([_, a, b, c], [d, e, f, g]) = ((len as u32).to_be_bytes(), stream.to_be_bytes());
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// SETTINGS with these parameters.
pub(super) fn put_settings(all: &[(u16, u32)], out: &mut BytesMut) {
    put_head(kind::SETTINGS, 0, 0, all.len() * 6, out);
    for (name, value) in all {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}

pub(super) fn put_settings_ack(out: &mut BytesMut) {
    put_head(kind::SETTINGS, flag::ACK, 0, 0, out);
}

pub(super) fn put_ping(flags: u8, payload: [u8; 8], out: &mut BytesMut) {
    put_head(kind::PING, flags, 0, 8, out);
    out.extend_from_slice(&payload);
}

pub(super) fn put_goaway(last: u32, reason: Reason, out: &mut BytesMut) {
    put_head(kind::GOAWAY, 0, 0, 8, out);
    out.put_u32(last);
    out.put_u32(reason.code());
}

pub(super) fn put_reset(stream: u32, reason: Reason, out: &mut BytesMut) {
    put_head(kind::RST_STREAM, 0, stream, 4, out);
    out.put_u32(reason.code());
}

pub(super) fn put_window_update(stream: u32, increment: u32, out: &mut BytesMut) {
    put_head(kind::WINDOW_UPDATE, 0, stream, 4, out);
    out.put_u32(increment);
}

/// Writes a header block where `block` puts it: one HEADERS frame, and CONTINUATIONs for what is too long.
pub(super) fn put_headers(stream: u32, ends: bool, out: &mut BytesMut, block: impl FnOnce(&mut BytesMut)) -> u32 {
    let start = out.len();
    let end_stream = if ends { flag::END_STREAM } else { 0 };
    put_head(kind::HEADERS, end_stream | flag::END_HEADERS, stream, 0, out);
    block(out);
    let len = out.len() - start - HEAD_BYTES;
    if len <= MAX_PAYLOAD {
        let [_, a, b, c] = (len as u32).to_be_bytes();
        out[start..start + 3].copy_from_slice(&[a, b, c]);
        return 1;
    }
    let whole = out.split_off(start + HEAD_BYTES);
    out.truncate(start);
    let last = len.div_ceil(MAX_PAYLOAD) - 1;
    for (at, part) in whole.chunks(MAX_PAYLOAD).enumerate() {
        let (kind, flags) = if at == 0 { (kind::HEADERS, end_stream) } else { (kind::CONTINUATION, 0) };
        put_head(kind, flags | if at == last { flag::END_HEADERS } else { 0 }, stream, part.len(), out);
        out.extend_from_slice(part);
    }
    last as u32 + 1
}
