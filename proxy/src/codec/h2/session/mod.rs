//! One end of an HTTP/2 connection as a pure state machine: no socket and no clock.
//!
//! `handle_*` takes what happens outside: bytes from the peer, bytes written, the end of the socket. `send_*`, `open` and `reset` are the
//! layer above. `next_*` and `poll_*` give out what came of it; a `poll_*` keeps the waker of who asked too early. What is to be
//! written collects in [`Session::out`], and whoever drives the connection is woken for it.
mod receive;
mod heads;
mod settings;
mod send;
mod read;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::BytesMut;

use super::Settings;
use super::event::{Event, Events};
use super::flood::{Fault, Tally};
use super::frame;
use super::head::{Head, Limits, Malformed};
use super::hpack::{Decoder, Encoder};
use super::output::{Frames, Output};
use super::reason::Reason;
use super::streams::{Cause, Half, Key, Past, Stream, Streams};
use crate::io::Buffers;

use send::Line;
use settings::Peer;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Frames that answer the peer, and frames that do not.
const CONTROL: Frames = Frames { all: 1, control: 1 };
const PLAIN: Frames = Frames { all: 1, control: 0 };

/// A connection.
pub(super) struct Session {
    role: Role,
    settings: Settings,
    peer: Peer,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    reading: Reading,
    /// A header block whose end has not come.
    block: Option<Box<Block>>,
    /// What waits for the socket.
    pub(super) out: Output,
    send_window: i64,
    recv_window: i64,
    /// Bytes that were read here and not given back to the peer's window yet.
    consumed: u32,
    line: Line,
    accepted: VecDeque<(Key, Box<Head>)>,
    /// Streams that the client reset before they were accepted, in this turn.
    early_resets: usize,
    /// Requests that were none, since the last look.
    malformed: Vec<Malformed>,
    /// What has happened since the last look, if anything.
    events: Option<Box<Events>>,
    /// The peer's highest stream.
    last_peer: u32,
    /// The next stream of ours.
    next_id: u32,
    tally: Tally,
    leaving: Leaving,
    /// The peer's SETTINGS are here.
    peer_told: bool,
    /// The peer said GOAWAY.
    peer_left: bool,
    ping: Option<[u8; 8]>,
    fault: Option<Fault>,
    ended: Option<Cause>,
    driver: Option<Waker>,
    /// The driver is at work: what is appended now leaves at the end of its turn.
    in_turn: bool,
    /// Who waits for a place to open a stream.
    openers: Vec<Waker>,
}

/// How far what the peer sends has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Preface,
    /// The peer's first frame has to be SETTINGS.
    Greeting,
    Frame,
    /// The payload of a DATA frame.
    Data(Payload),
}

/// What is left of a DATA frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Payload {
    /// Whose it is; without one it is dropped.
    stream: Option<(Key, u32)>,
    left: usize,
    padding: usize,
    ends: bool,
}

/// A header block that did not fit into one frame.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    depends_on: Option<u32>,
    bytes: BytesMut,
    frames: usize,
}

/// Our own GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Said without a last stream: what is on its way still counts.
    Announced,
    /// Said with the last stream: later ones are ignored.
    Final,
}

impl Session {
    /// The preface and the SETTINGS of this end are the first output.
    pub(super) fn new(role: Role, settings: Settings, buffers: Buffers) -> Self {
        let mut session = Self {
            role,
            settings,
            peer: Peer::default(),
            decoder: Decoder::default(),
            encoder: Encoder::new(settings.hpack_table_size),
            streams: Streams::default(),
            reading: if role == Role::Server { Reading::Preface } else { Reading::Greeting },
            block: None,
            out: Output::new(buffers),
            send_window: i64::from(settings::DEFAULT_WINDOW),
            recv_window: i64::from(settings.initial_connection_window),
            consumed: 0,
            line: Line::default(),
            accepted: VecDeque::new(),
            early_resets: 0,
            malformed: Vec::new(),
            events: None,
            last_peer: 0,
            next_id: 1,
            tally: Tally::new(settings.floods),
            leaving: Leaving::No,
            peer_told: false,
            peer_left: false,
            ping: None,
            fault: None,
            ended: None,
            driver: None,
            in_turn: false,
            openers: Vec::new(),
        };
        session.greet();
        session
    }

    fn limits(&self) -> Limits {
        Limits { bytes: self.settings.max_head_bytes as usize, fields: self.settings.max_headers }
    }

    /// Appends frames, and has the driver write them.
    #[inline]
    fn put<R>(&mut self, frames: Frames, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        let result = self.out.append(frames, write);
        self.wake_driver();
        result
    }

    #[inline]
    fn wake_driver(&mut self) {
        if !self.in_turn
            && let Some(driver) = self.driver.take()
        {
            driver.wake();
        }
    }

    /// The driver begins its turn.
    pub(super) fn begin_turn(&mut self) {
        self.in_turn = true;
        self.early_resets = 0;
    }

    /// The driver has written what it could, and waits.
    pub(super) fn end_turn(&mut self, cx: &Context<'_>) {
        self.in_turn = false;
        super::streams::keep(&mut self.driver, cx.waker());
        if let Err(fault) = self.tally.check_output(self.out.frames()) {
            self.fail(fault);
        }
    }

