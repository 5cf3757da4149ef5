//! Between requests: waiting for the next head within its limits, and parking.
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::conn::Conn;
use crate::clock::Sleep;
use crate::codec::drain::UNFINISHED_GRACE;
use crate::codec::h1::head::{self, Fault, Lines, Scan};
use crate::codec::h1::request::{self, Incoming, Refusal};
use crate::codec::{Closed, Drain};

/// A connection that has been quiet for so long gives up what it kept for the next request.
const PARK_AFTER: Duration = Duration::from_secs(1);

const HEAD_TIMEOUT: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, details: "request_header_timeout", body: "request header timeout" };
const REQUEST_TIMEOUT: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, details: "request_overall_timeout", body: "request timeout" };
const STREAM_TIMEOUT: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, details: "stream_idle_timeout", body: "stream timeout" };

/// What came.
pub(super) enum Next {
    Head(Head),
    /// Not a request, or one to refuse; with the bytes it had.
    Refused(Refusal, usize),
    Closed(Closed),
}

/// A complete request head.
pub(super) struct Head {
    /// Boxed: it passes through several futures.
    pub(super) incoming: Box<Incoming>,
    pub(super) bytes: usize,
}

/// Which limit the timer stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Park,
    Idle,
    Duration,
    /// For the last request, after one of the two.
    Leaving,
    Head,
    Request,
    Stream,
    /// The drain waits for the rest of a head no longer.
    Drain,
}

struct Wait<'a> {
    conn: &'a RefCell<Conn>,
    drain: &'a Drain,
    deadline: Option<Instant>,
    scan: Scan,
    since: Instant,
    sleep: Option<Sleep>,
    waiting: Waiting,
    parked: bool,
    /// Since when the drain waits for a head that has only begun.
    hurried: Option<Instant>,
}

/// Waits for the next request. `slot` is emptied when the connection idles.
pub(super) async fn next_head<T>(
    conn: &Rc<RefCell<Conn>>,
    drain: &Drain,
    deadline: Option<Instant>,
    slot: &mut Option<T>,
) -> Next {
    let since = conn.borrow().local.clock.now();
    let scan = Scan::default();
    let waiting = Waiting::Park;
    let mut wait = Wait { conn, drain, deadline, scan, since, sleep: None, waiting, parked: false, hurried: None };
    poll_fn(|cx| {
        let next = wait.poll(cx);
        if wait.parked {
            *slot = None;
        }
        next
    })
    .await
}

