//! Bytes from the peer: frames are taken apart where they lie, and each does its work.
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::{Block, CONTROL, Payload, Reading, Role, Session};
use crate::codec::h2::event::Event;
use crate::codec::h2::flood::Fault;
use crate::codec::h2::frame::{self, HEAD_BYTES, Header, MAX_31_BITS, MAX_PAYLOAD, PREFACE, flag, kind};
use crate::codec::h2::reason::Reason;
use crate::codec::h2::streams::{Cause, Half, Key, Past};

/// Pieces of data from this size on are split off from what was read, smaller ones are copied: a small one would keep the whole buffer.
const SPLIT_BYTES: usize = 4096;

/// What a frame can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The connection ends.
    Connection(Fault),
    /// The stream is reset.
    Stream(u32, Reason),
    /// The message is malformed; `override_stream_error_on_invalid_http_message` tells which of the two.
    Message(u32),
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Connection(fault)
    }
}

impl From<frame::Malformed> for Wrong {
    fn from(frame::Malformed(reason): frame::Malformed) -> Self {
        Self::Connection(Fault::new(reason, "malformed frame"))
    }
}

impl Session {
    /// Reads what came, as far as it is whole; the rest stays in `input`. How many bytes a whole frame would have is what it returns.
    pub(in crate::codec::h2) fn handle_input(&mut self, input: &mut BytesMut, now: Instant) -> usize {
        let mut needed = 0;
        while self.ended.is_none() {
            match self.receive(input, now) {
                Ok(true) => {}
                Ok(false) => {
                    let header = Header::parse(input).filter(|_| self.reading != Reading::Preface);
                    needed = header.map_or(HEAD_BYTES, |header| HEAD_BYTES + header.len);
                    break;
                }
                Err(fault) => self.fail(fault),
            }
        }
        needed
    }

