//! The connections of one worker to one host.
//!
//! Kept apart by what must not be shared ([`Key`]): priority, server name, negotiated or forced protocol, addresses told in a PROXY
//! header. HTTP/1 connections idle last-in-first-out and go straight from who is done to who waits longest; HTTP/2 connections are
//! shared by streams, and only one is dialled at a time. Whoever needs a connection dials it in its own future: dropping that future
//! ends the dialling and lets the next in line try.

mod guard;
mod idle;
mod lease;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Instant;

use sidemesh_config::resource::route::Priority;
use sidemesh_config::value::Name;
use tokio::sync::{Notify, oneshot};

use super::error::AttemptError;
use super::host::Host;
use crate::codec::{h1, h2};
use crate::connection::ConnectionInfo;
pub use guard::ConnectionGuard;
pub(super) use guard::Opened;
use idle::Idle;
pub(super) use lease::{Exchange, Http1Release, Lease, SharedRelease};

/// Idle HTTP/1 connections kept per pool; the longest idle one is closed when there are more.
pub const MAX_IDLE: usize = 1024;
/// Requests that wait in one pool, whatever `max_pending_requests` allows in total.
pub const MAX_WAITERS: usize = 65_536;

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Http1,
    Http2,
    /// What ALPN says.
    Auto,
}

/// What connections of one pool have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub priority: Priority,
    pub mode: Mode,
    pub server_name: Option<Name>,
    /// Client and destination in a PROXY protocol header.
    pub told: Option<(SocketAddr, SocketAddr)>,
    /// The only client whose requests it carries (`connection_pool_per_downstream_connection`).
    pub client: Option<Client>,
}

/// A downstream connection that pools are kept for; held weakly, so that they end with it.
#[derive(Debug, Clone)]
pub struct Client(Weak<ConnectionInfo>);

impl Client {
    pub fn new(connection: &Rc<ConnectionInfo>) -> Self {
        Client(Rc::downgrade(connection))
    }

    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for Client {}

/// All pools to one host.
#[derive(Default)]
pub struct HostPools {
    pools: RefCell<Vec<(Key, Rc<Pool>)>>,
    /// Notified when the host's TCP sessions are to end.
    pub(super) failure: Rc<Notify>,
}

impl HostPools {
    /// The pool for `key`, made when it is not there.
    pub fn get(&self, key: Key) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(k, _)| *k == key) {
            return pool.clone();
        }
        let pool = Rc::new(Pool::new(key.mode));
        pools.push((key, pool.clone()));
        pool
    }

    /// Closes what idles; what is in use closes when it is done.
    pub fn close(&self) {
        for (_, pool) in self.pools.borrow_mut().drain(..) {
            pool.close();
        }
    }

    /// Closes idle connections that are over their time, and forgets pools without any. Whether anything is left.
    pub fn sweep(&self, now: Instant, limits: &Limits) -> bool {
        let mut pools = self.pools.borrow_mut();
        pools.retain(|(key, pool)| {
            let orphaned = key.client.as_ref().is_some_and(Client::is_gone);
            if orphaned {
                pool.close();
            }
            pool.sweep(now, limits) && !orphaned
        });
        !pools.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.pools.borrow().is_empty()
    }
}

/// How long connections last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub idle: Option<std::time::Duration>,
    pub duration: Option<std::time::Duration>,
    pub requests: Option<u64>,
}

/// What a waiting request is given.
pub(super) enum Handover {
    Connection(Box<Idle>),
    /// Look again: there may be room for a stream, or for a new connection.
    Look,
    Failed(AttemptError),
}

/// Connections that may stand in for each other.
pub struct Pool {
    /// What was asked for, or what ALPN gave once it has.
    pub(super) mode: Cell<Mode>,
    idle: RefCell<Vec<Idle>>,
    /// The lowest number of idle ones since the last trim: so many were not needed.
    unneeded: Cell<usize>,
    trimmed: Cell<Option<Instant>>,
    shared: RefCell<Vec<Shared>>,
    waiters: RefCell<VecDeque<oneshot::Sender<Handover>>>,
    /// Connections, also those being dialled.
    live: Cell<usize>,
    dialling: Cell<bool>,
    /// Connections being dialled, and about to be.
    connecting: Cell<usize>,
    /// Requests without a connection.
    pending: Cell<usize>,
    closed: Cell<bool>,
}

/// One HTTP/2 connection.
pub(super) struct Shared {
    pub(super) connection: h2::client::Connection,
    pub(super) guard: Rc<ConnectionGuard>,
    pub(super) idle_since: Option<Instant>,
}

impl Pool {
    fn new(mode: Mode) -> Self {
        Pool {
            mode: Cell::new(mode),
            idle: RefCell::default(),
            unneeded: Cell::new(0),
            trimmed: Cell::new(None),
            shared: RefCell::default(),
            waiters: RefCell::default(),
            live: Cell::new(0),
            dialling: Cell::new(false),
            connecting: Cell::new(0),
            pending: Cell::new(0),
            closed: Cell::new(false),
        }
    }

    pub(super) fn live(&self) -> usize {
        self.live.get()
    }

    /// Whether more connections are wanted for requests that are waiting, under way and, by `ratio`, to come (the formula is
    /// Envoy's), when `planned` are about to be made.
    pub(super) fn wants_more(&self, ratio: f64, planned: usize) -> bool {
        let spare = self.idle.borrow().len() + self.connecting.get();
        let active = self.live.get().saturating_sub(spare);
        (self.pending.get() + active) as f64 * ratio > (spare + planned + active) as f64
    }

