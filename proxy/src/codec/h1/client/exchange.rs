//! One request and its response: the upload and the download of one connection, driven together.
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Frame;

use super::{Connection, Inner, response};
use crate::codec::body::{Body, Error};
use crate::codec::h1::decode::{Decoder, Item};
use crate::codec::h1::encode::Encoder;
use crate::codec::h1::head::{Lines, Scan};
use crate::codec::handler::{Informational, Scheme, Upgrade};
use crate::codec::{Closing, Interim, Release, SendError, SendOptions};

/// What kind of response the request can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Plain,
    Head,
    Connect,
    Upgrade,
}

/// How far the request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upload {
    /// Frames are taken from the body as the socket takes them.
    Sending,
    /// An upgrade's bytes wait until it is accepted.
    Held,
    /// A tunnel's half is to be ended.
    Ending,
    #[default]
    Done,
    /// The peer takes no more; a response may still come.
    Refused,
}

/// The state of one exchange.
pub(super) struct Exchange {
    pub(super) kind: Kind,
    pub(super) upload: Body,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) scheme: Scheme,
    pub(super) upgrade: Option<Upgrade>,
    state: Upload,
    informational: Option<Informational>,
    scan: Scan,
    reused: bool,
    /// The socket has taken some of the request.
    sent: bool,
    keep_alive: bool,
    /// The upgrade was accepted.
    tunnel: bool,
    interim: u32,
    first_interim: Option<StatusCode>,
}

/// An origin that sends more 1xx responses than this in front of one response is broken.
const INTERIM_RESPONSES: u32 = 100;

impl Default for Exchange {
    fn default() -> Self {
        Self {
            kind: Kind::Plain,
            upload: Body::empty(),
            encoder: Encoder::None,
            decoder: Decoder::Done,
            scheme: Scheme::Http,
            upgrade: None,
            state: Upload::Done,
            informational: None,
            scan: Scan::default(),
            reused: false,
            sent: false,
            keep_alive: false,
            tunnel: false,
            interim: 0,
            first_interim: None,
        }
    }
}

impl Exchange {
    pub(super) fn begin(head: &Parts, body: Body, options: SendOptions, reused: bool) -> Self {
        let kind = match (&head.method, &options.upgrade) {
            (&Method::CONNECT, _) | (_, Some(Upgrade::Connect)) => Kind::Connect,
            (_, Some(Upgrade::Protocol(_))) => Kind::Upgrade,
            (&Method::HEAD, None) => Kind::Head,
            _ => Kind::Plain,
        };
        let held = matches!(kind, Kind::Connect | Kind::Upgrade);
        Self {
            kind,
            upload: body,
            state: if held { Upload::Held } else { Upload::Sending },
            scheme: options.scheme,
            upgrade: options.upgrade,
            informational: options.informational,
            reused,
            ..Self::default()
        }
    }
}

/// A connection with an exchange on it. Dropped in this state it is closed, and its pool told so.
pub(super) struct InFlight {
    connection: Option<Connection>,
    release: Rc<dyn Release<Connection>>,
}

impl InFlight {
    pub(super) fn new(connection: Connection, release: Rc<dyn Release<Connection>>) -> Self {
        Self { connection: Some(connection), release }
    }

    /// The exchange is over: the connection goes back if it can carry another one.
    fn finish(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let inner = &mut *connection.inner;
            let whole = inner.exchange.state == Upload::Done && inner.out.is_empty();
            let reusable = whole && inner.exchange.keep_alive && !inner.ended && inner.read.is_empty();
            if reusable {
                inner.rest();
                self.release.release(Some(connection));
            } else {
                if inner.ended {
                    self.release.closing(Closing::ByPeer);
                } else if whole {
                    self.release.closing(Closing::Announced);
                }
                drop(connection);
                self.release.release(None);
            }
        }
    }

    fn inner(&mut self) -> Option<&mut Inner> {
        self.connection.as_mut().map(|connection| &mut *connection.inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            if connection.inner.ended {
                self.release.closing(Closing::ByPeer);
            }
            drop(connection);
            self.release.release(None);
        }
    }
}

