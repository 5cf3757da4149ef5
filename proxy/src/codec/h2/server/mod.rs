//! One downstream HTTP/2 connection: accept streams, run the handler for each, write what they answer.
//!
//! All of a connection is one task: its streams are futures in a set beside the state machine. What the streams produce in one turn leaves
//! in one write. A stream that the client resets drops its handler's future.
mod stream;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;

use super::Settings as Http2;
use super::event::Event;
use super::head::Head;
use super::keepalive::Pinger;
use super::link::{Driver, StreamRef};
use super::session::Role;
use super::streams::Cause;
use crate::clock::Sleep;
use crate::codec::handler::{Ending, Handler};
use crate::codec::linger::linger;
use crate::codec::{Closed, Drain, Local};
use crate::io::Io;

pub use stream::InformationalSender;

/// How a listener speaks HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `http2_protocol_options`, and the limits of heads.
    pub http2: Http2,
    /// `common_http_protocol_options.idle_timeout`: without a stream.
    pub idle_timeout: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`, with its jitter added.
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_requests_per_connection`
    pub max_requests_per_connection: Option<u64>,
    /// `drain_timeout`: between the GOAWAY and the end of a connection without streams.
    pub drain_timeout: Duration,
    /// `proxy_100_continue`: `expect` is passed on.
    pub proxy_100_continue: bool,
    /// `stream_flush_timeout`: the client takes no byte of a response for so long.
    pub flush_timeout: Option<Duration>,
    /// `delayed_close_timeout`: how long a client may take to read the last frames before the connection is cut.
    pub delayed_close_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http2: Http2::default(),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            drain_timeout: Duration::from_secs(5),
            proxy_100_continue: false,
            flush_timeout: Some(Duration::from_secs(300)),
            delayed_close_timeout: Duration::from_secs(1),
        }
    }
}

/// What the streams of a connection share.
struct Shared {
    settings: Settings,
    local: Local,
    /// A response said `connection: close`.
    goodbye: Cell<bool>,
}

/// Serves one connection to its end. All of it is behind one box: whoever chooses between the protocols holds a small
/// future, whichever it is.
pub async fn serve<H: Handler>(io: Io, settings: Settings, local: Local, handler: &H, drain: Drain) -> Closed {
    Box::pin(drive(io, settings, local, handler, drain)).await
}

async fn drive<H: Handler>(io: Io, settings: Settings, local: Local, handler: &H, drain: Drain) -> Closed {
    let driver = Driver::new(Role::Server, io, settings.http2, &local);
    let shared = Rc::new(Shared { settings, local, goodbye: Cell::new(false) });
    let mut serving = Serving::new(driver, shared.clone(), &drain);
    let closed = run(&mut serving, handler).await;
    if !matches!(closed, Closed::ByPeer | Closed::ByPeerInRequest | Closed::Io(_)) {
        // The client is still there, and may be sending: it gets to read the GOAWAY.
        linger(serving.driver.io(), &shared.local, settings.delayed_close_timeout).await;
    }
    closed
}

