//! Moves a [`Body`] into the sending half of an HTTP/2 stream, no faster than its flow control lets it.
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::body_error;
use super::link::StreamRef;
use super::reason::Reason;
use super::translate::strip_connection_headers;
use crate::codec::body::{Body, Error};

/// Why it stopped early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The body failed.
    Body(Error),
    /// The peer wants no more of it.
    Peer(Error),
}

/// A body on its way out.
pub(super) struct Upload {
    stream: StreamRef,
    body: Body,
    pending: Bytes,
    done: bool,
}

impl Upload {
    pub(super) fn new(stream: StreamRef, body: Body) -> Self {
        Self { stream, body, pending: Bytes::new(), done: false }
    }

    /// Whether it waits for the peer's window rather than for the body.
    pub(super) fn is_stalled(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The body, to tell its watch how it ended.
    pub(super) fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.done = true;
        self.stream.with(|session, key| session.reset(key, reason));
    }

    /// Ready when the peer reset the stream, or its connection ended.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.stream.with(|session, key| session.poll_reset(key, cx)).map(body_error)
    }

    /// Ready when all is handed to the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.done {
            if !self.pending.is_empty() {
                ready!(self.poll_send(cx)).map_err(Failure::Peer)?;
                continue;
            }
            let frame = match self.body.poll_next(cx) {
                Poll::Ready(frame) => frame.transpose().map_err(Failure::Body)?,
                Poll::Pending => return Poll::Pending,
            };
            let sent = match frame.map(http_body::Frame::into_data) {
                Some(Ok(data)) => {
                    self.pending = data;
                    continue;
                }
                Some(Err(frame)) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    strip_connection_headers(&mut trailers);
                    self.stream.with(|session, key| session.send_trailers(key, &trailers))
                }
                None => self.stream.with(|session, key| session.send_data(key, Bytes::new(), true)),
            };
            self.done = true;
            sent.map_err(|cause| Failure::Peer(body_error(cause)))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as much of the pending piece as there is room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let (pending, body, done) = (&mut self.pending, &self.body, &mut self.done);
        // Asked before the state machine is borrowed: the body may be a stream of the same connection.
        let last = body.is_end();
        self.stream.with(|session, key| {
            let capacity = match ready!(session.poll_capacity(key, cx)) {
                Ok(capacity) => capacity,
                Err(cause) => return Poll::Ready(Err(body_error(cause))),
            };
            let piece = if pending.len() <= capacity { std::mem::take(pending) } else { pending.split_to(capacity) };
            *done = pending.is_empty() && last;
            Poll::Ready(session.send_data(key, piece, *done).map_err(body_error))
        })
    }
}
