//! A worker's event loop with a ring in it: run the tasks that are ready, hand over what they asked of the kernel, again until
//! nobody is ready, and only then sleep.
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::task::{JoinHandle, LocalSet};

use super::Ring;
use crate::clock;

/// Between two looks at the other events (timers, accepted connections) at most so many rounds.
const ROUNDS: usize = 8;

/// Runs `main` and the tasks that it spawns on this thread, until `main` ends. Uses the thread's ring, where it has one.
///
/// # Errors
/// When the event loop cannot watch the ring.
pub async fn drive(main: impl Future<Output = ()> + 'static) -> io::Result<()> {
    match Ring::current() {
        None => {
            let mut tasks = Tasks::new(main);
            poll_fn(|cx| if tasks.run(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        Some(ring) => {
            let watched = ring.watch()?;
            let mut tasks = Tasks::new(main);
            poll_fn(|cx| turn(ring, &watched, &mut tasks, cx)).await;
            drop(tasks);
            // The sockets that they had.
            ring.turn();
        }
    }
    Ok(())
}

/// The tasks of a thread, and the one that decides how long they run.
struct Tasks {
    all: LocalSet,
    main: JoinHandle<()>,
}

impl Tasks {
    fn new(main: impl Future<Output = ()> + 'static) -> Self {
        let all = LocalSet::new();
        let main = all.spawn_local(main);
        Self { all, main }
    }

    /// Runs those that are ready. Says whether the main one has ended.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        clock::begin_turn();
        Pin::new(&mut self.all).poll(cx).is_ready() || self.main.is_finished()
    }
}

fn turn(ring: &Ring, watched: &AsyncFd<OwnedFd>, tasks: &mut Tasks, cx: &mut Context<'_>) -> Poll<()> {
    for _ in 0..ROUNDS {
        let came = poll_watched(watched, cx).is_ready();
        ring.turn();
        let over = tasks.run(cx);
        let woken = ring.turn();
        if over {
            return Poll::Ready(());
        }
        if woken == 0 && !came {
            return Poll::Pending;
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Ready when the kernel may have finished something. Pending: the task will be woken when it has.
fn poll_watched(watched: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> Poll<()> {
    if let Ok(mut guard) = ready!(watched.poll_read_ready(cx)) {
        guard.clear_ready();
    }
    Poll::Ready(())
}
