//! A socket on the ring, as a stream of bytes.
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::ReadBuf;

use super::{Entry, Receive, Ring, Send, State, kernel};

/// A write of so many bytes goes to the socket at once, when nothing waits before it: a copy would cost more than the call.
const DIRECT_BYTES: usize = 8 * 1024;
/// `IOV_MAX`.
const MOST_SLICES: usize = 1024;
/// So many bytes are gathered for one send; more has to wait.
const GATHER_BYTES: usize = 64 * 1024;

/// One connection. Dropping it closes the socket, after what was written has been handed over.
pub(in crate::io) struct Stream {
    ring: &'static Ring,
    key: usize,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ring::Stream").field("key", &self.key).finish()
    }
}

impl Stream {
    /// Takes a connected socket on.
    pub(in crate::io) fn new(ring: &'static Ring, socket: Socket) -> io::Result<Self> {
        // The kernel waits for us: with O_NONBLOCK it would answer that there is nothing yet.
        socket.set_nonblocking(false)?;
        let key = ring.state.borrow_mut().sockets.insert(Entry::new(socket));
        Ok(Self { ring, key })
    }

    /// Looks at the socket, or sets an option.
    pub(in crate::io) fn with_socket<R>(&self, look: impl FnOnce(SockRef<'_>) -> R) -> R {
        let state = self.ring.state.borrow();
        look(SockRef::from(&state.sockets[self.key].socket))
    }

    /// The coming close is a reset.
    pub(in crate::io) fn reset_on_close(&self) -> io::Result<()> {
        let mut state = self.ring.state.borrow_mut();
        let entry = &mut state.sockets[self.key];
        entry.reset = true;
        entry.socket.set_linger(Some(Duration::ZERO))
    }

    /// Ready when a read would find something. A read that follows may still be pending.
    pub(in crate::io) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, key| {
            let (ready, replaced) = state.sockets[key].poll_receive(key, &mut state.kernel, cx);
            (ready.map(Ok), replaced)
        })
    }

    pub(in crate::io) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|state, key| {
            let State { kernel, sockets, .. } = state;
            let entry = &mut sockets[key];
            loop {
                if let (Poll::Pending, replaced) = entry.poll_receive(key, kernel, cx) {
                    return (Poll::Pending, replaced);
                }
                if let Some(result) = entry.read(kernel, buf) {
                    return (Poll::Ready(result), None);
                }
            }
        })
    }

    pub(in crate::io) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|state, key| {
            let State { sockets, unsent, spare, busy, .. } = state;
            let entry = &mut sockets[key];
            match &mut entry.send {
                Send::Failed(_) => return (Poll::Ready(Err(entry.take_failure())), None),
                Send::Out(_) => return entry.wait_to_write(cx),
                Send::Gathering if entry.out.len() >= GATHER_BYTES => return entry.wait_to_write(cx),
                Send::Gathering => {}
                Send::Idle => {
                    let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
                    if all >= DIRECT_BYTES || !*busy && all > 0 {
                        match entry.send_now(slices) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            done => return (Poll::Ready(done), None),
                        }
                    } else if all == 0 {
                        return (Poll::Ready(Ok(0)), None);
                    }
                    if entry.out.capacity() == 0 {
                        entry.out = spare.pop().unwrap_or_default();
                    }
                    entry.send = Send::Gathering;
                    unsent.push(key);
                }
            }
            (Poll::Ready(Ok(entry.gather(slices))), None)
        })
    }

    /// Ready unless the socket was full when it was tried.
    pub(in crate::io) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, key| {
            let entry = &mut state.sockets[key];
            match entry.send {
                Send::Out(_) => entry.wait_to_write(cx),
                _ => (Poll::Ready(Ok(())), None),
            }
        })
    }

    /// Ends this direction, after all that was written.
    pub(in crate::io) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, key| {
            let entry = &mut state.sockets[key];
            match entry.send {
                Send::Idle => (Poll::Ready(entry.end_sending()), None),
                Send::Failed(_) => (Poll::Ready(Err(entry.take_failure())), None),
                Send::Gathering | Send::Out(_) => entry.wait_to_write(cx),
            }
        })
    }

    /// A waker that is replaced goes after the state's borrow: its task may go with it, and with the task another stream.
    fn with<R>(&self, step: impl FnOnce(&mut State, usize) -> (R, Option<Waker>)) -> R {
        let (result, _replaced) = {
            let mut state = self.ring.state.borrow_mut();
            step(&mut state, self.key)
        };
        result
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _wakers = self.ring.state.borrow_mut().close(self.key);
    }
}

