//! The HTTP codecs, both sides of both protocols, behind one request and response form.
//!
//! ```text
//! downstream Io -> h1::server::serve | h2::server::serve -> Handler::handle(Request<Body>, RequestMeta) -> Response<Body>
//!                                                             |
//!                                    h1::client::Connection | h2::client::Connection :: send(&Parts, Body, SendOptions)
//! ```
//!
//! One form for both: `uri()` is in origin form (`/path?query`, `*` for `OPTIONS *`), the authority is the `host` header (also of
//! an HTTP/2 request; an absolute-form target's authority has replaced it; an HTTP/1 client may have sent none), the scheme is in [`RequestMeta`]. A CONNECT request has
//! `uri()` in authority form when it names no path. Connection-specific headers (`connection`, `keep-alive`, `proxy-connection`,
//! `transfer-encoding`, `upgrade`, `http2-settings`) are the codecs' own: they are gone from what a handler sees, and a codec writes
//! them itself. An upgrade is in [`RequestMeta::upgrade`]; its bytes are the request and the response body.
//!
//! A handler runs in the task of its connection, and upstream connections have no task of their own on HTTP/1: whoever polls a
//! response drives the upstream socket. Dropping a future or a body is what cancels it.
pub mod body;
pub mod connect;
mod drain;
mod error;
pub mod h1;
pub mod h2;
mod handler;
mod linger;
mod path;
pub(crate) mod repeated;
mod tunnel;

pub use body::Body;
pub use drain::{Drain, DrainHandle};
pub use error::{Closed, SendError};
pub use handler::{Ending, Handler, Informational, Rejection, RequestMeta, Scheme, Upgrade, abort};
pub use path::{path_and_query, set_path_and_query};
pub use tunnel::Tunnel;

use std::future::Future;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use crate::clock::{Clock, Random, Timers};
use crate::io::{Buffers, Io, Pipes};

/// What a worker lends to its connections. Cloning shares all of it.
#[derive(Clone, Debug)]
pub struct Local {
    /// The worker's clock.
    pub clock: Clock,
    /// The worker's timer wheel.
    pub timers: Timers,
    /// The worker's random numbers.
    pub random: Random,
    /// The worker's read and write buffers.
    pub buffers: Buffers,
    /// The worker's pipes.
    pub pipes: Pipes,
}

impl Local {
    /// A worker's own set.
    pub fn new(random: Random) -> Self {
        Self {
            clock: Clock::new(),
            timers: Timers::new(),
            random,
            buffers: Buffers::default(),
            pipes: Pipes::default(),
        }
    }
}

/// Which protocol a message came by or leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As access logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Where an upstream connection goes when its exchange is over: the pool's side of [`h1::client`] and [`h2::client`].
pub trait Release<C> {
    /// Called exactly once per exchange: with the connection when it can carry another, with `None` when it is closed or broken.
    fn release(&self, connection: Option<C>);

    /// Called before the release of a connection that cannot carry another exchange, where it is known why.
    fn closing(&self, _why: Closing) {}
}

/// Why a connection ends with its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The exchange is complete; the peer has said that it is the last.
    Announced,
    /// The peer has closed or reset it.
    ByPeer,
}

/// Among a response's extensions: the status of the first interim response that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interim(pub http::StatusCode);

/// What goes with a request sent upstream.
#[derive(Clone, Default)]
pub struct SendOptions {
    /// Where the origin's first interim (1xx) response goes; the others are dropped, as in Envoy, and without it all.
    pub informational: Option<Informational>,
    /// The request asks for this upgrade (`websocket`; CONNECT is known by its method).
    pub upgrade: Option<Upgrade>,
    /// The scheme for HTTP/2's `:scheme` (and for a fully qualified HTTP/1 target).
    pub scheme: Scheme,
}

/// Reads once into `buf`'s spare capacity, which the caller has reserved. `Ok(0)` is the end of the stream.
#[inline]
pub(crate) fn poll_fill(io: &mut Io, buf: &mut BytesMut, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
    std::pin::pin!(io.read_buf(buf)).poll(cx)
}
