//! One downstream HTTP/2 connection: accept streams, run the handler for each, write what they answer.
//!
//! All of a connection is one task: its streams are futures in a set beside the frame layer. What the streams produce in one turn leaves
//! in one flush. A stream that the client resets drops its handler's future.
mod stream;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use h2::Reason;
use h2::server::{Connection, SendResponse};

use super::Settings as Http2;
use super::keepalive::Pinger;
use crate::clock::Sleep;
use crate::codec::handler::Handler;
use crate::codec::linger::linger;
use crate::codec::{Closed, Drain, Local};
use crate::io::{Gather, Io};

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
    /// `stream_idle_timeout`, as far as it is the codec's: the client takes no byte of a response for so long.
    pub write_timeout: Option<Duration>,
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
            write_timeout: Some(Duration::from_secs(300)),
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
    let io = Gather::new(io, local.buffers.clone());
    let shared = Rc::new(Shared { settings, local, goodbye: Cell::new(false) });
    let handshake = builder(&settings.http2).handshake::<_, Bytes>(io.clone());
    let closed = match shared.local.timers.timeout(PREFACE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => run(connection, &io, &shared, handler, &drain).await,
        Ok(Err(error)) => closed(&error),
        Err(_) => Closed::Timeout("the limit for the HTTP/2 preface"),
    };
    if !matches!(closed, Closed::ByPeer | Closed::ByPeerInRequest | Closed::Io(_)) {
        // The client is still there, and may be sending: it gets to read the GOAWAY.
        linger(io.io(), &shared.local, settings.delayed_close_timeout).await;
    }
    closed
}

fn builder(http2: &Http2) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window)
        .max_concurrent_streams(http2.max_concurrent_streams)
        .header_table_size(http2.hpack_table_size)
        .max_send_buffer_size(http2.max_send_buffer)
        .max_pending_accept_reset_streams(http2.max_pending_resets)
        // The frame layer answers a larger list with 431 by itself; Envoy, and `translate`, reset the stream.
        .max_header_list_size(http2.max_head_bytes.saturating_mul(2).saturating_add(64 * 1024));
    if http2.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// The connection and its streams, to the end of both.
async fn run<H: Handler>(
    connection: Connection<Gather, Bytes>,
    io: &Gather,
    shared: &Rc<Shared>,
    handler: &H,
    drain: &Drain,
) -> Closed {
    io.defer();
    let mut serving = Serving::new(connection, shared.clone(), drain);
    let mut streams = std::pin::pin!(FuturesUnordered::new());
    poll_fn(|cx| {
        loop {
            // Streams first: what they produce leaves with the flush of the connection's turn below.
            while let Poll::Ready(Some(())) = streams.as_mut().poll_next(cx) {}
            let step = serving.poll(cx, streams.is_empty());
            if let Step::Accepted(request, respond) = step {
                let index = serving.accepted - 1;
                streams.push(stream::run(shared.clone(), handler, *request, respond, index));
                continue;
            }
            // The turn is over. Where the socket takes no more the task is woken when it does.
            let _: Poll<()> = io.poll_drain(cx);
            return match step {
                Step::Closed(closed) => Poll::Ready(closed),
                _ => Poll::Pending,
            };
        }
    })
    .await
}

/// A client has this long for its preface and SETTINGS.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(15);

type Request = http::Request<h2::RecvStream>;

enum Step {
    Accepted(Box<Request>, SendResponse<Bytes>),
    Wait,
    Closed(Closed),
}

/// The connection without its streams.
struct Serving<'a> {
    connection: Connection<Gather, Bytes>,
    shared: Rc<Shared>,
    drain: &'a Drain,
    pinger: Option<Pinger>,
    /// `max_connection_duration`
    expires: Option<Sleep>,
    /// Since the last stream ended: `idle_timeout`, or `drain_timeout` once GOAWAY was sent.
    idle: Option<Sleep>,
    accepted: u64,
    /// GOAWAY was sent, for this.
    leaving: Option<Closed>,
}

impl<'a> Serving<'a> {
    fn new(mut connection: Connection<Gather, Bytes>, shared: Rc<Shared>, drain: &'a Drain) -> Self {
        let pinger = match shared.settings.http2.keepalive {
            Some(settings) => connection.ping_pong().map(|pings| Pinger::new(pings, settings, &shared.local)),
            None => None,
        };
        let expires = shared.settings.max_connection_duration.map(|limit| shared.local.timers.after(limit));
        Self { connection, shared, drain, pinger, expires, idle: None, accepted: 0, leaving: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, quiet: bool) -> Step {
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_dead(cx).is_ready()
        {
            return Step::Closed(Closed::Timeout("the keepalive timeout"));
        }
        self.look_at_drain(cx, quiet);
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.accepted += 1;
                self.idle = None;
                if self.shared.settings.max_requests_per_connection.is_some_and(|limit| self.accepted >= limit) {
                    self.leave(Closed::AfterResponse);
                }
                if self.drain.is_draining() {
                    self.leave(Closed::Drained);
                }
                return Step::Accepted(Box::new(request), respond);
            }
            Poll::Ready(ended) => {
                let why = ended.and_then(Result::err).map_or(Closed::ByPeer, |error| closed(&error));
                // A client that closes because it was asked to does what it should.
                return Step::Closed(match (why, self.leaving.take()) {
                    (Closed::ByPeer, Some(asked)) => asked,
                    (why, _) => why,
                });
            }
            Poll::Pending => {}
        }
        if !quiet {
            self.idle = None;
            return Step::Wait;
        }
        self.poll_idle(cx)
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
            self.connection.graceful_shutdown();
            self.leaving = Some(why);
            self.idle = None;
        }
    }

    /// No stream is open: for how long may that be?
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Step {
        if self.drain.is_closing()
            && let Some(why) = self.leaving.take()
        {
            return Step::Closed(why);
        }
        loop {
            if self.idle.is_none() {
                let limit = match self.leaving {
                    Some(_) => Some(self.shared.settings.drain_timeout),
                    None => self.shared.settings.idle_timeout,
                };
                let Some(limit) = limit else { return Step::Wait };
                self.idle = Some(self.shared.local.timers.after(limit));
            }
            if let Some(sleep) = &mut self.idle
                && Pin::new(sleep).poll(cx).is_pending()
            {
                return Step::Wait;
            }
            self.idle = None;
            if let Some(why) = self.leaving.take() {
                return Step::Closed(why);
            }
            self.leave(Closed::Timeout("the idle timeout"));
            // Has the GOAWAY written.
            cx.waker().wake_by_ref();
        }
    }
}

fn closed(error: &h2::Error) -> Closed {
    match (error.reason(), error.get_io()) {
        (_, Some(io)) if super::is_disconnect(io.kind()) => Closed::ByPeer,
        (_, Some(io)) => Closed::Io(io.kind()),
        (Some(Reason::NO_ERROR) | None, None) => Closed::ByPeer,
        (Some(reason), None) => Closed::Protocol(reason),
    }
}
