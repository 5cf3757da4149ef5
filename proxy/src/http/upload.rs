//! The request body on its way up: counted, timed and, where it may have to be sent again, kept.
//!
//! Every attempt reads the body through a [`Reader`] of its own. What was read is kept up to the buffer limit as long as
//! somebody may want it again; beyond the limit it streams and the request can no longer be repeated.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::body::{Body, Error, HttpBody};
use crate::clock::Clock;

/// What is kept of a body that came before its connection was there.
const AHEAD_BYTES: usize = 64 * 1024;

/// One request body, shared by its readers.
pub struct Upload {
    clock: Clock,
    bytes: Cell<u64>,
    ended: Cell<Option<Instant>>,
    active: Cell<Instant>,
    failed: Cell<bool>,
    state: RefCell<State>,
}

struct State {
    source: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// How much may be kept; zero once nothing is.
    limit: usize,
    /// How much was asked to be kept for further readers: more than that is not read again.
    replayable: usize,
    overflowed: bool,
    /// What is kept is no longer all that came.
    lossy: bool,
    readers: u32,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), Error>>,
    waiting: Option<Waker>,
}

impl Upload {
    pub fn new(source: Body, clock: Clock) -> Rc<Self> {
        let now = clock.coarse();
        Rc::new(Upload {
            clock,
            bytes: Cell::new(0),
            ended: Cell::new(None),
            active: Cell::new(now),
            failed: Cell::new(false),
            state: RefCell::new(State {
                source,
                kept: Vec::new(),
                kept_bytes: 0,
                limit: 0,
                replayable: 0,
                overflowed: false,
                lossy: false,
                readers: 0,
                trailers: None,
                end: None,
                waiting: None,
            }),
        })
    }

    /// Body bytes that came from the client.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the last of it came.
    pub fn ended(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// When any of it came last.
    pub fn active(&self) -> Instant {
        self.active.get()
    }

    /// The client's body broke.
    pub fn failed(&self) -> bool {
        self.failed.get()
    }

    /// Keeps up to `limit` bytes for further readers. Call before the first read.
    pub fn keep(&self, limit: usize) {
        let mut state = self.state.borrow_mut();
        state.limit = limit;
        state.replayable = limit;
    }

    /// Whether the body can be read from its start again.
    pub fn is_replayable(&self) -> bool {
        let state = self.state.borrow();
        !state.overflowed && state.kept_bytes <= state.replayable && (state.limit > 0 || state.readers == 0)
    }

    /// Stops keeping, unless somebody waits for the whole: what is kept goes once every reader is past it.
    pub fn release(&self) {
        let mut state = self.state.borrow_mut();
        if state.waiting.is_some() {
            return;
        }
        state.limit = 0;
        state.overflowed = true;
    }

    /// A body that reads this one from its start.
    pub fn reader(self: &Rc<Self>) -> Body {
        self.state.borrow_mut().readers += 1;
        Body::boxed(Reader { upload: self.clone(), at: 0, ended: false })
    }

    /// Ready with all of the body once it has come; `None` when it was too long to keep or broke.
    pub fn poll_whole(&self, cx: &mut Context<'_>) -> Poll<Option<(Bytes, Option<HeaderMap>)>> {
        let mut state = self.state.borrow_mut();
        if state.lossy {
            return Poll::Ready(None);
        }
        match &state.end {
            Some(Ok(())) => Poll::Ready(Some((join(&state.kept), state.trailers.clone()))),
            Some(Err(_)) => Poll::Ready(None),
            None => {
                state.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Reads on until all of it is kept, at most the limit given to [`Upload::keep`].
    pub fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            {
                let state = self.state.borrow();
                if state.overflowed {
                    return Poll::Ready(Err(Error::TooLarge("the buffer limit")));
                }
                if let Some(end) = &state.end {
                    return Poll::Ready(end.clone());
                }
            }
            std::task::ready!(self.poll_source(cx));
        }
    }

    /// Takes what has come already, without waiting for a reader: a connection that is still being made should not hold
    /// the client up.
    pub fn poll_ahead(&self, cx: &mut Context<'_>) {
        {
            let mut state = self.state.borrow_mut();
            if state.end.is_some() || state.overflowed || !state.kept.is_empty() {
                return;
            }
            state.limit = state.limit.max(AHEAD_BYTES);
        }
        let _ = self.poll_source(cx);
    }

    /// Takes all that has come already, for a request that is answered without its upstream: it may be complete.
    pub fn poll_arrived(&self, cx: &mut Context<'_>) {
        let limit = {
            let mut state = self.state.borrow_mut();
            state.limit = state.limit.max(AHEAD_BYTES);
            state.limit
        };
        while self.state.borrow().end.is_none()
            && self.kept_bytes() < limit
            && matches!(self.poll_source(cx), Poll::Ready(Some(_)))
        {}
    }

    /// At most `limit` bytes of what is kept so far.
    pub fn kept(&self, limit: usize) -> Bytes {
        let state = self.state.borrow();
        let mut all = join(&state.kept);
        all.truncate(limit);
        all
    }

    /// Bytes kept so far.
    pub fn kept_bytes(&self) -> usize {
        self.state.borrow().kept_bytes
    }

    /// Puts another body in this one's place, e.g. a buffered or a rewritten one. Nothing must have been read by a reader.
    pub fn map_source(&self, map: impl FnOnce(Body) -> Body) {
        let mut state = self.state.borrow_mut();
        let source = std::mem::take(&mut state.source);
        state.source = map(source);
    }

    /// Takes one frame from the client.
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.borrow_mut();
        let frame = std::task::ready!(state.source.poll_next(cx));
        self.active.set(self.clock.now());
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    state.keep(&data);
                    self.check_end(&mut state);
                    Poll::Ready(Some(data))
                }
                Err(frame) => {
                    state.trailers = frame.into_trailers().ok();
                    self.finish(&mut state, Ok(()));
                    Poll::Ready(None)
                }
            },
            Some(Err(error)) => {
                self.failed.set(true);
                self.finish(&mut state, Err(error));
                Poll::Ready(None)
            }
            None => {
                self.finish(&mut state, Ok(()));
                Poll::Ready(None)
            }
        }
    }

    /// A body of known length is over with its last byte.
    fn check_end(&self, state: &mut State) {
        if state.source.is_end() {
            self.finish(state, Ok(()));
        }
    }

    fn finish(&self, state: &mut State, end: Result<(), Error>) {
        if state.end.is_none() {
            if end.is_ok() {
                self.ended.set(Some(self.clock.coarse()));
            }
            state.end = Some(end);
        }
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        if self.overflowed || self.limit == 0 {
            self.overflowed = true;
            self.lose();
            return;
        }
        self.kept_bytes += data.len();
        self.overflowed |= self.kept_bytes > self.limit;
        // The first reader may lag behind what a filter has buffered: what came stays until it is read.
        self.kept.push(data.clone());
    }
}

