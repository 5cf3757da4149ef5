//! What has arrived, for who reads it; what was read is given back to the peer's windows, half a window at a time.
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::{PLAIN, Session};
use crate::codec::h2::frame;
use crate::codec::h2::head::Head;
use crate::codec::h2::streams::{Cause, Half, Key, keep};

impl Session {
    /// An interim response.
    pub(in crate::codec::h2) fn next_interim(&mut self, key: Key) -> Option<Box<Head>> {
        self.streams.get(key).interim.pop_front()
    }

    /// The response.
    pub(in crate::codec::h2) fn poll_response(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<Box<Head>, Cause>> {
        let stream = self.streams.get(key);
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(cause) = stream.failed {
            return Poll::Ready(Err(cause));
        }
        keep(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The next piece of the body; `None` after the last.
    pub(in crate::codec::h2) fn poll_data(&mut self, key: Key, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Cause>>> {
        let stream = self.streams.get(key);
        if let Some(piece) = stream.data.pop() {
            self.consume_connection(piece.len());
            self.consume_stream(key, piece.len());
            return Poll::Ready(Some(Ok(piece)));
        }
        if stream.receiving == Half::Ended {
            return Poll::Ready(None);
        }
        if let Some(cause) = stream.failed {
            return Poll::Ready(Some(Err(cause)));
        }
        keep(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The trailers, after the last piece.
    pub(in crate::codec::h2) fn next_trailers(&mut self, key: Key) -> Option<HeaderMap> {
        self.streams.get(key).trailers.take().map(|trailers| *trailers)
    }

    /// Whether everything has arrived and was read.
    pub(in crate::codec::h2) fn is_read(&self, key: Key) -> bool {
        let stream = self.streams.peek(key);
        stream.receiving == Half::Ended && stream.data.len == 0 && stream.trailers.is_none()
    }

    /// Nobody will read what arrives.
    pub(in crate::codec::h2) fn discard(&mut self, key: Key) {
        let stream = self.streams.get(key);
        stream.discarding = true;
        stream.trailers = None;
        stream.reader = None;
        let data = std::mem::take(&mut stream.data);
        self.consume_connection(data.len);
    }

    pub(super) fn consume_connection(&mut self, len: usize) {
        self.consumed += len as u32;
        if self.consumed >= self.settings.initial_connection_window / 2 && self.ended.is_none() {
            let increment = std::mem::take(&mut self.consumed);
            self.recv_window += i64::from(increment);
            self.put(PLAIN, |out| frame::put_window_update(0, increment, out));
        }
    }

    pub(super) fn consume_stream(&mut self, key: Key, len: usize) {
        let most = self.settings.initial_stream_window / 2;
        let stream = self.streams.get(key);
        stream.consumed += len as u32;
        if stream.consumed >= most && stream.receiving == Half::Body && stream.failed.is_none() {
            let (id, increment) = (stream.id, std::mem::take(&mut stream.consumed));
            stream.recv_window += i64::from(increment);
            self.put(PLAIN, |out| frame::put_window_update(id, increment, out));
        }
    }
}
