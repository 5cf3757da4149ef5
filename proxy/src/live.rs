//! The one place where configuration is swapped: [`Live`] on the control thread, a [`Reader`] per worker.
//!
//! A request or connection takes the snapshot once ([`Reader::load`]) and uses it to its end. That costs one load of a
//! word that is only written when the configuration changes, and a non-atomic reference count: workers share no counter
//! on the request path. Nothing here knows what is in a snapshot.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;
use tokio::sync::{mpsc, watch};

/// The configuration in force, for all threads.
#[derive(Debug)]
pub struct Live {
    current: ArcSwap<Snapshot>,
    /// `current`'s generation, written after it: a reader that sees a new number finds the new snapshot.
    generation: AtomicU64,
    changed: watch::Sender<u64>,
    /// Where virtual hosts are asked for on demand; set once, at the start.
    demands: OnceLock<mpsc::Sender<Name>>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(Snapshot::default())
    }
}

impl Live {
    /// Starts with `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        let generation = snapshot.generation;
        Live {
            current: ArcSwap::from_pointee(snapshot),
            generation: AtomicU64::new(generation),
            changed: watch::Sender::new(generation),
            demands: OnceLock::new(),
        }
    }

    /// The snapshot in force. For the control thread; workers have a [`Reader`].
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts `snapshot` in force as the next generation and wakes who watches. One writer: the control thread.
    pub fn publish(&self, mut snapshot: Snapshot) -> Arc<Snapshot> {
        snapshot.generation = self.generation.load(Ordering::Relaxed) + 1;
        let generation = snapshot.generation;
        let snapshot = Arc::new(snapshot);
        self.current.store(snapshot.clone());
        self.generation.store(generation, Ordering::Release);
        self.changed.send_replace(generation);
        snapshot
    }

    /// Requests for virtual hosts go to `demands` from now on.
    pub fn take_demands(&self, demands: mpsc::Sender<Name>) {
        // There is one manager.
        let _ = self.demands.set(demands);
    }

    /// Asks for the virtual host `<table>/<host>`. It shows, or its absence, in a later snapshot. A demand that finds the queue full is
    /// dropped: the next request asks again.
    pub fn demand(&self, name: &Name) {
        if let Some(demands) = self.demands.get() {
            let _ = demands.try_send(name.clone());
        }
    }

    /// Tells of each new generation; intermediate ones may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A snapshot as a request holds it. Cloning is a plain increment, local to the worker.
#[derive(Debug, Clone)]
pub struct Current(Rc<Held>);

/// The worker's own reference, counted apart from those of the others.
#[derive(Debug)]
struct Held(Arc<Snapshot>);

impl Current {
    /// The shared snapshot, for whoever must outlive the worker's thread.
    pub fn shared(&self) -> &Arc<Snapshot> {
        &self.0.0
    }
}

impl From<Arc<Snapshot>> for Current {
    fn from(snapshot: Arc<Snapshot>) -> Self {
        Current(Rc::new(Held(snapshot)))
    }
}

impl Deref for Current {
    type Target = Snapshot;
    fn deref(&self) -> &Snapshot {
        &self.0.0
    }
}

/// A worker's view of [`Live`].
#[derive(Debug)]
pub struct Reader {
    live: Arc<Live>,
    cached: RefCell<Current>,
}

impl Reader {
    pub fn new(live: Arc<Live>) -> Self {
        let cached = RefCell::new(live.load().into());
        Reader { live, cached }
    }

    /// The snapshot in force.
    #[inline]
    pub fn load(&self) -> Current {
        let cached = self.cached.borrow();
        if cached.generation == self.live.generation.load(Ordering::Acquire) {
            return cached.clone();
        }
        drop(cached);
        let fresh = Current::from(self.live.load());
        *self.cached.borrow_mut() = fresh.clone();
        fresh
    }

    /// See [`Live::subscribe`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.live.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_each_published_snapshot_and_keeps_what_it_took() {
        let live = Arc::new(Live::default());
        let reader = Reader::new(live.clone());
        let before = reader.load();
        live.publish(Snapshot { revision: Some("r7".into()), ..Snapshot::default() });
        let after = reader.load();
        assert_eq!((before.generation, before.revision.as_deref()), (0, None));
        assert_eq!((after.generation, after.revision.as_deref()), (1, Some("r7")));
    }

    #[test]
    fn watchers_hear_of_the_last_generation() {
        let live = Live::default();
        let mut seen = live.subscribe();
        live.publish(Snapshot::default());
        live.publish(Snapshot::default());
        assert!(seen.has_changed().unwrap_or(false));
        assert_eq!(*seen.borrow_and_update(), 2);
    }
}
