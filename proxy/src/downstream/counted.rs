//! The count of a connection, from when it is accepted to its end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::listener::Listener;
use super::stats::{ListenerStats, WorkerConnectionStats};
use crate::shutdown::OpenConnection;
use crate::worker::Worker;

/// A connection that was accepted: the process waits for its end.
pub(super) struct Accepted {
    pub(super) start: Instant,
    pub(super) open: OpenConnection,
}

/// Counts an open connection of the listener, from when its chain is known.
pub(super) struct Counted {
    stats: Arc<ListenerStats>,
    own_stats: Arc<WorkerConnectionStats>,
    pub(super) start: Instant,
    worker: Rc<Worker>,
    _open: OpenConnection,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stats.downstream_cx_active.dec();
        self.own_stats.downstream_cx_active.dec();
        self.stats.downstream_cx_destroy.inc();
        let lasted = self.worker.local.clock.now().saturating_duration_since(self.start);
        self.stats.downstream_cx_length_ms.record_duration(lasted);
    }
}

impl Counted {
    pub(super) fn new(listener: &Listener, accepted: Accepted) -> Self {
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_cx_active.inc();
        listener.own_stats.downstream_cx_total.inc();
        listener.own_stats.downstream_cx_active.inc();
        let Accepted { start, open } = accepted;
        let (stats, own_stats) = (listener.stats.clone(), listener.own_stats.clone());
        Counted { stats, own_stats, start, _open: open, worker: listener.worker.clone() }
    }
}
