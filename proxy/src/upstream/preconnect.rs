//! Connections made ahead (`preconnect_policy.per_upstream_preconnect_ratio`): a host that has requests in flight has more HTTP/1
//! connections than those need, so that the next request finds one. HTTP/2 connections have room anyway.

use std::rc::Rc;

use super::attempt::AttemptOptions;
use super::cluster::Cluster;
use super::host::Host;
use super::info::AttemptInfo;
use super::pool::{Key, Mode, Pool};

/// Connections made ahead for one request at most.
const AT_ONCE: usize = 3;

impl Cluster {
    /// Makes the connections that the ratio asks for now that one more request is there: it has a connection, or is about to dial its
    /// `own`. They are dialled in tasks of their own, within the circuit breaker's limit.
    pub(super) fn preconnect(self: &Rc<Self>, host: &Rc<Host>, pool: &Rc<Pool>, key: &Key, own: usize) {
        let ratio = self.config().preconnect_ratio;
        // What a PROXY header tells belongs to one client, whose next request may never come.
        if ratio <= 1.0 || pool.mode.get() != Mode::Http1 || key.told.is_some() {
            return;
        }
        for _ in own..AT_ONCE {
            if !pool.wants_more(ratio, own) {
                return;
            }
            let Some(permit) = self.may_dial(pool, host, key.priority) else { return };
            let (cluster, host, pool, key) = (self.clone(), host.clone(), pool.clone(), key.clone());
            let planned = pool.count_planned();
            tokio::task::spawn_local(async move {
                drop(planned);
                let (options, info) =
                    (AttemptOptions { priority: key.priority, ..Default::default() }, AttemptInfo::default());
                // A connection that cannot be made ahead is no request's failure.
                if let Ok(Some(lease)) = cluster.dial_into(&pool, &host, &key, &options, &info, permit).await {
                    cluster.give_back(&pool, lease);
                }
            });
        }
    }
}
