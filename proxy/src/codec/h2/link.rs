//! A connection's socket and its state machine put together: [`Driver`] reads and writes for all streams, a [`StreamRef`] is one of them.
use std::cell::{RefCell, RefMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use super::session::{Role, Session};
use super::streams::{Cause, Key};
use super::{Settings, is_disconnect};
use crate::codec::{Local, poll_fill};
use crate::io::{Io, READ_BUFFER_BYTES};

/// What a connection's driver and its streams share.
pub(super) struct Link {
    session: RefCell<Session>,
}

impl Link {
    /// The state machine. Borrowed for one step: nothing of another layer runs meanwhile.
    #[inline]
    pub(super) fn session(&self) -> RefMut<'_, Session> {
        self.session.borrow_mut()
    }
}

/// A handle to one stream; the stream is cancelled with the last.
pub(super) struct StreamRef {
    link: Rc<Link>,
    key: Key,
}

impl StreamRef {
    /// Takes over the handle that a new stream comes with.
    pub(super) fn new(link: Rc<Link>, key: Key) -> Self {
        Self { link, key }
    }

    /// One step of the state machine for this stream.
    #[inline]
    pub(super) fn with<R>(&self, step: impl FnOnce(&mut Session, Key) -> R) -> R {
        step(&mut self.link.session.borrow_mut(), self.key)
    }
}

impl Clone for StreamRef {
    fn clone(&self) -> Self {
        self.with(|session, key| session.retain(key));
        Self { link: self.link.clone(), key: self.key }
    }
}

impl Drop for StreamRef {
    fn drop(&mut self) {
        self.with(|session, key| session.release(key));
    }
}

/// The least room to read into.
const MIN_READ: usize = 4096;
/// Pieces written at once.
const SLICES: usize = 16;

/// Moves a connection's bytes.
pub(super) struct Driver {
    io: RefCell<Io>,
    link: Rc<Link>,
    local: Local,
    /// The beginning of a frame, most often nothing: then no buffer is held.
    input: BytesMut,
    /// How many bytes the frame has that `input` begins with.
    needed: usize,
    unflushed: bool,
}

impl Driver {
    pub(super) fn new(role: Role, io: Io, settings: Settings, local: &Local) -> Self {
        let session = RefCell::new(Session::new(role, settings, local.buffers.clone()));
        let link = Rc::new(Link { session });
        Self { io: RefCell::new(io), link, local: local.clone(), input: BytesMut::new(), needed: 0, unflushed: false }
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The socket, when all is over.
    pub(super) fn io(&self) -> &RefCell<Io> {
        &self.io
    }

    /// Reads once, and handles what came. Pending also when nothing will come any more.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { link, local, io, input, needed, .. } = self;
        let mut session = link.session();
        if session.ended().is_some() {
            return Poll::Pending;
        }
        if input.capacity() == 0 {
            *input = local.buffers.take();
        }
        let want = needed.saturating_sub(input.len()).max(MIN_READ);
        if input.capacity() - input.len() < want {
            input.reserve(want.max(READ_BUFFER_BYTES));
        }
        let read = poll_fill(io.get_mut(), input, cx).map(|result| match result {
            Ok(0) => session.handle_end(Cause::Closed),
            Ok(_) => *needed = session.handle_input(input, local.clock.coarse()),
            Err(error) => session.handle_end(cause(&error)),
        });
        // An idle connection holds no buffer.
        if input.is_empty() {
            local.buffers.give(std::mem::take(input));
        }
        read
    }

    /// Writes what waits. Ready when all of it is gone, or nothing can be written any more.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut session = self.link.session();
        while session.out.len() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let result = match session.out.next_slices(&mut slices) {
                1 => Pin::new(self.io.get_mut()).poll_write(cx, &slices[0]),
                filled => Pin::new(self.io.get_mut()).poll_write_vectored(cx, &slices[..filled]),
            };
            match result {
                Poll::Ready(Ok(written)) if written > 0 => session.out.handle_written(written),
                Poll::Ready(result) => {
                    let error = result.err().unwrap_or(io::ErrorKind::WriteZero.into());
                    session.handle_end(cause(&error));
                    let lost = session.out.len();
                    session.out.handle_written(lost);
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    session.out.handle_full();
                    return Poll::Pending;
                }
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(self.io.get_mut()).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => session.handle_end(cause(&error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Streams that outlive the connection learn of its end.
        self.link.session().handle_end(Cause::Closed);
    }
}

fn cause(error: &io::Error) -> Cause {
    if is_disconnect(error.kind()) { Cause::Closed } else { Cause::Io(error.kind()) }
}