impl State {
    /// Whoever waits for the whole waits in vain.
    fn lose(&mut self) {
        self.lossy = true;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

fn join(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => {
            let mut all = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
            many.iter().for_each(|c| all.extend_from_slice(c));
            all.freeze()
        }
    }
}

/// One attempt's view of the body.
struct Reader {
    upload: Rc<Upload>,
    at: usize,
    ended: bool,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let reader = self.get_mut();
        if reader.ended {
            return Poll::Ready(None);
        }
        {
            let state = reader.upload.state.borrow();
            if let Some(data) = state.kept.get(reader.at) {
                reader.at += 1;
                return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
            }
            if let Some(end) = &state.end {
                reader.ended = true;
                return Poll::Ready(match (end, &state.trailers) {
                    (Err(error), _) => Some(Err(error.clone())),
                    (Ok(()), Some(trailers)) => Some(Ok(Frame::trailers(trailers.clone()))),
                    (Ok(()), None) => None,
                });
            }
        }
        match std::task::ready!(reader.upload.poll_source(cx)) {
            Some(data) => {
                let mut state = reader.upload.state.borrow_mut();
                if state.overflowed && state.readers == 1 && state.waiting.is_none() {
                    // Nobody will ask for it again.
                    state.kept.clear();
                    state.lose();
                }
                reader.at = state.kept.len();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => Pin::new(reader).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.state.borrow();
        self.ended || (state.end == Some(Ok(())) && state.trailers.is_none() && self.at >= state.kept.len())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.upload.state.borrow();
        let unread: usize = state.kept.iter().skip(self.at).map(Bytes::len).sum();
        let rest = match state.end {
            Some(_) if state.trailers.is_none() => Some(0),
            Some(_) => None,
            None => state.source.exact_len(),
        };
        rest.map_or_else(SizeHint::default, |n| SizeHint::with_exact(n + unread as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kept_body_reads_twice() {
        let upload = Upload::new(Body::full("hello"), Clock::new());
        upload.keep(100);
        let first = upload.reader().collect(100).await;
        assert!(upload.is_replayable());
        let second = upload.reader().collect(100).await;
        assert_eq!((first, second), (Ok(Bytes::from("hello")), Ok(Bytes::from("hello"))));
        assert_eq!(upload.bytes(), 5);
    }

    #[tokio::test]
    async fn beyond_the_limit_it_streams_once() {
        let upload = Upload::new(Body::full("hello"), Clock::new());
        upload.keep(3);
        assert_eq!(upload.reader().collect(100).await, Ok(Bytes::from("hello")));
        assert!(!upload.is_replayable());
    }
}
