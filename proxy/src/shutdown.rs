//! The life of the process: initializing, live, stopping, gone; who may move it on; and how its listeners drain.
//!
//! [`Shutdown`] is the one value that signals, the admin interface and the listeners share. It decides nothing about
//! connections: `app` turns its steps into commands for the workers, and responses ask [`Shutdown::is_health_failed`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Static clusters are not warm yet.
    PreInitializing,
    /// Waiting for the first answers of the management server.
    Initializing,
    Live,
    /// Waiting for the last request, within the drain time.
    Stopping,
    /// Now.
    Exit,
}

/// Which listeners `/drain_listeners` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Those whose `traffic_direction` is INBOUND.
    Inbound,
    All,
}

/// What has been asked of the listeners while the process stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drains {
    /// Responses say goodbye. Asked for once; what is asked for afterwards changes nothing.
    pub goodbye: Option<Goodbye>,
    /// No new connections; existing ones go away as they finish.
    pub closed: Option<Which>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goodbye {
    pub which: Which,
    /// After the drain time the listeners close.
    pub then_close: bool,
}

/// Steps of the process. Cheap to clone; any thread.
#[derive(Debug, Clone)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: watch::Sender<Phase>,
    health_failed: AtomicBool,
    drains: watch::Sender<Drains>,
    /// [`Drains::goodbye`] as responses ask for it.
    goodbye: AtomicU8,
    /// Open downstream connections of all workers.
    connections: AtomicU64,
    idle: tokio::sync::Notify,
}

/// Nobody, the inbound listeners', or all responses say goodbye.
const SILENT: u8 = 0;
const INBOUND: u8 = 1;
const EVERYWHERE: u8 = 2;

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown {
            inner: Arc::new(Inner {
                phase: watch::Sender::new(Phase::PreInitializing),
                health_failed: AtomicBool::new(false),
                drains: watch::Sender::default(),
                goodbye: AtomicU8::new(SILENT),
                connections: AtomicU64::new(0),
                idle: tokio::sync::Notify::new(),
            }),
        }
    }
}

impl Shutdown {
    pub fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// Tells of each step.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.inner.phase.send_if_modified(|current| {
            let moved = *current < phase;
            if moved {
                *current = phase;
            }
            moved
        });
    }

    /// Tells of each step of draining.
    pub fn drains(&self) -> watch::Receiver<Drains> {
        self.inner.drains.subscribe()
    }

    /// `/drain_listeners`: no new connections, existing ones go away as they finish. The process stays, and is ready.
    pub fn drain_listeners(&self, which: Which) {
        self.inner.drains.send_modify(|drains| drains.closed = drains.closed.max(Some(which)));
    }

    /// `/drain_listeners?graceful`: responses say goodbye, and after the drain time it is [`Shutdown::drain_listeners`]; with `stay`
    /// (`skip_exit`) the listeners stay.
    pub fn drain_gracefully(&self, which: Which, stay: bool) {
        let first = self.inner.drains.send_if_modified(|drains| {
            let first = drains.goodbye.is_none();
            drains.goodbye.get_or_insert(Goodbye { which, then_close: !stay });
            first
        });
        if first {
            self.inner.goodbye.store(if which == Which::All { EVERYWHERE } else { INBOUND }, Relaxed);
        }
    }

    /// Whether a response is to say goodbye (`connection: close`, GOAWAY): of an inbound listener or another, and of one that
    /// drains only when it is modified.
    #[inline]
    pub fn says_goodbye(&self, inbound: bool, modify_only: bool) -> bool {
        self.is_health_failed() && !modify_only
            || match self.inner.goodbye.load(Relaxed) {
                SILENT => false,
                INBOUND => inbound,
                _ => true,
            }
    }

    /// First SIGTERM or SIGINT: drain, wait for the last request within the drain time, exit.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// `/quitquitquit` and the second signal: exit at once.
    pub fn quit(&self) {
        self.advance(Phase::Exit);
    }

    /// `/healthcheck/fail` and `/healthcheck/ok`.
    pub fn set_health_failed(&self, failed: bool) {
        self.inner.health_failed.store(failed, Relaxed);
        // Whoever shows the state looks again.
        self.inner.phase.send_modify(|_| {});
    }

    /// Whether health checks are to fail and responses to say goodbye (`connection: close`), because somebody asked for it.
    #[inline]
    pub fn is_health_failed(&self) -> bool {
        self.inner.health_failed.load(Relaxed)
    }

    /// Counts one connection until the value is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.inner.connections.fetch_add(1, Relaxed);
        OpenConnection(self.inner.clone())
    }

    /// Open downstream connections of the process.
    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Relaxed)
    }

    /// Waits until no downstream connection is open.
    pub async fn all_closed(&self) {
        loop {
            let notified = self.inner.idle.notified();
            if self.connections() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// One open downstream connection.
#[derive(Debug)]
pub struct OpenConnection(Arc<Inner>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_never_go_back() {
        let shutdown = Shutdown::default();
        shutdown.stop();
        shutdown.advance(Phase::Live);
        assert_eq!(shutdown.phase(), Phase::Stopping);
    }

    #[test]
    fn a_graceful_drain_is_begun_once_and_a_closed_listener_stays_closed() {
        let shutdown = Shutdown::default();
        shutdown.drain_gracefully(Which::Inbound, true);
        shutdown.drain_gracefully(Which::All, false);
        assert!(shutdown.says_goodbye(true, true) && !shutdown.says_goodbye(false, false));
        shutdown.drain_listeners(Which::All);
        shutdown.drain_listeners(Which::Inbound);
        let goodbye = Some(Goodbye { which: Which::Inbound, then_close: false });
        assert_eq!(*shutdown.drains().borrow(), Drains { goodbye, closed: Some(Which::All) });
    }

    #[test]
    fn failed_health_is_no_goodbye_where_listeners_drain_only_when_modified() {
        let shutdown = Shutdown::default();
        shutdown.set_health_failed(true);
        assert!(shutdown.says_goodbye(false, false) && !shutdown.says_goodbye(true, true));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_connection() {
        let shutdown = Shutdown::default();
        let (a, b) = (shutdown.connection(), shutdown.connection());
        let waiter = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.all_closed().await }
        });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(b);
        assert!(waiter.await.is_ok());
    }
}
