//! What the layer above sends: heads, data as far as the windows and the socket go, trailers, resets.
//!
//! Streams that have more to send than goes out stand in line. When there is room they are woken, those first that got nothing the last time; each
//! sends at most one frame before the others had their turn. Nobody waits for a stream that does not come when it is called.
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::{CONTROL, PLAIN, Role, Session};
use crate::codec::h2::event::Event;
use crate::codec::h2::frame::{self, MAX_31_BITS, MAX_PAYLOAD, flag};
use crate::codec::h2::hpack::Encoder;
use crate::codec::h2::reason::Reason;
use crate::codec::h2::streams::{Cause, Half, Key, Past, Stream, keep};

/// Bytes that may wait for the socket before bodies have to; heads and answers to the peer go on.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Who waits for the connection's window or for the socket.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// They got nothing when they were last called.
    hungry: VecDeque<(Key, u32)>,
    /// They have sent something, and have more.
    served: VecDeque<(Key, u32)>,
    round: u32,
    /// More than one was called for this round.
    contended: bool,
}

impl Session {
    /// Whether a stream can be opened at all.
    pub(in crate::codec::h2) fn takes_streams(&self) -> bool {
        self.ended.is_none() && !self.peer_left && self.next_id <= MAX_31_BITS
    }

    /// How many streams may be open at once: the lower of our limit and the peer's.
    pub(in crate::codec::h2) fn max_streams(&self) -> usize {
        self.peer.max_streams.min(self.settings.max_concurrent_streams) as usize
    }

    /// Whether the peer takes extended CONNECT.
    pub(in crate::codec::h2) fn takes_connect(&self) -> bool {
        self.peer.takes_connect
    }

    /// Has `waker` woken when there may be a place for another stream.
    pub(in crate::codec::h2) fn wait_to_open(&mut self, waker: &Waker) {
        if !self.openers.iter().any(|known| known.will_wake(waker)) {
            self.openers.push(waker.clone());
        }
    }

    /// Opens a stream with the request that `write` encodes. There must be a place for it.
    pub(in crate::codec::h2) fn open(
        &mut self,
        ends: bool,
        head_only: bool,
        write: impl FnOnce(&mut Encoder, &mut BytesMut),
    ) -> Key {
        let id = self.next_id;
        self.next_id += 2;
        let mut stream = Stream::new(id, self.peer.initial_window, self.settings.initial_stream_window);
        stream.head_only = head_only;
        stream.sending = if ends { Half::Ended } else { Half::Body };
        self.tally.count_opened();
        self.put_headers(id, ends, write);
        self.streams.insert(stream)
    }

    /// Sends a response's head.
    pub(in crate::codec::h2) fn send_head(
        &mut self,
        key: Key,
        ends: bool,
        write: impl FnOnce(&mut Encoder, &mut BytesMut),
    ) -> Result<(), Cause> {
        let stream = self.streams.get(key);
        if let Some(cause) = stream.failed {
            return Err(cause);
        }
        stream.sending = if ends { Half::Ended } else { Half::Body };
        let id = stream.id;
        self.tally.count_opened();
        self.put_headers(id, ends, write);
        self.close_if_ended(key);
        Ok(())
    }

    /// Sends an interim response; `false` if there is nobody to inform: the response has begun, or the stream has ended.
    pub(in crate::codec::h2) fn send_interim(&mut self, key: Key, status: StatusCode, headers: &HeaderMap) -> bool {
        let stream = self.streams.get(key);
        if stream.failed.is_some() || stream.sending != Half::Head {
            return false;
        }
        let id = stream.id;
        self.put_headers(id, false, |encoder, out| {
            encoder.status(status, out);
            headers.iter().for_each(|(name, value)| encoder.header(name, value, out));
        });
        true
    }

    fn put_headers(&mut self, id: u32, ends: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let encoder = &mut self.encoder;
        self.out.append(PLAIN, |out| {
            frame::put_headers(id, ends, out, |out| {
                encoder.begin(out);
                write(encoder, out);
            });
        });
        self.wake_driver();
    }

