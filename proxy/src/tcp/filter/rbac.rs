//! The network RBAC filter (`rbac.v3.RBAC`): decides once, when the connection is accepted.

use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::http_filter::rbac::RbacFilter;

use super::Denied;
use crate::connection::ConnectionInfo;
use crate::rbac::{self, Subject};
use crate::stats_group;
use crate::worker::Worker;

stats_group! {
    /// `PREFIX.rbac.`
    pub struct RbacStats {
        allowed: Counter,
        denied: Counter,
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

pub struct Rbac {
    config: Arc<RbacFilter>,
    stats: Arc<RbacStats>,
}

impl Rbac {
    pub(super) fn new(config: Arc<RbacFilter>, worker: &Rc<Worker>) -> Self {
        let stats = worker.stats().shard(super::scope(config.stat_prefix.trim_end_matches('.'), "rbac"));
        Rbac { config, stats }
    }

    pub(super) fn check(&self, connection: &ConnectionInfo) -> Result<(), Denied> {
        let subject = Subject::of_connection(connection);
        if let Some(shadow) = &self.config.shadow_rules {
            let verdict = rbac::evaluate(shadow, &subject);
            if verdict.allowed { &self.stats.shadow_allowed } else { &self.stats.shadow_denied }.inc();
        }
        let Some(rules) = &self.config.rules else { return Ok(()) };
        let verdict = rbac::evaluate(rules, &subject);
        if verdict.allowed {
            self.stats.allowed.inc();
            return Ok(());
        }
        self.stats.denied.inc();
        let policy = verdict.policy.map_or("none", |p| p);
        Err(Denied { details: format!("rbac_access_denied_matched_policy[{}]", policy.replace(' ', "_")), delay: None })
    }
}
