//! The byte streams of both sides as one concrete type, [`Io`], and the per-worker pool of read buffers, [`Buffers`].
//!
//! `Io` is the one narrow seam to the kernel: whatever reads or writes a connection goes through it, and through nothing
//! of tokio's, so that splice, io_uring or write coalescing have one place to live. It does not time out, count or log.
mod buffers;
pub mod option;
mod ring;
mod socket;
mod splice;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

pub use buffers::{Buffers, READ_BUFFER_BYTES};
pub use ring::{Ring, drive};
pub use socket::Socket;
pub use splice::{Pipe, Pipes};
pub use tls::{Greeted, Tls};

/// Anything else that reads and writes: rare nestings such as TLS inside a CONNECT tunnel.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// One connection of either side.
pub struct Io {
    kind: Kind,
}

enum Kind {
    Plain(Socket),
    Tls(Box<Tls>),
    Memory(Box<DuplexStream>),
    Boxed(Box<dyn Stream>),
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Plain(_) => "plain",
            Kind::Tls(_) => "TLS",
            Kind::Memory(_) => "memory",
            Kind::Boxed(_) => "boxed",
        };
        f.debug_struct("Io")
            .field("kind", &kind)
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish()
    }
}

impl From<Socket> for Io {
    fn from(socket: Socket) -> Self {
        Self { kind: Kind::Plain(socket) }
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Socket::from(stream).into()
    }
}

impl From<tokio::net::UnixStream> for Io {
    fn from(stream: tokio::net::UnixStream) -> Self {
        Socket::from(stream).into()
    }
}

impl From<Tls> for Io {
    fn from(tls: Tls) -> Self {
        Self { kind: Kind::Tls(Box::new(tls)) }
    }
}

impl From<DuplexStream> for Io {
    fn from(stream: DuplexStream) -> Self {
        Self { kind: Kind::Memory(Box::new(stream)) }
    }
}

impl Io {
    /// A stream of another type.
    pub fn boxed(stream: impl Stream + 'static) -> Self {
        Self { kind: Kind::Boxed(Box::new(stream)) }
    }

    /// The socket below, also below TLS.
    pub fn socket(&self) -> Option<&Socket> {
        match &self.kind {
            Kind::Plain(socket) => Some(socket),
            Kind::Tls(tls) => Some(tls.socket()),
            Kind::Memory(_) | Kind::Boxed(_) => None,
        }
    }

    /// The TCP socket itself, where nothing lies between it and the reader and writer of this connection.
    pub fn bare_tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Plain(socket) => socket.bare_tcp(),
            _ => None,
        }
    }

    /// What was negotiated, on a TLS connection.
    pub fn tls_session(&self) -> Option<&rustls::CommonState> {
        match &self.kind {
            Kind::Tls(tls) => Some(tls.session()),
            _ => None,
        }
    }

    /// Whether the bytes are encrypted on the wire.
    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// The protocol that ALPN settled on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls_session()?.alpn_protocol()
    }

    /// The peer's address, where the connection is a TCP one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket()?.peer_addr()
    }

    /// This end's address, where the connection is a TCP one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket()?.local_addr()
    }

    /// Makes the coming close a reset (RST) instead of an orderly end: for peers that must notice that something broke.
    pub fn reset_on_close(&self) {
        if let Some(socket) = self.socket() {
            socket.reset_on_close();
        }
    }

    /// Gives bytes that were read early (a peek, a PROXY header's surplus) back, to be read first. Only for a connection that is
    /// not TLS yet: below TLS use [`Socket::with_prefix`].
    pub fn rewind(self, prefix: Bytes) -> Self {
        match self.kind {
            Kind::Plain(socket) => Self { kind: Kind::Plain(socket.with_prefix(prefix)) },
            kind if prefix.is_empty() => Self { kind },
            kind => Self::boxed(socket::Rewound::new(Self { kind }, prefix)),
        }
    }

    /// Ready when a read would find something (bytes, the end, an error), without a buffer to read into: an idle connection
    /// waits here. A spurious `Ready` is possible: the read that follows then is pending.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => socket.poll_read_ready(cx),
            Kind::Tls(tls) => tls.poll_readable(cx),
            // No readiness without a read: whoever waits holds a buffer.
            Kind::Memory(_) | Kind::Boxed(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether an idle connection still looks usable: nothing to read, no end, no error. Costs a system call only where the
    /// event loop has seen something happen on the socket. Bytes that an idle peer sends unasked make the answer `false`.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_readable(&mut cx).is_pending() {
            return true;
        }
        // TLS sends session tickets and key updates at any time: they are read here and leave nothing behind.
        let mut byte = [0u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut cx, &mut buf).is_pending()
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Kind::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Kind::Memory(pipe) => Pin::new(pipe).poll_read(cx, buf),
            Kind::Boxed(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Kind::Memory(pipe) => Pin::new(pipe).poll_write(cx, buf),
            Kind::Boxed(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Kind::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Kind::Memory(pipe) => Pin::new(pipe).poll_write_vectored(cx, bufs),
            Kind::Boxed(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Boxed(stream) => stream.is_write_vectored(),
            _ => true,
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Kind::Memory(pipe) => Pin::new(pipe).poll_flush(cx),
            Kind::Boxed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Kind::Memory(pipe) => Pin::new(pipe).poll_shutdown(cx),
            Kind::Boxed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
