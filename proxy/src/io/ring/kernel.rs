//! The io_uring instance: what is handed to the kernel and what comes back, with the ownership that makes it safe.
//!
//! Two things are shared with the kernel: the bytes of a send, which belong to this module from the hand-over until the
//! kernel has answered, and the pieces that received bytes come in, which the kernel picks itself and which are read only
//! after it has given them back. Both lie in memory that is never freed: a ring lives as long as its process.
//!
//! `unsafe` is needed here because the kernel reads and writes memory after a call has returned; nothing else in `io` is.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// Operations that wait for one system call; more leave in several.
const SUBMISSIONS: u32 = 256;
/// Answers that the shared queue holds; the kernel keeps what is beyond.
const COMPLETIONS: u32 = 1024;
/// Received bytes come in pieces of at most so many.
pub(super) const PIECE_BYTES: usize = 16 * 1024;
/// Pieces per worker: with all of them in use a socket is read by a system call of its own.
const PIECES: u16 = 128;
/// The one group of pieces.
const GROUP: u16 = 0;
/// `IORING_RECVSEND_POLL_FIRST`: nothing is there yet, as a rule.
const POLL_FIRST: u16 = 1;
/// The two low bits of an operation's name.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const CANCEL: u64 = 2;

pub(super) struct Kernel {
    uring: IoUring,
    pieces: Pieces,
    sends: Slab<Sending>,
    /// Operations that the queue had no room for.
    more: VecDeque<Entry>,
    /// Until somebody watches it.
    events: Option<OwnedFd>,
}

/// Bytes that the kernel reads.
struct Sending {
    socket: usize,
    bytes: Vec<u8>,
}

/// What an operation came to. Sockets are named by the number that came with the operation.
pub(super) enum Done {
    Received {
        socket: usize,
        result: io::Result<Received>,
        /// The operation goes on.
        more: bool,
    },
    /// With the bytes, and how many of them left.
    Sent { socket: usize, bytes: Vec<u8>, result: io::Result<usize> },
}

pub(super) enum Received {
    Piece(Piece),
    End,
    /// There is something to read, but no piece to put it into.
    NoPiece,
}

/// Received bytes. Given back with [`Kernel::recycle`].
#[derive(Debug)]
pub(super) struct Piece {
    id: u16,
    from: u16,
    to: u16,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        usize::from(self.to - self.from)
    }

    /// The first `n` bytes have been taken.
    pub(super) fn advance(&mut self, n: usize) {
        self.from += u16::try_from(n.min(self.len())).unwrap_or_default();
    }
}

