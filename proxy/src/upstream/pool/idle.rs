//! Idle connections: taking one, and closing those that nobody needs.

use std::time::{Duration, Instant};

use super::{ConnectionGuard, Handover, Limits, Pool};
use crate::codec::h1;

/// How often the share of idle connections that nobody needed is halved.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// So many idle connections are never trimmed, only timed out.
const KEEP: usize = 8;

/// An HTTP/1 connection between requests.
pub(crate) struct Idle {
    pub(in crate::upstream) connection: h1::client::Connection,
    pub(in crate::upstream) guard: ConnectionGuard,
    pub(super) since: Instant,
}

impl Pool {
    /// The idle connection used last that can still be used.
    pub(in crate::upstream) fn take_idle(&self, now: Instant, limits: &Limits) -> Option<Idle> {
        loop {
            let mut idle = {
                let mut all = self.idle.borrow_mut();
                let idle = all.pop()?;
                self.unneeded.set(self.unneeded.get().min(all.len()));
                idle
            };
            if idle.is_over(now, limits) {
                continue;
            }
            if idle.connection.is_reusable() {
                return Some(idle);
            }
            idle.guard.closed_by_peer();
        }
    }

    /// Closes what is over its time or was closed by the peer. Whether the pool holds anything still.
    pub(super) fn sweep(&self, now: Instant, limits: &Limits) -> bool {
        let mut over = Vec::new();
        {
            let mut all = self.idle.borrow_mut();
            let mut i = 0;
            while i < all.len() {
                let gone = if all[i].is_over(now, limits) {
                    true
                } else if !all[i].connection.is_reusable() {
                    all[i].guard.closed_by_peer();
                    true
                } else {
                    false
                };
                if gone {
                    over.push(all.remove(i));
                } else {
                    i += 1;
                }
            }
            let unneeded = self.unneeded.get().min(all.len());
            match self.trimmed.get() {
                Some(last) if now.saturating_duration_since(last) < TRIM_EVERY => {}
                Some(_) => {
                    let surplus = unneeded.div_ceil(2).min(all.len().saturating_sub(KEEP));
                    over.extend(all.drain(..surplus));
                    self.unneeded.set(all.len());
                    self.trimmed.set(Some(now));
                }
                None => {
                    self.unneeded.set(all.len());
                    self.trimmed.set(Some(now));
                }
            }
        }
        drop(over);
        self.sweep_shared(now, limits);
        self.live.get() > 0 || !self.waiters.borrow().is_empty()
    }

    fn sweep_shared(&self, now: Instant, limits: &Limits) {
        let mut over = Vec::new();
        self.shared.borrow_mut().retain_mut(|shared| {
            if shared.connection.active() > 0 {
                shared.idle_since = None;
                return true;
            }
            let since = *shared.idle_since.get_or_insert(now);
            let idle_too_long = limits.idle.is_some_and(|idle| now.saturating_duration_since(since) >= idle);
            let spent = shared.guard.is_spent(now, shared.connection.requests(), limits);
            if !idle_too_long && !spent && shared.connection.is_usable() {
                return true;
            }
            if idle_too_long {
                shared.guard.stats().upstream_cx_idle_timeout.inc();
            }
            over.push((shared.connection.clone(), shared.guard.clone()));
            false
        });
        for (connection, _) in &over {
            connection.retire();
        }
        if !over.is_empty() {
            self.tell_all(|| Handover::Look);
        }
    }
}

impl Idle {
    /// Whether its time is over, which is counted.
    fn is_over(&self, now: Instant, limits: &Limits) -> bool {
        if self.guard.is_spent(now, self.connection.requests(), limits) {
            return true;
        }
        let idle = now.saturating_duration_since(self.since);
        let too_long = limits.idle.is_some_and(|limit| idle >= limit);
        if too_long {
            self.guard.stats().upstream_cx_idle_timeout.inc();
        }
        too_long
    }
}
