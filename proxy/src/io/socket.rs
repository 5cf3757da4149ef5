//! A kernel stream socket (TCP or Unix) with bytes that may have been read early in front of it.
//!
//! A thread with a [`Ring`] takes its TCP connections for messages onto it; otherwise tokio waits for the socket and each read and write is a
//! system call.
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::ring::{self, Ring};

/// One socket. TLS wraps this, so that early bytes (a peek, a PROXY header's surplus) stay in front of the handshake.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    prefix: Option<Box<Bytes>>,
}

#[derive(Debug)]
enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ring(ring::Stream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self { raw: Raw::Tcp(stream), prefix: None }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { raw: Raw::Unix(stream), prefix: None }
    }
}

impl Socket {
    /// Puts `prefix` in front of what the socket has yet to deliver (and of an earlier prefix).
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        if !prefix.is_empty() {
            let whole = match self.prefix.take() {
                Some(rest) => [prefix.as_ref(), rest.as_ref()].concat().into(),
                None => prefix,
            };
            self.prefix = Some(Box::new(whole));
        }
        self
    }

    /// Takes a TCP connection on. One that carries `messages`, many of them small, goes over this thread's ring where it has one; one
    /// that carries a stream of bytes is better off as it is: they can be spliced.
    ///
    /// # Errors
    /// Where the connection cannot be taken from one event loop to the other.
    pub fn adopt(stream: TcpStream, messages: bool) -> io::Result<Self> {
        let raw = match Ring::current().filter(|_| messages) {
            Some(ring) => Raw::Ring(ring::Stream::new(ring, stream.into_std()?.into())?),
            None => Raw::Tcp(stream),
        };
        Ok(Self { raw, prefix: None })
    }

    pub(super) fn bare_tcp(&self) -> Option<&TcpStream> {
        match &self.raw {
            Raw::Tcp(stream) if self.prefix.is_none() => Some(stream),
            _ => None,
        }
    }

    /// Looks at the TCP socket, or sets an option of it. `None` for other sockets.
    fn with_tcp<R>(&self, look: impl FnOnce(SockRef<'_>) -> R) -> Option<R> {
        match &self.raw {
            Raw::Tcp(stream) => Some(look(SockRef::from(stream))),
            Raw::Ring(stream) => Some(stream.with_socket(look)),
            Raw::Unix(_) => None,
        }
    }

    /// The peer's address, of a TCP socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.with_tcp(|socket| socket.peer_addr())?.ok()?.as_socket()
    }

    /// This end's address, of a TCP socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.with_tcp(|socket| socket.local_addr())?.ok()?.as_socket()
    }

    /// See [`super::Io::reset_on_close`].
    pub fn reset_on_close(&self) {
        let set = match &self.raw {
            Raw::Tcp(stream) => stream.set_zero_linger(),
            Raw::Ring(stream) => stream.reset_on_close(),
            Raw::Unix(_) => Ok(()),
        };
        if let Err(error) = set {
            tracing::debug!(%error, "setting SO_LINGER failed: the connection ends in an orderly way instead of by a reset");
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_some() {
            return Poll::Ready(Ok(()));
        }
        match &self.raw {
            Raw::Tcp(stream) => stream.poll_read_ready(cx),
            Raw::Unix(stream) => stream.poll_read_ready(cx),
            Raw::Ring(stream) => stream.poll_read_ready(cx),
        }
    }
}

/// Moves as much of the prefix as fits; drops it once empty.
fn read_prefix(prefix: &mut Option<Box<Bytes>>, buf: &mut ReadBuf<'_>) {
    if let Some(bytes) = prefix {
        let n = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..n]);
        bytes.advance(n);
        if bytes.is_empty() {
            *prefix = None;
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_some() {
            read_prefix(&mut self.prefix, buf);
            return Poll::Ready(Ok(()));
        }
        match &mut self.raw {
            Raw::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Raw::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Raw::Ring(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.raw {
            Raw::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Raw::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Raw::Ring(stream) => stream.poll_write(cx, &[io::IoSlice::new(buf)]),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.raw {
            Raw::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Raw::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Raw::Ring(stream) => stream.poll_write(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.raw {
            Raw::Ring(stream) => stream.poll_flush(cx),
            Raw::Tcp(_) | Raw::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.raw {
            Raw::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Raw::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Raw::Ring(stream) => stream.poll_shutdown(cx),
        }
    }
}

/// Early bytes in front of a stream that is no plain socket.
pub(super) struct Rewound<S> {
    inner: S,
    prefix: Option<Box<Bytes>>,
}

impl<S> Rewound<S> {
    pub(super) fn new(inner: S, prefix: Bytes) -> Self {
        Self { inner, prefix: Some(Box::new(prefix)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_some() {
            read_prefix(&mut self.prefix, buf);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
