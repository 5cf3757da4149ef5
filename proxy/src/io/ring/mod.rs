//! Sockets of a worker over io_uring: what many connections send in one turn of the event loop, and where they wait for more,
//! goes to the kernel in one system call.
//!
//! One [`Ring`] per worker thread, installed at its start where the kernel offers it (Linux 6.1); [`super::Socket`] takes
//! connections to it. Without a ring everything works as before, with a system call per read and write.
//!
//! *Receiving.* A socket that is read and has nothing waits in the kernel with a receive operation that holds no memory: the
//! kernel puts what comes into one of the worker's pieces. Where messages are small one operation brings them all, as long as they are
//! read; it is called back from a reader that is slow. A stream that fills whole pieces is read by plain system calls, a few in a
//! row, so that large transfers cost no second copy and no connection keeps the others waiting. While an operation is with the kernel nothing
//! else reads the socket: bytes stay in order.
//!
//! *Sending.* In a busy turn what is written is copied and sent at its end, so several small writes leave as one. A large write,
//! and any in a turn with little to do, goes to the socket at once: the peer works on it while the next is prepared. While the socket is full, writing is pending. A failure shows at the next write, as with a write that the
//! kernel has taken.
//!
//! *Closing.* A receive that still waits is cancelled in the same turn. What was written goes out before the socket closes, as it does from a
//! socket's own buffer, unless the connection is to be reset: [`CLOSING`] is how long a peer may take in nothing of it.
//!
//! *Invariant:* each socket has at most one receive and one send with the kernel.
mod kernel;
mod stream;
mod turn;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use kernel::{Done, Kernel, PIECE_BYTES, Piece, Received};

pub(super) use stream::Stream;
pub use turn::drive;

/// So many pieces may wait for a reader before no more are asked for.
const UNREAD: usize = 2;
/// After a whole piece, so many reads are plain system calls.
const BURST: u8 = 16;
/// A turn in which so many operations come back is a busy one: gathering what it writes saves more than it delays.
const BUSY: usize = 8;
/// A closed connection whose peer acknowledges nothing for so long is given up with what it has yet to send.
const CLOSING: Duration = Duration::from_secs(30);
/// Buffers for sends that are kept for the next ones, and up to which size.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES: usize = 16 * 1024;

thread_local! {
    static CURRENT: Cell<Option<&'static Ring>> = const { Cell::new(None) };
}

/// One thread's ring. It is never freed: the kernel may write to its memory until the process ends.
pub struct Ring {
    state: RefCell<State>,
}

struct State {
    kernel: Kernel,
    sockets: Slab<Entry>,
    /// Sockets with bytes to send at the end of the turn.
    unsent: Vec<usize>,
    spare: Vec<Vec<u8>>,
    /// Whether this turn is a busy one.
    busy: bool,
}

/// One socket.
struct Entry {
    socket: Socket,
    receive: Receive,
    /// What has come and was not read, before anything that `receive` says.
    pieces: VecDeque<Piece>,
    /// The last message was smaller than a piece.
    small: bool,
    reader: Option<Waker>,
    send: Send,
    /// Bytes for the next send.
    out: Vec<u8>,
    writer: Option<Waker>,
    /// `writer` is to be woken.
    write_waits: bool,
    /// Reads that are still to be plain system calls.
    burst: u8,
    /// Nobody reads or writes any more.
    closed: bool,
    /// It ends by a reset, which throws away what has not left.
    reset: bool,
}

/// What is asked of the kernel for the reader.
#[derive(Debug)]
enum Receive {
    Idle,
    /// An operation is with the kernel.
    Out,
    /// It has been called back: a last answer is to come.
    Recalled,
    Ended,
    Failed(io::Error),
}

#[derive(Debug)]
enum Send {
    Idle,
    /// Bytes wait in `out` for the end of the turn.
    Gathering,
    /// With the kernel, under this number.
    Out(usize),
    Failed(io::Error),
}

impl Ring {
    /// Gives this thread a ring, for as long as the process lives.
    ///
    /// # Errors
    /// Where the kernel has no io_uring, an old one, or does not let this process use it.
    pub fn install() -> io::Result<()> {
        let state =
            State { kernel: Kernel::new()?, sockets: Slab::new(), unsent: Vec::new(), spare: Vec::new(), busy: false };
        let ring: &'static Ring = Box::leak(Box::new(Ring { state: RefCell::new(state) }));
        CURRENT.set(Some(ring));
        Ok(())
    }

    /// This thread's.
    pub(super) fn current() -> Option<&'static Ring> {
        CURRENT.get()
    }

    fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.state.borrow_mut().kernel.watch()
    }

    /// Hands everything that waits to the kernel, and wakes those whose operations are done.
    ///
    /// Waking by reference: a waker marks its task as ready, it runs and frees nothing.
    fn turn(&self) {
        let mut state = self.state.borrow_mut();
        state.send_gathered();
        if !state.kernel.has_work() {
            return;
        }
        if let Err(error) = state.kernel.enter() {
            tracing::debug!(%error, "io_uring: operations stay queued, they are handed over again");
        }
        let mut count = 0;
        while let Some(done) = state.kernel.next() {
            count += usize::from(matches!(done, Done::Received { .. }));
            state.finish(done);
        }
        state.busy = count >= BUSY;
    }

    /// Whether closed connections have still something to send.
    fn is_closing(&self) -> bool {
        let state = self.state.borrow();
        state.sockets.iter().any(|(_, entry)| matches!(entry.send, Send::Gathering | Send::Out(_)))
    }

    /// The thread is about to sleep. `false`: something has come back meanwhile, it must not.
    fn fall_asleep(&self) -> bool {
        let kernel = &mut self.state.borrow_mut().kernel;
        kernel.announce(true);
        !kernel.has_work()
    }

    /// The thread is awake, and looks for itself.
    fn stay_awake(&self) {
        self.state.borrow_mut().kernel.announce(false);
    }
}

