//! The state that a connection's loop, its request body and its interim responses share. All in one task as a rule: the cell is
//! borrowed for single steps only, never across a handler's poll.
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version};
use http_body::Frame;

use super::Settings;
use crate::codec::body::Error;
use crate::codec::h1::decode::{Decoder, Item};
use crate::codec::h1::encode;
use crate::codec::h1::writer::Writer;
use crate::codec::{Local, poll_fill};
use crate::io::Io;

/// Bytes of further requests (or of a body that nobody reads) taken in while a request is answered; past that the client waits.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// One downstream connection.
pub(super) struct Conn {
    pub(super) io: Io,
    pub(super) settings: Rc<Settings>,
    pub(super) local: Local,
    pub(super) read: BytesMut,
    pub(super) out: Writer,
    /// The client has ended its half.
    pub(super) ended: bool,
    /// A time limit of the connection was reached: when it ends unless a request comes, and which limit it was.
    pub(super) leaving: Option<(Instant, &'static str)>,
    /// How the body of the current request is framed, and how far it is.
    pub(super) decoder: Decoder,
    /// What broke the current request's body.
    pub(super) broken: Option<Error>,
    /// Counts requests; bodies and senders of earlier ones are deaf.
    pub(super) current: u64,
    /// The current request may become a tunnel, once its response says so.
    tunnel: Tunneling,
    /// Interim responses may still be sent.
    pub(super) before_response: bool,
    body_waker: Option<Waker>,
    /// The body's reader waits for the socket, so the loop need not.
    body_waits: bool,
    /// The handler, or what it made of it, still holds the body.
    pub(super) body_held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunneling {
    No,
    Asked,
    Open,
}

impl Conn {
    pub(super) fn new(io: Io, settings: Rc<Settings>, local: Local) -> Self {
        Self {
            io,
            settings,
            local,
            read: BytesMut::new(),
            out: Writer::default(),
            ended: false,
            leaving: None,
            decoder: Decoder::Done,
            broken: None,
            current: 0,
            tunnel: Tunneling::No,
            before_response: false,
            body_waker: None,
            body_waits: false,
            body_held: false,
        }
    }

    /// The next request begins.
    pub(super) fn begin(&mut self, decoder: Decoder, expects: bool, tunnel: bool) {
        self.decoder = decoder;
        if expects {
            // The client goes on at once, as with Envoy; it leaves with the handler's first pause, or the response.
            self.out.buf(&self.local.buffers).extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.tunnel = if tunnel { Tunneling::Asked } else { Tunneling::No };
        self.broken = None;
        self.before_response = true;
    }

    /// The current request is over: whoever still holds its body gets nothing more.
    pub(super) fn finish(&mut self) {
        self.current += 1;
        self.body_waits = false;
        self.body_held = false;
        self.wake_body();
        self.out.rest(&self.local.buffers);
    }

    /// Both directions are raw.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel == Tunneling::Open
    }

    /// The response accepts the upgrade: from here on both directions are raw.
    pub(super) fn open_tunnel(&mut self) {
        self.tunnel = Tunneling::Open;
        self.decoder = Decoder::UntilEnd;
        self.wake_body();
    }

    fn wake_body(&mut self) {
        if let Some(waker) = self.body_waker.take() {
            waker.wake();
        }
    }

    /// Reads once into the buffer. `Ok(0)` is the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.is_empty() {
            // Without a buffer until there is something to put into it.
            ready!(self.io.poll_readable(cx))?;
            if self.read.capacity() < crate::io::READ_BUFFER_BYTES / 8 {
                self.read = self.local.buffers.take();
            }
        }
        let want = self.decoder.appetite();
        if self.read.capacity() - self.read.len() < want / 8 {
            self.read.reserve(want);
        }
        let n = ready!(poll_fill(&mut self.io, &mut self.read, cx))?;
        self.ended |= n == 0;
        Poll::Ready(Ok(n))
    }