impl Inner {
    /// Moves the request towards the peer as far as body and socket allow. Only the body's own failure is an error: a
    /// socket that takes no more may still hold a response.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            let more = self.gather(cx)?;
            let waiting = !self.out.is_empty();
            match self.out.poll_flush(&mut self.io, cx) {
                Poll::Ready(Ok(())) => self.exchange.sent |= waiting,
                Poll::Ready(Err(_)) => {
                    self.exchange.state = Upload::Refused;
                    self.exchange.keep_alive = false;
                    self.exchange.upload = Body::empty();
                    return Ok(());
                }
                Poll::Pending => {
                    self.exchange.sent = true;
                    return Ok(());
                }
            }
            if self.exchange.state == Upload::Ending {
                match self.poll_shutdown(cx) {
                    Poll::Ready(_) => self.exchange.state = Upload::Done,
                    Poll::Pending => return Ok(()),
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes frames as long as the output has room. Whether it stopped for want of room, not of frames.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        while self.exchange.state == Upload::Sending {
            if !self.out.has_room() {
                return Ok(true);
            }
            let exchange = &mut self.exchange;
            let frame = match exchange.upload.poll_next(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(frame) => frame.transpose()?,
            };
            let buffers = &self.local.buffers;
            let trailers = match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    exchange.encoder.data(&mut self.out, data, buffers)?;
                    continue;
                }
                Some(Err(frame)) => frame.into_trailers().ok(),
                None => None,
            };
            exchange.encoder.end(&mut self.out, trailers.as_ref(), self.settings.header_case, buffers)?;
            exchange.state = if exchange.encoder == Encoder::UntilEnd { Upload::Ending } else { Upload::Done };
            // Lets go of the downstream side's body, and tells its watch.
            exchange.upload = Body::empty();
        }
        Ok(false)
    }

    /// Why there is no response, when the connection has ended.
    fn ended_early(&self, kind: Option<std::io::ErrorKind>) -> SendError {
        let exchange = &self.exchange;
        if !self.read.is_empty() {
            return SendError::PartialResponse;
        }
        if !exchange.sent {
            return SendError::NotSent;
        }
        match kind {
            None
            | Some(
                std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe
                | std::io::ErrorKind::UnexpectedEof,
            ) => SendError::ClosedBeforeResponse { reused: exchange.reused },
            Some(kind) => SendError::Io(kind),
        }
    }

    /// The next head in what has been read.
    fn take_head(&mut self) -> Result<Option<response::Answered>, SendError> {
        if self.read.is_empty() {
            return Ok(None);
        }
        let limits = &self.settings.limits;
        let mut lines = Lines::default();
        let exchange = &mut self.exchange;
        let Some(end) = exchange.scan.run(&self.read, limits.head_bytes, &mut lines)? else { return Ok(None) };
        let head = self.read.split_to(end).freeze();
        let answered = response::parse(&head, exchange.scan.lines(), &mut lines, exchange.kind, &self.settings)?;
        self.exchange.scan = Scan::default();
        Ok(Some(answered))
    }

    /// Takes up what the final head says about the rest of the exchange.
    fn accept(&mut self, answered: &response::Answered) {
        let exchange = &mut self.exchange;
        exchange.decoder = answered.body;
        exchange.keep_alive = answered.keep_alive && exchange.state != Upload::Refused;
        if exchange.state == Upload::Held {
            exchange.tunnel = answered.tunnel;
            if answered.tunnel {
                exchange.state = Upload::Sending;
                exchange.encoder = Encoder::UntilEnd;
            } else {
                // The request has no end: nothing can follow it.
                exchange.keep_alive = false;
                exchange.state = Upload::Done;
                exchange.upload = Body::empty();
            }
        }
    }
}

