//! Role-based access control (`rbac.v3.RBAC`); the rules themselves are evaluated in [`crate::rbac`].

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rbac::RbacFilter;
use sidemesh_config::value::{Name, name};

use super::{Exchange, Flow};
use crate::http::reply::LocalReply;
use crate::rbac::{Subject, evaluate};
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

stats_group! {
    /// `http.<stat_prefix>.rbac.[<rules_stat_prefix>.]`
    pub struct Enforced {
        allowed: Counter,
        denied: Counter,
    }
}

stats_group! {
    /// `http.<stat_prefix>.rbac.[<shadow_rules_stat_prefix>.]`
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
    pub fn new(config: Arc<RbacFilter>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let scope = |own: &Name| {
            let filter = match own.trim_end_matches('.') {
                "" => name("rbac"),
                own => name(&format!("rbac.{own}")),
            };
            Scope::HttpFilter { prefix: stat_prefix.clone(), filter }
        };
        Rbac {
            enforced: worker.stats().shard(scope(&config.stat_prefix)),
            shadowed: worker.stats().shard(scope(&config.shadow_stat_prefix)),
            config,
        }
    }

    /// What a route says instead counts under the filter's own prefixes.
    pub fn on_request(&self, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let filter = match over {
            Some(FilterOverride::Rbac(None)) => return Flow::Continue,
            Some(FilterOverride::Rbac(Some(filter))) => filter,
            _ => &self.config,
        };
        let view = x.view();
        let subject = Subject {
            connection: &x.info.connection,
            request: Some(&view),
            remote: x.info.remote.ip(),
            metadata: view.metadata,
        };
        if let Some(shadow) = &filter.shadow_rules {
            match evaluate(shadow, &subject).allowed {
                true => self.shadowed.shadow_allowed.inc(),
                false => self.shadowed.shadow_denied.inc(),
            }
        }
        let Some(rules) = &filter.rules else { return Flow::Continue };
        let verdict = evaluate(rules, &subject);
        if verdict.allowed {
            self.enforced.allowed.inc();
            return Flow::Continue;
        }
        self.enforced.denied.inc();
        let policy = verdict.policy.map_or("none", |p| p).replace(|c: char| c.is_whitespace(), "_");
        let details = format!("rbac_access_denied_matched_policy[{policy}]");
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "", "rbac.denied");
        Flow::Answer(reply.body("RBAC: access denied").details(details))
    }
}
