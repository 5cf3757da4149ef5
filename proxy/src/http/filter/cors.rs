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

/// The policies of a request's levels, the most specific first: each field is that of the first level which gives it.
struct Policies(SmallVec<[Arc<CorsPolicy>; 4]>);

impl Policies {
    fn of(x: &Exchange, name: &str) -> Self {
        let levels = x.filter_overrides(name).into_iter();
        let mut all: SmallVec<[Arc<CorsPolicy>; 4]> = levels
            .filter_map(|o| if let FilterOverride::Cors(policy) = &**o { Some(policy.clone()) } else { None })
            .collect();
        // Without any, the deprecated ones of the route and the virtual host.
        if all.is_empty()
            && let Some(selected) = &x.selected
        {
            all.extend(selected.forward().and_then(|f| f.cors.clone()));
            all.extend(selected.vhost.as_ref().and_then(|v| v.cors.clone()));
        }
        Policies(all)
    }

    fn text(&self, field: impl Fn(&CorsPolicy) -> &Name) -> &str {
        self.0.iter().map(|p| &**field(p)).find(|t| !t.is_empty()).unwrap_or("")
    }

    fn flag(&self, field: impl Fn(&CorsPolicy) -> Option<bool>, default: bool) -> bool {
        self.0.iter().find_map(|p| field(p)).unwrap_or(default)
    }

    /// A list that takes `*` takes every origin.
    fn allow(&self, origin: &HeaderValue) -> bool {
        let Some(list) = self.0.iter().map(|p| &p.allow_origins).find(|l| !l.is_empty()) else { return false };
        origin.to_str().is_ok_and(|o| list.iter().any(|m| m.is_match("*") || m.is_match(o)))
    }
}

pub fn on_request(stats: &CorsStats, at: u16, x: &mut Exchange, name: &str) -> Flow {
    // As in Envoy: of redirects and direct responses nothing is said.
    if x.selected.as_ref().and_then(|s| s.forward()).is_none() {
        return Flow::Continue;
    }
    let policies = Policies::of(x, name);
    let Some(first) = policies.0.first() else { return Flow::Continue };
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

/// The answer to a preflight; `origin`: the one that is allowed.
fn preflight_reply(x: &Exchange, policies: &Policies, origin: Option<HeaderValue>) -> LocalReply {
    let mut headers = HeaderMap::new();
    let allowed = origin.is_some();
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    let asked = |name: HeaderName| x.parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if allowed && policies.flag(|p| p.allow_credentials, false) {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    // `*` allows what was asked for.
    for (name, listed, request) in [
        (ACCESS_CONTROL_ALLOW_METHODS, policies.text(|p| &p.allow_methods), ACCESS_CONTROL_REQUEST_METHOD),
        (ACCESS_CONTROL_ALLOW_HEADERS, policies.text(|p| &p.allow_headers), ACCESS_CONTROL_REQUEST_HEADERS),
    ] {
        match listed {
            "" => {}
            "*" => set(name, asked(request)),
            listed => set(name, listed),
        }
    }
    // The response side of the filter runs for local answers too, and a preflight tells what may be read.
    let expose = if allowed { policies.text(|p| &p.expose_headers) } else { "" };
    for (name, value) in
        [(ACCESS_CONTROL_MAX_AGE, policies.text(|p| &p.max_age)), (ACCESS_CONTROL_EXPOSE_HEADERS, expose)]
    {
        if !value.is_empty() {
            set(name, value);
        }
    }
    if policies.flag(|p| p.allow_private_network_access, false)
        && asked(ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK) == "true"
    {
        set(ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, "true");
    }
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
