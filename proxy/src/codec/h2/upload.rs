//! Moves a [`Body`] into the sending half of an HTTP/2 stream, no faster than its flow control lets it.
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};

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
    stream: SendStream<Bytes>,
    body: Body,
    pending: Bytes,
    done: bool,
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body, done: bool) -> Self {
        Self { stream, body, pending: Bytes::new(), done }
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
        self.stream.send_reset(reason);
    }

    /// Ready when the peer reset the stream, or its connection ended.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.stream.poll_reset(cx).map(|result| match result {
            Ok(reason) => Error::Reset(reason),
            Err(error) => super::body_error(&error),
        })
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
            match frame.map(http_body::Frame::into_data) {
                Some(Ok(data)) => self.pending = data,
                Some(Err(frame)) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    strip_connection_headers(&mut trailers);
                    self.stream.send_trailers(trailers).map_err(|error| Failure::Peer(super::body_error(&error)))?;
                    self.done = true;
                }
                None => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    sent.map_err(|error| Failure::Peer(super::body_error(&error)))?;
                    self.done = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as much of the pending piece as the window allows.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stream.reserve_capacity(self.pending.len());
        let mut capacity = self.stream.capacity();
        while capacity == 0 {
            capacity = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                Some(Err(error)) => return Poll::Ready(Err(super::body_error(&error))),
                None => return Poll::Ready(Err(Error::Closed)),
            };
        }
        let piece = self.pending.split_to(capacity.min(self.pending.len()));
        let last = self.pending.is_empty() && self.body.is_end();
        self.done = last;
        Poll::Ready(self.stream.send_data(piece, last).map_err(|error| super::body_error(&error)))
    }
}