impl State {
    fn send_gathered(&mut self) {
        let State { kernel, sockets, unsent, .. } = self;
        for key in unsent.drain(..) {
            let Some(entry) = sockets.get_mut(key).filter(|entry| matches!(entry.send, Send::Gathering)) else {
                continue;
            };
            let number = kernel.send(entry.socket.as_raw_fd(), key, std::mem::take(&mut entry.out));
            entry.send = Send::Out(number);
        }
    }

    fn finish(&mut self, done: Done) {
        let key = match done {
            Done::Received { socket, result, more } => {
                let Some(entry) = self.sockets.get_mut(socket) else { return };
                if entry.handle_received(result, more) {
                    self.kernel.cancel_receive(socket);
                }
                wake(&entry.reader);
                socket
            }
            Done::Sent { socket, bytes, result } => {
                let Some(entry) = self.sockets.get_mut(socket) else { return };
                match result {
                    Ok(n) if n < bytes.len() && !entry.reset => {
                        entry.out = bytes;
                        entry.out.drain(..n);
                        entry.send = Send::Gathering;
                        self.unsent.push(socket);
                    }
                    Ok(_) => {
                        entry.send = Send::Idle;
                        keep(&mut self.spare, bytes);
                    }
                    Err(error) => entry.send = Send::Failed(error),
                }
                if std::mem::take(&mut entry.write_waits) {
                    wake(&entry.writer);
                }
                socket
            }
        };
        self.remove_if_over(key);
    }

    /// Closes a socket that nobody uses any more, neither we nor the kernel.
    fn remove_if_over(&mut self, key: usize) {
        let over = self.sockets.get(key).is_some_and(|entry| {
            let receives = matches!(entry.receive, Receive::Out | Receive::Recalled);
            entry.closed && !receives && !matches!(entry.send, Send::Gathering | Send::Out(_))
        });
        if over && let Some(entry) = self.sockets.try_remove(key) {
            entry.pieces.into_iter().for_each(|piece| self.kernel.recycle(piece));
        }
    }

    /// The socket is not used any more: what still waits in the kernel is called back. The wakers go after the state's borrow.
    fn close(&mut self, key: usize) -> [Option<Waker>; 2] {
        let Some(entry) = self.sockets.get_mut(key) else { return [None, None] };
        entry.closed = true;
        let wakers = [entry.reader.take(), entry.writer.take()];
        if matches!(entry.receive, Receive::Out) {
            entry.receive = Receive::Recalled;
            self.kernel.cancel_receive(key);
        }
        match entry.send {
            Send::Out(number) if entry.reset => self.kernel.cancel_send(number),
            Send::Gathering if entry.reset => entry.send = Send::Idle,
            Send::Out(_) | Send::Gathering => entry.bound_closing(),
            Send::Idle | Send::Failed(_) => {}
        }
        self.remove_if_over(key);
        wakers
    }
}

impl Entry {
    fn new(socket: Socket) -> Self {
        let (reader, writer, out) = (None, None, Vec::new());
        Self {
            socket,
            receive: Receive::Idle,
            pieces: VecDeque::new(),
            small: false,
            reader,
            send: Send::Idle,
            out,
            writer,
            write_waits: false,
            burst: 0,
            closed: false,
            reset: false,
        }
    }

    fn bound_closing(&self) {
        if let Err(error) = self.socket.set_tcp_user_timeout(Some(CLOSING)) {
            tracing::debug!(%error, "setting TCP_USER_TIMEOUT failed: a peer that takes nothing holds its closed connection");
        }
    }

    /// Says whether the operation is to be called back: it goes on, but no more is wanted of it.
    fn handle_received(&mut self, result: io::Result<Received>, more: bool) -> bool {
        let recalled = matches!(self.receive, Receive::Recalled);
        self.receive = match result {
            Ok(Received::Piece(piece)) => {
                self.small = piece.len() < PIECE_BYTES;
                if !self.small {
                    self.burst = BURST;
                }
                self.pieces.push_back(piece);
                match more {
                    false => Receive::Idle,
                    true if self.small && self.pieces.len() < UNREAD && !recalled => Receive::Out,
                    true => Receive::Recalled,
                }
            }
            Ok(Received::NoPiece) => {
                self.burst = 1;
                Receive::Idle
            }
            Ok(Received::End) => Receive::Ended,
            Err(error) if recalled && error.raw_os_error() == Some(nix::libc::ECANCELED) => Receive::Idle,
            Err(error) => Receive::Failed(error),
        };
        !recalled && matches!(self.receive, Receive::Recalled)
    }
}

fn wake(waker: &Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake_by_ref();
    }
}

/// Keeps a buffer for the next send.
fn keep(spare: &mut Vec<Vec<u8>>, mut bytes: Vec<u8>) {
    if spare.len() < SPARE_BUFFERS && bytes.capacity() <= SPARE_BYTES {
        bytes.clear();
        spare.push(bytes);
    }
}