/// Resolves to the response, once its head is complete.
pub struct ResponseFuture {
    flight: Option<InFlight>,
}

impl ResponseFuture {
    pub(super) fn new(flight: InFlight) -> Self {
        Self { flight: Some(flight) }
    }

    fn poll_head(inner: &mut Inner, cx: &mut Context<'_>) -> Poll<Result<response::Answered, SendError>> {
        if let Err(error) = inner.drive_upload(cx) {
            return Poll::Ready(Err(SendError::RequestBody(error)));
        }
        loop {
            while let Some(mut answered) = inner.take_head()? {
                let status = answered.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    inner.accept(&answered);
                    if let Some(first) = inner.exchange.first_interim {
                        answered.response.extensions_mut().insert(Interim(first));
                    }
                    return Poll::Ready(Ok(answered));
                }
                inner.exchange.interim += 1;
                if inner.exchange.interim > INTERIM_RESPONSES {
                    return Poll::Ready(Err(SendError::Protocol("too many interim responses")));
                }
                if inner.exchange.interim > 1 {
                    continue;
                }
                inner.exchange.first_interim = Some(status);
                if let Some(informational) = &inner.exchange.informational {
                    informational.send(status, answered.response.headers());
                }
            }
            match inner.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(inner.ended_early(None))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(inner.ended_early(Some(error.kind())))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = self.flight.as_mut().and_then(InFlight::inner) else {
            return Poll::Ready(Err(SendError::NotSent));
        };
        let answered = match Self::poll_head(inner, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(answered)) => answered,
            Poll::Ready(Err(error)) => {
                self.flight = None;
                return Poll::Ready(Err(error));
            }
        };
        let body = match self.flight.take() {
            Some(mut flight) if answered.body.is_done() && !answered.tunnel => {
                let uploaded = flight.inner().is_none_or(|inner| inner.exchange.state != Upload::Sending);
                if uploaded {
                    flight.finish();
                }
                // A response that is complete before its request: nobody will drive the rest of the upload.
                Body::empty()
            }
            Some(flight) => ResponseBody { flight: Some(flight) }.into(),
            None => Body::empty(),
        };
        Poll::Ready(Ok(answered.response.map(|()| body)))
    }
}

/// The body of a response, read from the socket as it is polled.
pub struct ResponseBody {
    flight: Option<InFlight>,
}

impl ResponseBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(flight) = &mut self.flight else { return Poll::Ready(None) };
        let Some(inner) = flight.inner() else { return Poll::Ready(None) };
        let polled = Self::poll_inner(inner, cx);
        let over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => inner.exchange.decoder.is_done(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) => {
                self.flight = None;
                return polled;
            }
        };
        if over {
            // Gives the connection back with the last byte, before that byte is passed on.
            flight.finish();
            self.flight = None;
        }
        polled
    }

    fn poll_inner(inner: &mut Inner, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !matches!(inner.exchange.state, Upload::Done | Upload::Refused)
            && let Err(error) = inner.drive_upload(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let next = inner.exchange.decoder.next(&mut inner.read, inner.ended, &inner.settings.limits);
            return Poll::Ready(match next {
                Ok(Item::Data(data)) => Some(Ok(Frame::data(data))),
                Ok(Item::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                // HTTP/1 has no word for the orderly end of a tunnel.
                Ok(Item::End) if inner.exchange.tunnel => Some(Err(Error::Io(std::io::ErrorKind::UnexpectedEof))),
                Ok(Item::End) => None,
                Err(error) => Some(Err(error)),
                Ok(Item::More) => match inner.poll_fill(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => Some(Err(match error.kind() {
                        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => Error::Closed,
                        kind => Error::Io(kind),
                    })),
                },
            });
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.flight.is_none()
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.flight.as_ref().and_then(|flight| flight.connection.as_ref()) {
            Some(connection) => connection.inner.exchange.decoder.remaining(),
            None => Some(0),
        }
    }
}
