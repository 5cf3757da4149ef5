//! Time and chance, injected: the per-worker [`Clock`], the coarse timer wheel [`Timers`], and the seeded [`Random`].
//!
//! Everything here is per worker and `!Send`. Time follows tokio's clock, so that a test with paused time moves all of it.
//! The wheel is for the many short-lived timeouts of the request path: arming and disarming one is a few array writes; a single
//! tokio timer per worker drives it, and only while something is armed. It never fires early, and up to one
//! [`TICK`] late. What needs finer timing than that does not belong here.
mod random;
#[cfg(test)]
mod tests;
mod wheel;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

pub use random::Random;
pub use wheel::{Sleep, TICK, Timers};

/// So many times in a row a turn's time is taken for now: a handful of microseconds' work.
const USES: u8 = 16;

thread_local! {
    static TURN: Turn = const { Turn { driven: Cell::new(false), uses: Cell::new(0), at: Cell::new(None) } };
}

/// The time that tasks of one turn of a worker's event loop share: asking the system a dozen times per request costs more than it tells.
struct Turn {
    /// Whether somebody calls [`begin_turn`] on this thread. Elsewhere each question is asked of the system.
    driven: Cell<bool>,
    uses: Cell<u8>,
    at: Cell<Option<Instant>>,
}

/// What was read of the clock before is old: called by the event loop when it goes on.
pub fn begin_turn() {
    TURN.with(|turn| {
        turn.driven.set(true);
        turn.uses.set(0);
    });
}

/// The time now; within a turn of a worker's event loop up to [`USES`] questions old.
#[inline]
fn instant() -> Instant {
    TURN.with(|turn| match (turn.at.get(), turn.uses.get()) {
        (Some(at), uses @ 1..) => {
            turn.uses.set(uses - 1);
            at
        }
        _ => {
            let now = tokio::time::Instant::now().into_std();
            if turn.driven.get() {
                turn.at.set(Some(now));
                turn.uses.set(USES);
            }
            now
        }
    })
}

/// The clock of one worker. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Clock {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    /// Wall-clock time at `start` of a clock whose wall time is derived; `None` asks the system.
    wall: Option<SystemTime>,
    cached: Cell<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// The system's clock.
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A clock whose wall time starts at `wall` and moves with tokio's (possibly paused) clock.
    pub fn starting_at(wall: SystemTime) -> Self {
        Self::build(Some(wall))
    }

    fn build(wall: Option<SystemTime>) -> Self {
        let start = tokio::time::Instant::now().into_std();
        Self { inner: Rc::new(Inner { start, wall, cached: Cell::new(start) }) }
    }

    /// The time now; also refreshes [`Clock::coarse`].
    #[inline]
    pub fn now(&self) -> Instant {
        let now = instant();
        self.inner.cached.set(now);
        now
    }

    /// The last time anybody on this worker asked: good for ages and rates, no system call.
    #[inline]
    pub fn coarse(&self) -> Instant {
        self.inner.cached.get()
    }

    /// Wall-clock time, for dates and logs only.
    pub fn system(&self) -> SystemTime {
        match self.inner.wall {
            Some(wall) => wall + tokio::time::Instant::now().into_std().saturating_duration_since(self.inner.start),
            None => SystemTime::now(),
        }
    }
}

/// What [`Timers::timeout`] returns when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time limit was reached")]
pub struct Elapsed;

impl Timers {
    /// Runs `future`, but no longer than `limit`. The future is polled first: a result that is ready wins over the limit.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut sleep = self.after(limit);
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |cx: &mut Context<'_>| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
        })
        .await
    }
}