impl Kernel {
    /// Fails where the kernel has no io_uring, an old one (before 6.1), or does not let the process use it.
    pub(super) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let pieces = Pieces::register(&uring)?;
        let events = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        uring.submitter().register_eventfd(events.as_raw_fd())?;
        let mut kernel = Self { uring, pieces, sends: Slab::new(), more: VecDeque::new(), events: Some(events) };
        kernel.prove()?;
        Ok(kernel)
    }

    /// One operation that does nothing: setting a ring up may be allowed where using it is not.
    fn prove(&mut self) -> io::Result<()> {
        self.push(opcode::Nop::new().build().user_data(CANCEL));
        self.uring.submit_and_wait(1)?;
        match self.uring.completion().next() {
            Some(answer) if answer.result() < 0 => Err(io::Error::from_raw_os_error(-answer.result())),
            Some(_) => Ok(()),
            None => Err(io::Error::other("the kernel answers no operation")),
        }
    }

    /// Something has come back when this becomes readable anew, while that is asked for with [`Kernel::announce`]. Called once, on a
    /// thread with an event loop.
    ///
    /// Not the ring's own file: that does not become readable by operations whose last step waits for [`Kernel::enter`].
    pub(super) fn watch(&mut self) -> io::Result<AsyncFd<OwnedFd>> {
        let events = self.events.take().ok_or(io::ErrorKind::AlreadyExists)?;
        // SAFETY: the descriptor is owned by the value that is registered, which does not let go of it.
        Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
    }

    /// Whether answers are announced from now on. Look for work after asking for it: what came before is not announced.
    pub(super) fn announce(&mut self, wanted: bool) {
        let answers = self.uring.completion();
        if wanted {
            answers.enable_eventfd()
        } else {
            answers.disable_eventfd()
        }
        fence(Ordering::SeqCst);
    }

    /// Receive from `fd` once something is there. The socket stays open until the answer has come.
    pub(super) fn receive(&mut self, fd: RawFd, socket: usize) {
        let len = PIECE_BYTES as u32;
        let entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), len).ioprio(POLL_FIRST).buf_group(GROUP).build();
        let entry = entry.flags(io_uring::squeue::Flags::BUFFER_SELECT).user_data(name(RECEIVE, socket));
        self.push(entry);
    }

    /// Send `bytes` on `fd`, all of them. The socket stays open until the answer has come. Returns the operation's number.
    pub(super) fn send(&mut self, fd: RawFd, socket: usize, bytes: Vec<u8>) -> usize {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let start = bytes.as_ptr();
        let number = self.sends.insert(Sending { socket, bytes });
        let entry = opcode::Send::new(Fd(fd), start, len).flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
        self.push(entry.user_data(name(SEND, number)));
        number
    }

    /// Receive from `fd` all that comes, with an answer for each, until it is called back, or something else ends it.
    pub(super) fn receive_all(&mut self, fd: RawFd, socket: usize) {
        self.push(opcode::RecvMulti::new(Fd(fd), GROUP).build().user_data(name(RECEIVE, socket)));
    }

    /// The last answer to [`Kernel::receive`] or [`Kernel::receive_all`] is to come now.
    pub(super) fn cancel_receive(&mut self, socket: usize) {
        self.push(opcode::AsyncCancel::new(name(RECEIVE, socket)).build().user_data(CANCEL));
    }

    /// The answer to a send is to come now, with as much as the socket took.
    pub(super) fn cancel_send(&mut self, number: usize) {
        self.push(opcode::AsyncCancel::new(name(SEND, number)).build().user_data(CANCEL));
    }

    fn push(&mut self, entry: Entry) {
        if !self.more.is_empty() || !self.queue(&entry) {
            self.more.push_back(entry);
        }
    }

    /// Whether there was room.
    fn queue(&mut self, entry: &Entry) -> bool {
        // SAFETY: the memory that an operation names stays valid until its answer: a send's bytes lie in `sends` until
        // then, untouched; a receive names none, the kernel picks one of `pieces`. Neither is ever freed before, as a
        // `Kernel` leaves its memory behind when it is dropped.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Whether a system call would do something.
    pub(super) fn has_work(&mut self) -> bool {
        let submissions = self.uring.submission();
        let to_enter = !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow();
        drop(submissions);
        to_enter || !self.more.is_empty() || !self.uring.completion().is_empty()
    }

    /// Hands over what waits, and has the kernel finish what it can.
    ///
    /// # Errors
    /// Interrupted, or no memory for the moment: what was not taken stays queued, for another try.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        self.uring.submit()?;
        while let Some(entry) = self.more.pop_front() {
            if !self.queue(&entry) {
                self.more.push_front(entry);
                if self.uring.submit()? == 0 {
                    break;
                }
            }
        }
        if !self.uring.submission().is_empty() {
            self.uring.submit()?;
        }
        Ok(())
    }

    /// The next answer.
    pub(super) fn next(&mut self) -> Option<Done> {
        loop {
            let answer = self.uring.completion().next()?;
            let (kind, number) = (answer.user_data() & 3, (answer.user_data() >> 2) as usize);
            let result = match answer.result() {
                n if n >= 0 => Ok(n as usize),
                n => Err(io::Error::from_raw_os_error(-n)),
            };
            match kind {
                RECEIVE => {
                    let result = self.received(cqueue::buffer_select(answer.flags()), result);
                    return Some(Done::Received { socket: number, result, more: cqueue::more(answer.flags()) });
                }
                SEND => {
                    let Some(Sending { socket, bytes }) = self.sends.try_remove(number) else { continue };
                    return Some(Done::Sent { socket, bytes, result });
                }
                _ => {}
            }
        }
    }

    fn received(&mut self, piece: Option<u16>, result: io::Result<usize>) -> io::Result<Received> {
        match (piece, result) {
            (Some(id), Ok(n)) if n > 0 => Ok(Received::Piece(Piece { id, from: 0, to: n.min(PIECE_BYTES) as u16 })),
            (piece, result) => {
                if let Some(id) = piece {
                    self.pieces.give(id);
                }
                match result {
                    Ok(_) => Ok(Received::End),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Received::NoPiece),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// What came in a piece.
    #[inline]
    pub(super) fn bytes(&self, piece: &Piece) -> &[u8] {
        self.pieces.read(piece)
    }

    pub(super) fn recycle(&mut self, piece: Piece) {
        self.pieces.give(piece.id);
    }
}

fn name(kind: u64, number: usize) -> u64 {
    kind | (number as u64) << 2
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The kernel ends what is out at its leisure: it must find the memory still there.
        std::mem::forget(std::mem::take(&mut self.sends));
    }
}

/// Reads from a socket at once, without waiting and without the ring.
pub(super) fn receive_now(socket: &socket2::Socket, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is made uninitialised through the slice: `recv` only writes received bytes to its front.
    let n = socket.recv_with_flags(unsafe { buf.unfilled_mut() }, libc::MSG_DONTWAIT)?;
    // SAFETY: the first `n` bytes have just been written.
    unsafe { buf.assume_init(n) };
    buf.advance(n);
    Ok(n)
}

/// The memory that received bytes come in, and the queue that tells the kernel which of it is free.
struct Pieces {
    /// [`PIECES`] entries, the tail of the queue inside the first.
    queue: NonNull<BufRingEntry>,
    /// [`PIECES`] times [`PIECE_BYTES`].
    memory: NonNull<u8>,
    tail: u16,
}

impl Pieces {
    fn register(uring: &IoUring) -> io::Result<Self> {
        let queue = never_freed(usize::from(PIECES) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let memory = never_freed(usize::from(PIECES) * PIECE_BYTES)?;
        // SAFETY: the queue is page-aligned, large enough for its entries, zeroed and never freed.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                queue.as_ptr().expose_provenance() as u64,
                PIECES,
                GROUP,
                0,
            )?
        };
        let mut pieces = Self { queue, memory, tail: 0 };
        for id in 0..PIECES {
            pieces.give(id);
        }
        Ok(pieces)
    }

    /// Lends a piece to the kernel.
    fn give(&mut self, id: u16) {
        debug_assert!(id < PIECES);
        let slot = usize::from(self.tail % PIECES);
        // SAFETY: `slot` and `id` are below PIECES, so both addresses lie in their allocations. The kernel reads an entry
        // only after the tail has passed it, and the tail is beside the fields that are written here, not among them.
        unsafe {
            let entry = &mut *self.queue.as_ptr().add(slot);
            let start = self.memory.as_ptr().add(usize::from(id) * PIECE_BYTES);
            entry.set_addr(start.expose_provenance() as u64);
            entry.set_len(PIECE_BYTES as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 inside the first entry, which the kernel reads and nobody else writes.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.queue.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    #[inline]
    fn read(&self, piece: &Piece) -> &[u8] {
        let start = usize::from(piece.id) * PIECE_BYTES + usize::from(piece.from);
        // SAFETY: the kernel has given the piece back with `to` bytes in it, and gets it again only from `give`, which
        // needs the `Piece` itself; `to` is at most PIECE_BYTES. The memory was zeroed, so all of it is initialised.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), piece.len()) }
    }
}

/// Zeroed memory from a page's start, resident only where it has been touched.
fn never_freed(bytes: usize) -> io::Result<NonNull<u8>> {
    let len = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, at an address of the kernel's choice.
    Ok(unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE) }?.cast())
}

const _: () = assert!(PIECES.is_power_of_two() && PIECE_BYTES <= u16::MAX as usize);
const _: () = assert!(size_of::<BufRingEntry>() == 16);
