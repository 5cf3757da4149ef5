//! A header block is complete: a request, a response, interim responses, trailers.
use super::receive::Wrong;
use super::{Role, Session};
use crate::codec::h2::event::Event;
use crate::codec::h2::flood::Fault;
use crate::codec::h2::head::{Head, Malformed};
use crate::codec::h2::reason::Reason;
use crate::codec::h2::streams::{Half, Key, Past, Stream};

/// Interim responses of one request that wait to be read; the peer sends more only to be a nuisance.
const MAX_INTERIM: usize = 16;

impl Session {
    pub(super) fn receive_block(
        &mut self,
        id: u32,
        ends: bool,
        depends_on: Option<u32>,
        block: &[u8],
    ) -> Result<(), Wrong> {
        let limits = self.limits();
        let mut head = Box::<Head>::default();
        let decoded = self.decoder.decode(block, |field| head.add(field, &limits));
        decoded.map_err(|error| {
            tracing::debug!(%error, "HPACK");
            Fault::new(Reason::COMPRESSION_ERROR, "header compression")
        })?;
        if depends_on == Some(id) {
            self.last_peer = self.last_peer.max(if self.role == Role::Server { id } else { 0 });
            return Err(Wrong::Stream(id, Reason::PROTOCOL_ERROR));
        }
        match (self.streams.find(id), self.role) {
            (None, Role::Server) => self.receive_request(id, ends, head),
            (None, Role::Client) => self.receive_astray(id),
            (Some(key), role) => match self.streams.peek(key).receiving {
                Half::Head if role == Role::Client => self.receive_response(key, ends, head),
                Half::Head | Half::Ended => Err(Wrong::Stream(id, Reason::STREAM_CLOSED)),
                Half::Body => self.receive_trailers(key, ends, head),
            },
        }
    }

    /// HEADERS for a stream that is not open.
    fn receive_astray(&mut self, id: u32) -> Result<(), Wrong> {
        if id.is_multiple_of(2) || id >= self.next_id {
            return Err(Fault::protocol("HEADERS on an idle stream").into());
        }
        // Most likely it was cancelled, and the response had left already.
        Ok(())
    }

    fn receive_request(&mut self, id: u32, ends: bool, mut head: Box<Head>) -> Result<(), Wrong> {
        if id.is_multiple_of(2) {
            return Err(Fault::protocol("a client's stream has an odd number").into());
        }
        if id <= self.last_peer {
            return match self.streams.past(id) {
                Some(Past::ResetHere) => Ok(()),
                Some(Past::Ended) => Err(Fault::new(Reason::STREAM_CLOSED, "HEADERS on a closed stream").into()),
                None => Err(Fault::protocol("numbers of streams grow").into()),
            };
        }
        if self.leaving == super::Leaving::Final {
            return Ok(());
        }
        self.last_peer = id;
        if self.streams.open() >= self.settings.max_concurrent_streams as usize {
            self.note(Event::Refused);
            return Err(Wrong::Stream(id, Reason::REFUSED_STREAM));
        }
        let mut finished = head.finish_request(self.settings.allow_connect);
        if finished.is_ok() && ends && head.length.is_some_and(|length| length > 0) {
            finished = Err(Malformed::Message);
        }
        if let Err(malformed) = finished {
            self.malformed.push(malformed);
            return Err(Wrong::Message(id));
        }
        self.note_size(&head);
        let mut stream = Stream::new(id, self.peer.initial_window, self.settings.initial_stream_window);
        stream.receiving = if ends { Half::Ended } else { Half::Body };
        stream.left = head.length;
        let key = self.streams.insert(stream);
        self.accepted.push_back((key, head));
        Ok(())
    }

    /// Counts a head that is over a limit.
    fn note_size(&mut self, head: &Head) {
        match head.too_large {
            true if head.bytes > self.settings.max_head_bytes as usize => self.note(Event::ListTooLarge),
            true => self.note(Event::HeaderOverflow),
            false => {}
        }
    }

    fn receive_response(&mut self, key: Key, ends: bool, mut head: Box<Head>) -> Result<(), Wrong> {
        self.note_size(&head);
        let stream = self.streams.get(key);
        let malformed = Wrong::Message(stream.id);
        let status = head.finish_response().map_err(|_| malformed)?;
        if status.is_informational() {
            if ends || status.as_u16() == 101 {
                return Err(malformed);
            }
            if stream.interim.len() < MAX_INTERIM {
                stream.interim.push_back(head);
            }
            stream.wake_reader();
            return Ok(());
        }
        let bodiless = stream.head_only || matches!(status.as_u16(), 204 | 304);
        stream.left = if bodiless { None } else { head.length };
        if ends && stream.left.is_some_and(|left| left > 0) {
            return Err(Wrong::Stream(stream.id, Reason::PROTOCOL_ERROR));
        }
        stream.receiving = Half::Body;
        stream.head = Some(head);
        stream.wake_reader();
        if ends {
            self.end_receiving(key);
        }
        Ok(())
    }

    fn receive_trailers(&mut self, key: Key, ends: bool, mut head: Box<Head>) -> Result<(), Wrong> {
        if self.role == Role::Server {
            self.note(Event::Trailers);
        }
        let stream = self.streams.get(key);
        if !ends || head.finish_trailers().is_err() {
            return Err(Wrong::Message(stream.id));
        }
        if head.too_large || stream.left.is_some_and(|left| left > 0) {
            return Err(Wrong::Stream(stream.id, Reason::PROTOCOL_ERROR));
        }
        if !stream.discarding {
            stream.trailers = Some(Box::new(std::mem::take(&mut head.headers)));
        }
        self.end_receiving(key);
        Ok(())
    }
}
