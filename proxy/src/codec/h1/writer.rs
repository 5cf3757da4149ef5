//! Output that waits for the socket: small things are gathered in one buffer, a large piece of a body goes from where it lies.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::io::{Buffers, Io};

/// Pieces up to this size are copied behind what is already gathered: cheaper than one more entry of a vectored write, and
/// many small pieces leave together.
const COPY_BYTES: usize = 4096;
/// With so much gathered, write before gathering more.
const GATHER_BYTES: usize = 16 * 1024;

/// One connection's output. Order: `buf`, then `payload`, then `tail`.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buf: BytesMut,
    payload: Bytes,
    tail: &'static [u8],
    unflushed: bool,
}

impl Writer {
    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.payload.is_empty() && self.tail.is_empty()
    }

    /// Whether more may be gathered before the next write.
    pub(crate) fn has_room(&self) -> bool {
        self.payload.is_empty() && self.tail.is_empty() && self.buf.len() < GATHER_BYTES
    }

    /// The gathering buffer, for heads and chunk sizes. Only while [`Writer::has_room`] or when nothing large waits.
    pub(crate) fn buf(&mut self, buffers: &Buffers) -> &mut BytesMut {
        if self.buf.capacity() == 0 {
            self.buf = buffers.take();
        }
        &mut self.buf
    }

    /// Adds a piece of a body, and what follows it.
    pub(crate) fn push(&mut self, data: Bytes, tail: &'static [u8], buffers: &Buffers) {
        debug_assert!(self.payload.is_empty() && self.tail.is_empty());
        if data.len() <= COPY_BYTES {
            let buf = self.buf(buffers);
            buf.extend_from_slice(&data);
            buf.extend_from_slice(tail);
        } else {
            self.payload = data;
            self.tail = tail;
        }
    }

    /// Writes all that waits, and flushes it through TLS. Ready with the number of bytes written in this call.
    pub(crate) fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = if self.payload.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.buf))?
            } else {
                let slices = [IoSlice::new(&self.buf), IoSlice::new(&self.payload), IoSlice::new(self.tail)];
                let first = slices.iter().position(|s| !s.is_empty()).unwrap_or(0);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[first..]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(n);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        let from_buf = n.min(self.buf.len());
        if from_buf == self.buf.len() {
            self.buf.clear();
        } else {
            self.buf.advance(from_buf);
        }
        n -= from_buf;
        let from_payload = n.min(self.payload.len());
        self.payload.advance(from_payload);
        if self.payload.is_empty() {
            self.payload = Bytes::new();
        }
        self.tail = &self.tail[n - from_payload..];
    }

    /// Gives the buffer back while nothing waits in it.
    pub(crate) fn rest(&mut self, buffers: &Buffers) {
        if self.is_empty() && self.buf.capacity() != 0 {
            buffers.give(std::mem::take(&mut self.buf));
        }
    }
}
