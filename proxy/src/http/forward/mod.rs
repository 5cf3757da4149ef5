//! THE loop: a request goes to its cluster, is answered, sent again, hedged or timed out.
//!
//! ```text
//! plan (cluster, timeouts, retry policy, hash) -> finish the head -> mirrors
//!   -> loop { pick a host -> attempt within the limits -> response | failure | limit -> verdict } -> answer
//! ```
//!
//! Every protocol comes through here, in one form. What a verdict is lives in [`retry`], what an error looks like to the
//! client in [`super::reply`], what a connection is in `upstream`.

mod attempt;
mod head;
mod hedge;
mod redirect;
mod retry;
mod timeout;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response};
use sidemesh_config::resource::route::{ClusterChoice, Forward, Priority, RetryPolicy};
use sidemesh_config::value::Address;
use smallvec::SmallVec;

pub use attempt::{downstream, note};
pub use head::{apply, edit_request, set_target};
pub(super) use timeout::Timeouts;

use super::exchange::Exchange;
use super::finish::{self, Answer};
use super::guard::{Limit, Limits};
use super::names::*;
use super::reply::LocalReply;
use super::tally::Counted;
use super::{hash_policy, mirror, route, upgrade};
use crate::body::Body;
use crate::codec::{Interim, Protocol, Upgrade};
use crate::telemetry::flags::ResponseFlags;
use crate::upstream::{AttemptError, AttemptInfo, Cluster, Host, PickContext, PickError, grpc};
use attempt::Outcome;
use retry::{Failure, Pause, Retry, Verdict};

/// What is decided about a request before its first attempt.
pub(super) struct Plan {
    pub cluster: Rc<Cluster>,
    pub priority: Priority,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub hash: Option<u64>,
    /// When the last attempt began.
    pub started: Instant,
    /// The last attempt ran into its time limit.
    pub timed_out: bool,
    /// Hosts of earlier attempts, oldest first.
    pub tried: SmallVec<[Rc<Host>; 2]>,
}

/// Sends the request where `forward` says.
pub async fn forward(x: &mut Exchange, forward: &Forward) -> Answer {
    let manager = x.manager.clone();
    // A name that the route gives has stood there since the route was chosen; headers may have changed.
    if x.info.cluster.is_none() || !matches!(forward.cluster, ClusterChoice::Cluster(_)) {
        x.info.cluster = x.selected.as_ref().and_then(|s| route::cluster_name(s, |name| x.header(name)));
    }
    let cluster = x.info.cluster.as_deref().and_then(|name| manager.upstream.cluster(&x.config, name));
    let Some(cluster) = cluster else {
        x.info.cluster = None;
        manager.stats.no_cluster.inc();
        return Answer::Local(LocalReply::no_cluster(forward.cluster_not_found_status));
    };
    if let Some(reply) = head::strictly_checked(x) {
        return Answer::Local(reply);
    }
    // What callers ask of the router, they ask in these.
    let asks = any_envoy(&x.parts.headers);
    let mut plan = plan(x, forward, cluster, asks);
    Counted::begin(x, &plan.cluster.entry().cluster.stat_name, asks);
    let edited = head::finish(x, forward, &plan);
    wishes(x, forward, &mut plan, asks || (edited && any_envoy(&x.parts.headers)));
    if upgrade::terminates_connect(x, forward) {
        return Box::pin(upgrade::connect(x, &mut plan)).await;
    }
    keep_body(x, forward, &plan);
    mirror::launch(x, forward);
    if plan.timeouts.hedged && plan.timeouts.per_try.is_some() {
        Box::pin(hedge::run(x, forward, &mut plan)).await
    } else {
        run(x, forward, &mut plan).await
    }
}

/// An answer given in the cluster's place is charged to it.
fn for_cluster(x: &Exchange, plan: &Plan, reply: LocalReply) -> Answer {
    charge(x, &plan.cluster, reply.status.as_u16(), None, false);
    Answer::Local(reply)
}

