//! CORS (Fetch standard, "CORS protocol"; `cors.v3.CorsPolicy` per route or virtual host).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use http::{Method, Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::cors::CorsPolicy;

use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::names::{ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK};
use crate::http::reply::LocalReply;

/// The response headers of an allowed origin.
pub struct Allowed {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

pub fn on_request(at: u16, x: &mut Exchange, name: &str) -> Flow {
    let policy = x.filter_overrides(name).into_iter().find_map(|o| match &**o {
        FilterOverride::Cors(policy) => Some(policy.clone()),
        _ => None,
    });
    let Some(policy) = policy else { return Flow::Continue };
    let enabled = policy.enabled.value(&x.config.runtime).hit(x.random);
    let shadow = policy.shadow.as_ref().is_some_and(|s| s.value(&x.config.runtime).hit(x.random));
    let Some(origin) = x.parts.headers.get(ORIGIN).filter(|o| !o.is_empty()).cloned() else { return Flow::Continue };
    if !enabled && !shadow {
        return Flow::Continue;
    }
    let valid = origin.to_str().is_ok_and(|o| policy.allow_origins.iter().any(|m| m.is_match(o)));
    let stats = &x.manager.stats;
    if !valid {
        stats.cors_origin_invalid.inc();
        let preflight =
            x.parts.method == Method::OPTIONS && x.parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if enabled && preflight && !policy.forward_not_matching_preflights {
            return Flow::Answer(LocalReply::new(StatusCode::OK, "cors_response", ""));
        }
        return Flow::Continue;
    }
    stats.cors_origin_valid.inc();
    if !enabled {
        return Flow::Continue;
    }
    let preflight = x.parts.method == Method::OPTIONS
        && x.parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|m| !m.is_empty());
    if preflight {
        return Flow::Answer(preflight_reply(x, &policy, origin));
    }
    let expose = HeaderValue::from_str(&policy.expose_headers).ok().filter(|v| !v.is_empty());
    x.data.push((at, Data::Cors(Allowed { origin, credentials: policy.allow_credentials, expose })));
    Flow::Continue
}

fn preflight_reply(x: &Exchange, policy: &CorsPolicy, origin: HeaderValue) -> LocalReply {
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let mut set = |name: HeaderName, value: &str| {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    };
    if policy.allow_credentials {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    set(ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods);
    set(ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers);
    set(ACCESS_CONTROL_MAX_AGE, &policy.max_age);
    let private = x.parts.headers.get(ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK).is_some_and(|v| v == "true");
    if policy.allow_private_network_access && private {
        set(ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, "true");
    }
    // The response side of the filter runs for local answers too, and a preflight tells what may be read.
    set(ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers);
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
