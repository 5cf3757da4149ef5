//! A worker's event loop with a ring in it: run the tasks that are ready, hand over what they asked of the kernel, again until
//! nobody is ready, and only then sleep.
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::{JoinHandle, LocalSet};

use super::Ring;
use crate::clock;

/// Between two looks at the other events (timers, accepted connections) at most so many rounds.
const ROUNDS: usize = 4;
/// When a thread ends, peers may take so many times so long for what was written to them.
const LAST_TURNS: usize = 100;
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// Runs `main` and the tasks that it spawns on this thread, until `main` ends. Uses the thread's ring, where it has one.
///
/// # Errors
/// When the event loop cannot watch the ring.
pub async fn drive(main: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let mut tasks = Tasks::new(main);
    match Ring::current() {
        None => poll_fn(|cx| if tasks.run(cx) { Poll::Ready(()) } else { Poll::Pending }).await,
        Some(ring) => {
            let mut turns = Turns { ring, watched: ring.watch()?, ready: Arc::default() };
            poll_fn(|cx| turns.poll(&mut tasks, cx)).await;
            drop(tasks);
            close_sockets(ring).await;
        }
    }
    Ok(())
}

/// The tasks are gone: what they wrote goes out, and their sockets close.
async fn close_sockets(ring: &Ring) {
    for _ in 0..LAST_TURNS {
        ring.turn();
        if !ring.is_closing() {
            break;
        }
        tokio::time::sleep(LAST_PAUSE).await;
    }
    ring.turn();
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

struct Turns {
    ring: &'static Ring,
    watched: AsyncFd<OwnedFd>,
    ready: Arc<Ready>,
}

impl Turns {
    fn poll(&mut self, tasks: &mut Tasks, cx: &mut Context<'_>) -> Poll<()> {
        let waker = Waker::from(self.ready.clone());
        self.ready.begin(cx.waker());
        for _ in 0..ROUNDS {
            self.ring.stay_awake();
            self.ready.tasks.store(false, SeqCst);
            let announced = self.poll_watched(cx).is_ready();
            self.ring.turn();
            let over = tasks.run(&mut Context::from_waker(&waker));
            self.ring.turn();
            if over {
                return Poll::Ready(());
            }
            if !announced && !self.ready.tasks.load(SeqCst) && self.ring.fall_asleep() && self.ready.end() {
                return Poll::Pending;
            }
        }
        self.ready.end();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when the kernel has announced something. Pending: the thread will be woken when it does.
    fn poll_watched(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Ok(mut guard) = ready!(self.watched.poll_read_ready(cx)) {
            guard.clear_ready();
        }
        Poll::Ready(())
    }
}

/// Whether a task is ready; wakes the thread for it, unless that is awake and about to look.
#[derive(Default)]
struct Ready {
    tasks: AtomicBool,
    awake: AtomicBool,
    thread: OnceLock<Waker>,
}

impl Ready {
    fn begin(&self, thread: &Waker) {
        self.thread.get_or_init(|| thread.clone());
        self.awake.store(true, SeqCst);
    }

    /// The thread goes back to its event loop. `false`: a task has become ready meanwhile.
    fn end(&self) -> bool {
        self.awake.store(false, SeqCst);
        if self.tasks.load(SeqCst) {
            self.awake.store(true, SeqCst);
            return false;
        }
        true
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.tasks.store(true, SeqCst);
        if !self.awake.load(SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.wake_by_ref();
        }
    }
}
