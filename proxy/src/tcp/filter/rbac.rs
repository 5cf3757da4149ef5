//! The network RBAC filter (`rbac.v3.RBAC`): decides once, when the connection is accepted. As in Envoy, who is refused learns of it with
//! the first bytes that it sends: until then the connection stands, and the host behind it may speak.

use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::http_filter::rbac::RbacFilter;

use super::Denied;
use crate::connection::ConnectionInfo;
use crate::rbac::{self, Counts, Subject};
use crate::worker::Worker;

pub struct Rbac {
    config: Arc<RbacFilter>,
    /// `PREFIX.rbac.`, `PREFIX.rbac.[<shadow_rules_stat_prefix>.]`
    counts: Counts,
}

impl Rbac {
    pub(super) fn new(config: Arc<RbacFilter>, worker: &Rc<Worker>) -> Self {
        let prefix = config.stat_prefix.trim_end_matches('.');
        let shadow = match config.shadow_stat_prefix.trim_end_matches('.') {
            "" => super::scope(prefix, "rbac"),
            own => super::scope(prefix, &format!("rbac.{own}")),
        };
        Rbac { counts: Counts::new(worker.stats(), super::scope(prefix, "rbac"), shadow), config }
    }

    pub(super) fn check(&self, connection: &ConnectionInfo) -> Result<(), Denied> {
        let subject = Subject::of_connection(connection);
        if let Some(shadow) = &self.config.shadow_rules {
            self.counts.shadowed(&rbac::judge(shadow, &subject));
        }
        let Some(rules) = &self.config.rules else { return Ok(()) };
        let verdict = rbac::judge(rules, &subject);
        self.counts.enforced(&verdict);
        if verdict.allowed {
            return Ok(());
        }
        let policy = verdict.policy.map_or("none", |p| p);
        Err(Denied {
            details: format!("rbac_access_denied_matched_policy[{}]", policy.replace(' ', "_")),
            delay: self.config.delay_deny,
        })
    }
}
