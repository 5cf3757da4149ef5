//! A connection lent to one exchange, and what happens when the exchange is over.

use std::cell::RefCell;
use std::rc::Rc;

use super::{ConnectionGuard, Limits, Pool};
use crate::clock::Clock;
use crate::codec::{Closing, Release, h1, h2};
use crate::upstream::breaker::Permit;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;

/// A connection ready for a request.
pub(in crate::upstream) enum Lease {
    Http1(h1::client::Connection, ConnectionGuard),
    Http2(h2::client::Connection, Rc<ConnectionGuard>),
}

impl Lease {
    /// How many requests it has carried.
    pub(in crate::upstream) fn requests(&self) -> u64 {
        match self {
            Lease::Http1(connection, _) => connection.requests(),
            Lease::Http2(connection, _) => connection.requests(),
        }
    }

    pub(in crate::upstream) fn guard(&self) -> &ConnectionGuard {
        match self {
            Lease::Http1(_, guard) => guard,
            Lease::Http2(_, guard) => guard,
        }
    }
}

/// Lives as long as one exchange: its share of `max_requests`, and the counts of requests in flight.
pub(in crate::upstream) struct Exchange {
    _permit: Permit,
    host: Rc<Host>,
    cluster: Rc<Cluster>,
}

impl Exchange {
    pub(in crate::upstream) fn new(permit: Permit, host: Rc<Host>, cluster: Rc<Cluster>) -> Self {
        let stats = cluster.stats();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        host.counters().rq_total.inc();
        host.counters().rq_active.inc();
        Exchange { _permit: permit, host, cluster }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.cluster.stats().upstream_rq_active.dec();
        self.host.counters().rq_active.dec();
    }
}

/// Takes an HTTP/1 connection back.
pub(in crate::upstream) struct Http1Release {
    pool: Rc<Pool>,
    clock: Clock,
    limits: Limits,
    held: RefCell<Option<(ConnectionGuard, Exchange)>>,
}

impl Http1Release {
    pub(in crate::upstream) fn new(
        pool: Rc<Pool>,
        clock: Clock,
        limits: Limits,
        guard: ConnectionGuard,
        exchange: Exchange,
    ) -> Rc<Self> {
        guard.exchange(1);
        Rc::new(Http1Release { pool, clock, limits, held: RefCell::new(Some((guard, exchange))) })
    }
}

impl Release<h1::client::Connection> for Http1Release {
    fn closing(&self, why: Closing) {
        let held = self.held.borrow();
        let Some((guard, _)) = &*held else { return };
        match why {
            Closing::Announced => {
                guard.exchange(-1);
                guard.stats().upstream_cx_close_notify.inc();
            }
            Closing::ByPeer => guard.closed_by_peer(),
        }
    }

    fn release(&self, connection: Option<h1::client::Connection>) {
        let Some((guard, exchange)) = self.held.borrow_mut().take() else { return };
        drop(exchange);
        if let Some(connection) = connection {
            guard.exchange(-1);
            self.pool.give(connection, guard, self.clock.coarse(), &self.limits);
        }
    }
}

/// Hears of the end of an HTTP/2 stream.
pub(in crate::upstream) struct SharedRelease {
    pool: Rc<Pool>,
    clock: Clock,
    limits: Limits,
    held: RefCell<Option<(Rc<ConnectionGuard>, Exchange)>>,
}

impl SharedRelease {
    pub(in crate::upstream) fn new(
        pool: Rc<Pool>,
        clock: Clock,
        limits: Limits,
        guard: Rc<ConnectionGuard>,
        exchange: Exchange,
    ) -> Rc<Self> {
        guard.exchange(1);
        Rc::new(SharedRelease { pool, clock, limits, held: RefCell::new(Some((guard, exchange))) })
    }
}

impl Release<h2::client::Connection> for SharedRelease {
    fn release(&self, connection: Option<h2::client::Connection>) {
        let Some((guard, exchange)) = self.held.borrow_mut().take() else { return };
        drop(exchange);
        guard.exchange(-1);
        match connection {
            None => self.pool.forget(&guard),
            Some(connection)
                if connection.is_usable()
                    && guard.is_spent(self.clock.coarse(), connection.requests(), &self.limits) =>
            {
                connection.retire();
                self.pool.forget(&guard);
            }
            Some(_) => {}
        }
        drop(guard);
        self.pool.wake_one();
    }
}

impl Pool {
    /// An HTTP/2 connection with room for a stream: the first that has it, so that the later ones fall idle.
    pub(in crate::upstream) fn take_shared(&self, max_streams: usize, limits: &Limits, clock: &Clock) -> Option<Lease> {
        let mut gone = Vec::new();
        let mut found = None;
        self.shared.borrow_mut().retain(|shared| {
            let spent = || shared.guard.is_spent(clock.coarse(), shared.connection.requests(), limits);
            if !shared.connection.is_usable() || spent() {
                shared.connection.retire();
                gone.push(shared.guard.clone());
                return false;
            }
            let room = shared.connection.capacity().min(max_streams);
            if found.is_none() && shared.connection.active() < room {
                found = Some(Lease::Http2(shared.connection.clone(), shared.guard.clone()));
            }
            true
        });
        drop(gone);
        found
    }

    pub(in crate::upstream) fn add_shared(&self, connection: h2::client::Connection, guard: Rc<ConnectionGuard>) {
        if self.closed.get() {
            return;
        }
        self.shared.borrow_mut().push(super::Shared { connection, guard, idle_since: None });
    }

    fn forget(&self, guard: &Rc<ConnectionGuard>) {
        let mut gone = None;
        let mut shared = self.shared.borrow_mut();
        if let Some(at) = shared.iter().position(|s| Rc::ptr_eq(&s.guard, guard) && !s.connection.is_usable()) {
            gone = Some(shared.remove(at));
        }
        drop(shared);
        drop(gone);
    }
}
