//! The downstream stage: sockets, first bytes, filter chains.
//!
//! The control thread binds ([`Sockets`]); each worker accepts on its own sockets, finds out what a connection is
//! (original destination, PROXY protocol, TLS, HTTP), chooses the filter chain, terminates TLS and hands over to `http` or
//! `tcp`. Invariant: a change of configuration never touches a connection whose chain did not change.

mod accept;
mod chain;
mod counted;
pub mod detect;
mod listener;
mod log;
mod original_dst;
pub mod proxy_protocol;
mod sockets;
mod stats;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::listener::Listener as Config;
use sidemesh_config::value::{Address, Name};

pub use sockets::{BindError, Sockets};
pub use stats::{ListenerStats, WorkerConnectionStats};

use crate::telemetry::stats::Scope;
use crate::upstream::Upstream;
use crate::worker::Worker;
use chain::Chain;
use listener::Listener;
use stats::DrainStats;

/// How often draining chains are looked at.
const DRAIN_POLL: Duration = Duration::from_millis(250);

/// All listeners of one worker.
pub struct Listeners {
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
    /// How long connections of a listener or chain that is gone may last.
    drain_time: Duration,
    draining: Arc<DrainStats>,
    active: RefCell<BTreeMap<Name, Rc<Listener>>>,
    /// Chains that are configured no more and may have connections still.
    dropped: RefCell<Vec<Weak<Chain>>>,
}

/// A listener as `/listeners` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerView {
    pub name: Name,
    pub addresses: Vec<SocketAddr>,
    pub connections: usize,
}

impl Listeners {
    pub fn new(worker: Rc<Worker>, upstream: Rc<Upstream>, drain_time: Duration) -> Rc<Self> {
        let draining = worker.stats().shard(Scope::Fixed("listener_manager"));
        Rc::new(Listeners {
            worker,
            upstream,
            drain_time,
            draining,
            active: RefCell::default(),
            dropped: RefCell::default(),
        })
    }

    /// Adds a listener or changes it; `sockets` are all it accepts on.
    pub fn put(self: &Rc<Self>, config: Arc<Config>, sockets: Vec<std::net::TcpListener>) {
        let known = self.active.borrow().get(&config.name).cloned();
        let listener = match known {
            Some(listener) => {
                let whole = !listener.version().config.differs_in_chains_alone(&config);
                let dropped = listener.update(config, &self.upstream);
                self.drain_chains(dropped, whole);
                listener
            }
            None => {
                let listener = Listener::new(config.clone(), &self.worker, &self.upstream, Rc::downgrade(self));
                self.active.borrow_mut().insert(config.name.clone(), listener.clone());
                listener
            }
        };
        if let Err(error) = listener.listen(sockets) {
            tracing::error!(listener = %listener.name, %error, "the worker cannot accept on a socket of the listener");
        }
    }

    /// Stops a listener; its connections drain.
    pub fn remove(&self, name: &str) {
        let removed = self.active.borrow_mut().remove(name);
        if let Some(listener) = removed {
            listener.stop_accepting();
            listener.close_unfinished();
            self.drain_chains(listener.version().chains().cloned().collect(), true);
        }
    }

    /// Stops all listeners (of a direction) and drains; `close_idle`: connections without a request in flight are closed now.
    pub fn drain(&self, inbound_only: bool, close_idle: bool) {
        use sidemesh_config::resource::listener::TrafficDirection::Inbound;
        for listener in self.active.borrow().values() {
            let version = listener.version();
            if inbound_only && version.config.direction != Inbound {
                continue;
            }
            listener.stop_accepting();
            if close_idle {
                listener.close_unfinished();
            }
            version.chains().for_each(|c| if close_idle { c.close_idle() } else { c.start_drain() });
        }
        if close_idle {
            self.dropped.borrow().iter().filter_map(Weak::upgrade).for_each(|c| c.close_idle());
        }
    }

    pub fn view(&self) -> Vec<ListenerView> {
        let view = |l: &Rc<Listener>| ListenerView {
            name: l.name.clone(),
            addresses: l.addresses(),
            connections: l.connections(),
        };
        self.active.borrow().values().map(view).collect()
    }

    /// The listener for an original destination: of that very address, else of its port on all addresses.
    fn for_destination(&self, destination: SocketAddr) -> Option<Rc<Listener>> {
        let active = self.active.borrow();
        let at = |wanted: SocketAddr| {
            let is = |l: &&Rc<Listener>| {
                let config = &l.version().config;
                std::iter::once(&config.address)
                    .chain(&config.additional_addresses)
                    .any(|a| *a == Address::Socket(wanted))
            };
            active.values().find(is).cloned()
        };
        at(destination).or_else(|| {
            let any: std::net::IpAddr = match destination {
                SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            at(SocketAddr::new(any, destination.port()))
        })
    }

    /// Tells the connections of these chains to go away, and ends what is left of them when the drain time is over.
    fn drain_chains(&self, chains: Vec<Rc<Chain>>, whole_listener: bool) {
        chains.iter().for_each(|c| c.start_drain());
        self.count_draining(chains.len(), whole_listener);
        let open: Vec<_> = chains.into_iter().filter(|c| c.connections() > 0).collect();
        if !open.is_empty() {
            let mut dropped = self.dropped.borrow_mut();
            dropped.retain(|c| c.strong_count() > 0);
            dropped.extend(open.iter().map(Rc::downgrade));
            tokio::task::spawn_local(drain_after(open, self.worker.clone(), self.drain_time));
        }
    }

    /// Shows for the drain time what drains: a listener that goes as a whole, or chains. One of the workers counts.
    fn count_draining(&self, chains: usize, whole_listener: bool) {
        if self.worker.index != 0 || chains == 0 && !whole_listener {
            return;
        }
        let (stats, time) = (self.draining.clone(), self.drain_time);
        tokio::task::spawn_local(async move {
            let (gauge, count) = match whole_listener {
                true => (&stats.total_listeners_draining, 1),
                false => (&stats.total_filter_chains_draining, chains as i64),
            };
            gauge.add(count);
            tokio::time::sleep(time).await;
            gauge.add(-count);
        });
    }
}

/// Waits until the chains have no connection left, at most `time`; then ends what is left.
async fn drain_after(chains: Vec<Rc<Chain>>, worker: Rc<Worker>, time: Duration) {
    let end = worker.local.clock.now() + time;
    while chains.iter().any(|c| c.connections() > 0) {
        let now = worker.local.clock.now();
        if now >= end {
            break;
        }
        tokio::time::sleep(DRAIN_POLL.min(end - now)).await;
    }
    chains.iter().for_each(|c| c.abort());
}

#[cfg(test)]
mod tests;
