//! The steps of one request, in order: hygiene, who calls, route, trace, filters, action.

use std::future::Future;
use std::rc::Rc;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use sidemesh_config::resource::cluster::UnderscoresAction;
use sidemesh_config::resource::listener::TrafficDirection;
use sidemesh_config::resource::route::{ClusterChoice, RouteAction};

use super::exchange::Exchange;
use super::finish::{self, Answer};
use super::names::{GRPC_TIMEOUT, X_CLIENT_TRACE_ID, X_ENVOY_DECORATOR_OPERATION, X_ENVOY_FORCE_TRACE};
use super::normalize::Normalized;
use super::reply::LocalReply;
use super::request_id;
use super::upload::Upload;
use super::{Connection, filter, forward, forwarded, hash_policy, headers, record, route, upgrade};
use crate::body::Body;
use crate::codec::h2::Events;
use crate::codec::{self, Ending, Handler, Protocol, Rejection, RequestMeta};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stream_info::request_number;
use crate::telemetry::trace::{self, Asked, Reason};

impl Handler for Connection {
    // Begun before the future is made, which then holds one pointer and not what it was made of: every request moves its future.
    fn handle(&self, request: Request<Body>, meta: RequestMeta) -> impl Future<Output = Response<Body>> {
        let (parts, body) = request.into_parts();
        if meta.continued {
            self.manager.stats.downstream_rq.record(StatusCode::CONTINUE.as_u16());
        }
        // Boxed: it goes from here to the answer's body.
        let mut x = Box::new(Exchange::begin(self, parts, meta));
        record::started(&x);
        if !body.is_end() {
            x.upload = Some(Upload::new(body, self.manager.worker.local.clock.clone()));
        }
        async move {
            let mut answer = answer(&mut x).await;
            if x.grpc_web {
                answer = Box::pin(filter::whole_if_foreign(&x, answer)).await;
            }
            finish::respond(x, answer)
        }
    }

    fn reject(&self, rejection: Rejection) -> Response<Body> {
        record::rejected(self, &rejection)
    }

    fn ends(&self, how: Ending) {
        self.ending.set(Some(how));
    }

    fn happened(&self, events: &Events) {
        self.manager.http2_stats.record(events);
    }
}

/// Everything between the request's head and the answer's.
async fn answer(x: &mut Exchange) -> Answer {
    if let Some(refused) = hygiene(x) {
        return refused;
    }
    if let Some(refused) = identify(x) {
        return refused;
    }
    loop {
        match route_and_act(x).await {
            // An internal redirect: the request it has become takes the same way from here.
            Answer::Again(response) => {
                // What is logged of it names, as in Envoy, where it leads.
                select_route(x);
                x.info.upstream.cluster_stat_name = None;
                record::redirected(x, response.status().as_u16());
                if let Some(refused) = normalize_path(x) {
                    return refused;
                }
            }
            answer => return answer,
        }
    }
}

/// Route, trace, filters, action.
async fn route_and_act(x: &mut Exchange) -> Answer {
    select_route(x);
    let chain = match upgrade::admit(x) {
        Ok(chain) => chain,
        Err(reply) => return Answer::Local(reply),
    };
    if x.redirects == 0 {
        decide_trace(x);
        record::came(x);
    }
    arm_duration(x);
    x.chain = Some(chain.clone());
    if let Some(answer) = filter::run_request(&chain, x).await {
        return answer;
    }
    act(x).await
}

/// Underscores, path, host.
fn hygiene(x: &mut Exchange) -> Option<Answer> {
    let manager = x.manager.clone();
    match manager.config.common.headers_with_underscores {
        UnderscoresAction::Allow => {}
        action => {
            if let Some(refused) = underscores(x, action) {
                return Some(refused);
            }
        }
    }
    if !x.parts.headers.contains_key(HOST) {
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, "missing_host_header", "request.malformed");
        return Some(Answer::Local(reply.header(http::header::CONNECTION, HeaderValue::from_static("close"))));
    }
    if x.target() == "*" {
        manager.stats.downstream_rq_non_relative_path.inc();
        return Some(Answer::Local(LocalReply::new(
            StatusCode::NOT_FOUND,
            "absolute_path_rejected",
            "request.malformed",
        )));
    }
    if let Some(refused) = normalize_path(x) {
        return Some(refused);
    }
    if !manager.host_rules.is_off()
        && let Some(host) = manager.host_rules.apply(x.authority())
    {
        let old = x.parts.headers.insert(HOST, host);
        if x.is_connect() {
            x.stripped_host = old;
        }
    }
    None
}

