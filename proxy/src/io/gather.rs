//! Many small writes become few: [`Gather`] collects what a connection writes in one turn of its task.
//!
//! `h2` writes every DATA frame on its own, and one turn answers many streams. So it is told that all is written, and whoever polls
//! it calls [`Gather::poll_drain`] when the turn is over. What is collected is bounded by one buffer ([`READ_BUFFER_BYTES`]): more
//! goes out at once, together with it, and a socket that takes nothing holds the writer back. The buffer is the worker's, and lent
//! only while something waits in it.
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Buffers, Io, READ_BUFFER_BYTES};

/// A connection whose writes are collected. Cloning is another handle to it: one for the codec, one for who drains it.
#[derive(Clone)]
pub struct Gather {
    inner: Rc<Inner>,
}

struct Inner {
    io: RefCell<Io>,
    waiting: RefCell<BytesMut>,
    buffers: Buffers,
    /// Flushes are left to [`Gather::poll_drain`].
    deferred: Cell<bool>,
    /// A write that failed after it was taken: told at the next.
    failed: Cell<Option<io::ErrorKind>>,
}

impl Gather {
    /// Collects what is written to `io`; a flush still is one until [`Gather::defer`].
    pub fn new(io: Io, buffers: Buffers) -> Self {
        let waiting = RefCell::new(BytesMut::new());
        let (deferred, failed) = (Cell::new(false), Cell::new(None));
        Self { inner: Rc::new(Inner { io: RefCell::new(io), waiting, buffers, deferred, failed }) }
    }

    /// From here on somebody calls [`Gather::poll_drain`] after each turn.
    pub fn defer(&self) {
        self.inner.deferred.set(true);
    }

    /// The connection itself, for who has drained it.
    pub fn io(&self) -> &RefCell<Io> {
        &self.inner.io
    }

    /// Writes out what waits, as far as the socket takes it; the task is woken to go on. A failure is told by the next write or flush.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.waiting.borrow().capacity() == 0 && !self.inner.io.borrow().is_tls() {
            return Poll::Ready(());
        }
        if let Err(error) = ready!(self.inner.poll_out(cx)) {
            self.inner.failed.set(Some(error.kind()));
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }
}

impl Inner {
    /// Writes all that waits, and flushes.
    fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.io.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        while !waiting.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => waiting.advance(n),
            }
        }
        if waiting.capacity() > 0 {
            self.buffers.give(std::mem::take(&mut *waiting));
        }
        Pin::new(&mut *io).poll_flush(cx)
    }

    /// Keeps `bufs`, which fit.
    fn keep(&self, waiting: &mut BytesMut, bufs: &[IoSlice<'_>]) {
        if waiting.capacity() == 0 {
            *waiting = self.buffers.take();
        }
        bufs.iter().for_each(|buf| waiting.extend_from_slice(buf));
    }

    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed.take() {
            return Poll::Ready(Err(kind.into()));
        }
        let mut waiting = self.waiting.borrow_mut();
        let offered = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        loop {
            if waiting.len() + offered <= READ_BUFFER_BYTES {
                self.keep(&mut waiting, bufs);
                return Poll::Ready(Ok(offered));
            }
            let mut all = SmallVec::<[IoSlice<'_>; 8]>::new();
            all.extend((!waiting.is_empty()).then(|| IoSlice::new(&waiting)));
            all.extend(bufs.iter().map(|buf| IoSlice::new(buf)));
            let written = ready!(Pin::new(&mut *self.io.borrow_mut()).poll_write_vectored(cx, &all))?;
            drop(all);
            if written == 0 || written > waiting.len() {
                let own = written.saturating_sub(waiting.len());
                waiting.clear();
                return Poll::Ready(Ok(own));
            }
            waiting.advance(written);
        }
    }
}

impl AsyncRead for Gather {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner.io.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gather {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner.poll_write(cx, &[IoSlice::new(buf)])
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.inner.failed.take() {
            return Poll::Ready(Err(kind.into()));
        }
        if self.inner.deferred.get() {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.inner.poll_out(cx))?;
        Pin::new(&mut *self.inner.io.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair(room: usize) -> (Gather, tokio::io::DuplexStream, Buffers) {
        let (near, far) = tokio::io::duplex(room);
        let buffers = Buffers::default();
        let gather = Gather::new(near.into(), buffers.clone());
        gather.defer();
        (gather, far, buffers)
    }

    #[tokio::test]
    async fn what_a_turn_writes_leaves_when_it_is_drained_and_the_buffer_goes_back() {
        let (mut gather, mut far, buffers) = pair(1024);
        gather.write_all(b"one").await.unwrap();
        gather.write_all(b"two").await.unwrap();
        gather.flush().await.unwrap();
        let mut got = [0; 6];
        let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut ReadBuf::new(&mut got))));
        assert!(early.await.is_pending());
        poll_fn(|cx| gather.poll_drain(cx)).await;
        far.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, buffers.len()), (b"onetwo", 1));
    }

    #[tokio::test]
    async fn a_full_peer_holds_the_writer_back_and_no_byte_is_lost() {
        let (mut gather, mut far, _) = pair(1000);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let copy = sent.clone();
        let writer = async move {
            for piece in copy.chunks(7_777) {
                gather.write_all(piece).await.unwrap();
            }
            gather.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(writer, far.read_to_end(&mut got));
        assert_eq!((read.unwrap(), got == sent), (sent.len(), true));
    }

    #[tokio::test]
    async fn a_failure_is_told_at_the_next_flush() {
        let (mut gather, far, _) = pair(1000);
        drop(far);
        gather.write_all(b"lost").await.unwrap();
        poll_fn(|cx| gather.poll_drain(cx)).await;
        assert_eq!(gather.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
