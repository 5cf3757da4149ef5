//! What one worker thread lends to everything that runs on it.
//!
//! A worker is a current-thread runtime with its own clock, timers, random numbers, buffers and counters; nothing here is
//! shared with another worker except by reading. The upstream side (`upstream::Upstream`) stands beside it, not in it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sidemesh_config::value::{Label, Locality};

use crate::clock::Random;
use crate::codec::Local;
use crate::live::{Current, Live, Reader};
use crate::shutdown::Shutdown;
use crate::telemetry::access_log::Logger;
use crate::telemetry::stats::Registry;
use crate::telemetry::trace::export::SpanSender;

/// What all threads of the process share.
#[derive(Clone)]
pub struct Shared {
    pub live: Arc<Live>,
    pub stats: Arc<Registry>,
    pub shutdown: Shutdown,
    pub node: Arc<Node>,
    connection_ids: Arc<AtomicU64>,
    /// State that all workers share, by the configuration it belongs to.
    common: Arc<Mutex<HashMap<(TypeId, usize), Weak<Common>>>>,
}

/// The configuration is kept with its state, so that its address stays its own.
type Common = (Arc<dyn Any + Send + Sync>, Arc<dyn Any + Send + Sync>);

/// State that all workers share (a token bucket, a connection count), alive while one of them uses it.
#[derive(Debug)]
pub struct SharedState<T> {
    state: Arc<T>,
    _entry: Arc<Common>,
}

impl<T> std::ops::Deref for SharedState<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.state
    }
}

/// Who this proxy is (`node` of the bootstrap, with the command line's overrides).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    pub id: Label,
    pub cluster: Label,
    pub locality: Locality,
}

impl Shared {
    pub fn new(live: Arc<Live>, stats: Arc<Registry>, shutdown: Shutdown, node: Arc<Node>) -> Self {
        Shared { live, stats, shutdown, node, connection_ids: Arc::new(AtomicU64::new(1)), common: Arc::default() }
    }

    /// The state of a piece of configuration, the same for all workers: made by the first to ask. Takes a lock: for
    /// when a filter chain is set up, never per request.
    pub fn state_of<K, T>(&self, config: &Arc<K>, make: impl FnOnce() -> T) -> SharedState<T>
    where
        K: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        let key = (TypeId::of::<T>(), Arc::as_ptr(config) as usize);
        let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = common.get(&key).and_then(Weak::upgrade)
            && let Ok(state) = entry.1.clone().downcast::<T>()
        {
            return SharedState { state, _entry: entry };
        }
        common.retain(|_, entry| entry.strong_count() > 0);
        let state = Arc::new(make());
        let entry: Arc<Common> = Arc::new((config.clone(), state.clone()));
        common.insert(key, Arc::downgrade(&entry));
        SharedState { state, _entry: entry }
    }
}

/// The context of one worker thread, always behind an [`Rc`].
pub struct Worker {
    /// 0-based.
    pub index: usize,
    /// How many workers there are: limits that are sharded divide by it.
    pub count: usize,
    pub shared: Shared,
    pub local: Local,
    /// All access logs.
    pub log: Rc<Logger>,
    /// Finished spans go here.
    pub spans: SpanSender,
    live: Reader,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).field("count", &self.count).finish()
    }
}

impl Worker {
    /// Called on the worker's own thread, inside its runtime.
    pub fn new(index: usize, count: usize, shared: Shared, log: Rc<Logger>, spans: SpanSender) -> Rc<Self> {
        let live = Reader::new(shared.live.clone());
        Rc::new(Worker { index, count, shared, local: Local::new(Random::from_entropy()), log, spans, live })
    }

    /// The configuration in force: take it once per request or connection.
    #[inline]
    pub fn config(&self) -> Current {
        self.live.load()
    }

    /// All counters of the process; make shards when a cluster, listener or filter is set up, never per request.
    pub fn stats(&self) -> &Registry {
        &self.shared.stats
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shared.shutdown
    }

    /// The next connection id (`%CONNECTION_ID%`), unique in the process.
    pub fn next_connection_id(&self) -> u64 {
        self.shared.connection_ids.fetch_add(1, Relaxed)
    }

    /// This worker's share of a limit that holds for the process: rounded up, so that a limit of 1 lets one through per worker.
    pub fn share_of(&self, limit: u64) -> u64 {
        limit.div_ceil(self.count.max(1) as u64)
    }
}