    /// One step; `false` if more bytes are needed for it.
    fn receive(&mut self, input: &mut BytesMut, now: Instant) -> Result<bool, Fault> {
        match self.reading {
            Reading::Data(payload) => {
                if input.is_empty() && payload.left + payload.padding > 0 {
                    return Ok(false);
                }
                self.receive_payload(payload, input)?;
                return Ok(true);
            }
            Reading::Preface => {
                let len = input.len().min(PREFACE.len());
                if input[..len] != PREFACE[..len] {
                    return Err(Fault::protocol("no HTTP/2 preface"));
                }
                if len < PREFACE.len() {
                    return Ok(false);
                }
                input.advance(len);
                self.reading = Reading::Greeting;
            }
            Reading::Greeting | Reading::Frame => {}
        }
        let Some(header) = Header::parse(input) else { return Ok(false) };
        if header.len > MAX_PAYLOAD {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "frame too large"));
        }
        if header.kind == kind::DATA && self.reading == Reading::Frame && self.block.is_none() {
            let padded = usize::from(header.has(flag::PADDED));
            if input.len() < HEAD_BYTES + padded.min(header.len) {
                return Ok(false);
            }
            let padding = if padded > 0 { input.get(HEAD_BYTES).copied() } else { None };
            let begun = self.begin_data(&header, padding);
            input.advance(HEAD_BYTES + padded.min(header.len));
            self.judge(begun)?;
            return Ok(true);
        }
        let Some(payload) = input.get(HEAD_BYTES..HEAD_BYTES + header.len) else { return Ok(false) };
        let done = self.receive_frame(&header, payload, now);
        input.advance(HEAD_BYTES + header.len);
        self.judge(done)?;
        // Before anything of it is written, as Envoy counts: many frames at once have as many answers.
        self.tally.check_output(self.out.frames())?;
        Ok(true)
    }

    /// What follows from what a frame did wrong.
    fn judge(&mut self, done: Result<(), Wrong>) -> Result<(), Fault> {
        match done {
            Ok(()) => Ok(()),
            Err(Wrong::Connection(fault)) => Err(fault),
            Err(Wrong::Message(_)) if !self.settings.stream_errors => {
                self.note(Event::MalformedMessage);
                Err(Fault::message())
            }
            Err(Wrong::Message(id)) => {
                self.note(Event::MalformedMessage);
                self.refuse(id, Reason::PROTOCOL_ERROR);
                Ok(())
            }
            Err(Wrong::Stream(id, reason)) => {
                self.refuse(id, reason);
                Ok(())
            }
        }
    }

    /// Resets a stream for what the peer did.
    fn refuse(&mut self, id: u32, reason: Reason) {
        self.note(Event::ResetSent);
        self.put(CONTROL, |out| frame::put_reset(id, reason, out));
        match self.streams.find(id) {
            Some(key) => self.fail_stream(key, Cause::Protocol, Past::ResetHere),
            None => self.streams.remember(id, Past::ResetHere),
        }
    }

    fn receive_frame(&mut self, header: &Header, payload: &[u8], now: Instant) -> Result<(), Wrong> {
        if self.block.is_some() && header.kind != kind::CONTINUATION {
            return Err(Fault::protocol("a frame inside a header block").into());
        }
        if self.reading == Reading::Greeting {
            if header.kind != kind::SETTINGS || header.has(flag::ACK) {
                return Err(Fault::protocol("the first frame is no SETTINGS").into());
            }
            self.reading = Reading::Frame;
        }
        match header.kind {
            kind::HEADERS => self.receive_headers(header, payload),
            kind::CONTINUATION => self.receive_continuation(header, payload),
            kind::PRIORITY => self.receive_priority(header, payload),
            kind::RST_STREAM => self.receive_reset(header, payload, now),
            kind::SETTINGS => Ok(self.receive_settings(header, payload)?),
            kind::PUSH_PROMISE => Err(Fault::protocol("PUSH_PROMISE").into()),
            kind::PING => self.receive_ping(header, payload),
            kind::GOAWAY => self.receive_goaway(header, payload),
            kind::WINDOW_UPDATE => self.receive_window_update(header, payload),
            _ => Ok(()),
        }
    }

    /// Whether the stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        let by_client = id % 2 == 1;
        match (self.role, by_client) {
            (Role::Server, true) => id > self.last_peer,
            (Role::Client, true) => id >= self.next_id,
            (_, false) => true,
        }
    }

    fn begin_data(&mut self, header: &Header, padding: Option<u8>) -> Result<(), Wrong> {
        let id = header.stream;
        if id == 0 {
            return Err(Fault::protocol("DATA without a stream").into());
        }
        if header.has(flag::PADDED) && header.len == 0 {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "padded DATA without a length").into());
        }
        let overhead = padding.map_or(0, |padding| 1 + usize::from(padding));
        let data = header.len.checked_sub(overhead).ok_or(Fault::protocol("more padding than payload"))?;
        let ends = header.has(flag::END_STREAM);
        self.tally.handle_payload(data == 0 && !ends)?;
        let len = header.len as i64;
        if len > self.recv_window {
            return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, "the connection's window").into());
        }
        self.recv_window -= len;
        let mut payload = Payload { stream: None, left: data, padding: overhead.saturating_sub(1), ends };
        if overhead > 0 {
            // The byte that tells how much there is has been read.
            self.consume_connection(1);
        }
        // Whatever is wrong with it, its payload has to be got over.
        self.reading = Reading::Data(payload);
        let Some(key) = self.streams.find(id) else { return self.data_astray(id) };
        let stream = self.streams.get(key);
        match stream.receiving {
            Half::Head => return Err(Wrong::Message(id)),
            Half::Ended => return Err(Wrong::Stream(id, Reason::STREAM_CLOSED)),
            Half::Body => {}
        }
        if len > stream.recv_window {
            return Err(Wrong::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        stream.recv_window -= len;
        if let Some(left) = stream.left {
            let left = left.checked_sub(data as u64).filter(|left| *left == 0 || !ends);
            // Its own stream's matter in Envoy too, other than the rest of what makes a message malformed.
            stream.left = Some(left.ok_or(Wrong::Stream(id, Reason::PROTOCOL_ERROR))?);
        }
        if overhead > 0 {
            self.consume_stream(key, overhead);
        }
        payload.stream = Some((key, id));
        self.reading = Reading::Data(payload);
        Ok(())
    }

    /// DATA for a stream that is not open.
    fn data_astray(&mut self, id: u32) -> Result<(), Wrong> {
        if self.is_idle(id) {
            return Err(Fault::protocol("DATA on an idle stream").into());
        }
        match self.streams.past(id) {
            Some(Past::Ended) => Err(Wrong::Stream(id, Reason::STREAM_CLOSED)),
            Some(Past::ResetHere) | None => Ok(()),
        }
    }

    /// As much of a DATA frame as is here.
    fn receive_payload(&mut self, mut payload: Payload, input: &mut BytesMut) -> Result<(), Fault> {
        let len = payload.left.min(input.len());
        payload.left -= len;
        let stream = payload.stream.and_then(|(key, id)| self.streams.same(key, id));
        match stream.filter(|stream| stream.failed.is_none() && !stream.discarding) {
            Some(stream) if len > 0 => {
                let piece = if len < SPLIT_BYTES {
                    let piece = Bytes::copy_from_slice(&input[..len]);
                    input.advance(len);
                    piece
                } else {
                    input.split_to(len).freeze()
                };
                stream.data.push(piece);
                stream.wake_reader();
            }
            _ => {
                input.advance(len);
                self.consume_connection(len);
            }
        }
        let padding = if payload.left == 0 { payload.padding.min(input.len()) } else { 0 };
        if padding > 0 {
            input.advance(padding);
            payload.padding -= padding;
            self.consume_connection(padding);
        }
        if payload.left > 0 || payload.padding > 0 {
            self.reading = Reading::Data(payload);
            return Ok(());
        }
        self.reading = Reading::Frame;
        if payload.ends
            && let Some((key, id)) = payload.stream
            && self.streams.find(id) == Some(key)
        {
            self.end_receiving(key);
        }
        Ok(())
    }

    /// The peer has ended its direction.
    pub(super) fn end_receiving(&mut self, key: Key) {
        let stream = self.streams.get(key);
        stream.receiving = Half::Ended;
        stream.wake_reader();
        self.close_if_ended(key);
    }

    fn receive_headers(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        if header.stream == 0 {
            return Err(Fault::protocol("HEADERS without a stream").into());
        }
        let (fragment, depends_on) = frame::fragment(header, payload)?;
        let ends = header.has(flag::END_STREAM);
        self.tally.handle_payload(fragment.is_empty() && !ends)?;
        if header.has(flag::END_HEADERS) {
            return self.receive_block(header.stream, ends, depends_on, fragment);
        }
        let bytes = BytesMut::from(fragment);
        self.block = Some(Box::new(Block { stream: header.stream, ends, depends_on, bytes, frames: 1 }));
        Ok(())
    }

    fn receive_continuation(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        let most = self.settings.max_head_bytes as usize + BLOCK_OVERHEAD;
        let Some(block) = self.block.as_mut().filter(|block| block.stream == header.stream) else {
            return Err(Fault::protocol("CONTINUATION of nothing").into());
        };
        self.tally.handle_payload(payload.is_empty())?;
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.bytes.len() > most || block.frames > MAX_BLOCK_FRAMES.max(most / 1024) {
            return Err(Fault::flood("a header block without an end").into());
        }
        if !header.has(flag::END_HEADERS) {
            return Ok(());
        }
        let Some(block) = self.block.take() else { return Ok(()) };
        self.receive_block(block.stream, block.ends, block.depends_on, &block.bytes)
    }

    fn receive_priority(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        if header.stream == 0 {
            return Err(Fault::protocol("PRIORITY without a stream").into());
        }
        self.tally.handle_priority()?;
        if payload.len() != 5 {
            return Err(Wrong::Stream(header.stream, Reason::FRAME_SIZE_ERROR));
        }
        match frame::dependency(payload) == Some(header.stream) {
            true => Err(Wrong::Stream(header.stream, Reason::PROTOCOL_ERROR)),
            false => Ok(()),
        }
    }

    fn receive_reset(&mut self, header: &Header, payload: &[u8], now: Instant) -> Result<(), Wrong> {
        let reason = frame::number(payload)?.into();
        if self.is_idle(header.stream) {
            return Err(Fault::protocol("RST_STREAM on an idle stream").into());
        }
        if self.role == Role::Server {
            self.tally.handle_reset(now)?;
        }
        if let Some(key) = self.streams.find(header.stream) {
            self.note(Event::ResetReceived);
            self.fail_stream(key, Cause::Reset(reason), Past::Ended);
        }
        Ok(())
    }

    fn receive_ping(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        if header.stream != 0 {
            return Err(Fault::protocol("PING on a stream").into());
        }
        let payload = frame::ping(payload)?;
        if !header.has(flag::ACK) {
            self.put(CONTROL, |out| frame::put_ping(flag::ACK, payload, out));
        } else if self.ping == Some(payload) {
            self.ping = None;
            self.wake_driver();
        }
        Ok(())
    }

    fn receive_goaway(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        if header.stream != 0 {
            return Err(Fault::protocol("GOAWAY on a stream").into());
        }
        let (last, reason) = frame::goaway(payload)?;
        tracing::debug!(last, %reason, "the HTTP/2 peer goes away");
        self.peer_left = true;
        if self.role == Role::Client {
            for key in self.streams.open_keys() {
                if self.streams.peek(key).id > last {
                    self.fail_stream(key, Cause::Refused, Past::Ended);
                }
            }
            self.wake_openers();
        }
        Ok(())
    }

    fn receive_window_update(&mut self, header: &Header, payload: &[u8]) -> Result<(), Wrong> {
        let id = header.stream;
        let increment = frame::number(payload)? & MAX_31_BITS;
        self.tally.handle_window_update()?;
        if id == 0 {
            self.send_window += i64::from(increment);
            return match increment {
                0 => Err(Fault::protocol("WINDOW_UPDATE of nothing").into()),
                _ if self.send_window <= i64::from(MAX_31_BITS) => Ok(()),
                _ => Err(Fault::new(Reason::FLOW_CONTROL_ERROR, "the window is too large").into()),
            };
        }
        let Some(key) = self.streams.find(id) else {
            return match self.is_idle(id) {
                true => Err(Fault::protocol("WINDOW_UPDATE on an idle stream").into()),
                false => Ok(()),
            };
        };
        if increment == 0 {
            return Err(Wrong::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let stream = self.streams.get(key);
        stream.send_window += i64::from(increment);
        if stream.send_window > i64::from(MAX_31_BITS) {
            return Err(Wrong::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        stream.wake_writer();
        Ok(())
    }
}

/// What a compressed header block may have beyond the limit of a head, which is what its fields are measured by.
const BLOCK_OVERHEAD: usize = 64 * 1024;
/// Frames of one header block; more where the limit of a head needs them.
const MAX_BLOCK_FRAMES: usize = 64;
