//! `connection_limit.v3.ConnectionLimit`: open connections of a filter chain, counted over all workers.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sidemesh_config::resource::network_filter::ConnectionLimit as Config;

use super::Denied;
use crate::stats_group;
use crate::worker::{SharedState, Worker};

stats_group! {
    /// `connection_limit.PREFIX.`
    pub struct ConnectionLimitStats {
        active_connections: Gauge,
        limited_connections: Counter,
    }
}

/// Open connections of the chain, in the process.
#[derive(Debug, Default)]
struct Open(AtomicU64);

pub struct ConnectionLimit {
    config: Arc<Config>,
    open: Rc<SharedState<Open>>,
    stats: Arc<ConnectionLimitStats>,
}

/// One connection that was let in; gives its place back when dropped.
pub struct Permit {
    open: Rc<SharedState<Open>>,
    stats: Arc<ConnectionLimitStats>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Relaxed);
        self.stats.active_connections.dec();
    }
}

impl ConnectionLimit {
    pub(super) fn new(config: &Arc<Config>, worker: &Rc<Worker>) -> Self {
        ConnectionLimit {
            open: Rc::new(worker.shared.state_of(config, Open::default)),
            stats: worker.stats().shard(super::scope("connection_limit", &config.stat_prefix)),
            config: config.clone(),
        }
    }

    pub(super) fn check(&self, worker: &Worker) -> Result<Option<Permit>, Denied> {
        if let Some((default, key)) = &self.config.enabled
            && !worker.config().runtime.boolean(key).unwrap_or(*default)
        {
            return Ok(None);
        }
        let below = |open: u64| (open < self.config.max_connections).then_some(open + 1);
        if self.open.0.fetch_update(Relaxed, Relaxed, below).is_err() {
            self.stats.limited_connections.inc();
            return Err(Denied { details: "connection_limit".to_owned(), delay: self.config.delay });
        }
        self.stats.active_connections.inc();
        Ok(Some(Permit { open: self.open.clone(), stats: self.stats.clone() }))
    }
}
