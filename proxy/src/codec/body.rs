//! [`Body`]: the one body type of requests and responses, whichever protocol they came by.
//!
//! A streaming body reads its connection when polled: there is no task and no channel between the two sides. Reading is what releases
//! flow control, so an unread body is back-pressure. Dropping a body before its end cancels what is left of it: a request body
//! costs its HTTP/1 connection the reuse or resets its HTTP/2 stream, a response body closes or resets the upstream side.
//! A failure says why: see [`Error`].
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
pub use http_body::{Body as HttpBody, Frame, SizeHint};

use super::h1;
use super::h2::{self, Reason};
use super::tunnel::Tunnel;

/// Why a body ended before its end. Cheap to clone: it goes to the log, the stream's end and the retry decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer reset the stream (HTTP/2 RST_STREAM), with its reason.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The connection ended, or was reset, before the body was complete.
    #[error("the connection was closed before the body was complete")]
    Closed,
    /// The peer broke the message framing.
    #[error("malformed body: {0}")]
    Malformed(&'static str),
    /// A limit was exceeded; the word names which.
    #[error("the body exceeds {0}")]
    TooLarge(&'static str),
    /// A time limit was reached; the word names which.
    #[error("{0} was reached")]
    Timeout(&'static str),
    /// This proxy gave the stream up.
    #[error("the stream was cancelled")]
    Canceled,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(std::io::ErrorKind),
    /// A filter or adapter failed.
    #[error("{0}")]
    Other(Rc<str>),
}

impl Error {
    /// The HTTP/2 reason that tells a peer of this failure.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Canceled | Self::Timeout(_) => Reason::CANCEL,
            Self::Malformed(_) => Reason::PROTOCOL_ERROR,
            _ => Reason::INTERNAL_ERROR,
        }
    }
}

/// How the life of a body ended, told once to its [`Watch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was read (and, by the codec that wrote it, handed to the kernel).
    Complete,
    /// It failed.
    Failed(Error),
    /// It was dropped before its end.
    Dropped,
}

/// Sees the bytes of a body pass and how it ends: byte counts, access log, stream timeouts.
pub trait Watch {
    /// `bytes` of data passed.
    fn on_data(&self, bytes: usize);
    /// Trailers passed.
    fn on_trailers(&self, _trailers: &HeaderMap) {}
    /// The body is gone; called exactly once.
    fn on_end(&self, end: End);
}

/// A request or response body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    watch: Option<Rc<dyn Watch>>,
    failed: Option<Box<Error>>,
    ended: bool,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Trailers(Box<(Bytes, HeaderMap)>),
    Failed(Error),
    H1Request(h1::server::RequestBody),
    H1Response(h1::client::ResponseBody),
    H2(h2::RecvBody),
    Tunnel(Box<Tunnel>),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = Error>>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) | Kind::Trailers(_) => "full",
            Kind::Failed(_) => "failed",
            Kind::H1Request(_) => "HTTP/1 request",
            Kind::H1Response(_) => "HTTP/1 response",
            Kind::H2(_) => "HTTP/2",
            Kind::Tunnel(_) => "tunnel",
            Kind::Boxed(_) => "boxed",
        };
        f.debug_struct("Body").field("kind", &kind).field("ended", &self.ended).finish()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, watch: None, failed: None, ended: false }
    }
}

impl From<h1::server::RequestBody> for Body {
    fn from(body: h1::server::RequestBody) -> Self {
        Kind::H1Request(body).into()
    }
}

impl From<h1::client::ResponseBody> for Body {
    fn from(body: h1::client::ResponseBody) -> Self {
        Kind::H1Response(body).into()
    }
}

impl From<h2::RecvBody> for Body {
    fn from(body: h2::RecvBody) -> Self {
        Kind::H2(body).into()
    }
}

impl From<Tunnel> for Body {
    fn from(tunnel: Tunnel) -> Self {
        Kind::Tunnel(Box::new(tunnel)).into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

impl Body {
    /// No content and no trailers.
    pub fn empty() -> Self {
        Self::default()
    }

    /// All content at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Kind::Full(bytes).into() }
    }

    /// All content at once, then trailers.
    pub fn full_with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> Self {
        Kind::Trailers(Box::new((bytes.into(), trailers))).into()
    }

    /// A body that fails at once. As the body of a response it makes the codec reset the stream (HTTP/2, with
    /// [`Error::reason`]) or close the connection (HTTP/1) without sending the head: see [`super::abort`].
    pub fn failed(error: Error) -> Self {
        Kind::Failed(error).into()
    }

    /// A rare adapter (compression, buffering).
    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = Error> + 'static) -> Self {
        Kind::Boxed(Box::pin(body)).into()
    }

