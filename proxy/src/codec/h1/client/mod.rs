//! One upstream HTTP/1 connection: send a request, read its response, again. No task: the response future drives the socket both
//! ways until the head is there, the response body does so from then on. So an early response is seen while the upload goes on,
//! and a tunnel (an accepted upgrade, CONNECT) is nothing but the two bodies.
//!
//! The connection travels: from the pool into the future, from there into the body, and back through [`Release`]. Dropping
//! the future or the body closes it. It has no timeouts: those are the request loop's.
mod exchange;
mod request;
mod response;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::request::Parts;
use tokio::io::AsyncWrite;

use exchange::{Exchange, InFlight};
pub use exchange::{ResponseBody, ResponseFuture};

use super::writer::Writer;
use super::{HeaderCase, Limits};
use crate::codec::body::Body;
use crate::codec::{Local, Release, SendOptions, poll_fill};
use crate::io::Io;

/// How a cluster speaks HTTP/1. The defaults are Envoy's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `max_response_headers_kb` (80 KiB for HTTP/1), `max_headers_count`, `enable_trailers`.
    pub limits: Limits,
    /// `header_key_format`
    pub header_case: HeaderCase,
    /// `send_fully_qualified_url`
    pub send_fully_qualified_url: bool,
    /// `allow_chunked_length`
    pub allow_chunked_length: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits { head_bytes: 80 * 1024, ..Limits::default() },
            header_case: HeaderCase::Lower,
            send_fully_qualified_url: false,
            allow_chunked_length: false,
        }
    }
}

/// An upstream connection between exchanges.
pub struct Connection {
    inner: Box<Inner>,
}

/// One box per connection, which holds the state of its current exchange too.
struct Inner {
    io: Io,
    settings: Rc<Settings>,
    local: Local,
    read: BytesMut,
    out: Writer,
    ended: bool,
    requests: u64,
    exchange: Exchange,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("io", &self.inner.io).field("requests", &self.inner.requests).finish()
    }
}

impl Connection {
    /// A connection that is ready for its first request: connected, and through TLS.
    pub fn new(io: Io, settings: Rc<Settings>, local: Local) -> Self {
        let inner = Inner {
            io,
            settings,
            local,
            read: BytesMut::new(),
            out: Writer::default(),
            ended: false,
            requests: 0,
            exchange: Exchange::default(),
        };
        Self { inner: Box::new(inner) }
    }

    /// Sends a request. Its head is put together now and leaves with the first poll. `release` hears exactly once what became of
    /// the connection.
    pub fn send(
        mut self,
        head: &Parts,
        body: Body,
        options: SendOptions,
        release: Rc<dyn Release<Self>>,
    ) -> ResponseFuture {
        let inner = &mut *self.inner;
        inner.exchange = Exchange::begin(head, body, options, inner.requests > 0);
        request::put_head(inner, head);
        inner.requests += 1;
        ResponseFuture::new(InFlight::new(self, release))
    }

    /// How many requests it has carried.
    pub fn requests(&self) -> u64 {
        self.inner.requests
    }

    /// The stream below, for addresses and the TLS session.
    pub fn io(&self) -> &Io {
        &self.inner.io
    }

    /// Whether an idle connection can carry a request: the peer has neither closed it nor sent anything unasked.
    pub fn is_reusable(&mut self) -> bool {
        !self.inner.ended && self.inner.read.is_empty() && self.inner.io.is_quiet()
    }
}

impl Inner {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.read.is_empty() {
            ready!(self.io.poll_readable(cx))?;
            if self.read.capacity() < crate::io::READ_BUFFER_BYTES / 8 {
                self.read = self.local.buffers.take();
            }
        }
        let want = self.exchange.decoder.appetite();
        if self.read.capacity() - self.read.len() < want / 8 {
            self.read.reserve(want);
        }
        let filled = ready!(poll_fill(&mut self.io, &mut self.read, cx));
        self.ended |= !matches!(filled, Ok(1..));
        Poll::Ready(filled)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Lets go of all that belongs to one exchange.
    fn rest(&mut self) {
        self.exchange = Exchange::default();
        self.out.rest(&self.local.buffers);
        if self.read.is_empty() && self.read.capacity() != 0 {
            self.local.buffers.give(std::mem::take(&mut self.read));
        }
    }
}
