//! Guards an HTTP/2 connection against a peer that floods it: frames are counted as they pass, without a look at their content, and
//! past a limit the connection ends. The limits are Envoy's (`Http2ProtocolOptions`; CVE-2019-9511 to 9518 are the reason for
//! them). What streams may do to each other is the frame layer's business.
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sidemesh_config::resource::cluster::FloodLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::{Gather, Io};

/// A client sends this much before its first frame (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A connection whose frames are counted. Cloning is another handle to it.
#[derive(Clone)]
pub(super) struct Guarded {
    io: Gather,
    frames: Rc<RefCell<Frames>>,
}

impl Guarded {
    pub(super) fn new(io: Gather, limits: FloodLimits, side: Side) -> Self {
        Self { io, frames: Rc::new(RefCell::new(Frames::new(limits, side))) }
    }

    /// As [`Gather::defer`].
    pub(super) fn defer(&self) {
        self.io.defer();
    }

    /// As [`Gather::io`].
    pub(super) fn io(&self) -> &RefCell<Io> {
        self.io.io()
    }

    /// As [`Gather::poll_drain`]; what is out is owed no more.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.io.poll_drain(cx));
        self.frames.borrow_mut().control = 0;
        Poll::Ready(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guarded = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut guarded.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        match guarded.frames.borrow_mut().received(read) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(limit) => {
                tracing::debug!(limit, "an HTTP/2 peer floods its connection, which ends");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, limit)))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.frames.borrow_mut().sent(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut frames = self.frames.borrow_mut();
        let mut left = written;
        for buf in bufs {
            let part = &buf[..buf.len().min(left)];
            frames.sent(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What has passed so far.
struct Frames {
    limits: FloodLimits,
    inbound: Scan,
    outbound: Scan,
    /// Answers to control frames that are owed since the output was empty last.
    control: u32,
    /// Frames without content in a row.
    empty: u32,
    priorities: u64,
    window_updates: u64,
    streams: u64,
    data_sent: u64,
}

impl Frames {
    fn new(limits: FloodLimits, side: Side) -> Self {
        let (inbound, outbound) = match side {
            Side::Server => (Scan::after(PREFACE_BYTES), Scan::after(0)),
            Side::Client => (Scan::after(0), Scan::after(PREFACE_BYTES)),
        };
        Self {
            limits,
            inbound,
            outbound,
            control: 0,
            empty: 0,
            priorities: 0,
            window_updates: 0,
            streams: 0,
            data_sent: 0,
        }
    }

    /// Counts what the peer sent; the name of the limit that it is past.
    fn received(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let mut rest = bytes;
        while let Some(frame) = self.inbound.next(&mut rest) {
            self.count(frame)?;
        }
        Ok(())
    }

    fn count(&mut self, frame: Frame) -> Result<(), &'static str> {
        const FLAG: u8 = 1;
        match frame.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => {
                self.streams += u64::from(frame.kind == kind::HEADERS);
                // With END_STREAM an empty frame says something.
                let idle = frame.length == 0 && frame.flags & FLAG == 0;
                self.empty = if idle { self.empty + 1 } else { 0 };
            }
            kind::PRIORITY => self.priorities += 1,
            kind::WINDOW_UPDATE => self.window_updates += 1,
            kind::PING | kind::SETTINGS if frame.flags & FLAG == 0 => self.control += 1,
            _ => {}
        }
        let of = |limit: u32, many: u64| u64::from(limit).saturating_mul(many);
        let limits = &self.limits;
        if self.empty > limits.empty_frames {
            return Err("max_consecutive_inbound_frames_with_empty_payload");
        }
        if self.control > limits.control_frames {
            return Err("max_outbound_control_frames");
        }
        if self.priorities > of(limits.priority_frames, 1 + self.streams) {
            return Err("max_inbound_priority_frames_per_stream");
        }
        if self.window_updates > 5 + 2 * self.streams.saturating_add(of(limits.window_updates, self.data_sent)) {
            return Err("max_inbound_window_update_frames_per_data_frame_sent");
        }
        Ok(())
    }

    fn sent(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(frame) = self.outbound.next(&mut rest) {
            self.data_sent += u64::from(frame.kind == kind::DATA);
            self.streams += u64::from(frame.kind == kind::HEADERS);
        }
    }
}

/// Frame types (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
}

/// Finds frame heads in a stream of bytes that comes in any pieces.
struct Scan {
    /// Bytes until the next head: of a preface, or of a frame's content.
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    have: usize,
}

impl Scan {
    fn after(skip: usize) -> Self {
        Self { skip, head: [0; FRAME_HEAD_BYTES], have: 0 }
    }

    /// The next frame whose head is complete; `None` when `rest` is used up.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Frame> {
        let skipped = self.skip.min(rest.len());
        self.skip -= skipped;
        *rest = rest.get(skipped..).unwrap_or_default();
        let (part, after) = rest.split_at(rest.len().min(FRAME_HEAD_BYTES - self.have));
        self.head[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        *rest = after;
        if self.have < FRAME_HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.skip = length;
        Some(Frame { kind, flags, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FloodLimits =
        FloodLimits { control_frames: 3, empty_frames: 1, priority_frames: 2, window_updates: 10 };

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = (content.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(content);
        bytes
    }

    fn server() -> Frames {
        let mut frames = Frames::new(LIMITS, Side::Server);
        assert_eq!(frames.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Ok(()));
        frames
    }

    #[test]
    fn frames_are_found_in_any_pieces() {
        let bytes = [frame(kind::HEADERS, 4, b"abc"), frame(kind::DATA, 1, b""), frame(kind::PING, 0, b"12345678")];
        for size in 1..40 {
            let mut frames = server();
            bytes.concat().chunks(size).for_each(|piece| assert_eq!(frames.received(piece), Ok(())));
            assert_eq!((frames.streams, frames.control, frames.empty), (1, 1, 0), "{size}");
        }
    }

    #[test]
    fn each_kind_of_flood_is_named() {
        let cases = [
            (frame(kind::PING, 0, b"12345678"), 3, "max_outbound_control_frames"),
            (frame(kind::SETTINGS, 0, b""), 3, "max_outbound_control_frames"),
            (frame(kind::DATA, 0, b""), 1, "max_consecutive_inbound_frames_with_empty_payload"),
            (frame(kind::PRIORITY, 0, b"12345"), 2, "max_inbound_priority_frames_per_stream"),
            (frame(kind::WINDOW_UPDATE, 0, b"1234"), 5, "max_inbound_window_update_frames_per_data_frame_sent"),
        ];
        for (one, allowed, limit) in cases {
            let mut frames = server();
            for _ in 0..allowed {
                assert_eq!(frames.received(&one), Ok(()), "{limit}");
            }
            assert_eq!(frames.received(&one), Err(limit));
        }
    }

    #[test]
    fn answers_and_data_make_room() {
        let mut frames = server();
        for _ in 0..100 {
            frames.sent(&frame(kind::DATA, 0, b"content"));
            for _ in 0..10 {
                assert_eq!(frames.received(&frame(kind::WINDOW_UPDATE, 0, b"1234")), Ok(()));
            }
            // An acknowledgement is no demand, and an empty last frame is no flood.
            assert_eq!(frames.received(&frame(kind::PING, 1, b"12345678")), Ok(()));
            assert_eq!(frames.received(&frame(kind::DATA, 1, b"")), Ok(()));
        }
    }
}
