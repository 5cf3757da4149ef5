//! What is counted of a connection while it lives.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Exchange, Limits, Pool};
use crate::codec::Protocol;
use crate::upstream::breaker::Permit;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::info::ConnectionFacts;
use crate::upstream::stats::ClusterStats;

/// Lives as long as its connection; gives back the connection's share of `max_connections` and counts its end.
pub struct ConnectionGuard {
    _permit: Permit,
    host: Rc<Host>,
    cluster: Rc<Cluster>,
    facts: Rc<ConnectionFacts>,
    opened: Instant,
    pool: Weak<Pool>,
    by_peer: Cell<bool>,
    exchanges: Cell<u32>,
    /// Tells TCP sessions that their host has failed.
    failure: Option<Rc<Notify>>,
    /// A TCP session counts as one request.
    session: Option<Exchange>,
}

/// What a new guard is made of.
pub(in crate::upstream) struct Opened {
    pub permit: Permit,
    pub host: Rc<Host>,
    pub cluster: Rc<Cluster>,
    pub facts: Rc<ConnectionFacts>,
    pub at: Instant,
}

impl ConnectionGuard {
    pub(in crate::upstream) fn new(opened: Opened, pool: Option<&Rc<Pool>>) -> Self {
        let Opened { permit, host, cluster, facts, at } = opened;
        let stats = cluster.stats();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        match facts.protocol {
            Some(Protocol::Http2) => stats.upstream_cx_http2_total.inc(),
            Some(_) => stats.upstream_cx_http1_total.inc(),
            None => {}
        }
        host.counters().cx_total.inc();
        host.counters().cx_active.inc();
        if let Some(pool) = pool {
            pool.live.set(pool.live.get() + 1);
        }
        let pool = pool.map_or_else(Weak::new, Rc::downgrade);
        let (by_peer, exchanges) = (Cell::new(false), Cell::new(0));
        ConnectionGuard {
            _permit: permit,
            host,
            cluster,
            facts,
            opened: at,
            pool,
            by_peer,
            exchanges,
            failure: None,
            session: None,
        }
    }

    /// The guard of a TCP session, which ends when `failure` is notified.
    pub(in crate::upstream) fn of_session(opened: Opened, session: Exchange, failure: Rc<Notify>) -> Self {
        let mut guard = ConnectionGuard::new(opened, None);
        guard.exchange(1);
        guard.session = Some(session);
        guard.failure = Some(failure);
        guard
    }

    /// Resolves when the session is to end because its host has failed (`close_connections_on_host_health_failure`).
    pub async fn told_to_close(&self) {
        match &self.failure {
            Some(failure) => failure.notified().await,
            None => std::future::pending().await,
        }
    }

    pub fn facts(&self) -> &Rc<ConnectionFacts> {
        &self.facts
    }

    pub(in crate::upstream) fn stats(&self) -> &ClusterStats {
        self.cluster.stats()
    }

    /// Counts bytes that went over the connection: received from and sent to the host.
    pub fn bytes(&self, received: u64, sent: u64) {
        self.stats().upstream_cx_rx_bytes_total.add(received);
        self.stats().upstream_cx_tx_bytes_total.add(sent);
    }

    /// It is the peer that closed it.
    pub fn closed_by_peer(&self) {
        self.by_peer.set(true);
    }

    pub(in crate::upstream) fn exchange(&self, delta: i32) {
        self.exchanges.set(self.exchanges.get().saturating_add_signed(delta));
    }

    /// It has carried as many requests, or lasted as long, as it may.
    pub(in crate::upstream) fn is_spent(&self, now: Instant, requests: u64, limits: &Limits) -> bool {
        if limits.requests.is_some_and(|max| requests >= max) {
            return true;
        }
        let old = limits.duration.is_some_and(|max| now.saturating_duration_since(self.opened) >= max);
        if old {
            self.stats().upstream_cx_max_duration_reached.inc();
        }
        old
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let stats = self.stats();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let active = self.exchanges.get() > 0;
        if active {
            stats.upstream_cx_destroy_with_active_rq.inc();
        }
        match (self.by_peer.get(), active) {
            (true, false) => stats.upstream_cx_destroy_remote.inc(),
            (false, false) => stats.upstream_cx_destroy_local.inc(),
            (true, true) => {
                stats.upstream_cx_destroy_remote.inc();
                stats.upstream_cx_destroy_remote_with_active_rq.inc();
            }
            (false, true) => {
                stats.upstream_cx_destroy_local.inc();
                stats.upstream_cx_destroy_local_with_active_rq.inc();
            }
        }
        let lasted = tokio::time::Instant::now().into_std().saturating_duration_since(self.opened);
        stats.upstream_cx_length_ms.record_duration(lasted);
        self.host.counters().cx_active.dec();
        if let Some(pool) = self.pool.upgrade() {
            pool.live.set(pool.live.get() - 1);
            pool.wake_one();
        }
    }
}