/// The route's, else its virtual host's.
fn retry_policy(x: &Exchange, forward: &Forward) -> Option<Arc<RetryPolicy>> {
    forward.retry.as_ref().or_else(|| x.info.vhost.as_ref()?.retry_policy.as_ref()).cloned()
}

fn plan(x: &mut Exchange, forward: &Forward, cluster: Rc<Cluster>, asks: bool) -> Plan {
    let policy = retry_policy(x, forward);
    let longest = cluster.config().protocol.common.max_stream_duration;
    let timeouts = Timeouts::new(x, forward, policy.as_deref(), longest, asks);
    if x.manager.config.scheme_matches_upstream {
        x.caller.scheme = attempt::scheme_of(&cluster);
    }
    let entry = cluster.entry();
    x.info.upstream.cluster_metadata = entry.cluster.metadata.clone();
    x.info.upstream.cluster_stat_name = Some(entry.cluster.stat_name.clone());
    Plan {
        cluster,
        priority: forward.priority,
        timeouts,
        retry: None,
        hash: None,
        started: x.now(),
        timed_out: false,
        tried: SmallVec::new(),
    }
}

/// What the request asks for in the form that it goes upstream in: retries, and the host that its hash chooses. `asks`: it has headers that
/// may speak of retries.
fn wishes(x: &mut Exchange, forward: &Forward, plan: &mut Plan, asks: bool) {
    let policy = retry_policy(x, forward);
    if policy.is_some() || asks {
        plan.retry = Retry::new(policy.as_ref(), &x.view());
    }
    if asks {
        retry::strip(&mut x.parts.headers);
    }
    if !forward.hash_policy.is_empty() {
        plan.hash = hash_policy::hash(x, &forward.hash_policy);
    }
}

/// Counts an answer under the cluster, unless the router's `dynamic_stats` are off.
fn charge(x: &Exchange, cluster: &Rc<Cluster>, status: u16, took: Option<Duration>, canary: bool) {
    if !x.manager.router.dynamic_stats {
        return;
    }
    cluster.charge_response(status, took);
    let stats = cluster.stats();
    if x.caller.internal { &stats.internal_rq } else { &stats.external_rq }.record(status, took);
    if canary {
        stats.canary_rq.record(status, took);
    }
    x.counted.answered(status, took);
}

/// Keeps the body where it may be needed again.
fn keep_body(x: &Exchange, forward: &Forward, plan: &Plan) {
    let Some(upload) = &x.upload else { return };
    let wanted = plan.retry.is_some() || forward.internal_redirect.is_some() || mirror::wanted(x, forward);
    if !wanted || x.upgrade.is_some() {
        return;
    }
    let route_limit = x.info.route.as_ref().and_then(|r| r.per_request_buffer_limit);
    let limit = route_limit.or_else(|| x.info.vhost.as_ref()?.per_request_buffer_limit);
    // What a codec may hold of one stream: on HTTP/2 its window.
    let limit = limit.unwrap_or_else(|| match x.protocol {
        Protocol::Http2 => u64::from(x.manager.config.http2.initial_stream_window_size),
        _ => u64::from(x.info.connection.listener.buffer_limit),
    });
    upload.keep(usize::try_from(limit).unwrap_or(usize::MAX));
}

/// The loop.
async fn run(x: &mut Exchange, forward: &Forward, plan: &mut Plan) -> Answer {
    loop {
        let host = match pick(x, plan) {
            Ok(host) => host,
            Err(reply) => return for_cluster(x, plan, reply),
        };
        begin_attempt(x, forward, plan, &host);
        let info = AttemptInfo::default();
        let outcome = attempt::run(x, plan, &host, &info).await;
        attempt::over(x, &info, &outcome);
        plan.timed_out = matches!(outcome, Outcome::Limit(Limit::PerTry | Limit::PerTryIdle));
        let again = match &outcome {
            Outcome::Response(response) => after_response(x, plan, response),
            Outcome::Failed(error) => after_failure(x, plan, error, info.sent_start.get().is_some()),
            Outcome::Limit(limit) => after_limit(x, plan, *limit, &host),
        };
        match again {
            Some(wait) => {
                // Boxed, as all that few requests need: what every request's future holds is moved and cached for each.
                if let Outcome::Response(response) = outcome {
                    Box::pin(attempt::drain(response.into_body())).await;
                }
                plan.tried.push(host);
                if let Some(limit) = Box::pin(attempt::back_off(x, plan, wait)).await {
                    return stopped(x, limit, plan);
                }
                plan.started = x.now();
            }
            None => return settle(x, forward, plan, host, outcome),
        }
    }
}

