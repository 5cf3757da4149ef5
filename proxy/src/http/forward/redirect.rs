//! Internal redirects (`internal_redirect_policy`): a redirect of the upstream is followed here instead of by the client.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, Uri};
use sidemesh_config::resource::route::{InternalRedirect, RedirectPredicate};
use sidemesh_config::value::{Name, name};

use super::Plan;
use crate::body::Body;
use crate::codec::{self, Scheme};
use crate::http::exchange::Exchange;
use crate::http::names::*;
use crate::http::route;
use crate::telemetry::stats::Counter;

/// Where a redirect leads.
struct Target {
    scheme: Scheme,
    authority: HeaderValue,
    path: String,
}

/// Turns the request into the one the response points to; `false`: the response is passed on.
pub fn follow(x: &mut Exchange, policy: &InternalRedirect, response: &Response<Body>, plan: &Plan) -> bool {
    if !policy.codes.contains(&response.status().as_u16()) {
        return false;
    }
    let stats = x.manager.stats.clone();
    let cluster = plan.cluster.stats();
    let passed_on = |reason: Option<&Counter>| {
        reason.inspect(|counter| counter.inc());
        cluster.upstream_internal_redirect_failed_total.inc();
        false
    };
    if !x.upload.as_ref().is_none_or(|u| u.ended().is_some() && u.is_replayable()) {
        return passed_on(None);
    }
    let Some(target) = response.headers().get(LOCATION).and_then(target) else {
        return passed_on(Some(&stats.passthrough_internal_redirect_bad_location));
    };
    if target.scheme != x.caller.scheme && !policy.allow_cross_scheme {
        return passed_on(Some(&stats.passthrough_internal_redirect_unsafe_scheme));
    }
    if x.redirects >= policy.max_redirects {
        return passed_on(Some(&stats.passthrough_internal_redirect_too_many_redirects));
    }
    let original = format!("{}://{}{}", x.caller.scheme.as_str(), x.authority(), x.target());
    let from = (x.caller.scheme, x.parts.clone());
    if !redirect(x, policy, response, target) {
        return passed_on(Some(&stats.passthrough_internal_redirect_bad_location));
    }
    let refused = match admit(x, policy, from.0) {
        Admitted::Yes => None,
        Admitted::NoRoute => Some(&stats.passthrough_internal_redirect_no_route),
        Admitted::Predicate => Some(&stats.passthrough_internal_redirect_predicate),
    };
    if refused.is_some() {
        (x.caller.scheme, x.parts) = from;
        return passed_on(refused);
    }
    if let Ok(original) = HeaderValue::try_from(original) {
        x.parts.headers.insert(X_ENVOY_ORIGINAL_URL, original);
    }
    if x.parts.method == Method::GET && from.1.method != Method::GET {
        x.upload = None;
    }
    x.redirects += 1;
    // The filters run again: what they left was about the request that was.
    x.data.clear();
    x.retry_permit = None;
    cluster.upstream_internal_redirect_succeeded_total.inc();
    true
}

/// The head as the redirect wants it; `false`: its path is none.
fn redirect(x: &mut Exchange, policy: &InternalRedirect, response: &Response<Body>, target: Target) -> bool {
    if !codec::set_path_and_query(&mut x.parts, &target.path) {
        return false;
    }
    for name in &policy.response_headers_to_copy {
        x.parts.headers.remove(name);
        for value in response.headers().get_all(name) {
            x.parts.headers.append(name.clone(), value.clone());
        }
    }
    x.caller.scheme = target.scheme;
    x.parts.headers.insert(HOST, target.authority);
    let see_other = response.status() == StatusCode::SEE_OTHER;
    if see_other && x.parts.method != Method::GET && x.parts.method != Method::HEAD {
        x.parts.method = Method::GET;
        x.parts.headers.remove(CONTENT_LENGTH);
    }
    true
}

enum Admitted {
    Yes,
    NoRoute,
    Predicate,
}

/// Whether there is a route for the request as it is now, and the predicates accept it.
fn admit(x: &mut Exchange, policy: &InternalRedirect, from_scheme: Scheme) -> Admitted {
    let table = route::table(&x.manager.config.routes, &x.config, &x.parts.headers);
    let selected = table.map(|table| route::select(table.clone(), &x.view(), x.caller.internal));
    let Some(selected) = selected.filter(|s| s.route.is_some() || s.to_https) else { return Admitted::NoRoute };
    let of = |route: Option<&Name>| route.cloned().unwrap_or_else(|| name(""));
    let from = of(x.info.route.as_ref().map(|r| &r.name));
    let to = of(selected.route.as_ref().map(|r| &r.name));
    let accepted = policy.predicates.iter().all(|predicate| match predicate {
        RedirectPredicate::AllowListedRoutes(names) => names.contains(&to),
        RedirectPredicate::SafeCrossScheme => from_scheme == Scheme::Https || x.caller.scheme == Scheme::Http,
        RedirectPredicate::PreviousRoutes => {
            let step = (from.clone(), to.clone());
            let fresh = !x.redirected.contains(&step);
            x.redirected.push(step);
            fresh
        }
    });
    if accepted { Admitted::Yes } else { Admitted::Predicate }
}

/// An absolute location, the only form that is followed.
fn target(location: &HeaderValue) -> Option<Target> {
    let uri: Uri = location.to_str().ok()?.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    Some(Target {
        scheme,
        authority: HeaderValue::from_str(uri.authority()?.as_str()).ok()?,
        path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
    })
}
