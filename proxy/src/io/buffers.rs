//! The read and write buffers of one worker: lent to a connection while it has something in flight, and back when it idles.
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::BytesMut;

/// What one buffer holds; a message head that is larger grows its buffer, which then is not kept.
pub const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Buffers kept for reuse per worker (1 MiB); more are freed when they come back.
const KEPT: usize = 64;

/// The pool. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    pool: Rc<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    free: RefCell<Vec<BytesMut>>,
    /// The fewest that waited since the last trim: so many were not needed.
    unneeded: Cell<usize>,
}

impl Buffers {
    /// An empty buffer with at least [`READ_BUFFER_BYTES`] to fill.
    pub fn take(&self) -> BytesMut {
        let mut free = self.pool.free.borrow_mut();
        if let Some(mut buf) = free.pop() {
            self.pool.unneeded.set(self.pool.unneeded.get().min(free.len()));
            // A buffer whose former content is still referenced (a body chunk in flight) cannot be reclaimed: it is let go.
            if buf.try_reclaim(READ_BUFFER_BYTES) {
                return buf;
            }
        }
        BytesMut::with_capacity(READ_BUFFER_BYTES)
    }

    /// Takes a buffer back; its content is forgotten.
    pub fn give(&self, mut buf: BytesMut) {
        buf.clear();
        let mut free = self.pool.free.borrow_mut();
        if free.len() < KEPT && buf.capacity() <= 2 * READ_BUFFER_BYTES {
            free.push(buf);
        }
    }

    /// How many buffers wait for reuse.
    pub fn len(&self) -> usize {
        self.pool.free.borrow().len()
    }

    /// Whether no buffer waits for reuse.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees what nobody needed since the last call.
    pub fn trim(&self) {
        let mut free = self.pool.free.borrow_mut();
        let unneeded = self.pool.unneeded.get().min(free.len());
        free.drain(..unneeded);
        self.pool.unneeded.set(free.len());
    }
}
