//! The request's head as the upstream gets it: header edits, host and path rewrites, what is told about time and attempts.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::Scheme as UriScheme;
use sidemesh_config::format::Format;
use sidemesh_config::resource::core::{HeaderEdits, HeaderTarget};
use sidemesh_config::resource::route::{Forward, HostRewrite, RetryOn};

use super::Plan;
use crate::codec::{self, Scheme};
use crate::http::exchange::Exchange;
use crate::http::forwarded::append_joined;
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::http::{headers, route};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format;
use crate::telemetry::stream_info::TraceContext;
use crate::telemetry::trace;
use crate::upstream::Host;

/// What is done once, before the first attempt. Says whether the route's levels edit headers.
pub fn finish(x: &mut Exchange, forward: &Forward, plan: &Plan) -> bool {
    plan.timeouts.announce(x, Duration::ZERO);
    // Formats in these edits tell of the attempt that is to come.
    let attempts = std::mem::replace(&mut x.info.upstream.attempts, 1);
    let edited = edit_levels(x);
    x.info.upstream.attempts = attempts;
    if let Some(host) = x.stripped_host.take() {
        x.parts.headers.insert(HOST, host);
    }
    rewrite_host(x, forward);
    rewrite_path(x, forward);
    if x.info.trace.trace_id != 0 {
        let context = x.info.trace;
        inject_trace(x, &context);
    }
    edited
}

/// What is done before every attempt.
pub fn for_attempt(x: &mut Exchange, forward: &Forward, plan: &Plan, host: &Rc<Host>) {
    let attempts = x.info.upstream.attempts;
    if attempts > 1 {
        let elapsed = x.now().saturating_duration_since(x.info.start);
        plan.timeouts.announce(x, elapsed);
    }
    if x.info.vhost.as_ref().is_some_and(|v| v.include_request_attempt_count) {
        x.parts.headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(attempts));
    }
    if attempts > 1 && x.info.vhost.as_ref().is_some_and(|v| v.include_is_timeout_retry_header) {
        let value = HeaderValue::from_static(if plan.timed_out { "true" } else { "false" });
        x.parts.headers.insert(X_ENVOY_IS_TIMEOUT_RETRY, value);
    }
    if matches!(forward.host_rewrite, Some(HostRewrite::Auto)) && !host.hostname().is_empty() {
        set_host(x, forward, host.hostname());
    }
    if x.info.trace.trace_id != 0 && spawns_spans(x) {
        let random = x.manager.worker.local.random.next_u64() | 1;
        if x.info.trace.sampled {
            x.attempt_span = Some((random, x.manager.worker.local.clock.system()));
        }
        let context = TraceContext { span_id: random, parent_id: x.info.trace.span_id, ..x.info.trace };
        inject_trace(x, &context);
    }
}

/// Whether every attempt has a span of its own.
fn spawns_spans(x: &Exchange) -> bool {
    x.manager.router.start_child_span || x.manager.config.tracing.as_ref().is_some_and(|t| t.spawn_upstream_span)
}

/// `strict_check_headers`: a request whose `x-envoy-*` headers make no sense is refused.
pub fn strictly_checked(x: &mut Exchange) -> Option<LocalReply> {
    let checked = &x.manager.router.strict_check_headers;
    let bad = checked.iter().find(|name| {
        let Some(value) = x.parts.headers.get(*name) else { return false };
        let text = value.to_str().unwrap_or("");
        let is = |known: HeaderName| **name == known;
        if is(X_ENVOY_RETRY_ON) || is(X_ENVOY_RETRY_GRPC_ON) {
            !RetryOn::parse(text).1.is_empty()
        } else {
            text.parse::<u64>().is_err()
        }
    })?;
    let details = format!("request_headers_failed_strict_check{{{bad}}}");
    let text = format!("invalid header '{bad}' with value '{}'", x.parts.headers.get(bad)?.to_str().unwrap_or("?"));
    let reply = LocalReply::new(StatusCode::BAD_REQUEST, "", "request.strict_headers").body(text).details(details);
    Some(reply.flags(&[ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS]))
}

