//! CORS (Fetch standard, "CORS protocol"; `cors.v3.CorsPolicy` per route or virtual host).

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use http::{Method, Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::cors::CorsPolicy;
use sidemesh_config::value::Name;
use smallvec::SmallVec;

use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::names::{ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK};
use crate::http::reply::LocalReply;
use crate::stats_group;

stats_group! {
    /// `http.<stat_prefix>.cors.`
    pub struct CorsStats {
        origin_valid: Counter,
        origin_invalid: Counter,
    }
}

/// The response headers of an allowed origin.
pub struct Allowed {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

/// The policies of the route's levels, the most specific first. Each of their properties is the first that one of them gives.
struct Policies(SmallVec<[Arc<CorsPolicy>; 2]>);

impl Policies {
    /// Those of the filter's overrides; without any, the deprecated ones of the route and the virtual host.
    fn of(x: &Exchange, name: &str) -> Self {
        let overrides = x.filter_overrides(name).into_iter().filter_map(|o| match &**o {
            FilterOverride::Cors(policy) => Some(policy.clone()),
            _ => None,
        });
        let mut all: SmallVec<[Arc<CorsPolicy>; 2]> = overrides.collect();
        if all.is_empty()
            && let Some(selected) = &x.selected
        {
            all.extend(selected.forward().and_then(|f| f.cors.clone()));
            all.extend(selected.vhost.as_ref().and_then(|v| v.cors.clone()));
        }
        Policies(all)
    }

    fn iter(&self) -> impl Iterator<Item = &CorsPolicy> {
        self.0.iter().map(|policy| &**policy)
    }

    fn text(&self, property: impl Fn(&CorsPolicy) -> &Name) -> &str {
        self.iter().map(|p| &**property(p)).find(|text| !text.is_empty()).unwrap_or("")
    }

    fn flag(&self, property: impl Fn(&CorsPolicy) -> Option<bool>, default: bool) -> bool {
        self.iter().find_map(property).unwrap_or(default)
    }

    /// A matcher that takes a literal `*` takes every origin.
    fn allow(&self, origin: &HeaderValue) -> bool {
        let origins = self.iter().map(|p| &p.allow_origins).find(|origins| !origins.is_empty());
        let Ok(origin) = origin.to_str() else { return false };
        origins.is_some_and(|all| all.iter().any(|m| m.is_match("*") || m.is_match(origin)))
    }
}

pub fn on_request(stats: &CorsStats, at: u16, x: &mut Exchange, name: &str) -> Flow {
    let policies = Policies::of(x, name);
    let Some(first) = policies.iter().next() else { return Flow::Continue };
    let enabled = first.enabled.value(&x.config.runtime).hit(x.random);
    let shadow = first.shadow.as_ref().is_some_and(|s| s.value(&x.config.runtime).hit(x.random));
    let Some(origin) = x.parts.headers.get(ORIGIN).filter(|o| !o.is_empty()).cloned() else { return Flow::Continue };
    if !enabled && !shadow {
        return Flow::Continue;
    }
    let preflight = x.parts.method == Method::OPTIONS
        && x.parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|m| !m.is_empty());
    if !policies.allow(&origin) {
        stats.origin_invalid.inc();
        if enabled && preflight && !policies.flag(|p| p.forward_not_matching_preflights, true) {
            return Flow::Answer(preflight_reply(x, &policies, None));
        }
        return Flow::Continue;
    }
    stats.origin_valid.inc();
    if !enabled {
        return Flow::Continue;
    }
    if preflight {
        return Flow::Answer(preflight_reply(x, &policies, Some(origin)));
    }
    let expose = HeaderValue::from_str(policies.text(|p| &p.expose_headers)).ok().filter(|v| !v.is_empty());
    let credentials = policies.flag(|p| p.allow_credentials, false);
    x.data.push((at, Data::Cors(Allowed { origin, credentials, expose })));
    Flow::Continue
}

/// Without `origin` nothing is allowed by what it says.
fn preflight_reply(x: &Exchange, policies: &Policies, origin: Option<HeaderValue>) -> LocalReply {
    let mut headers = HeaderMap::new();
    headers.extend(origin.map(|origin| (ACCESS_CONTROL_ALLOW_ORIGIN, origin)));
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    // `*` allows whatever is asked for, which is said in so many words: with credentials browsers take no `*`.
    let asked = |text: &'_ str, name: HeaderName| match text {
        "*" => x.parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned(),
        text => text.to_owned(),
    };
    if policies.flag(|p| p.allow_credentials, false) {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    set(ACCESS_CONTROL_ALLOW_METHODS, &asked(policies.text(|p| &p.allow_methods), ACCESS_CONTROL_REQUEST_METHOD));
    set(ACCESS_CONTROL_ALLOW_HEADERS, &asked(policies.text(|p| &p.allow_headers), ACCESS_CONTROL_REQUEST_HEADERS));
    set(ACCESS_CONTROL_MAX_AGE, policies.text(|p| &p.max_age));
    let private = x.parts.headers.get(ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK).is_some_and(|v| v == "true");
    if policies.flag(|p| p.allow_private_network_access, false) && private {
        set(ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, "true");
    }
    // The response side of the filter runs for local answers too, and a preflight tells what may be read.
    set(ACCESS_CONTROL_EXPOSE_HEADERS, policies.text(|p| &p.expose_headers));
    let mut reply = LocalReply::new(StatusCode::OK, "cors_response", "");
    reply.headers = Some(Box::new(headers));
    reply
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    let Some(Data::Cors(allowed)) = super::take(x, at) else { return };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed.origin);
    if allowed.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(expose) = allowed.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }
}
