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
    pub struct Enforced {
        allowed: Counter,
        denied: Counter,
    }
}

stats_group! {
    /// `PREFIX.rbac.[<shadow_rules_stat_prefix>.]`
    pub struct Shadowed {
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

pub struct Rbac {
    config: Arc<RbacFilter>,
    enforced: Arc<Enforced>,
    shadowed: Arc<Shadowed>,
}

impl Rbac {
    pub(super) fn new(config: Arc<RbacFilter>, worker: &Rc<Worker>) -> Self {
        let prefix = config.stat_prefix.trim_end_matches('.');
        let shadow = match config.shadow_stat_prefix.trim_end_matches('.') {
            "" => super::scope(prefix, "rbac"),
            own => super::scope(prefix, &format!("rbac.{own}")),
        };
        Rbac {
            enforced: worker.stats().shard(super::scope(prefix, "rbac")),
            shadowed: worker.stats().shard(shadow),
            config,
        }
    }

    pub(super) fn check(&self, connection: &ConnectionInfo) -> Result<(), Denied> {
        let subject = Subject::of_connection(connection);
        if let Some(shadow) = &self.config.shadow_rules {
            let verdict = rbac::evaluate(shadow, &subject);
            if verdict.allowed { &self.shadowed.shadow_allowed } else { &self.shadowed.shadow_denied }.inc();
        }
        let Some(rules) = &self.config.rules else { return Ok(()) };
        let verdict = rbac::evaluate(rules, &subject);
        if verdict.allowed {
            self.enforced.allowed.inc();
            return Ok(());
        }
        self.enforced.denied.inc();
        let policy = verdict.policy.map_or("none", |p| p);
        Err(Denied { details: format!("rbac_access_denied_matched_policy[{}]", policy.replace(' ', "_")), delay: None })
    }
}