impl Wait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(next) = self.parse() {
                return Poll::Ready(next);
            }
            let mut conn = self.conn.borrow_mut();
            let conn = &mut *conn;
            let was_empty = conn.read.is_empty();
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Next::Closed(by_peer(conn.read.is_empty()))),
                Poll::Ready(Ok(_)) => {
                    let now = conn.local.clock.now();
                    if was_empty {
                        self.since = now;
                        self.sleep = None;
                    }
                    continue;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Next::Closed(io_closed(&error))),
                Poll::Pending => {}
            }
            // Only now: a request that has come already is answered.
            if self.drain.is_closing() {
                if was_empty {
                    return Poll::Ready(Next::Closed(Closed::Drained));
                }
                if self.hurried.is_none() {
                    self.hurried = Some(conn.local.clock.now());
                    self.sleep = None;
                }
            }
            if was_empty && conn.read.capacity() != 0 {
                conn.local.buffers.give(std::mem::take(&mut conn.read));
            }
            self.drain.wake_on_change(cx.waker());
            let head_bytes = conn.read.len();
            match ready!(self.poll_timer(conn, was_empty, cx)) {
                Waiting::Park => self.parked = true,
                Waiting::Idle => leave(conn, "the idle timeout"),
                Waiting::Duration => leave(conn, "the maximum connection duration"),
                Waiting::Leaving => {
                    let which = conn.leaving.map_or("a time limit", |(_, which)| which);
                    return Poll::Ready(Next::Closed(Closed::Timeout(which)));
                }
                Waiting::Head => return Poll::Ready(Next::Refused(HEAD_TIMEOUT, head_bytes)),
                Waiting::Request => return Poll::Ready(Next::Refused(REQUEST_TIMEOUT, head_bytes)),
                Waiting::Stream => return Poll::Ready(Next::Refused(STREAM_TIMEOUT, head_bytes)),
                Waiting::Drain => return Poll::Ready(Next::Closed(Closed::Drained)),
            }
        }
    }

    /// Arms the earliest limit that applies, and waits for it.
    fn poll_timer(&mut self, conn: &Conn, idle: bool, cx: &mut Context<'_>) -> Poll<Waiting> {
        if self.sleep.is_none() {
            let after = |limit: Option<Duration>| limit.and_then(|limit| self.since.checked_add(limit));
            let stays = conn.leaving.is_none();
            let limits = if idle {
                [
                    (!self.parked).then(|| self.since + PARK_AFTER).map(|at| (at, Waiting::Park)),
                    after(conn.settings.idle_timeout).filter(|_| stays).map(|at| (at, Waiting::Idle)),
                    self.deadline.filter(|_| stays).map(|at| (at, Waiting::Duration)),
                    conn.leaving.map(|(at, _)| (at, Waiting::Leaving)),
                ]
            } else {
                [
                    after(conn.settings.request_headers_timeout).map(|at| (at, Waiting::Head)),
                    after(conn.settings.request_timeout).map(|at| (at, Waiting::Request)),
                    after(conn.settings.stream_idle_timeout).map(|at| (at, Waiting::Stream)),
                    self.hurried.map(|since| (since + UNFINISHED_GRACE, Waiting::Drain)),
                ]
            };
            let Some((at, waiting)) = limits.into_iter().flatten().min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            self.waiting = waiting;
            self.sleep = Some(conn.local.timers.until(at));
        }
        match &mut self.sleep {
            Some(sleep) => {
                ready!(Pin::new(sleep).poll(cx));
                self.sleep = None;
                Poll::Ready(self.waiting)
            }
            None => Poll::Pending,
        }
    }

    /// Looks for a complete head in what has been read.
    fn parse(&mut self) -> Option<Next> {
        let mut conn = self.conn.borrow_mut();
        let conn = &mut *conn;
        if self.scan.lines() == 0 {
            // One empty line in front of a request is tolerated (RFC 9112, section 2.2).
            while conn.read.starts_with(b"\r\n") {
                bytes::Buf::advance(&mut conn.read, 2);
                self.scan = Scan::default();
            }
        }
        if conn.read.is_empty() || conn.read.as_ref() == b"\r" {
            return None;
        }
        let bytes = conn.read.len();
        let mut lines = Lines::default();
        match self.scan.run(&conn.read, conn.settings.limits.head_bytes, &mut lines) {
            Ok(None) => refuse_early(&conn.read, self.scan.lines()).map(|refusal| Next::Refused(refusal, bytes)),
            Ok(Some(end)) => {
                let head = conn.read.split_to(end).freeze();
                Some(match request::parse(&head, self.scan.lines(), &mut lines, &conn.settings) {
                    Ok(incoming) => Next::Head(Head { incoming: Box::new(incoming), bytes: end }),
                    Err(refusal) => Next::Refused(refusal, end),
                })
            }
            Err(fault) => Some(Next::Refused(fault.into(), bytes)),
        }
    }
}

/// A first byte that no method has, or a first line that starts no request: TLS or another protocol, which may never send the
/// end of a head.
fn refuse_early(read: &[u8], lines: usize) -> Option<Refusal> {
    if lines == 1
        && let Some(fault) = head::fault_in_start(read)
    {
        return Some(fault.into());
    }
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match read.first() {
        Some(&first) if !token(first) => Some(Fault::Malformed("invalid method").into()),
        _ => None,
    }
}

/// Nothing more is expected of the client; what it sends all the same, within the drain timeout, is answered with a goodbye.
fn leave(conn: &mut Conn, which: &'static str) {
    conn.leaving = Some((conn.local.clock.now() + conn.settings.drain_timeout, which));
}

fn by_peer(clean: bool) -> Closed {
    if clean { Closed::ByPeer } else { Closed::ByPeerInRequest }
}

pub(super) fn io_closed(error: &std::io::Error) -> Closed {
    match error.kind() {
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::UnexpectedEof => {
            Closed::ByPeer
        }
        kind => Closed::Io(kind),
    }
}
