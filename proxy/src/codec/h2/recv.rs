//! A body that arrives on an HTTP/2 stream, of either side.
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::body_error;
use super::client::InFlight;
use super::link::StreamRef;
use crate::codec::body::Error;

/// The receiving half of a stream.
pub struct RecvBody {
    stream: StreamRef,
    /// What is left of the declared length.
    left: Option<u64>,
    max_trailers: usize,
    /// A response's stream also sends its request, and counts as one of its connection's.
    flight: Option<Box<InFlight>>,
}

impl RecvBody {
    pub(super) fn new(
        stream: StreamRef,
        length: Option<u64>,
        max_trailers: usize,
        flight: Option<Box<InFlight>>,
    ) -> Self {
        Self { stream, left: length, max_trailers, flight }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(flight) = &mut self.flight
            && let Poll::Ready(Err(error)) = flight.poll_upload(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        // Taken is consumed: whoever polled holds at most this one piece.
        match ready!(self.stream.with(|session, key| session.poll_data(key, cx))) {
            Some(Ok(data)) => {
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(cause)) => return Poll::Ready(Some(Err(body_error(cause)))),
            None => {}
        }
        match self.stream.with(|session, key| session.next_trailers(key)) {
            Some(trailers) if trailers.len() > self.max_trailers => {
                Poll::Ready(Some(Err(Error::TooLarge("the limit of trailers"))))
            }
            Some(trailers) if !trailers.is_empty() => Poll::Ready(Some(Ok(Frame::trailers(strip(trailers))))),
            _ => Poll::Ready(None),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.stream.with(|session, key| session.is_read(key))
            && self.flight.as_ref().is_none_or(|flight| flight.is_uploaded())
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        if self.stream.with(|session, key| session.is_read(key)) { Some(0) } else { self.left }
    }
}

impl Drop for RecvBody {
    fn drop(&mut self) {
        self.stream.with(|session, key| session.discard(key));
    }
}

/// Connection-specific fields have no meaning in trailers either.
fn strip(mut trailers: HeaderMap) -> HeaderMap {
    super::translate::strip_connection_headers(&mut trailers);
    trailers
}
