//! One upstream HTTP/2 connection, shared by the streams of its worker.
//!
//! The connection's frames are moved by one local task, started by [`connect`]; it ends with the last handle and stream. A stream's
//! request body is moved by whoever polls its response.
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version, header};
use tokio::io::AsyncWrite;

use super::Settings;
use super::event::{Event, Events};
use super::head::Head;
use super::keepalive::Pinger;
use super::link::{Driver, Link, StreamRef};
use super::reason::Reason;
use super::recv::RecvBody;
use super::session::Role;
use super::streams::Cause;
use super::translate::Outgoing;
use super::upload::{Failure, Upload};
use crate::codec::body::{Body, Error};
use crate::codec::handler::{Informational, Scheme, Upgrade};
use crate::codec::{Interim, Local, Release, SendError, SendOptions};
use crate::io::Io;

/// A shared connection. Cloning is another handle to it.
#[derive(Clone)]
pub struct Connection {
    state: Rc<State>,
}

struct State {
    link: Rc<Link>,
    settings: Settings,
    /// Streams that have not ended.
    active: Cell<usize>,
    /// Streams ever opened.
    opened: Cell<u64>,
    /// Nothing new is to be sent on it: the pool said so.
    retired: Cell<bool>,
}

impl Drop for State {
    fn drop(&mut self) {
        // The last handle and stream are gone: the driver has nobody to read for.
        self.link.session().leave_now();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("active", &self.active()).field("usable", &self.is_usable()).finish()
    }
}

/// Starts HTTP/2 on `io`, and the task that moves its frames. Must be called on a worker (`spawn_local`).
///
/// `observer` hears what is to be counted of the connection.
pub async fn connect(
    io: Io,
    settings: Settings,
    local: Local,
    observer: Option<Observer>,
) -> Result<Connection, SendError> {
    let mut driver = Driver::new(Role::Client, io, settings, &local);
    let link = driver.link().clone();
    // The preface leaves at once: a socket that refuses it is no connection.
    poll_fn(|cx| driver.poll_write(cx)).await;
    if let Some(cause) = link.session().ended() {
        return Err(send_error(cause, false));
    }
    let pinger = settings.keepalive.map(|settings| Pinger::new(settings, &local));
    tokio::task::spawn_local(drive(driver, pinger, observer));
    let (active, opened, retired) = (Cell::new(0), Cell::new(0), Cell::new(false));
    Ok(Connection { state: Rc::new(State { link, settings, active, opened, retired }) })
}

/// Hears what is to be counted of a connection.
pub type Observer = Box<dyn Fn(&Events)>;