/// Request header edits of the route's levels; says whether there are any.
fn edit_levels(x: &mut Exchange) -> bool {
    let Some(selected) = &x.selected else { return false };
    let levels = [
        selected.route.as_ref().map(|r| &r.request_headers),
        selected.vhost.as_ref().map(|v| &v.request_headers),
        Some(&selected.table.request_headers),
    ];
    let weighted = selected.weighted().map(|w| &w.request_headers);
    if levels.iter().chain([&weighted]).flatten().all(|e| e.is_empty()) {
        return false;
    }
    // The tables outlive the edits: they are shared, the head is not.
    let selected = selected.clone();
    let levels = [
        selected.route.as_ref().map(|r| &r.request_headers),
        selected.vhost.as_ref().map(|v| &v.request_headers),
        Some(&selected.table.request_headers),
    ];
    let weighted = selected.weighted().map(|w| &w.request_headers);
    let order = headers::in_order(selected.table.most_specific_header_mutations_wins, levels);
    for edits in weighted.into_iter().chain(order) {
        edit_request(x, edits);
    }
    true
}

/// Applies one level of edits to the request.
pub fn edit_request(x: &mut Exchange, edits: &HeaderEdits) {
    headers::remove(&mut x.parts.headers, &edits.remove);
    if edits.add.is_empty() {
        return;
    }
    let mut changes = headers::Changes::new();
    headers::evaluate(&edits.add, &x.parts.headers, &x.log_context(), &mut changes);
    apply(x, changes);
}

/// Applies evaluated changes, pseudo-headers included.
pub fn apply(x: &mut Exchange, changes: headers::Changes) {
    for change in headers::apply(changes, &mut x.parts.headers) {
        let Ok(value) = change.value.to_str() else { continue };
        match change.target {
            HeaderTarget::Path => {
                codec::set_path_and_query(&mut x.parts, value);
            }
            HeaderTarget::Method => {
                if let Ok(method) = value.parse() {
                    x.parts.method = method;
                }
            }
            HeaderTarget::Scheme => {
                x.caller.scheme = if value == UriScheme::HTTPS.as_str() { Scheme::Https } else { Scheme::Http };
            }
            HeaderTarget::Status | HeaderTarget::Authority | HeaderTarget::Header(_) => {}
        }
    }
}

fn rewrite_host(x: &mut Exchange, forward: &Forward) {
    let weighted = x.selected.as_ref().and_then(|s| s.weighted()).is_some_and(|w| w.host_rewrite.is_some());
    if forward.host_rewrite.is_none() && !weighted {
        return;
    }
    let Some(selected) = &x.selected else { return };
    let format = |f: &Format| format::to_string(f, &x.log_context(), "-");
    let host = route::rewrite_host(selected, &x.parts.headers, x.target(), format).map(|h| h.into_owned());
    let Some(host) = host else { return };
    match HeaderValue::from_str(&host) {
        // As in Envoy a branch's host comes without a word of the one before.
        Ok(value) if weighted => drop(x.parts.headers.insert(HOST, value)),
        _ => set_host(x, forward, &host),
    }
}

fn set_host(x: &mut Exchange, forward: &Forward, host: &str) {
    let Ok(value) = HeaderValue::from_str(host) else { return };
    let Some(old) = x.parts.headers.insert(HOST, value) else { return };
    if forward.append_forwarded_host
        && let Ok(text) = old.to_str()
    {
        append_joined(&mut x.parts.headers, X_FORWARDED_HOST, text.as_bytes(), ",");
    }
    if !x.manager.suppresses() && !x.parts.headers.contains_key(X_ENVOY_ORIGINAL_HOST) {
        x.parts.headers.insert(X_ENVOY_ORIGINAL_HOST, old);
    }
}

fn rewrite_path(x: &mut Exchange, forward: &Forward) {
    if forward.path_rewrite.is_none() {
        return;
    }
    let Some(route) = x.info.route.clone() else { return };
    let Some(path) = route::rewrite_path(&route, x.target(), |f| x.format(f)) else { return };
    set_target(x, &path);
}

/// Gives the request another `/path?query`, and keeps the one it had in `x-envoy-original-path`.
pub fn set_target(x: &mut Exchange, path: &str) {
    let original = HeaderValue::from_str(x.target());
    if !codec::set_path_and_query(&mut x.parts, path) {
        tracing::debug!(%path, "a route's path rewrite made no valid path; the request keeps its own");
        return;
    }
    if !x.manager.suppresses()
        && let Ok(original) = original
    {
        x.parts.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
    }
}

fn inject_trace(x: &mut Exchange, context: &TraceContext) {
    let manager = x.manager.clone();
    let provider = manager.config.tracing.as_ref().and_then(|t| t.provider.as_deref());
    trace::inject(provider, context, x.trace_state.as_ref(), &mut x.parts.headers);
}
