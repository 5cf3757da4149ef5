//! Role-based access control (`rbac.v3.RBAC`); the rules themselves are evaluated in [`crate::rbac`].

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rbac::RbacFilter;
use sidemesh_config::value::{Name, name};

use super::{Exchange, Flow};
use crate::http::reply::LocalReply;
use crate::rbac::{Counts, Subject, Verdict, judge};
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

/// Where the verdicts stand for logs and later filters.
const METADATA: &str = "envoy.filters.http.rbac";
/// A LOG action's verdict: whether the request shall be logged.
const COMMON_METADATA: &str = "envoy.common";

pub struct Rbac {
    config: Arc<RbacFilter>,
    /// `http.<stat_prefix>.rbac.[<rules_stat_prefix>.]`, `http.<stat_prefix>.rbac.[<shadow_rules_stat_prefix>.]`
    counts: Counts,
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
        let counts = Counts::new(worker.stats(), scope(&config.stat_prefix), scope(&config.shadow_stat_prefix));
        Rbac { counts, config }
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
            filter_state: Some(&x.info.filter_state),
        };
        let registry = x.manager.worker.stats();
        let mut told = serde_json::Map::new();
        if let Some(shadow) = &filter.shadow_rules {
            let verdict = judge(shadow, &subject);
            self.counts.shadowed(&verdict);
            if filter.per_rule_stats {
                self.counts.of_shadow_policy(registry, &verdict);
            }
            let prefix = prefix(&filter.shadow_stat_prefix, &self.config.shadow_stat_prefix);
            tell(&mut told, prefix, ["shadow_effective_policy_id", "shadow_engine_result"], &verdict);
        }
        let verdict = filter.rules.as_ref().map(|rules| judge(rules, &subject));
        if let Some(verdict) = &verdict {
            let prefix = prefix(&filter.stat_prefix, &self.config.stat_prefix);
            tell(&mut told, prefix, ["enforced_effective_policy_id", "enforced_engine_result"], verdict);
        }
        if !told.is_empty() {
            x.info.metadata.merge(METADATA, told);
        }
        let Some(verdict) = verdict else { return Flow::Continue };
        if let Some(hint) = verdict.hint {
            x.info.metadata.set(COMMON_METADATA, "access_log_hint", hint.into());
        }
        self.counts.enforced(&verdict);
        if filter.per_rule_stats {
            self.counts.of_policy(registry, &verdict);
        }
        if verdict.allowed {
            return Flow::Continue;
        }
        let policy = verdict.policy.map_or("none", |p| p).replace(|c: char| c.is_whitespace(), "_");
        let details = format!("rbac_access_denied_matched_policy[{policy}]");
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "", "rbac.denied");
        Flow::Answer(reply.body("RBAC: access denied").details(details))
    }
}

/// A route's prefix, else the filter's.
fn prefix<'a>(of_route: &'a Name, own: &'a Name) -> &'a Name {
    if of_route.is_empty() { own } else { of_route }
}

/// Notes a verdict under its two keys: the policy that decided, and the result.
fn tell(
    out: &mut serde_json::Map<String, serde_json::Value>,
    prefix: &str,
    [policy, result]: [&str; 2],
    verdict: &Verdict<'_>,
) {
    if let Some(name) = verdict.policy {
        out.insert(format!("{prefix}{policy}"), (&**name).into());
    }
    out.insert(format!("{prefix}{result}"), if verdict.allowed { "allowed" } else { "denied" }.into());
}
