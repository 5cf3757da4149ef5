//! The read and write buffers of one worker: lent to a connection while it has something in flight, and back when it idles.
use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;

/// What one buffer holds; a message head that is larger grows its buffer, which then is not kept.
pub const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Buffers kept for reuse per worker (1 MiB); more are freed when they come back.
const KEPT: usize = 64;

/// The pool. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    free: Rc<RefCell<Vec<BytesMut>>>,
}

impl Buffers {
    /// An empty buffer with at least [`READ_BUFFER_BYTES`] to fill.
    pub fn take(&self) -> BytesMut {
        // A buffer whose former content is still referenced (a body chunk in flight) cannot be reclaimed: it is let go.
        if let Some(mut buf) = self.free.borrow_mut().pop()
            && buf.try_reclaim(READ_BUFFER_BYTES)
        {
            return buf;
        }
        BytesMut::with_capacity(READ_BUFFER_BYTES)
    }

    /// Takes a buffer back; its content is forgotten.
    pub fn give(&self, mut buf: BytesMut) {
        buf.clear();
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT && buf.capacity() <= 2 * READ_BUFFER_BYTES {
            free.push(buf);
        }
    }

    /// How many buffers wait for reuse.
    pub fn len(&self) -> usize {
        self.free.borrow().len()
    }

    /// Whether no buffer waits for reuse.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees what is kept.
    pub fn trim(&self) {
        self.free.borrow_mut().clear();
    }
}