/// The connection's task.
async fn drive(mut driver: Driver, mut pinger: Option<Pinger>, observer: Option<Observer>) {
    poll_fn(|cx| {
        let link = driver.link().clone();
        link.session().begin_turn();
        if let Some(pinger) = &mut pinger
            && pinger.poll_dead(&mut link.session(), cx).is_ready()
        {
            let mut session = link.session();
            session.note(Event::KeepaliveTimeout);
            session.handle_end(Cause::Io(std::io::ErrorKind::TimedOut));
        }
        let over = loop {
            while driver.poll_read(cx).is_ready() {}
            let written = driver.poll_write(cx).is_ready();
            let mut session = link.session();
            if session.ended().is_some() || (session.is_finished() && written) {
                break true;
            }
            if !session.begin_round() {
                break false;
            }
        };
        let mut session = link.session();
        session.end_turn(cx);
        let events = session.take_events();
        drop(session);
        if let (Some(events), Some(observer)) = (events, &observer) {
            observer(&events);
        }
        if over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    poll_fn(|cx| {
        // What the socket does not take now, nobody waits for.
        let _: Poll<std::io::Result<()>> = Pin::new(&mut *driver.io().borrow_mut()).poll_shutdown(cx);
        Poll::Ready(())
    })
    .await;
}

impl State {
    fn is_usable(&self) -> bool {
        !self.retired.get() && self.link.session().takes_streams()
    }

    /// Opens a stream, if there is a place for it.
    fn open(&self, request: &Outgoing<'_>, ends: bool) -> Result<Option<StreamRef>, SendError> {
        let mut session = self.link.session();
        if !session.takes_streams() {
            return Err(match session.ended() {
                Some(Cause::Io(kind)) => SendError::Io(kind),
                _ => SendError::NotSent,
            });
        }
        if session.open_streams() >= session.max_streams() {
            return Ok(None);
        }
        let key = session.open(ends, request.is_head(), |encoder, out| request.write(encoder, out));
        drop(session);
        self.opened.set(self.opened.get() + 1);
        Ok(Some(StreamRef::new(self.link.clone(), key)))
    }
}

impl Connection {
    /// Whether it takes new streams: not closed, not told to go away, not retired. Capacity is another question.
    pub fn is_usable(&self) -> bool {
        self.state.is_usable()
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
        self.state.link.session().max_streams()
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub fn takes_extended_connect(&self) -> bool {
        self.state.link.session().takes_connect()
    }

    /// Resolves when the connection has closed.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            let mut session = self.state.link.session();
            if session.ended().is_some() {
                return Poll::Ready(());
            }
            session.wait_to_open(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Opens a stream with this request as soon as the peer's limit allows. `release` hears once when the stream is over: with the
    /// connection while it is usable, else with `None`.
    pub fn send(
        &self,
        head: &Parts,
        mut body: Body,
        options: SendOptions,
        release: Option<Rc<dyn Release<Self>>>,
    ) -> ResponseFuture {
        self.state.active.set(self.state.active.get() + 1);
        let mut flight = InFlight { connection: self.clone(), release, upload: None, end: Reason::CANCEL };
        let stage = match Outgoing::new(head, options.scheme, options.upgrade.as_ref()) {
            None => Stage::Failed(SendError::RequestBody(Error::Malformed("the request has no HTTP/2 form"))),
            Some(request) => match flight.open(&request, &mut body, options.upgrade.is_some()) {
                Ok(Some(stream)) => Stage::Waiting(stream),
                Ok(None) => Stage::Opening(Box::new(Opening { head: head.clone(), body, scheme: options.scheme })),
                Err(error) => Stage::Failed(error),
            },
        };
        ResponseFuture {
            flight: Some(Box::new(flight)),
            stage,
            upgrade: options.upgrade,
            informational: options.informational,
            first_interim: None,
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
    /// Opens the stream, if there is a place for it, and takes the body to be sent.
    fn open(&mut self, request: &Outgoing<'_>, body: &mut Body, tunnel: bool) -> Result<Option<StreamRef>, SendError> {
        let ends = body.is_end() && !tunnel;
        let Some(stream) = self.connection.state.open(request, ends)? else { return Ok(None) };
        // A request that ends with its head leaves nothing to send.
        self.upload = (!ends).then(|| Upload::new(stream.clone(), std::mem::take(body)));
        Ok(Some(stream))
    }

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

/// A request that waits for a place.
struct Opening {
    head: Parts,
    body: Body,
    scheme: Scheme,
}

enum Stage {
    Opening(Box<Opening>),
    Waiting(StreamRef),
    Failed(SendError),
}

/// Resolves to the response, once its head is here.
pub struct ResponseFuture {
    flight: Option<Box<InFlight>>,
    stage: Stage,
    upgrade: Option<Upgrade>,
    informational: Option<Informational>,
    first_interim: Option<StatusCode>,
}

impl ResponseFuture {
    /// Opens the stream, if that was not possible before.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamRef, SendError>> {
        let Some(flight) = &mut self.flight else { return Poll::Ready(Err(SendError::NotSent)) };
        let opening = match &mut self.stage {
            Stage::Waiting(stream) => return Poll::Ready(Ok(stream.clone())),
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Opening(opening) => opening,
        };
        let Some(request) = Outgoing::new(&opening.head, opening.scheme, self.upgrade.as_ref()) else {
            return Poll::Ready(Err(SendError::NotSent));
        };
        match flight.open(&request, &mut opening.body, self.upgrade.is_some()) {
            Ok(Some(stream)) => {
                self.stage = Stage::Waiting(stream.clone());
                Poll::Ready(Ok(stream))
            }
            Ok(None) => {
                flight.connection.state.link.session().wait_to_open(cx.waker());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, SendError>> {
        if !matches!(self.stage, Stage::Waiting(_)) {
            ready!(self.poll_open(cx))?;
        }
        let (Stage::Waiting(stream), Some(flight)) = (&self.stage, &mut self.flight) else {
            return Poll::Ready(Err(SendError::NotSent));
        };
        if let Poll::Ready(Err(error)) = flight.poll_upload(cx) {
            return Poll::Ready(Err(SendError::RequestBody(error)));
        }
        while let Some(interim) = stream.with(|session, key| session.next_interim(key)) {
            let (None, Some(status)) = (self.first_interim, interim.status) else { continue };
            self.first_interim = Some(status);
            if let Some(informational) = &self.informational {
                informational.send(status, &interim.headers);
            }
        }
        let response = ready!(stream.with(|session, key| session.poll_response(key, cx)));
        let head = response.map_err(|cause| send_error(cause, true))?;
        if head.too_large {
            // Envoy takes its own reset for the peer's.
            return Poll::Ready(Err(SendError::Reset(Reason::INTERNAL_ERROR)));
        }
        Poll::Ready(Ok(self.respond(*head)))
    }

    /// The response in the one form.
    fn respond(&mut self, head: Head) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = head.headers;
        *response.version_mut() = Version::HTTP_2;
        if let Some(first) = self.first_interim {
            response.extensions_mut().insert(Interim(first));
        }
        let mut status = head.status.unwrap_or_default();
        if let Some(Upgrade::Protocol(protocol)) = &self.upgrade
            && status.is_success()
        {
            status = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, protocol.clone());
        }
        *response.status_mut() = status;
        let flight = self.flight.take();
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(SendError::NotSent));
        let (Stage::Waiting(stream), Some(flight)) = (stage, flight) else { return response };
        let tunnel = self.upgrade.is_some() && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS);
        if tunnel || !flight.is_uploaded() || !stream.with(|session, key| session.is_read(key)) {
            let length = if tunnel { None } else { head.length };
            let max_trailers = flight.connection.state.settings.max_headers;
            *response.body_mut() = RecvBody::new(stream, length, max_trailers, Some(flight)).into();
        }
        response
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

/// An error on an open stream.
fn send_error(cause: Cause, reused: bool) -> SendError {
    match cause {
        Cause::Reset(Reason::REFUSED_STREAM) | Cause::Refused => SendError::Refused,
        Cause::Reset(Reason::PROTOCOL_ERROR) => SendError::Protocol("the peer found one in the request"),
        Cause::Reset(reason) => SendError::Reset(reason),
        Cause::Protocol => SendError::Protocol("HTTP/2 protocol error"),
        Cause::Io(kind) => SendError::Io(kind),
        Cause::Canceled | Cause::Closed => SendError::ClosedBeforeResponse { reused },
    }
}
