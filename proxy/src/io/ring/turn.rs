//! A worker's event loop with a ring in it: run the tasks that are ready, hand over what they asked of the kernel, again until
//! nobody is ready, and only then sleep.
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::task::LocalSet;

use super::Ring;
use crate::clock;

/// Between two looks at the other events (timers, accepted connections) at most so many rounds.
const ROUNDS: usize = 8;

/// Runs `main` and the tasks that it spawns on this thread, until `main` ends. Uses the thread's ring, where it has one.
pub async fn drive(main: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let tasks = LocalSet::new();
    let main = tasks.spawn_local(main);
    let mut tasks = pin!(tasks);
    let mut run_tasks = |cx: &mut Context<'_>| {
        clock::begin_turn();
        tasks.as_mut().poll(cx).is_ready() || main.is_finished()
    };
    let Some(ring) = Ring::current() else {
        poll_fn(|cx| if run_tasks(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        return Ok(());
    };
    let watched = ring.watch()?;
    poll_fn(|cx| {
        for _ in 0..ROUNDS {
            let came = poll_watched(&watched, cx).is_ready();
            ring.turn();
            let over = run_tasks(cx);
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
    })
    .await;
    Ok(())
}

/// Ready when the kernel may have finished something. Pending: the task will be woken when it has.
fn poll_watched(watched: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> Poll<()> {
    if let Ok(mut guard) = ready!(watched.poll_read_ready(cx)) {
        guard.clear_ready();
    }
    Poll::Ready(())
}
