//! Both directions of a proxied connection, in one future: half-close, idle time, byte counts.
//!
//! A direction holds a buffer only while bytes are in it or can be read at once, so that an idle pair costs none. When a read fills
//! its buffer and both sides are plain sockets, what follows is spliced through a pipe, until nothing more is there at once.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::clock::{Clock, Timers};
use crate::codec::poll_fill;
use crate::io::{Buffers, Io, Pipe, Pipes};

/// How a pair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides ended in order.
    Complete,
    /// The client's side broke.
    DownstreamReset,
    /// The host's side broke.
    UpstreamReset,
    /// Nothing passed for the idle time.
    Idle,
}

/// Bytes passed so far.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) up: Cell<u64>,
    pub(super) down: Cell<u64>,
    /// The client ended first, so that the host's end is what ends the session.
    pub(super) host_last: Cell<bool>,
}

/// A direction that has moved so much lets others have their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// One direction.
struct Half {
    buffer: Option<BytesMut>,
    /// Bytes that are spliced.
    pipe: Option<Pipe>,
    /// The last read was a full one: more is there, as a rule.
    full: bool,
    state: State,
    unflushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The reader ended; the writer is told.
    ShuttingDown,
    Done,
}

/// Which side failed.
enum Broken {
    Reader,
    Writer,
}

impl Half {
    fn new() -> Self {
        Half { buffer: None, pipe: None, full: false, state: State::Copying, unflushed: false }
    }

    /// Moves what can be moved; ready when this direction has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        tools: &Tools<'_>,
        count: &Cell<u64>,
    ) -> Poll<Result<(), Broken>> {
        let mut moved = 0;
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::ShuttingDown => {
                    let done = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Done;
                    // A peer that is gone already does not mind.
                    match done {
                        Err(e) if e.kind() != io::ErrorKind::NotConnected => return Poll::Ready(Err(Broken::Writer)),
                        _ => return Poll::Ready(Ok(())),
                    }
                }
                State::Copying => {
                    if moved >= TURN_BYTES {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    if self.poll_write(cx, to, tools)?.is_pending() {
                        return Poll::Pending;
                    }
                    match self.poll_read(cx, from, to, tools) {
                        Poll::Ready(Ok(0)) => self.state = State::ShuttingDown,
                        Poll::Ready(Ok(n)) => {
                            count.set(count.get() + n as u64);
                            moved += n;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reader)),
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Writer)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    /// Writes what is here; ready when nothing is left.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Io, tools: &Tools<'_>) -> Result<Poll<()>, Broken> {
        if let (Some(pipe), Some(to)) = (&mut self.pipe, to.bare_tcp()) {
            return match pipe.poll_drain(to, cx) {
                Poll::Ready(Err(_)) => Err(Broken::Writer),
                drained => Ok(drained.map(|_| ())),
            };
        }
        let Some(buffer) = &mut self.buffer else { return Ok(Poll::Ready(())) };
        while !buffer.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0) | Err(_)) => return Err(Broken::Writer),
                Poll::Ready(Ok(n)) => buffer.advance(n),
            }
            self.unflushed = true;
        }
        if let Some(buffer) = self.buffer.take() {
            tools.buffers.give(buffer);
        }
        Ok(Poll::Ready(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &Io,
        tools: &Tools<'_>,
    ) -> Poll<io::Result<usize>> {
        // Without descriptors left for a pipe bytes are copied.
        if self.full
            && let (Some(from), Some(_)) = (from.bare_tcp(), to.bare_tcp())
            && let Some(pipe) = self.pipe.take().or_else(|| tools.pipes.take().ok())
        {
            return self.poll_splice(cx, from, pipe, tools.pipes);
        }
        ready!(from.poll_readable(cx))?;
        let mut buffer = tools.buffers.take();
        let room = buffer.capacity() - buffer.len();
        let read = poll_fill(from, &mut buffer, cx);
        match &read {
            Poll::Ready(Ok(n)) if *n > 0 => {
                self.full = *n == room;
                self.buffer = Some(buffer);
            }
            _ => tools.buffers.give(buffer),
        }
        read
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        mut pipe: Pipe,
        pipes: &Pipes,
    ) -> Poll<io::Result<usize>> {
        let read = pipe.poll_fill(from, cx);
        if matches!(read, Poll::Ready(Ok(1..))) {
            self.pipe = Some(pipe);
        } else {
            // The stream pauses or ends.
            self.full = false;
            pipes.give(pipe);
        }
        read
    }
}

/// What the copying borrows from its worker.
pub(super) struct Tools<'a> {
    pub(super) buffers: &'a Buffers,
    pub(super) pipes: &'a Pipes,
    pub(super) timers: &'a Timers,
    pub(super) clock: &'a Clock,
}

/// Copies both ways until both have ended, one side breaks, or nothing passes for `idle`.
pub(super) async fn pair(
    downstream: &mut Io,
    upstream: &mut Io,
    idle: Option<Duration>,
    tools: Tools<'_>,
    copied: &Copied,
) -> End {
    let (mut up, mut down) = (Half::new(), Half::new());
    let mut last = Activity { at: tools.clock.now(), bytes: 0 };
    let mut sleep = idle.map(|idle| tools.timers.after(idle));
    poll_fn(move |cx| {
        let sent = up.poll(cx, downstream, upstream, &tools, &copied.up);
        let received = down.poll(cx, upstream, downstream, &tools, &copied.down);
        match (&sent, &received) {
            (Poll::Ready(Err(Broken::Reader)), _) | (_, Poll::Ready(Err(Broken::Writer))) => {
                return Poll::Ready(End::DownstreamReset);
            }
            (Poll::Ready(Err(Broken::Writer)), _) | (_, Poll::Ready(Err(Broken::Reader))) => {
                return Poll::Ready(End::UpstreamReset);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Complete),
            (Poll::Ready(Ok(())), Poll::Pending) => copied.host_last.set(true),
            _ => {}
        }
        let (Some(idle), Some(sleep)) = (idle, &mut sleep) else { return Poll::Pending };
        last.note(copied.up.get() + copied.down.get(), tools.clock);
        // The timer is moved when it fires, not at each byte.
        while std::future::Future::poll(Pin::new(&mut *sleep), cx).is_ready() {
            let due = last.at + idle;
            if tools.clock.now() >= due {
                return Poll::Ready(End::Idle);
            }
            *sleep = tools.timers.until(due);
        }
        Poll::Pending
    })
    .await
}

/// When bytes last passed.
struct Activity {
    at: Instant,
    bytes: u64,
}

impl Activity {
    fn note(&mut self, bytes: u64, clock: &Clock) {
        if bytes != self.bytes {
            *self = Activity { at: clock.now(), bytes };
        }
    }
}

#[cfg(test)]
mod tests;