    /// The next stream that the client has opened.
    pub(super) fn next_accepted(&mut self) -> Option<(Key, Box<Head>)> {
        loop {
            let (key, head) = self.accepted.pop_front()?;
            if self.streams.peek(key).failed.is_none() {
                return Some((key, head));
            }
            // Nobody has begun anything for it.
            self.release(key);
            self.early_resets += 1;
            if self.early_resets > self.settings.max_pending_resets {
                self.fail(Fault::flood("too many streams were reset at once"));
            }
        }
    }

    /// Requests that were none, for the record of who serves them.
    pub(super) fn take_malformed(&mut self) -> Vec<Malformed> {
        std::mem::take(&mut self.malformed)
    }

    /// What has happened since the last look.
    pub(super) fn take_events(&mut self) -> Option<Box<Events>> {
        self.events.take()
    }

    /// Something to be counted has happened.
    #[cold]
    pub(super) fn note(&mut self, event: Event) {
        self.events.get_or_insert_default().note(event);
    }

    /// Streams that are not over.
    pub(super) fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Why the connection takes no new streams and gives no more answers, once that is so.
    pub(super) fn ended(&self) -> Option<Cause> {
        self.ended
    }

    /// What the peer did wrong, if that is why it ended.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether the peer has said that it speaks HTTP/2.
    pub(super) fn is_greeted(&self) -> bool {
        self.peer_told
    }

    /// Whether all that was promised is done, and nothing new will be.
    pub(super) fn is_finished(&self) -> bool {
        (self.leaving == Leaving::Final || self.peer_left) && self.streams.open() == 0 && self.accepted.is_empty()
    }

    /// Announces the end: streams that are on their way are still served.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.ended.is_none() {
            self.leaving = Leaving::Announced;
            self.put(PLAIN, |out| frame::put_goaway(frame::MAX_31_BITS, Reason::NO_ERROR, out));
        }
    }

    /// Ends it for new streams at once.
    pub(super) fn leave_now(&mut self) {
        if self.leaving != Leaving::Final && self.ended.is_none() {
            self.leaving = Leaving::Final;
            self.note(Event::GoawaySent);
            let last = self.last_peer;
            self.put(PLAIN, |out| frame::put_goaway(last, Reason::NO_ERROR, out));
        }
    }

    /// Asks the peer for a sign of life.
    pub(super) fn send_ping(&mut self, payload: [u8; 8]) {
        self.ping = Some(payload);
        self.put(PLAIN, |out| frame::put_ping(0, payload, out));
    }

    /// Whether the last ping was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.ping.is_none()
    }

    /// The peer broke the protocol.
    fn fail(&mut self, fault: Fault) {
        if self.ended.is_some() {
            return;
        }
        tracing::debug!(reason = %fault.reason, details = fault.details, "HTTP/2 connection error");
        fault.event.into_iter().for_each(|event| self.note(event));
        if !fault.silent {
            let last = self.last_peer;
            self.put(PLAIN, |out| frame::put_goaway(last, fault.reason, out));
        }
        self.fault = Some(fault);
        self.handle_end(Cause::Protocol);
    }

    /// The connection is over: the socket has ended or failed.
    pub(super) fn handle_end(&mut self, cause: Cause) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(cause);
        for key in self.streams.open_keys() {
            self.fail_stream(key, cause, Past::Ended);
        }
        while let Some((key, _)) = self.accepted.pop_front() {
            self.release(key);
        }
        self.wake_openers();
        self.wake_driver();
    }

    /// Ends a stream before its end; what has arrived can still be read.
    fn fail_stream(&mut self, key: Key, cause: Cause, past: Past) {
        let stream = self.streams.get(key);
        if stream.is_closed() {
            return;
        }
        stream.failed = Some(cause);
        stream.wake_reader();
        stream.wake_writer();
        self.close(key, past);
    }

    fn close(&mut self, key: Key, past: Past) {
        self.streams.close(key, past);
        self.wake_openers();
        if self.streams.open() == 0 {
            // The connection may have waited for just that.
            self.wake_driver();
        }
        if self.streams.peek(key).handles == 0 {
            self.remove(key);
        }
    }

    fn close_if_ended(&mut self, key: Key) {
        if self.streams.peek(key).is_closed() {
            self.close(key, Past::Ended);
        }
    }

    fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    /// Another handle to a stream.
    pub(super) fn retain(&mut self, key: Key) {
        self.streams.get(key).handles += 1;
    }

    /// A handle is gone. With the last one, what is left of the stream is cancelled.
    pub(super) fn release(&mut self, key: Key) {
        let stream = self.streams.get(key);
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        if stream.is_closed() {
            return self.remove(key);
        }
        // A server that has answered needs no more of the request.
        let answered = self.role == Role::Server && stream.sending == Half::Ended;
        self.reset(key, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
    }

    fn remove(&mut self, key: Key) {
        let stream: Stream = self.streams.remove(key);
        self.consume_connection(stream.data.len);
    }
}