/// Chooses the next host.
pub(super) fn pick(x: &mut Exchange, plan: &Plan) -> Result<Rc<Host>, LocalReply> {
    let subset = x.selected.as_ref().and_then(|s| {
        let weighted = s.weighted().and_then(|w| w.metadata_match.clone());
        weighted.or_else(|| s.forward()?.metadata_match.clone())
    });
    let naming = attempt::naming(x);
    let wanted = plan.cluster.wanted(&naming);
    let context = PickContext {
        hash: plan.hash,
        subset: subset.as_ref().map_or(&[][..], |s| &s.0),
        destination: plan.cluster.original_destination(&naming),
        wanted: &wanted,
        session: x.session.as_ref(),
        retry: plan.retry.as_ref().and_then(|r| r.policy()).map(|p| &**p),
        tried: &plan.tried,
    };
    plan.cluster.pick(&context).map_err(|error| {
        // Looking for a host is an attempt, also where there is none.
        if !matches!(error, PickError::Dropped { .. }) {
            x.info.upstream.attempts += 1;
        }
        let mut reply = LocalReply::no_host(&error);
        if x.manager.suppresses() {
            reply.headers = None;
        }
        reply
    })
}

/// What is new in the head of every attempt.
fn begin_attempt(x: &mut Exchange, forward: &Forward, plan: &Plan, host: &Rc<Host>) {
    x.info.upstream.attempts += 1;
    x.info.timing.upstream_begin = Some(x.now());
    x.info.upstream.endpoint = Some(host.endpoint().clone());
    x.info.upstream.host = match host.address() {
        Address::Socket(address) => Some(*address),
        Address::Pipe(_) | Address::Dns { .. } => None,
    };
    head::for_attempt(x, forward, plan, host);
}

/// Whether the client is told how many attempts it took.
pub fn tells_attempts(x: &Exchange) -> bool {
    x.info.vhost.as_ref().is_some_and(|v| v.include_attempt_count_in_response)
}

/// How long until the next attempt, when the response asks for one.
fn after_response(x: &mut Exchange, plan: &mut Plan, response: &Response<Body>) -> Option<Duration> {
    let local = &x.manager.worker.local;
    let retry = plan.retry.as_mut()?;
    let (now, random) = (local.clock.system(), local.random.next_u64());
    let status = response.status().as_u16();
    let verdict = retry.after_response(status, response.headers(), now, random);
    let wait = permitted(x, plan, verdict)?;
    if x.manager.router.dynamic_stats {
        plan.cluster.stats().retry_rq.record(status);
    }
    Some(wait)
}

fn after_failure(x: &mut Exchange, plan: &mut Plan, error: &AttemptError, sent: bool) -> Option<Duration> {
    if matches!(error, AttemptError::Send(crate::codec::SendError::RequestBody(_))) {
        return None;
    }
    let random = x.manager.worker.local.random.next_u64();
    let failure = Failure {
        connect: error.is_connect_failure(),
        refused: error.is_refused(),
        overflow: matches!(error, AttemptError::Overflow(_)),
        sent,
    };
    let verdict = plan.retry.as_mut()?.after_failure(failure, random);
    permitted(x, plan, verdict)
}

