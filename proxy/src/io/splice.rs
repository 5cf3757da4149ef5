//! Bytes from socket to socket without a copy through the process: splice(2) by way of a pipe.
//!
//! For plain TCP on both ends, where nothing between needs the bytes. Worth it for streams that keep coming: a pipe costs two file
//! descriptors, and a short message two system calls more. Pipes are lent while bytes are in them.
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is asked to hold; the system may grant less. A receiver that stalls keeps so much in the kernel.
const PIPE_BYTES: i32 = 256 * 1024;
/// A smaller pipe is not worth it.
const LEAST_BYTES: i32 = 64 * 1024;
/// Empty pipes that a worker keeps.
const KEPT: usize = 16;

/// The empty pipes of one worker. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Pipes {
    free: Rc<RefCell<Vec<Pipe>>>,
}

/// Bytes on their way from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// When the process has no file descriptors left, or its user's pipes hold as much as they may.
    pub fn take(&self) -> io::Result<Pipe> {
        match self.free.borrow_mut().pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(),
        }
    }

    /// Takes a pipe back. One with bytes in it is closed.
    pub fn give(&self, pipe: Pipe) {
        let mut free = self.free.borrow_mut();
        if pipe.held == 0 && free.len() < KEPT {
            free.push(pipe);
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Refused where the user's pipes hold much already: it stays as it is then, which may be two pages.
        let size =
            fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).or_else(|_| fcntl(&writer, FcntlArg::F_GETPIPE_SZ))?;
        if size < LEAST_BYTES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { reader, writer, held: 0 })
    }

    /// No bytes are in it.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what the socket has. Only for an empty pipe. `Ok(0)` is the end.
    pub fn poll_fill(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || move_bytes(from, &self.writer, PIPE_BYTES as usize)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    self.held = n;
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    /// Gives all of it to the socket.
    pub fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || move_bytes(&self.reader, to, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.held -= n.min(self.held),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from.as_fd(), None, to.as_fd(), None, most, flags) {
            Err(nix::Error::EINTR) => {}
            done => return Ok(done?),
        }
    }
}
