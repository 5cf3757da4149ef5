//! A body that arrives on an HTTP/2 stream, of either side.
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::Frame;

use super::body_error;
use super::client::InFlight;
use crate::codec::body::Error;

/// The receiving half of a stream.
pub struct RecvBody {
    stream: RecvStream,
    /// What is left of the declared length.
    left: Option<u64>,
    trailers: bool,
    max_trailers: usize,
    /// A response's stream also sends its request, and counts as one of its connection's.
    flight: Option<Box<InFlight>>,
}

impl RecvBody {
    pub(super) fn new(
        stream: RecvStream,
        length: Option<u64>,
        max_trailers: usize,
        flight: Option<Box<InFlight>>,
    ) -> Self {
        Self { stream, left: length, trailers: false, max_trailers, flight }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(flight) = &mut self.flight
            && let Poll::Ready(Err(error)) = flight.poll_upload(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        while !self.trailers {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Taken is consumed: whoever polled holds at most this one piece.
                    if self.stream.flow_control().release_capacity(data.len()).is_err() {
                        return Poll::Ready(Some(Err(Error::Closed)));
                    }
                    if let Some(left) = self.left {
                        let rest = left.checked_sub(data.len() as u64);
                        let rest = rest.ok_or(Error::Malformed("more content than content-length says"));
                        match rest {
                            Ok(rest) => self.left = Some(rest),
                            Err(error) => return Poll::Ready(Some(Err(error))),
                        }
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(body_error(&error)))),
                None => self.trailers = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) if trailers.len() > self.max_trailers => {
                Poll::Ready(Some(Err(Error::TooLarge("the limit of trailers"))))
            }
            Ok(Some(trailers)) if !trailers.is_empty() => Poll::Ready(Some(Ok(Frame::trailers(strip(trailers))))),
            Ok(_) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(body_error(&error)))),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.stream.is_end_stream() && self.flight.as_ref().is_none_or(|flight| flight.is_uploaded())
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        if self.stream.is_end_stream() { Some(0) } else { self.left }
    }
}

/// Connection-specific fields have no meaning in trailers either.
fn strip(mut trailers: HeaderMap) -> HeaderMap {
    super::translate::strip_connection_headers(&mut trailers);
    trailers
}