/// The connection and its streams, to the end of both.
async fn run<H: Handler>(serving: &mut Serving<'_>, handler: &H) -> Closed {
    let shared = serving.shared.clone();
    let mut streams = pin!(FuturesUnordered::new());
    poll_fn(|cx| {
        serving.driver.link().session().begin_turn();
        let ended = loop {
            let moved = serving.driver.poll_read(cx).is_ready();
            let malformed = serving.driver.link().session().take_malformed();
            let broken = !malformed.is_empty();
            for malformed in malformed {
                // Nothing is sent: it is for the record.
                drop(handler.reject(stream::malformed(malformed)));
            }
            if let Some(how) = serving.ending() {
                serving.interrupted |= broken || !streams.is_empty();
                handler.ends(how);
            }
            while let Some((head, stream, index)) = serving.next_stream() {
                streams.push(stream::run(shared.clone(), handler, head, stream, index));
            }
            while let Poll::Ready(Some(())) = streams.as_mut().poll_next(cx) {}
            if moved && serving.driver.link().session().out.len() < WRITE_EARLY {
                continue;
            }
            serving.poll_signals(cx, streams.is_empty());
            // Where the socket takes no more the task is woken when it does.
            let written = serving.driver.poll_write(cx).is_ready();
            let ended = serving.end(written, streams.is_empty());
            if ended.is_some() || !(moved || serving.driver.link().session().begin_round()) {
                break ended;
            }
        };
        let mut session = serving.driver.link().session();
        session.end_turn(cx);
        let events = session.take_events();
        drop(session);
        events.into_iter().for_each(|events| handler.happened(&events));
        ended.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// A client has this long for its preface and SETTINGS.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(15);
/// So much is written before all that has arrived is read.
const WRITE_EARLY: usize = 32 * 1024;

/// The connection without its streams.
struct Serving<'a> {
    driver: Driver,
    shared: Rc<Shared>,
    drain: &'a Drain,
    pinger: Option<Pinger>,
    /// Until the client has said that it speaks HTTP/2.
    preface: Option<Sleep>,
    /// `max_connection_duration`
    expires: Option<Sleep>,
    /// Since the last stream ended: `idle_timeout`.
    idle: Option<Sleep>,
    /// Since the first GOAWAY: until the last one, `drain_timeout`.
    notice: Option<Sleep>,
    accepted: u64,
    /// It ended while streams were open, or with what was to be one.
    interrupted: bool,
    /// GOAWAY was sent, for this.
    leaving: Option<Closed>,
    /// A time limit that ends the connection as it is.
    cut: Option<Closed>,
}

impl<'a> Serving<'a> {
    fn new(driver: Driver, shared: Rc<Shared>, drain: &'a Drain) -> Self {
        let pinger = shared.settings.http2.keepalive.map(|settings| Pinger::new(settings, &shared.local));
        let preface = Some(shared.local.timers.after(PREFACE_TIMEOUT));
        let expires = shared.settings.max_connection_duration.map(|limit| shared.local.timers.after(limit));
        let (idle, notice, leaving, cut) = (None, None, None, None);
        let (accepted, interrupted) = (0, false);
        Self { driver, shared, drain, pinger, preface, expires, idle, notice, accepted, interrupted, leaving, cut }
    }

    /// A stream that the client has opened, and how many were before it.
    fn next_stream(&mut self) -> Option<(Box<Head>, StreamRef, u64)> {
        let link = self.driver.link();
        let (key, head) = link.session().next_accepted()?;
        let stream = StreamRef::new(link.clone(), key);
        let index = self.accepted;
        self.accepted += 1;
        self.idle = None;
        if self.shared.settings.max_requests_per_connection.is_some_and(|limit| self.accepted >= limit) {
            self.leave(Closed::AfterResponse);
        }
        if self.drain.is_draining() {
            self.leave(Closed::Drained);
        }
        Some((head, stream, index))
    }

    /// Looks at what comes neither from the socket nor from the streams.
    fn poll_signals(&mut self, cx: &mut Context<'_>, quiet: bool) {
        if let Some(preface) = &mut self.preface {
            if self.driver.link().session().is_greeted() {
                self.preface = None;
            } else if Pin::new(preface).poll(cx).is_ready() {
                self.cut = Some(Closed::Timeout("the limit for the HTTP/2 preface"));
            }
        }
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_dead(&mut self.driver.link().session(), cx).is_ready()
        {
            self.driver.link().session().note(Event::KeepaliveTimeout);
            self.cut = Some(Closed::Timeout("the keepalive timeout"));
        }
        self.look_at_drain(cx, quiet);
        if quiet {
            self.poll_idle(cx);
        } else {
            self.idle = None;
        }
        if let Some(notice) = &mut self.notice
            && Pin::new(notice).poll(cx).is_ready()
        {
            self.notice = None;
            self.driver.link().session().leave_now();
        }
    }

    /// How the connection has ended before its streams.
    fn ending(&self) -> Option<Ending> {
        let session = self.driver.link().session();
        session.ended()?;
        Some(session.fault().map_or(Ending::Peer, |fault| Ending::Fault(fault.code_details())))
    }

    /// Whether all is over, and why.
    fn end(&mut self, written: bool, quiet: bool) -> Option<Closed> {
        if self.cut.is_some() {
            return self.cut.take();
        }
        let session = self.driver.link().session();
        let finished = session.is_finished() && quiet && written;
        let why = match (session.fault(), session.ended()) {
            (Some(fault), _) => Closed::Protocol { reason: fault.reason, in_request: self.interrupted },
            (None, Some(Cause::Io(kind))) => Closed::Io(kind),
            (None, Some(_)) if !self.interrupted => Closed::ByPeer,
            (None, Some(_)) => Closed::ByPeerInRequest,
            (None, None) if finished => Closed::ByPeer,
            (None, None) => return None,
        };
        drop(session);
        // A client that closes because it was asked to does what it should.
        Some(match (why, self.leaving.take()) {
            (Closed::ByPeer, Some(asked)) => asked,
            (why, _) => why,
        })
    }

    /// Says GOAWAY when a drain, a limit or a response asks for it. In a drain a connection without streams hears it with its next
    /// request, or when idle ones are closed: a request that is on its way is not lost.
    fn look_at_drain(&mut self, cx: &mut Context<'_>, quiet: bool) {
        if !self.drain.is_closing() {
            self.drain.wake_on_change(cx.waker());
        }
        if self.leaving.is_some() {
            return;
        }
        if self.shared.goodbye.get() {
            return self.leave(Closed::AfterResponse);
        }
        if self.drain.is_closing() || (self.drain.is_draining() && !quiet) {
            return self.leave(Closed::Drained);
        }
        if let Some(expires) = &mut self.expires
            && Pin::new(expires).poll(cx).is_ready()
        {
            self.expires = None;
            self.leave(Closed::Timeout("the maximum connection duration"));
        }
    }

    fn leave(&mut self, why: Closed) {
        if self.leaving.is_none() {
            self.driver.link().session().leave();
            self.leaving = Some(why);
            self.idle = None;
            self.notice = Some(self.shared.local.timers.after(self.shared.settings.drain_timeout));
        }
    }

    /// No stream is open: for how long may that be?
    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        if self.leaving.is_some() {
            if self.drain.is_closing() {
                self.driver.link().session().leave_now();
            }
            return;
        }
        let Some(limit) = self.shared.settings.idle_timeout else { return };
        let idle = self.idle.get_or_insert_with(|| self.shared.local.timers.after(limit));
        if Pin::new(idle).poll(cx).is_ready() {
            self.leave(Closed::Timeout("the idle timeout"));
        }
    }
}
