//! One upstream HTTP/2 connection, shared by the streams of its worker.
//!
//! The connection's frames are moved by one local task, started by [`connect`]; it ends with the last handle and stream. A stream's
//! request body is moved by whoever polls its response.
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::request::Parts;
use http::{Response, StatusCode, header};

use super::flood::{Guarded, Side};
use super::keepalive::Pinger;
use super::recv::RecvBody;
use super::upload::{Failure, Upload};
use super::{Settings, body_error, translate};
use crate::codec::body::{Body, Error};
use crate::codec::handler::{Informational, Upgrade};
use crate::codec::{Local, Release, SendError, SendOptions};
use crate::io::{Gather, Io};

/// A shared connection. Cloning is another handle to it.
#[derive(Clone)]
pub struct Connection {
    state: Rc<State>,
}

struct State {
    /// The frame layer's side of all streams. Asking and cloning it takes its lock: what it says is kept in `seen`.
    send: RefCell<SendRequest<Bytes>>,
    /// The driver has moved frames since `seen` was taken.
    stale: Cell<bool>,
    seen: Cell<Seen>,
    settings: Settings,
    /// Streams that have not ended.
    active: Cell<usize>,
    /// Streams ever opened.
    opened: Cell<u64>,
    closed: RefCell<Option<SendError>>,
    /// Nothing new is to be sent on it: the pool said so.
    retired: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

type Opened = (h2::client::ResponseFuture, h2::SendStream<Bytes>);

/// What the frame layer says of the connection; only its driver changes it.
#[derive(Clone, Copy)]
struct Seen {
    /// The peer, or an error, keeps new streams from being opened.
    gone_away: bool,
    /// How many streams the peer allows.
    max_streams: usize,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("active", &self.active()).field("usable", &self.is_usable()).finish()
    }
}

/// Streams to open before the peer has said how many it allows: what RFC 9113, section 6.5.2 tells it to allow at least.
const INITIAL_STREAMS: usize = 100;

/// Starts HTTP/2 on `io`, and the task that moves its frames. Must be called on a worker (`spawn_local`).
pub async fn connect(io: Io, settings: Settings, local: Local) -> Result<Connection, SendError> {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(settings.initial_stream_window)
        .initial_connection_window_size(settings.initial_connection_window)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .header_table_size(settings.hpack_table_size)
        .max_header_list_size(settings.max_head_bytes)
        .max_send_buffer_size(settings.max_send_buffer)
        .max_pending_accept_reset_streams(settings.max_pending_resets)
        .initial_max_send_streams(INITIAL_STREAMS.min(settings.max_concurrent_streams as usize))
        .enable_push(false);
    let io = Guarded::new(Gather::new(io, local.buffers.clone()), settings.floods, Side::Client);
    let (send, mut connection) =
        builder.handshake::<_, Bytes>(io.clone()).await.map_err(|error| send_error(&error, false))?;
    let state = Rc::new(State {
        stale: Cell::new(true),
        seen: Cell::new(Seen { gone_away: false, max_streams: 0 }),
        send: RefCell::new(send),
        settings,
        active: Cell::new(0),
        opened: Cell::new(0),
        closed: RefCell::new(None),
        retired: Cell::new(false),
        wakers: RefCell::default(),
    });
    let pinger = match settings.keepalive {
        Some(settings) => connection.ping_pong().map(|pings| Pinger::new(pings, settings, &local)),
        None => None,
    };
    tokio::task::spawn_local(drive(connection, io, pinger, Rc::downgrade(&state)));
    Ok(Connection { state })
}

/// The connection's task.
async fn drive(
    mut connection: h2::client::Connection<Guarded, Bytes>,
    io: Guarded,
    mut pinger: Option<Pinger>,
    state: Weak<State>,
) {
    io.defer();
    let ended = poll_fn(|cx| {
        if let Some(pinger) = &mut pinger
            && pinger.poll_dead(cx).is_ready()
        {
            return Poll::Ready(SendError::Io(std::io::ErrorKind::TimedOut));
        }
        let moved = Pin::new(&mut connection).poll(cx);
        // The turn is over. Where the socket takes no more the task is woken when it does.
        let _: Poll<()> = io.poll_drain(cx);
        if let Some(state) = state.upgrade() {
            state.stale.set(true);
        }
        moved.map(|result| match result {
            Ok(()) => SendError::NotSent,
            Err(error) => send_error(&error, true),
        })
    })
    .await;
    if let Some(state) = state.upgrade() {
        *state.closed.borrow_mut() = Some(ended);
        state.wake();
    }
}

