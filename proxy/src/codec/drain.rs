//! The drain signal of one worker's listener or process: a value that its connections look at, and wakers to have them look.
//!
//! Two steps, as Envoy has them: first connections are told to go away at their next response (`connection: close`, GOAWAY), then
//! idle ones are closed.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::clock::Timers;

/// What has only been begun when idle connections are closed (a handshake, a request's head) may still take so long.
pub const UNFINISHED_GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Closing,
}

#[derive(Debug)]
struct State {
    phase: Cell<Phase>,
    wakers: RefCell<Slab<Waker>>,
}

/// The end that starts the drain.
#[derive(Clone, Debug)]
pub struct DrainHandle {
    state: Rc<State>,
}

/// The end that a connection holds.
#[derive(Debug)]
pub struct Drain {
    state: Rc<State>,
    /// Where the waker lies, and in which phase it was put there: each step empties the list.
    key: Cell<Option<(Phase, usize)>>,
}

impl Default for DrainHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl DrainHandle {
    /// A signal that has not been given.
    pub fn new() -> Self {
        Self { state: Rc::new(State { phase: Cell::new(Phase::Serving), wakers: RefCell::default() }) }
    }

    /// The end for one connection.
    pub fn subscribe(&self) -> Drain {
        Drain { state: self.state.clone(), key: Cell::new(None) }
    }

    /// From now on each connection goes away with its next response (an HTTP/2 connection with open streams says GOAWAY now). Idle
    /// connections stay open until [`DrainHandle::close_idle`].
    pub fn start(&self) {
        self.enter(Phase::Draining);
    }

    /// Connections without a request in flight are closed now, the others as they finish. Implies [`DrainHandle::start`].
    pub fn close_idle(&self) {
        self.enter(Phase::Closing);
    }

    fn enter(&self, phase: Phase) {
        if self.state.phase.get() < phase {
            self.state.phase.set(phase);
            let wakers = std::mem::take(&mut *self.state.wakers.borrow_mut());
            wakers.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }
}

impl Drain {
    /// A signal that is never given.
    pub fn never() -> Self {
        DrainHandle::new().subscribe()
    }

    /// Whether responses should say goodbye.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.state.phase.get() >= Phase::Draining
    }

    /// Whether idle connections are to be closed.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.state.phase.get() >= Phase::Closing
    }

    /// Completes [`UNFINISHED_GRACE`] after idle connections are to be closed.
    pub async fn overdue(&self, timers: &Timers) {
        std::future::poll_fn(|cx| {
            if self.is_closing() {
                return Poll::Ready(());
            }
            self.wake_on_change(cx.waker());
            Poll::Pending
        })
        .await;
        timers.after(UNFINISHED_GRACE).await;
    }

    /// Has `waker` woken at the next step. One waker per `Drain`, kept until then.
    pub fn wake_on_change(&self, waker: &Waker) {
        let mut wakers = self.state.wakers.borrow_mut();
        let phase = self.state.phase.get();
        match self.key.get() {
            Some((at, key)) if at == phase => wakers[key].clone_from(waker),
            _ => self.key.set(Some((phase, wakers.insert(waker.clone())))),
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some((at, key)) = self.key.get()
            && at == self.state.phase.get()
        {
            self.state.wakers.borrow_mut().remove(key);
        }
    }
}