fn after_limit(x: &mut Exchange, plan: &mut Plan, limit: Limit, host: &Rc<Host>) -> Option<Duration> {
    let stats = plan.cluster.stats();
    match limit {
        Limit::PerTry => stats.upstream_rq_per_try_timeout.inc(),
        Limit::PerTryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
        Limit::Route => {}
        Limit::Upstream => {
            let random = x.manager.worker.local.random.next_u64();
            stats.upstream_rq_max_duration_reached.inc();
            let verdict = plan.retry.as_mut()?.after_try_timeout(false, random);
            return permitted(x, plan, verdict);
        }
        Limit::StreamIdle | Limit::Duration | Limit::Request => return None,
    }
    plan.cluster.on_timeout(host, x.info.upstream.protocol);
    if limit == Limit::Route {
        return None;
    }
    let random = x.manager.worker.local.random.next_u64();
    let verdict = plan.retry.as_mut()?.after_try_timeout(false, random);
    permitted(x, plan, verdict)
}

/// A verdict to send again still needs the body, a permit and the budget.
fn permitted(x: &mut Exchange, plan: &mut Plan, verdict: Verdict) -> Option<Duration> {
    let pause = match verdict {
        Verdict::Keep => return None,
        Verdict::Exhausted => {
            plan.cluster.stats().upstream_rq_retry_limit_exceeded.inc();
            x.flag(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return None;
        }
        Verdict::Again(pause) => pause,
    };
    if x.upload.as_ref().is_some_and(|u| !u.is_replayable()) {
        plan.cluster.stats().retry_or_shadow_abandoned.inc();
        return None;
    }
    x.retry_permit = None;
    match plan.cluster.try_retry(plan.priority) {
        Ok(permit) => {
            x.counted.each(|tally| tally.upstream_rq_retry.inc());
            x.retry_permit = Some(permit);
            let stats = plan.cluster.stats();
            match pause {
                Pause::Told(_) => stats.upstream_rq_retry_backoff_ratelimited.inc(),
                Pause::Exponential(_) => stats.upstream_rq_retry_backoff_exponential.inc(),
            }
            Some(pause.length())
        }
        Err(_) => {
            x.flag(ResponseFlags::UPSTREAM_OVERFLOW);
            None
        }
    }
}

/// The outcome stands: it becomes the answer.
pub(super) fn settle(x: &mut Exchange, forward: &Forward, plan: &Plan, host: Rc<Host>, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Response(response) => accept(x, forward, plan, host, response),
        // A filter that rewrites the body could not read it: the answer is its own, not the cluster's.
        Outcome::Failed(AttemptError::Send(crate::codec::SendError::RequestBody(crate::body::Error::Other(text)))) => {
            let status = http::StatusCode::BAD_REQUEST;
            let reply = LocalReply::new(status, "grpc_base_64_decode_failed", "request.malformed");
            Answer::Local(reply.body(text.to_string()))
        }
        Outcome::Failed(AttemptError::Send(crate::codec::SendError::RequestBody(error))) => Answer::Abort(error),
        Outcome::Failed(error) => {
            if let Some(text) = error.detail() {
                x.info.upstream.failure = Some(text.into());
            }
            let mut reply = LocalReply::upstream_failure(&error, x.info.upstream.attempts > 1);
            if x.manager.suppresses() {
                reply.headers = None;
            }
            for_cluster(x, plan, reply)
        }
        Outcome::Limit(limit) => stopped(x, limit, plan),
    }
}

/// A limit was reached before the answer's head.
fn stopped(x: &mut Exchange, limit: Limit, plan: &Plan) -> Answer {
    if limit == Limit::Route {
        plan.cluster.stats().upstream_rq_timeout.inc();
        x.counted.each(|tally| tally.upstream_rq_timeout.inc());
    }
    let mut reply = out_of_time(x, limit);
    if plan.timeouts.no_content && matches!(limit, Limit::Route | Limit::PerTry) {
        reply.status = http::StatusCode::NO_CONTENT;
        reply.body = "".into();
    }
    if limit.is_of_stream() { Answer::Local(reply) } else { for_cluster(x, plan, reply) }
}

