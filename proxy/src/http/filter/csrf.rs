//! CSRF protection (`csrf.v3.CsrfPolicy`): a request that changes something must come from the host it goes to.

use http::header::{ORIGIN, REFERER};
use http::{Method, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::csrf::CsrfPolicy;

use super::{Exchange, Flow};
use crate::http::reply::LocalReply;
use crate::stats_group;

stats_group! {
    /// `http.<stat_prefix>.csrf.`
    pub struct CsrfStats {
        missing_source_origin: Counter,
        request_invalid: Counter,
        request_valid: Counter,
    }
}

pub fn on_request(own: &CsrfPolicy, stats: &CsrfStats, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let policy = match over {
        Some(FilterOverride::Csrf(policy)) => policy,
        _ => own,
    };
    let enabled = policy.enabled.value(&x.config.runtime).hit(x.random);
    let shadow = policy.shadow.as_ref().is_some_and(|s| s.value(&x.config.runtime).hit(x.random));
    let changes = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH].contains(&x.parts.method);
    if !changes || (!enabled && !shadow) {
        return Flow::Continue;
    }
    let source = source(x);
    let valid = match source {
        None => {
            stats.missing_source_origin.inc();
            false
        }
        Some(source) if source == x.authority() || policy.additional_origins.iter().any(|m| m.is_match(source)) => {
            stats.request_valid.inc();
            true
        }
        Some(_) => {
            stats.request_invalid.inc();
            false
        }
    };
    if valid || !enabled {
        return Flow::Continue;
    }
    Flow::Answer(LocalReply::new(StatusCode::FORBIDDEN, "csrf_origin_mismatch", "csrf.origin").body("Invalid origin"))
}

/// Host and port of `origin`, else of `referer`; what is no URL is taken as it stands, but for `null`, which names none.
fn source(x: &Exchange) -> Option<&str> {
    let text = |name| x.parts.headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let url = text(ORIGIN).filter(|o| !o.is_empty()).or_else(|| text(REFERER))?;
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest,
        None if url == "null" => return None,
        None => return Some(url),
    };
    rest.split(['/', '?', '#']).next().filter(|h| !h.is_empty())
}
