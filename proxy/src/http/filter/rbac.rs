//! Role-based access control (`rbac.v3.RBAC`); the rules themselves are evaluated in [`crate::rbac`].

use http::StatusCode;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rbac::RbacFilter;

use super::{Exchange, Flow};
use crate::http::reply::LocalReply;
use crate::rbac::{Subject, evaluate};

pub fn on_request(own: &RbacFilter, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let filter = match over {
        Some(FilterOverride::Rbac(None)) => return Flow::Continue,
        Some(FilterOverride::Rbac(Some(filter))) => filter,
        _ => own,
    };
    let view = x.view();
    let subject = Subject {
        connection: &x.info.connection,
        request: Some(&view),
        remote: x.info.remote.ip(),
        metadata: view.metadata,
    };
    let stats = &x.manager.stats;
    if let Some(shadow) = &filter.shadow_rules {
        match evaluate(shadow, &subject).allowed {
            true => stats.rbac_shadow_allowed.inc(),
            false => stats.rbac_shadow_denied.inc(),
        }
    }
    let Some(rules) = &filter.rules else { return Flow::Continue };
    let verdict = evaluate(rules, &subject);
    if verdict.allowed {
        stats.rbac_allowed.inc();
        return Flow::Continue;
    }
    stats.rbac_denied.inc();
    let policy = verdict.policy.map_or("none", |p| p).replace(|c: char| c.is_whitespace(), "_");
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    Flow::Answer(LocalReply::new(StatusCode::FORBIDDEN, "", "rbac.denied").body("RBAC: access denied").details(details))
}
