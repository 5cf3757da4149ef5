//! The life of the process: initializing, live, draining, gone; and who may move it on.
//!
//! [`Shutdown`] is the one value that signals, the admin interface and the listeners share. It decides nothing about
//! connections: `app` turns its steps into commands for the workers, and responses ask [`Shutdown::is_health_failed`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Static clusters are not warm yet.
    PreInitializing,
    /// Waiting for the first answers of the management server.
    Initializing,
    Live,
    /// Responses say goodbye; listeners stay open, for the drain time.
    Graceful,
    /// Listeners are closing; connections are told to go away at their next response.
    Draining,
    /// Waiting for the last request, within the drain time.
    Stopping,
    /// Now.
    Exit,
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
    goodbye: AtomicBool,
    /// Open downstream connections of all workers.
    connections: AtomicU64,
    idle: tokio::sync::Notify,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown {
            inner: Arc::new(Inner {
                phase: watch::Sender::new(Phase::PreInitializing),
                health_failed: AtomicBool::new(false),
                goodbye: AtomicBool::new(false),
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

    /// `/drain_listeners`: no new connections, existing ones go away as they finish. The process stays.
    pub fn drain_listeners(&self) {
        self.advance(Phase::Draining);
    }

    /// `/drain_listeners?graceful`: responses say goodbye, and after the drain time it is [`Shutdown::drain_listeners`]; with `stay`
    /// (`skip_exit`) the listeners stay.
    pub fn drain_gracefully(&self, stay: bool) {
        self.inner.goodbye.store(true, Relaxed);
        if !stay {
            self.advance(Phase::Graceful);
        }
    }

    /// Whether responses are to say goodbye (`connection: close`, GOAWAY) everywhere but where listeners only drain when they are modified.
    #[inline]
    pub fn says_goodbye(&self) -> bool {
        self.is_health_failed() || self.inner.goodbye.load(Relaxed)
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
    }

    /// Whether health checks are to fail and responses to say goodbye (`connection: close`), because somebody asked for it.
    #[inline]
    pub fn is_health_failed(&self) -> bool {
        self.inner.health_failed.load(Relaxed)
    }

    /// Whether a load balancer should stop sending: drained, stopping or told to fail.
    pub fn is_failing(&self) -> bool {
        self.is_health_failed() || self.phase() >= Phase::Draining
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
        assert!(shutdown.is_failing());
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