impl Entry {
    /// Ready when [`Entry::read`] would find something, or has to look.
    fn poll_receive(&mut self, key: usize, kernel: &mut kernel::Kernel, cx: &Context<'_>) -> (Poll<()>, Option<Waker>) {
        if !self.pieces.is_empty() {
            return (Poll::Ready(()), None);
        }
        match self.receive {
            Receive::Ended | Receive::Failed(_) => return (Poll::Ready(()), None),
            Receive::Idle if self.burst > 0 => return (Poll::Ready(()), None),
            Receive::Idle => {
                let fd = self.socket.as_raw_fd();
                if self.small {
                    kernel.receive_all(fd, key)
                } else {
                    kernel.receive(fd, key)
                }
                self.receive = Receive::Out;
            }
            Receive::Out | Receive::Recalled => {}
        }
        (Poll::Pending, wait(&mut self.reader, cx))
    }

    /// What is there. `None`: nothing yet, it has to be waited for.
    fn read(&mut self, kernel: &mut kernel::Kernel, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        if let Some(piece) = self.pieces.front_mut() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&kernel.bytes(piece)[..n]);
            piece.advance(n);
            if piece.len() == 0
                && let Some(piece) = self.pieces.pop_front()
            {
                kernel.recycle(piece);
            }
            return Some(Ok(()));
        }
        match &mut self.receive {
            Receive::Ended => Some(Ok(())),
            Receive::Failed(_) => match std::mem::replace(&mut self.receive, Receive::Ended) {
                Receive::Failed(error) => Some(Err(error)),
                _ => Some(Ok(())),
            },
            Receive::Idle => self.read_now(buf),
            Receive::Out | Receive::Recalled => None,
        }
    }

    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        if buf.remaining() == 0 {
            return Some(Ok(()));
        }
        self.burst = self.burst.saturating_sub(1);
        let room = buf.remaining();
        match kernel::receive_now(&self.socket, buf) {
            Ok(0) => {
                self.receive = Receive::Ended;
                Some(Ok(()))
            }
            Ok(n) => {
                if n < room {
                    // That was all: the next has to be waited for.
                    self.burst = 0;
                }
                Some(Ok(()))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.burst = 0;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn send_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let flags = nix::libc::MSG_DONTWAIT | nix::libc::MSG_NOSIGNAL;
        match slices {
            [one] => self.socket.send_with_flags(one, flags),
            many => self.socket.send_vectored_with_flags(&many[..many.len().min(MOST_SLICES)], flags),
        }
    }

    /// A peer that is gone already needs no end.
    fn end_sending(&self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    fn gather(&mut self, slices: &[io::IoSlice<'_>]) -> usize {
        let before = self.out.len();
        for slice in slices {
            let room = GATHER_BYTES - self.out.len();
            self.out.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.out.len() - before
    }

    fn wait_to_write<T>(&mut self, cx: &Context<'_>) -> (Poll<T>, Option<Waker>) {
        self.write_waits = true;
        (Poll::Pending, wait(&mut self.writer, cx))
    }

    /// Once told, further writes try again.
    fn take_failure(&mut self) -> io::Error {
        match std::mem::replace(&mut self.send, Send::Idle) {
            Send::Failed(error) => error,
            _ => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// Registers the task that waits. The waker that was there goes back, to be dropped by the caller.
fn wait(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        slot => slot.replace(cx.waker().clone()),
    }
}
