//! Puts snapshots in force: upstream first, then the swap, then listeners, so that nobody sees a route to what is not there.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::diff::diff;
use sidemesh_config::resource::listener::{Listener, TrafficDirection};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;

use super::certificates::Certificates;
use super::workers::Workers;
use crate::downstream::Sockets;
use crate::shutdown::Which;
use crate::upstream;
use crate::worker::Shared;
use crate::xds::{Host, ListenerManagerStats};

/// The composition root's side of the configuration manager.
pub struct Installer {
    pub shared: Shared,
    pub sockets: Rc<RefCell<Sockets>>,
    pub workers: Rc<Workers>,
    pub upstream: Rc<upstream::Control>,
    pub stats: Arc<ListenerManagerStats>,
    /// Set once no listener, or no inbound one, is to be opened any more.
    pub closed: Rc<Cell<Option<Which>>>,
    pub certificates: Rc<RefCell<Certificates>>,
}

impl Host for Installer {
    fn reserve(&mut self, listener: &Arc<Listener>) -> Result<(), String> {
        let result = self.sockets.borrow_mut().reserve(listener).map_err(|e| e.to_string());
        if result.is_err() { &self.stats.listener_create_failure } else { &self.stats.listener_create_success }.inc();
        result
    }

    fn retain(&mut self, listeners: &[Arc<Listener>]) {
        self.sockets.borrow_mut().retain(listeners.iter().map(|l| &**l));
    }

    fn publish(&mut self, mut snapshot: Snapshot) {
        let before = self.shared.live.load();
        snapshot.generation = before.generation + 1;
        self.upstream.reconcile(&snapshot);
        self.certificates.borrow_mut().follow(&before, &snapshot);
        let now = self.shared.live.publish(snapshot);
        let changes = diff(&before, &now).listeners;
        for name in &changes.removed {
            self.workers.remove(name);
            self.stats.listener_removed.inc();
            tracing::info!(listener = %name, "listener removed; its connections drain");
        }
        for name in &changes.added {
            self.stats.listener_added.inc();
            self.open(&now, name);
        }
        for name in &changes.changed {
            self.stats.listener_modified.inc();
            let (old, new) = (before.listeners.get(name), now.listeners.get(name));
            if old.zip(new).is_some_and(|(old, new)| old.differs_in_chains_alone(new)) {
                self.stats.listener_in_place_updated.inc();
            }
            self.open(&now, name);
        }
        self.stats.total_listeners_active.set(now.listeners.len() as i64);
    }

    fn clusters_ready(&self, names: Vec<Name>) -> Pin<Box<dyn Future<Output = ()>>> {
        let upstream = self.upstream.clone();
        Box::pin(async move { upstream.ready(&names).await })
    }
}

impl Installer {
    fn open(&self, snapshot: &Snapshot, name: &Name) {
        let Some(listener) = snapshot.listeners.get(name) else { return };
        match self.closed.get() {
            Some(Which::All) => return,
            Some(Which::Inbound) if listener.direction == TrafficDirection::Inbound => return,
            _ => {}
        }
        match self.sockets.borrow_mut().open(listener) {
            Ok(sockets) => {
                self.workers.put(listener, sockets);
                tracing::info!(listener = %name, address = %listener.address, "listening");
            }
            Err(error) => tracing::error!(listener = %name, address = %listener.address, %error, "cannot listen"),
        }
    }
}

/// Checks a configuration without binding or publishing anything (`--mode validate`).
pub struct Validator;

impl Host for Validator {
    fn reserve(&mut self, _listener: &Arc<Listener>) -> Result<(), String> {
        Ok(())
    }
    fn retain(&mut self, _listeners: &[Arc<Listener>]) {}
    fn publish(&mut self, _snapshot: Snapshot) {}
    fn clusters_ready(&self, _names: Vec<Name>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
}