    /// Watches the client while a request is answered: takes in what it sends, within bounds, and is ready when it went away.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ended {
                // As in Envoy a tunnel ends with its client's half; what came before that still goes its way.
                let behind = self.tunnel == Tunneling::Open && !self.read.is_empty();
                return if behind { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if self.body_waits || self.read.len() >= READ_AHEAD_BYTES {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx))?;
            self.wake_body();
        }
    }

    /// Throws away what is here of a body that nobody will read; says whether it is complete.
    pub(super) fn discard_body(&mut self) -> bool {
        if self.body_held {
            // The client may never send it.
            return self.decoder.is_done();
        }
        loop {
            match self.decoder.next(&mut self.read, self.ended, &self.settings.limits) {
                Ok(Item::End) => return true,
                Ok(Item::Data(_) | Item::Trailers(_)) => {}
                Ok(Item::More) => return false,
                Err(error) => {
                    self.broken = Some(error);
                    return false;
                }
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.body_waits = false;
        if let Some(error) = &self.broken {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if self.tunnel == Tunneling::Asked {
            self.keep_body_waker(cx);
            return Poll::Pending;
        }
        loop {
            match self.decoder.next(&mut self.read, self.ended, &self.settings.limits) {
                Ok(Item::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Item::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                // Whoever writes the response sees the end of a tunnel: see `poll_gone`.
                Ok(Item::End) if self.tunnel == Tunneling::Open => {
                    self.keep_body_waker(cx);
                    return Poll::Pending;
                }
                Ok(Item::End) => return Poll::Ready(None),
                Ok(Item::More) => {}
                Err(error) => return self.break_body(error),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) if self.tunnel == Tunneling::Open => self.ended = true,
                Poll::Ready(Err(_)) => {
                    self.ended = true;
                    return self.break_body(Error::Closed);
                }
                Poll::Pending => {
                    self.body_waits = true;
                    self.keep_body_waker(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn break_body(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.broken = Some(error.clone());
        Poll::Ready(Some(Err(error)))
    }

    fn keep_body_waker(&mut self, cx: &Context<'_>) {
        match &mut self.body_waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
    }

    fn inform(&mut self, status: StatusCode, headers: &HeaderMap) {
        let case = self.settings.header_case;
        let buf = self.out.buf(&self.local.buffers);
        encode::put_status(buf, Version::HTTP_11, status, None);
        // An interim response has no framing and no say about the connection.
        let _own = encode::put_fields(buf, headers, case.into());
        buf.extend_from_slice(b"\r\n");
    }
}

/// The body of a request that is being answered.
pub struct RequestBody {
    conn: Rc<RefCell<Conn>>,
    request: u64,
}

impl RequestBody {
    pub(super) fn new(conn: Rc<RefCell<Conn>>) -> Self {
        let request = {
            let mut conn = conn.borrow_mut();
            conn.body_held = true;
            conn.current
        };
        Self { conn, request }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut conn = self.conn.borrow_mut();
        if conn.current != self.request {
            return Poll::Ready(Some(Err(Error::Canceled)));
        }
        conn.poll_body(cx)
    }

    pub(crate) fn is_end(&self) -> bool {
        let conn = self.conn.borrow();
        conn.current == self.request && conn.tunnel == Tunneling::No && conn.decoder.is_done() && conn.broken.is_none()
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        let conn = self.conn.borrow();
        if conn.current != self.request || conn.tunnel != Tunneling::No { None } else { conn.decoder.remaining() }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Dropped in the middle of a step it stays "held", which only costs the connection its reuse.
        let Ok(mut conn) = self.conn.try_borrow_mut() else { return };
        if conn.current == self.request {
            conn.body_waits = false;
            conn.body_held = false;
            // The loop must watch the socket itself from now on.
            conn.wake_body();
        }
    }
}

/// Sends interim responses of one request.
#[derive(Clone)]
pub struct InformationalSender {
    conn: Rc<RefCell<Conn>>,
    request: u64,
    supported: bool,
}

impl InformationalSender {
    pub(super) fn new(conn: Rc<RefCell<Conn>>, request: u64, supported: bool) -> Self {
        Self { conn, request, supported }
    }

    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut conn = self.conn.borrow_mut();
        if self.supported && conn.current == self.request && conn.before_response {
            conn.inform(status, headers);
        }
    }
}