    /// How many bytes of data can be sent now: at most one frame's.
    pub(in crate::codec::h2) fn poll_capacity(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<usize, Cause>> {
        let room = self.room();
        let stream = self.streams.get(key);
        if let Some(cause) = stream.failed {
            return Poll::Ready(Err(cause));
        }
        if stream.send_window <= 0 {
            keep(&mut stream.writer, cx.waker());
            return Poll::Pending;
        }
        let others = self.line.contended || !self.line.hungry.is_empty() || !self.line.served.is_empty();
        let had_its_turn = others && stream.served == self.line.round;
        if room > 0 && !had_its_turn {
            return Poll::Ready(Ok((stream.send_window as usize).min(room).min(MAX_PAYLOAD)));
        }
        keep(&mut stream.writer, cx.waker());
        if !stream.in_line {
            stream.in_line = true;
            let place = (key, stream.id);
            let line = &mut self.line;
            let queue = if stream.served == line.round { &mut line.served } else { &mut line.hungry };
            queue.push_back(place);
        }
        if room > 0 {
            // The next round begins when the driver's turn ends.
            self.wake_driver();
        }
        Poll::Pending
    }

    /// Bytes of bodies that can be appended.
    fn room(&self) -> usize {
        let limit = self.settings.max_send_buffer.min(MAX_WAITING_BYTES);
        usize::try_from(self.send_window).unwrap_or(0).min(limit.saturating_sub(self.out.len()))
    }

    /// Calls who stands in line, if there is room. Whether there was somebody.
    pub(in crate::codec::h2) fn begin_round(&mut self) -> bool {
        if (self.line.hungry.is_empty() && self.line.served.is_empty()) || self.room() == 0 {
            return false;
        }
        self.line.round = self.line.round.wrapping_add(1);
        self.line.contended = self.line.hungry.len() + self.line.served.len() > 1;
        let (mut hungry, mut served) = (std::mem::take(&mut self.line.hungry), std::mem::take(&mut self.line.served));
        for (key, id) in hungry.drain(..).chain(served.drain(..)) {
            if let Some(stream) = self.streams.same(key, id) {
                stream.in_line = false;
                stream.wake_writer();
            }
        }
        (self.line.hungry, self.line.served) = (hungry, served);
        true
    }

    /// Sends data, no more than there is capacity for.
    pub(in crate::codec::h2) fn send_data(&mut self, key: Key, data: Bytes, ends: bool) -> Result<(), Cause> {
        let stream = self.streams.get(key);
        if let Some(cause) = stream.failed {
            return Err(cause);
        }
        stream.send_window -= data.len() as i64;
        stream.served = self.line.round;
        if ends {
            stream.sending = Half::Ended;
        }
        let id = stream.id;
        self.send_window -= data.len() as i64;
        self.tally.count_data();
        self.out.data(id, if ends { flag::END_STREAM } else { 0 }, data);
        self.wake_driver();
        self.close_if_ended(key);
        Ok(())
    }

    /// Ends a message with trailers.
    pub(in crate::codec::h2) fn send_trailers(&mut self, key: Key, trailers: &HeaderMap) -> Result<(), Cause> {
        let stream = self.streams.get(key);
        if let Some(cause) = stream.failed {
            return Err(cause);
        }
        stream.sending = Half::Ended;
        let id = stream.id;
        self.put_headers(id, true, |encoder, out| {
            trailers.iter().for_each(|(name, value)| encoder.header(name, value, out));
        });
        self.close_if_ended(key);
        Ok(())
    }

    /// Resets a stream that is not over.
    pub(in crate::codec::h2) fn reset(&mut self, key: Key, reason: Reason) {
        let stream = self.streams.get(key);
        if stream.is_closed() {
            return;
        }
        let id = stream.id;
        self.note(Event::ResetSent);
        let frames = if self.role == Role::Server { CONTROL } else { PLAIN };
        self.put(frames, |out| frame::put_reset(id, reason, out));
        self.fail_stream(key, Cause::Canceled, Past::ResetHere);
    }

    /// Ready when the stream is over before its end.
    pub(in crate::codec::h2) fn poll_reset(&mut self, key: Key, cx: &Context<'_>) -> Poll<Cause> {
        let stream = self.streams.get(key);
        match stream.failed {
            Some(cause) => Poll::Ready(cause),
            None => {
                keep(&mut stream.writer, cx.waker());
                Poll::Pending
            }
        }
    }
}