/// The target as the path rules make it; of an internal redirect's, too: what is decided about a path is decided about this form.
fn normalize_path(x: &mut Exchange) -> Option<Answer> {
    let manager = x.manager.clone();
    if manager.path_rules.is_off() || x.target().is_empty() || x.target() == "*" {
        return None;
    }
    let failed = || {
        Some(Answer::Local(LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed", "request.malformed")))
    };
    let changed = match manager.path_rules.apply(x.target()) {
        Normalized::Path(std::borrow::Cow::Borrowed(_)) => return None,
        Normalized::Path(std::borrow::Cow::Owned(path)) => path,
        Normalized::Redirect(location) => {
            let reply =
                LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed", "request.path_redirect");
            let Ok(location) = HeaderValue::try_from(location) else { return failed() };
            return Some(Answer::Local(reply.header(http::header::LOCATION, location)));
        }
        Normalized::Rejected => {
            manager.stats.downstream_rq_failed_path_normalization.inc();
            return failed();
        }
    };
    if codec::set_path_and_query(&mut x.parts, &changed) { None } else { failed() }
}

/// `headers_with_underscores_action`.
fn underscores(x: &mut Exchange, action: UnderscoresAction) -> Option<Answer> {
    let names: Vec<_> = x.parts.headers.keys().filter(|k| k.as_str().contains('_')).cloned().collect();
    if names.is_empty() {
        return None;
    }
    let stats = x.manager.clone();
    let http2 = x.protocol == Protocol::Http2;
    if action == UnderscoresAction::RejectRequest {
        if http2 {
            stats.http2_stats.requests_rejected_with_underscores_in_headers.inc();
            x.info.details = "http2.unexpected_underscore".into();
            x.flag(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
            // The codec's own refusal in Envoy: the request was never seen.
            x.headless = true;
            return Some(Answer::Abort(crate::body::Error::Other("a header name with an underscore".into())));
        }
        stats.http1_stats.requests_rejected_with_underscores_in_headers.inc();
        return Some(Answer::Local(LocalReply::bad_request("http1.unexpected_underscore")));
    }
    let dropped = match http2 {
        true => &stats.http2_stats.dropped_headers_with_underscores,
        false => &stats.http1_stats.dropped_headers_with_underscores,
    };
    dropped.add(names.len() as u64);
    headers::remove(&mut x.parts.headers, &names);
    None
}

/// Who calls, and by which id the request is known.
fn identify(x: &mut Exchange) -> Option<Answer> {
    let manager = x.manager.clone();
    let config = x.config.clone();
    let table = route::table(&manager.config.routes, &config, &x.parts.headers);
    let internal_only = table.map_or(&[][..], |t| &t.internal_only_headers);
    let node = &manager.worker.shared.node;
    let (headers, named) = (&mut x.parts.headers, x.named_scheme);
    match forwarded::apply(headers, &manager.config, &x.info.connection, node, internal_only, named) {
        Ok(caller) => x.caller = caller,
        Err(unknown) => return Some(Answer::Local(LocalReply::client_unknown(unknown.0))),
    }
    x.info.remote = x.caller.address;
    request_id::apply(&mut x.parts.headers, &manager.config, &x.caller, &manager.worker.local.random);
    if !manager.config.early_header_mutation.is_empty() {
        filter::mutate_request(x, &manager.config.early_header_mutation);
    }
    None
}

/// Runs the matcher; also what filters call that clear the route cache.
pub(super) fn select_route(x: &mut Exchange) {
    let manager = x.manager.clone();
    let config = x.config.clone();
    let Some(table) = manager.table(&config, &x.parts.headers) else {
        // A choice made before must not outlive the table it was made from.
        x.selected = None;
        (x.info.vhost, x.info.route) = (None, None);
        return;
    };
    x.info.route_resolutions += 1;
    let selected = route::select(table, &x.view(), x.caller.internal);
    x.info.vhost = selected.vhost.clone();
    x.info.route = selected.route.clone();
    if let Some(forward) = selected.forward() {
        if let Some(idle) = forward.idle_timeout {
            x.idle = idle;
        }
        x.info.cluster = route::cluster_name(&selected, |name| x.header(name));
    }
    x.selected = Some(selected);
    branch_by_hash(x);
}

/// `weighted_clusters.use_hash_policy`: the branch follows the hash, where the request has one.
fn branch_by_hash(x: &mut Exchange) {
    let Some(route) = x.info.route.clone() else { return };
    let RouteAction::Forward(forward) = &route.action else { return };
    let ClusterChoice::Weighted(weighted) = &forward.cluster else { return };
    if weighted.use_hash_policy
        && let Some(hash) = hash_policy::hash(x, &forward.hash_policy)
        && let Some(selected) = &mut x.selected
    {
        selected.branch = route::branch_at(weighted, hash, &x.config.runtime);
    }
    x.info.cluster = x.selected.as_ref().and_then(|s| route::cluster_name(s, |name| x.header(name)));
}

/// Decides about tracing and joins or starts a trace, where that is configured.
fn decide_trace(x: &mut Exchange) {
    let manager = x.manager.clone();
    let Some(tracing) = &manager.config.tracing else { return };
    let random = &manager.worker.local.random;
    let headers = &x.parts.headers;
    let asked = Asked {
        known: request_id::reason(headers),
        client: headers.contains_key(X_CLIENT_TRACE_ID),
        // Only internal callers still have the header here.
        forced: headers.contains_key(X_ENVOY_FORCE_TRACE),
        number: request_number(headers),
        draw: random.next_u64(),
    };
    let route = x.info.route.as_deref().and_then(|r| r.tracing.as_ref());
    let reason = trace::reason(tracing, route, &asked);
    let stats = &manager.stats;
    match reason {
        Reason::NotTraced => &stats.tracing_not_traceable,
        Reason::Sampled => &stats.tracing_random_sampling,
        Reason::Client => &stats.tracing_client_enabled,
        Reason::Forced => &stats.tracing_service_forced,
    }
    .inc();
    if manager.config.request_id_pack_trace_reason {
        request_id::pack(&mut x.parts.headers, reason);
    }
    if let Some(provider) = &tracing.provider {
        let traced = reason != Reason::NotTraced;
        let server = x.info.connection.listener.direction != TrafficDirection::Outbound;
        let started = trace::start(provider, &x.parts.headers, traced, server, || random.next_u64());
        let started = started.unwrap_or_default();
        x.info.trace = started.context;
        x.trace_state = started.state;
    }
    name_operation(x);
}

/// The span's operation: the route's decorator; towards us a caller may name it, from us the callee is told.
fn name_operation(x: &mut Exchange) {
    // A format of the operation leaves no say to either.
    if x.manager.config.tracing.as_ref().is_some_and(|t| t.operation.is_some()) {
        return;
    }
    let decorator = x.info.route.as_ref().and_then(|r| r.decorator.clone());
    if x.info.connection.listener.direction == TrafficDirection::Outbound {
        if let Some(d) = decorator.as_ref().filter(|d| d.propagate)
            && let Ok(value) = HeaderValue::from_str(&d.operation)
        {
            x.parts.headers.insert(X_ENVOY_DECORATOR_OPERATION, value);
        }
        x.operation = decorator.map(|d| Box::from(&*d.operation));
        return;
    }
    let asked = x.parts.headers.remove(X_ENVOY_DECORATOR_OPERATION);
    let asked = asked.and_then(|v| Some(Box::from(v.to_str().ok().filter(|v| !v.is_empty())?)));
    x.tells_operation = asked.is_none() && decorator.as_ref().is_some_and(|d| d.propagate);
    x.operation = asked.or_else(|| decorator.map(|d| Box::from(&*d.operation)));
}

/// `max_stream_duration` and `grpc-timeout` run from the request's head. A gRPC upstream is told the former.
fn arm_duration(x: &mut Exchange) {
    let own = x.manager.config.common.max_stream_duration;
    let limits = x.selected.as_ref().and_then(|s| s.forward()?.max_stream_duration);
    let limit = route::max_duration(limits, own, &x.parts.headers);
    if let Some(limit) = limit {
        x.duration_ends = x.info.start.checked_add(limit);
    }
    if let Some(limits) = limits
        && x.is_grpc()
    {
        match limit {
            Some(limit) => drop(x.parts.headers.insert(GRPC_TIMEOUT, route::grpc_timeout_text(limit))),
            // An explicit zero lifts every limit.
            None if limits.max_stream_duration.is_some() => drop(x.parts.headers.remove(GRPC_TIMEOUT)),
            None => {}
        }
    }
}

/// What the route says.
async fn act(x: &mut Exchange) -> Answer {
    let manager = x.manager.clone();
    manager.stats.rq_total.inc();
    let Some(selected) = &x.selected else {
        manager.stats.no_route.inc();
        return Answer::Local(LocalReply::no_route());
    };
    if selected.to_https {
        return Answer::Local(to_https(x));
    }
    let Some(route) = selected.route.clone() else {
        manager.stats.no_route.inc();
        return Answer::Local(LocalReply::no_route());
    };
    match &route.action {
        RouteAction::Forward(forward) => forward::forward(x, forward).await,
        RouteAction::Redirect(redirect) => {
            manager.stats.rq_direct_response.inc();
            // What is logged of the request is what it was rewritten to.
            if let Some(target) = route::redirect_target(redirect, &route, x.target()) {
                forward::set_target(x, &target);
            }
            let location = route::location(redirect, x.caller.scheme, x.authority(), x.target());
            Answer::Local(redirect_reply(redirect.status, location))
        }
        RouteAction::DirectResponse(direct) => {
            manager.stats.rq_direct_response.inc();
            Answer::Local(direct_reply(x, direct))
        }
        RouteAction::NonForwarding => {
            manager.stats.no_route.inc();
            Answer::Local(LocalReply::no_route())
        }
    }
}

fn to_https(x: &Exchange) -> LocalReply {
    x.manager.stats.rq_redirect.inc();
    redirect_reply(301, format!("https://{}{}", x.authority(), x.target()))
}

fn redirect_reply(status: u16, location: String) -> LocalReply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let reply = LocalReply::new(status, "direct_response", "");
    match HeaderValue::try_from(location) {
        Ok(location) => reply.header(http::header::LOCATION, location),
        Err(_) => LocalReply::bad_request("redirect_location_invalid"),
    }
}

fn direct_reply(x: &mut Exchange, direct: &sidemesh_config::resource::route::DirectResponse) -> LocalReply {
    let status = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::OK);
    let mut reply = LocalReply::new(status, "direct_response", "");
    if let Some(body) = direct.body.as_ref().and_then(|b| x.manager.sources.text(b)) {
        reply = reply.body(body);
    }
    if matches!(direct.status, 201 | 300..=399)
        && let Ok(here) =
            HeaderValue::try_from(format!("{}://{}{}", x.caller.scheme.as_str(), x.authority(), x.target()))
    {
        reply = reply.header(http::header::LOCATION, here);
    }
    if let Some(format) = &direct.body_format {
        // The status is not settled yet, as in Envoy: `%RESPONSE_CODE%` is 0 here.
        x.local_body = reply.body.clone();
        let content_type = super::reply::apply_format(x, format, true);
        reply.body = std::mem::take(&mut x.local_body);
        reply = reply.header(http::header::CONTENT_TYPE, content_type);
    }
    reply
}

/// The chain of filters a request runs through.
pub(super) type Filters = Rc<filter::Chain>;