impl State {
    fn wake(&self) {
        self.wakers.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Opens a stream; the frame layer queues it while the peer's limit is reached.
    fn open(&self, request: http::Request<()>, ends: bool) -> Result<Opened, SendError> {
        // A handle whose last stream is still queued takes no other: every stream has its own.
        let mut handle = self.send.borrow().clone();
        handle.send_request(request, ends).map_err(|error| {
            self.stale.set(true);
            not_opened(&error)
        })
    }

    fn seen(&self) -> Seen {
        if self.stale.replace(false) {
            let mut send = self.send.borrow_mut();
            let mut cx = Context::from_waker(Waker::noop());
            let gone_away = matches!(send.poll_ready(&mut cx), Poll::Ready(Err(_)));
            self.seen.set(Seen { gone_away, max_streams: send.current_max_send_streams() });
        }
        self.seen.get()
    }

    fn wake_later(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Connection {
    /// Whether it takes new streams: not closed, not told to go away, not retired. Capacity is another question.
    pub fn is_usable(&self) -> bool {
        !self.state.retired.get() && self.state.closed.borrow().is_none() && !self.state.seen().gone_away
    }

    /// Takes no new streams from now on; those in flight finish, then it closes.
    pub fn retire(&self) {
        self.state.retired.set(true);
    }

    /// Streams in flight.
    pub fn active(&self) -> usize {
        self.state.active.get()
    }

    /// Streams it has carried.
    pub fn requests(&self) -> u64 {
        self.state.opened.get()
    }

    /// How many streams may be in flight at once: the lower of our limit and the peer's.
    pub fn capacity(&self) -> usize {
        self.state.seen().max_streams.min(self.state.settings.max_concurrent_streams as usize)
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub fn takes_extended_connect(&self) -> bool {
        self.state.send.borrow().is_extended_connect_protocol_enabled()
    }

    /// Resolves when the connection has closed.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            if self.state.closed.borrow().is_some() {
                return Poll::Ready(());
            }
            self.state.wake_later(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Opens a stream with this request as soon as the peer's limit allows. `release` hears once when the stream is over: with the
    /// connection while it is usable, else with `None`.
    pub fn send(
        &self,
        head: &Parts,
        body: Body,
        options: SendOptions,
        release: Option<Rc<dyn Release<Self>>>,
    ) -> ResponseFuture {
        let request = translate::outgoing(head, options.scheme, options.upgrade.as_ref());
        self.state.active.set(self.state.active.get() + 1);
        let flight = InFlight { connection: self.clone(), release, upload: None, end: Reason::CANCEL };
        let stage = match request {
            Some(request) => Stage::Opening { request: Box::new(request), body: Some(body) },
            None => Stage::Unsendable,
        };
        ResponseFuture {
            flight: Some(Box::new(flight)),
            stage,
            upgrade: options.upgrade,
            informational: options.informational,
        }
    }
}

/// One stream: counted while it lives, and its request's sender.
pub(super) struct InFlight {
    connection: Connection,
    release: Option<Rc<dyn Release<Connection>>>,
    upload: Option<Upload>,
    /// What a drop before the end tells the peer.
    end: Reason,
}

impl InFlight {
    /// Moves the request's body. Only the body's own failure is an error: a peer that takes no more may still answer.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(upload) = &mut self.upload else { return Poll::Ready(Ok(())) };
        match ready!(upload.poll(cx)) {
            Ok(()) | Err(Failure::Peer(_)) => {
                self.upload = None;
                Poll::Ready(Ok(()))
            }
            Err(Failure::Body(error)) => {
                upload.reset(error.reason());
                self.upload = None;
                Poll::Ready(Err(error))
            }
        }
    }

    pub(super) fn is_uploaded(&self) -> bool {
        self.upload.is_none()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            upload.reset(self.end);
        }
        let state = &self.connection.state;
        state.active.set(state.active.get() - 1);
        if let Some(release) = self.release.take() {
            release.release(self.connection.is_usable().then(|| self.connection.clone()));
        }
    }
}

enum Stage {
    Opening { request: Box<http::Request<()>>, body: Option<Body> },
    Waiting(h2::client::ResponseFuture),
    Unsendable,
}

/// Resolves to the response, once its head is here.
pub struct ResponseFuture {
    flight: Option<Box<InFlight>>,
    stage: Stage,
    upgrade: Option<Upgrade>,
    informational: Option<Informational>,
}

impl ResponseFuture {
    /// Opens the stream.
    fn open(&mut self) -> Result<(), SendError> {
        let Stage::Opening { request, body } = &mut self.stage else { return Ok(()) };
        let Some(flight) = &mut self.flight else { return Err(SendError::NotSent) };
        let state = &flight.connection.state;
        let body = body.take().unwrap_or_default();
        let request = std::mem::take(request);
        let ends = body.is_end() && self.upgrade.is_none();
        let (response, stream) = state.open(*request, ends)?;
        state.opened.set(state.opened.get() + 1);
        // A request that ends with its head leaves nothing to send; the stream is still reset if its response is dropped.
        flight.upload = (!ends).then(|| Upload::new(stream, body, false));
        self.stage = Stage::Waiting(response);
        Ok(())
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, SendError>> {
        if matches!(self.stage, Stage::Unsendable) {
            return Poll::Ready(Err(SendError::RequestBody(Error::Malformed("the request has no HTTP/2 form"))));
        }
        self.open()?;
        let Some(flight) = &mut self.flight else { return Poll::Ready(Err(SendError::NotSent)) };
        if let Poll::Ready(Err(error)) = flight.poll_upload(cx) {
            return Poll::Ready(Err(SendError::RequestBody(error)));
        }
        let Stage::Waiting(waiting) = &mut self.stage else { return Poll::Pending };
        while let Poll::Ready(Some(Ok(interim))) = waiting.poll_informational(cx) {
            if let Some(informational) = &self.informational {
                informational.send(interim.status(), interim.headers());
            }
        }
        let response = ready!(Pin::new(waiting).poll(cx)).map_err(|error| send_error(&error, true))?;
        let settings = flight.connection.state.settings;
        if response.headers().len() > settings.max_headers {
            return Poll::Ready(Err(SendError::TooLarge("max_headers_count")));
        }
        let (mut parts, stream) = response.into_parts();
        if parts.headers.contains_key(header::CONTENT_LENGTH) && translate::length_of(&parts.headers).is_none() {
            return Poll::Ready(Err(SendError::Protocol("invalid content-length")));
        }
        translate::strip_connection_headers(&mut parts.headers);
        if let Some(Upgrade::Protocol(protocol)) = &self.upgrade
            && parts.status.is_success()
        {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            parts.headers.insert(header::UPGRADE, protocol.clone());
        }
        let flight = self.flight.take();
        let tunnel = self.upgrade.is_some() && (parts.status.is_success() || parts.status.as_u16() == 101);
        let over = stream.is_end_stream() && !tunnel && flight.as_ref().is_none_or(|flight| flight.is_uploaded());
        let body = if over {
            Body::empty()
        } else {
            let length = if tunnel { None } else { translate::length_of(&parts.headers) };
            RecvBody::new(stream, length, settings.max_headers, flight).into()
        };
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_response(cx));
        self.flight = None;
        Poll::Ready(result)
    }
}

/// An error before the stream was opened: nothing of the request left.
fn not_opened(error: &h2::Error) -> SendError {
    match error.get_io() {
        Some(io) if !super::is_disconnect(io.kind()) => SendError::Io(io.kind()),
        _ => SendError::NotSent,
    }
}

/// An error on an open stream.
fn send_error(error: &h2::Error, reused: bool) -> SendError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => SendError::Refused,
        // A GOAWAY fails only the streams above the last one that the peer says it has looked at.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => SendError::Refused,
        Some(_) if error.is_library() => SendError::Protocol("HTTP/2 protocol error"),
        Some(reason) => SendError::Reset(reason),
        None => match body_error(error) {
            Error::Io(kind) => SendError::Io(kind),
            _ => SendError::ClosedBeforeResponse { reused },
        },
    }
}