    /// Counts a request without a connection, until it has one.
    pub(super) fn count_pending(&self) -> NoLonger<'_> {
        self.pending.set(self.pending.get() + 1);
        NoLonger(&self.pending)
    }

    /// Counts a connection that a task is about to dial, until it does.
    pub(super) fn count_planned(self: &Rc<Self>) -> Planned {
        self.connecting.set(self.connecting.get() + 1);
        self.live.set(self.live.get() + 1);
        Planned(self.clone())
    }

    pub(super) fn is_dialling(&self) -> bool {
        self.dialling.get()
    }

    /// Stands in line.
    pub(super) fn wait(&self) -> Option<Turn<'_>> {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() == waiters.capacity() || waiters.len() >= MAX_WAITERS {
            // Who has gone away does not count, and takes no room.
            waiters.retain(|waiter| !waiter.is_closed());
        }
        if waiters.len() >= MAX_WAITERS {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiters.push_back(sender);
        Some(Turn { pool: self, receiver })
    }

    /// Has the first in line look again.
    pub(super) fn wake_one(&self) {
        loop {
            let next = self.waiters.borrow_mut().pop_front();
            let Some(waiter) = next else { return };
            if waiter.send(Handover::Look).is_ok() {
                return;
            }
        }
    }

    /// Tells all in line.
    pub(super) fn tell_all(&self, what: impl Fn() -> Handover) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            // Who has gone away needs no telling.
            let _ = waiter.send(what());
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        for shared in self.shared.borrow_mut().drain(..) {
            shared.connection.retire();
        }
        self.tell_all(|| Handover::Look);
    }

    /// An HTTP/1 connection that is free again.
    pub(super) fn give(
        &self,
        connection: h1::client::Connection,
        guard: ConnectionGuard,
        now: Instant,
        limits: &Limits,
    ) {
        if self.closed.get() || guard.is_spent(now, connection.requests(), limits) {
            return;
        }
        let mut idle = Idle { connection, guard, since: now };
        loop {
            let Some(waiter) = self.waiters.borrow_mut().pop_front() else { break };
            match waiter.send(Handover::Connection(Box::new(idle))) {
                Ok(()) => return,
                Err(Handover::Connection(back)) => idle = *back,
                Err(_) => return,
            }
        }
        let surplus = {
            let mut all = self.idle.borrow_mut();
            all.push(idle);
            (all.len() > MAX_IDLE).then(|| all.remove(0))
        };
        drop(surplus);
    }
}

/// A place in line. Whoever leaves it when already called passes the call on: nobody else may be called otherwise.
pub(super) struct Turn<'a> {
    pool: &'a Pool,
    receiver: oneshot::Receiver<Handover>,
}

impl Turn<'_> {
    pub(super) async fn comes(mut self) -> Handover {
        (&mut self.receiver).await.unwrap_or(Handover::Look)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        // A connection that was handed over is closed with the message, and its end wakes the next.
        if let Ok(Handover::Look) = self.receiver.try_recv() {
            self.pool.wake_one();
        }
    }
}

/// Takes one off a count when dropped.
pub(super) struct NoLonger<'a>(&'a Cell<usize>);

impl Drop for NoLonger<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection that is about to be dialled.
pub(super) struct Planned(Rc<Pool>);

impl Drop for Planned {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        self.0.live.set(self.0.live.get() - 1);
    }
}

/// Says that a connection is being dialled; when dropped without one, the next in line may try.
pub(super) struct Dialling<'a> {
    pool: &'a Pool,
    host: Rc<Host>,
    exclusive: bool,
    failed: bool,
}

impl<'a> Dialling<'a> {
    pub(super) fn new(pool: &'a Pool, host: Rc<Host>, exclusive: bool) -> Self {
        pool.live.set(pool.live.get() + 1);
        pool.connecting.set(pool.connecting.get() + 1);
        host.counters().cx_dialling.inc();
        if exclusive {
            pool.dialling.set(true);
        }
        Dialling { pool, host, exclusive, failed: true }
    }
}

impl Dialling<'_> {
    /// There is a connection. Who waited for this one alone looks again; who waits in line for any is served when one comes free.
    pub(super) fn succeeded(mut self) {
        self.failed = false;
        if self.exclusive {
            self.pool.dialling.set(false);
            self.pool.tell_all(|| Handover::Look);
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.pool.live.set(self.pool.live.get() - 1);
        self.pool.connecting.set(self.pool.connecting.get() - 1);
        self.host.counters().cx_dialling.dec();
        if self.exclusive {
            self.pool.dialling.set(false);
        }
        if self.failed {
            self.pool.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_after_the_call_passes_it_on() {
        let pool = Pool::new(Mode::Http1);
        let (first, mut second) = (pool.wait().expect("room"), pool.wait().expect("room"));
        pool.wake_one();
        drop(first);
        assert!(matches!(second.receiver.try_recv(), Ok(Handover::Look)));
    }

    #[test]
    fn who_has_left_takes_no_room_in_the_line() {
        let pool = Pool::new(Mode::Http1);
        let kept = pool.wait();
        for _ in 0..2 * MAX_WAITERS {
            drop(pool.wait().expect("room"));
        }
        assert!(kept.is_some() && pool.waiters.borrow().len() < 100);
    }
}