/// The answer when a limit is reached before the answer's head.
pub fn out_of_time(x: &Exchange, limit: Limit) -> LocalReply {
    let stats = &x.manager.stats;
    match limit {
        Limit::Route => LocalReply::upstream_timeout(false),
        Limit::PerTry => LocalReply::upstream_timeout(true),
        Limit::PerTryIdle => LocalReply::per_try_idle_timeout(),
        Limit::Upstream => LocalReply::upstream_max_duration(),
        Limit::StreamIdle => {
            stats.downstream_rq_idle_timeout.inc();
            LocalReply::stream_idle(x.timeout_status())
        }
        Limit::Duration => {
            stats.downstream_rq_max_duration_reached.inc();
            LocalReply::max_duration(x.timeout_status())
        }
        Limit::Request => {
            stats.downstream_rq_timeout.inc();
            LocalReply::request_timeout()
        }
    }
}

/// A WebSocket handshake that succeeds without a switch is none.
fn unswitched(x: &Exchange, response: &Response<Body>) -> bool {
    matches!(&x.upgrade, Some(Upgrade::Protocol(name)) if name.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && response.status().is_success()
}

/// The upstream's response becomes the answer, unless it is a redirect that is followed here.
fn accept(x: &mut Exchange, forward: &Forward, plan: &Plan, host: Rc<Host>, mut response: Response<Body>) -> Answer {
    // The attempt has asked for the time when the head was there.
    let now = x.manager.worker.local.clock.coarse();
    let status = response.status().as_u16();
    let from = x.request_ended().unwrap_or(x.info.start);
    let took = now.saturating_duration_since(from);
    let tracked = plan.cluster.config().tracked;
    if tracked.sizes || tracked.timeout_budgets {
        let limits = [plan.timeouts.route, plan.timeouts.per_try];
        plan.cluster.track_head(&x.parts.headers, response.headers(), took, limits);
    }
    x.answered_by = Some(plan.cluster.clone());
    plan.cluster.on_load_report(&host, response.headers());
    if x.info.upstream.attempts > 1 && status < 500 {
        plan.cluster.stats().upstream_rq_retry_success.inc();
    }
    if let Some(Interim(first)) = response.extensions_mut().remove() {
        charge(x, &plan.cluster, first.as_u16(), None, false);
        if x.manager.config.proxy_100_continue {
            x.manager.stats.downstream_rq.record(first.as_u16());
        }
    }
    // The retry is over with the head of its answer, however long the body takes.
    x.retry_permit = None;
    if let Some(policy) = &forward.internal_redirect
        && redirect::follow(x, policy, &response, plan)
    {
        return Answer::Again(response);
    }
    if unswitched(x, &response) {
        return Answer::Local(LocalReply::new(response.status(), "websocket_handshake_unsuccessful", ""));
    }
    let canary = response.headers().get(X_ENVOY_UPSTREAM_CANARY).is_some_and(|v| v == "true");
    charge(x, &plan.cluster, status, Some(took), canary);
    x.info.status = status;
    x.info.details = std::borrow::Cow::Borrowed("via_upstream");
    if let Some(upload) = &x.upload {
        upload.release();
    }
    if !x.manager.suppresses() {
        let millis = super::headers::number(took.as_millis() as u64);
        response.headers_mut().insert(X_ENVOY_UPSTREAM_SERVICE_TIME, millis);
    }
    if tells_attempts(x) {
        response.headers_mut().insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(x.info.upstream.attempts));
    }
    finish::edit_response(x, &mut response);
    let limits = Limits {
        route: plan.timeouts.route,
        per_try_idle: plan.timeouts.per_try_idle,
        upstream_ends: plan.timeouts.upstream.and_then(|t| plan.started.checked_add(t)),
        cluster: plan.cluster.clone(),
        host,
        protocol: x.info.upstream.protocol,
        trailers_tell: grpc::trailers_tell(&x.parts.headers, status, response.body().is_end()),
    };
    Answer::Upstream(response, Box::new(limits))
}
