//! Internal redirects (`internal_redirect_policy`): a redirect of the upstream is followed here instead of by the client.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, Uri};
use sidemesh_config::resource::route::InternalRedirect;

use super::Plan;
use crate::body::Body;
use crate::codec::{self, Scheme};
use crate::http::exchange::Exchange;
use crate::http::names::*;

/// Turns the request into the one the response points to; `false`: the response is passed on.
pub fn follow(x: &mut Exchange, policy: &InternalRedirect, response: &Response<Body>, plan: &Plan) -> bool {
    let status = response.status().as_u16();
    if !policy.codes.contains(&status) {
        return false;
    }
    let stats = x.manager.stats.clone();
    let replayable = x.upload.as_ref().is_none_or(|u| u.ended().is_some() && u.is_replayable());
    let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| target(x, l));
    let allowed = match &target {
        None => {
            stats.passthrough_internal_redirect_bad_location.inc();
            false
        }
        Some((scheme, _, _)) if *scheme != x.caller.scheme && !policy.allow_cross_scheme => {
            stats.passthrough_internal_redirect_unsafe_scheme.inc();
            false
        }
        Some(_) if x.redirects >= policy.max_redirects => {
            stats.passthrough_internal_redirect_too_many_redirects.inc();
            false
        }
        Some(_) => replayable,
    };
    let (true, Some((scheme, authority, path))) = (allowed, target) else {
        plan.cluster.stats().upstream_internal_redirect_failed_total.inc();
        return false;
    };
    let original = format!("{}://{}{}", x.caller.scheme.as_str(), x.authority(), x.target());
    let Ok(host) = HeaderValue::from_str(&authority) else { return false };
    if !codec::set_path_and_query(&mut x.parts, &path) {
        return false;
    }
    for name in &policy.response_headers_to_copy {
        x.parts.headers.remove(name);
        for value in response.headers().get_all(name) {
            x.parts.headers.append(name.clone(), value.clone());
        }
    }
    x.caller.scheme = scheme;
    x.parts.headers.insert(HOST, host);
    if let Ok(original) = HeaderValue::try_from(original) {
        x.parts.headers.insert(X_ENVOY_ORIGINAL_URL, original);
    }
    if status == StatusCode::SEE_OTHER.as_u16() && x.parts.method != Method::GET && x.parts.method != Method::HEAD {
        x.parts.method = Method::GET;
        x.parts.headers.remove(CONTENT_LENGTH);
        x.upload = None;
    }
    x.redirects += 1;
    // The filters run again: what they left was about the request that was.
    x.data.clear();
    x.retry_permit = None;
    plan.cluster.stats().upstream_internal_redirect_succeeded_total.inc();
    true
}

/// Scheme, authority and path of a location; relative ones keep what the request has.
fn target(x: &Exchange, location: &str) -> Option<(Scheme, String, String)> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some((x.caller.scheme, x.authority().to_owned(), location.to_owned()));
    }
    let uri: Uri = location.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    Some((scheme, uri.authority()?.to_string(), path.to_owned()))
}