    /// Tells `watch` what passes and how it ends. One watch per body: a second one replaces the first, which sees it dropped.
    pub fn watched(mut self, watch: Rc<dyn Watch>) -> Self {
        if let Some(old) = self.watch.replace(watch) {
            old.on_end(End::Dropped);
        }
        self
    }

    /// The failure, of a body made to fail.
    pub fn failure(&self) -> Option<&Error> {
        match &self.kind {
            Kind::Failed(error) => Some(error),
            _ => self.failed.as_deref(),
        }
    }

    /// Marks the body as failed from outside (its reader could not pass it on), for its watch.
    pub fn fail(&mut self, error: Error) {
        self.kind = Kind::Empty;
        self.failed.get_or_insert_with(|| Box::new(error));
    }

    /// Marks the body as complete though it was not read: the message it belongs to is sent without one (HEAD).
    pub fn skip(&mut self) {
        self.kind = Kind::Empty;
        self.ended = true;
    }

    /// The content, if it is all here: nothing to wait for and no trailers.
    pub fn as_full(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Empty if self.failed.is_none() => Some(&[]),
            Kind::Full(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// [`HttpBody::is_end_stream`] without importing the trait.
    pub fn is_end(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) | Kind::Trailers(_) | Kind::Failed(_) => false,
            Kind::H1Request(body) => body.is_end(),
            Kind::H1Response(body) => body.is_end(),
            Kind::H2(body) => body.is_end(),
            Kind::Tunnel(_) => false,
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    /// The length, where it is known before it is read.
    pub fn exact_len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Empty => Some(0),
            Kind::Full(bytes) => Some(bytes.len() as u64),
            // Trailers need a framing that carries them.
            Kind::Trailers(_) | Kind::Failed(_) | Kind::Tunnel(_) => None,
            Kind::H1Request(body) => body.remaining(),
            Kind::H1Response(body) => body.remaining(),
            Kind::H2(body) => body.remaining(),
            Kind::Boxed(body) => body.size_hint().exact(),
        }
    }

    /// The next frame: data, or trailers.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.kind {
            Kind::Empty => None,
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Trailers(both) if !both.0.is_empty() => Some(Ok(Frame::data(std::mem::take(&mut both.0)))),
            Kind::Trailers(both) => {
                let trailers = std::mem::take(&mut both.1);
                self.kind = Kind::Empty;
                Some(Ok(Frame::trailers(trailers)))
            }
            Kind::Failed(error) => Some(Err(error.clone())),
            Kind::H1Request(body) => ready!(body.poll_frame(cx)),
            Kind::H1Response(body) => ready!(body.poll_frame(cx)),
            Kind::H2(body) => ready!(body.poll_frame(cx)),
            Kind::Tunnel(tunnel) => ready!(tunnel.poll_frame(cx)),
            Kind::Boxed(body) => ready!(body.as_mut().poll_frame(cx)),
        };
        match &frame {
            None => {
                self.ended = true;
                // Lets go of the connection at once: the body itself may live on until the log is written.
                self.kind = Kind::Empty;
            }
            Some(Err(error)) => {
                self.failed.get_or_insert_with(|| Box::new(error.clone()));
                self.kind = Kind::Empty;
            }
            Some(Ok(frame)) => self.observe(frame),
        }
        Poll::Ready(frame)
    }

    fn observe(&mut self, frame: &Frame<Bytes>) {
        if let Some(watch) = &self.watch {
            if let Some(data) = frame.data_ref() {
                watch.on_data(data.len());
            } else if let Some(trailers) = frame.trailers_ref() {
                watch.on_trailers(trailers);
            }
        }
    }

    /// [`Body::poll_next`] as a future.
    pub async fn next(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Reads all of it, at most `limit` bytes; trailers are dropped.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut first = Bytes::new();
        let mut rest = bytes::BytesMut::new();
        while let Some(frame) = self.next().await {
            let Ok(data) = frame?.into_data() else { continue };
            if first.len() + rest.len() + data.len() > limit {
                return Err(Error::TooLarge("the buffer limit"));
            }
            if first.is_empty() {
                first = data;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            let end = match self.failed.take() {
                Some(error) => End::Failed(*error),
                None if self.ended || self.is_end() => End::Complete,
                None => End::Dropped,
            };
            watch.on_end(end);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.get_mut().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
