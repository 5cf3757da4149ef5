//! The end of a request: counters, access log, span. And the requests that never became one.

use http::Response;
use http::header::{DATE, SERVER};
use sidemesh_config::resource::http_connection_manager::CustomTag;
use sidemesh_config::resource::listener::TrafficDirection;

use super::Connection;
use super::exchange::Exchange;
use super::finish;
use super::guard::Limit;
use super::reply::{self, LocalReply};
use super::stats::HttpStats;
use crate::body::{Body, End, Error};
use crate::codec::h2::Reason;
use crate::codec::{Ending, Protocol, Rejection};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::size;
use crate::telemetry::stream_info::{LogContext, Moment, TraceContext};
use crate::telemetry::trace::{Kind, Proxy, Span, describe, describe_attempt};

pub fn started(x: &Exchange) {
    let stats = &x.manager.stats;
    stats.downstream_rq_total.inc();
    stats.downstream_rq_active.inc();
    let most = x.manager.config.common.max_requests_per_connection;
    if most.is_some_and(|most| most > 0 && x.requests_before + 1 >= u64::from(most)) {
        stats.downstream_cx_max_requests_reached.inc();
    }
    match x.protocol {
        Protocol::Http2 => stats.downstream_rq_http2_total.inc(),
        _ => stats.downstream_rq_http1_total.inc(),
    }
}

/// The request's head has come: it is logged where that is asked for.
pub fn came(x: &mut Exchange) {
    let manager = x.manager.clone();
    if manager.config.log_new_requests {
        x.info.moment = Moment::Start;
        x.info.timing.downstream_rx_end = x.upload.is_none().then_some(x.info.start);
        let logs = &manager.config.access_logs;
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random.rotate_left(24));
        x.info.moment = Moment::End;
    }
}

/// The request lasts: it is logged with what has passed so far, `sent` bytes of the answer's body among it.
pub fn periodic(x: &Exchange, sent: u64) {
    let manager = &x.manager;
    let Some(every) = manager.config.log_interval else { return };
    let mut info = x.info.clone();
    info.moment = Moment::Periodic;
    info.response_body_bytes = sent;
    match &x.upload {
        Some(upload) => {
            info.request_body_bytes = upload.bytes();
            info.timing.downstream_rx_end = upload.ended();
        }
        None => info.timing.downstream_rx_end = Some(info.start),
    }
    let context = LogContext { info: &info, ..x.log_context() };
    let random = manager.worker.local.random.next_u64();
    manager.worker.log.log(&manager.config.access_logs, &context, &x.config.runtime, random);
    x.next_log.set(x.now().checked_add(every));
}

/// A tunnel stands: it is logged where that is asked for.
pub fn tunnelled(x: &mut Exchange) {
    let manager = x.manager.clone();
    if manager.config.log_tunnels {
        x.info.moment = Moment::TunnelEstablished;
        let logs = &manager.config.access_logs;
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random.rotate_left(28));
        x.info.moment = Moment::End;
    }
}

/// The answer is through, or broke, or lost its reader.
pub fn ended(x: &mut Exchange, end: End, limit: Option<Limit>) {
    match (&end, limit) {
        (_, Some(limit)) => cut(x, limit),
        (End::Complete, None) => {}
        (End::Dropped, None) => gone(x),
        (End::Failed(error), None) => broke(x, error),
    }
    complete(x);
}

/// The exchange becomes another request, by an internal redirect: what it was is logged.
pub fn redirected(x: &mut Exchange, status: u16) {
    let stats = &x.manager.stats;
    stats.downstream_rq_total.inc();
    match x.protocol {
        Protocol::Http2 => stats.downstream_rq_http2_total.inc(),
        _ => stats.downstream_rq_http1_total.inc(),
    }
    x.info.status = status;
    x.info.details = "internal_redirect".into();
    let manager = x.manager.clone();
    let logs = &manager.config.access_logs;
    if !logs.is_empty() {
        x.info.timing.downstream_tx_end = Some(x.now());
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random.rotate_left(32));
        x.info.timing.downstream_tx_end = None;
    }
    x.info.status = 0;
    x.info.details = "".into();
    x.info.upstream.attempts = 0;
}

/// A limit cut the body off.
fn cut(x: &mut Exchange, limit: Limit) {
    let stats = x.manager.stats.clone();
    let (flag, details) = match limit {
        Limit::Route | Limit::PerTry => (Some(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT), "response_timeout"),
        Limit::PerTryIdle => (Some(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT), "upstream_per_try_idle_timeout"),
        Limit::StreamIdle => {
            stats.downstream_rq_idle_timeout.inc();
            (Some(ResponseFlags::STREAM_IDLE_TIMEOUT), "stream_idle_timeout")
        }
        Limit::Duration => {
            stats.downstream_rq_max_duration_reached.inc();
            (None, "max_duration_timeout")
        }
        Limit::Upstream => {
            (Some(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED), "upstream_max_stream_duration_reached")
        }
        Limit::Request => (Some(ResponseFlags::STREAM_IDLE_TIMEOUT), "request_overall_timeout"),
    };
    count_reset(x);
    flag.into_iter().for_each(|flag| x.flag(flag));
    x.info.details = details.into();
}

/// An answer is broken off: what resets the stream hears of the reset too, and Envoy counts both.
fn count_reset(x: &Exchange) {
    let stats = &x.manager.stats;
    stats.downstream_rq_tx_reset.inc();
    stats.downstream_rq_rx_reset.inc();
}

/// The client left before the end, or its connection was ended for what it did.
fn gone(x: &mut Exchange) {
    x.manager.stats.downstream_rq_rx_reset.inc();
    let (flag, details) = match (x.ending.get(), x.protocol) {
        (Some(Ending::Fault(details)), _) => (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details),
        (None, Protocol::Http2) => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
        _ => (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect"),
    };
    x.flag(flag);
    x.info.details = details.into();
    if matches!(x.ending.get(), Some(Ending::Fault(_))) && x.protocol != Protocol::Http2 && x.info.status == 0 {
        // The codec's own answer.
        x.info.status = 400;
        x.info.response_body_bytes = "Bad Request".len() as u64;
    }
}

/// The response body failed: the upstream broke it, or it could not be written.
fn broke(x: &mut Exchange, error: &Error) {
    if x.info.upstream.endpoint.is_none() {
        return gone(x);
    }
    count_reset(x);
    let (flag, reason) = match error {
        Error::Reset(Reason::PROTOCOL_ERROR) => (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol error"),
        Error::Reset(_) => (ResponseFlags::UPSTREAM_REMOTE_RESET, "remote reset"),
        Error::Malformed(_) | Error::TooLarge(_) => (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol error"),
        // HTTP/1 has no other word for a body that ends before it is complete.
        Error::Closed if x.info.upstream.protocol.is_some_and(|p| p != Protocol::Http2) => {
            (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol error")
        }
        Error::Canceled => return gone(x),
        _ => (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "connection termination"),
    };
    x.manager.stats.rq_reset_after_downstream_response_started.inc();
    x.flag(flag);
    x.info.details = format!("upstream_reset_after_response_started{{{}}}", reason.replace(' ', "_")).into();
}

/// The exchange was dropped before it had an answer: the client is gone.
pub fn abandoned(x: &mut Exchange) {
    gone(x);
    complete(x);
}

/// The stream is reset instead of answered.
pub fn aborted(x: &mut Exchange, error: &Error) {
    match error {
        _ if x.headless => x.manager.stats.downstream_rq_rx_reset.inc(),
        Error::Reset(_) | Error::Closed | Error::Io(_) => gone(x),
        _ if x.ending.get().is_some() => gone(x),
        // The codec answers a body that is no HTTP/1 by itself.
        Error::Malformed(_) if x.protocol != Protocol::Http2 && x.upload.is_some() => {
            x.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
            (x.info.status, x.info.details) = (400, "http1.codec_error".into());
            x.info.response_body_bytes = "Bad Request".len() as u64;
            x.manager.stats.downstream_rq_rx_reset.inc();
        }
        _ => x.manager.stats.downstream_rq_tx_reset.inc(),
    }
    complete(x);
}

/// Counts, logs, traces.
fn complete(x: &mut Exchange) {
    x.done = true;
    let now = x.now();
    x.info.timing.downstream_tx_end = Some(now);
    if let Some(upload) = &x.upload {
        x.info.request_body_bytes = upload.bytes();
        x.info.timing.downstream_rx_end = upload.ended();
    } else {
        x.info.timing.downstream_rx_end = Some(x.info.start);
    }
    let timing = &mut x.info.timing;
    if let Some(begun) = timing.upstream_tx_begin {
        timing.upstream_tx_end = timing.downstream_rx_end.map(|end| end.max(begun));
        timing.upstream_rx_end = timing.upstream_rx_begin.map(|_| now);
    }
    x.retry_permit = None;
    let manager = x.manager.clone();
    let stats = &manager.stats;
    count_bytes(x, stats);
    stats.downstream_rq_active.dec();
    if x.info.status == 101 && x.info.timing.downstream_tx_begin.is_some() {
        stats.downstream_cx_upgrades_active.dec();
    }
    if x.info.status != 0 && !x.info.health_check {
        stats.downstream_rq.record(x.info.status);
        manager.listener_stats.downstream_rq.record(x.info.status);
        stats.downstream_rq_time.record_duration(now.saturating_duration_since(x.info.start));
    }
    // The text of a local reply is for formats of bodies alone.
    x.local_body = std::borrow::Cow::Borrowed("");
    let logs = &manager.config.access_logs;
    if !logs.is_empty() {
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random.rotate_left(32));
    }
    if x.info.trace.sampled && manager.config.tracing.is_some() {
        span(x);
    }
}

/// What went over both connections. An upstream connection may carry some bytes more or less of a head: what it is edited by is
/// not measured again.
fn count_bytes(x: &mut Exchange, stats: &HttpStats) {
    let info = &x.info;
    let (up, down) = (info.request_body_bytes, info.response_body_bytes);
    let received = info.request_header_bytes + up;
    let sent = info.response_header_bytes + size::status_line(info.protocol, info.status) + down;
    let mut passed = info.connection.passed.get();
    passed.received += received;
    passed.sent += sent;
    passed.protocol = Some(x.protocol);
    info.connection.passed.set(passed);
    stats.downstream_cx_rx_bytes_total.add(received);
    stats.downstream_cx_tx_bytes_total.add(sent);
    if let Some(cluster) = x.answered_by.take() {
        let line = size::status_line(info.upstream.protocol, info.status);
        cluster.stats().upstream_cx_rx_bytes_total.add(info.response_header_bytes + line + down);
        cluster.stats().upstream_cx_tx_bytes_total.add(info.request_header_bytes + up);
        cluster.track_bodies(up, down);
    }
}

/// Sends the request's span to the exporter.
fn span(x: &Exchange) {
    let manager = &x.manager;
    let Some(tracing) = &manager.config.tracing else { return };
    let Some(provider) = &tracing.provider else { return };
    let kind = match x.info.connection.listener.direction {
        TrafficDirection::Outbound => Kind::Client,
        _ => Kind::Server,
    };
    let named = x.operation.as_deref().map(str::to_owned);
    let formatted = || tracing.operation.as_ref().map(|f| x.format(f));
    let name = formatted().or(named).unwrap_or_else(|| match x.info.connection.listener.direction {
        _ if provider.zipkin.is_some() => x.authority().to_owned(),
        TrafficDirection::Outbound => format!("egress {}", x.authority()),
        _ => "ingress".to_owned(),
    });
    let context = x.log_context();
    let node = &manager.worker.shared.node;
    let proxy = Proxy { node: &node.id, zone: &node.locality.zone };
    let attributes = describe(&context, proxy, &[&tracing.custom_tags, route_tags(x)], tracing.max_path_tag_length);
    let now = manager.worker.local.clock.system();
    manager.worker.spans.send(Span {
        provider: provider.clone(),
        context: x.info.trace,
        state: x.trace_state.clone(),
        name,
        kind,
        start: x.info.start_time,
        end: now,
        error: x.info.status >= 500,
        attributes,
    });
}

fn route_tags(x: &Exchange) -> &[CustomTag] {
    x.info.route.as_ref().and_then(|r| r.tracing.as_ref()).map_or(&[], |t| &t.custom_tags)
}

/// One attempt is over: the upstream log, and the attempt's span. `failure`: why there is no response.
pub fn attempt(x: &mut Exchange, failure: Option<&'static str>) {
    let manager = x.manager.clone();
    let logs = &manager.router.upstream_logs;
    if !logs.is_empty() {
        x.info.moment = Moment::Attempt;
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random.rotate_left(40));
        x.info.moment = Moment::End;
    }
    let Some((span_id, start)) = x.attempt_span.take() else { return };
    let Some(tracing) = &manager.config.tracing else { return };
    let Some(provider) = &tracing.provider else { return };
    let attributes = describe_attempt(&x.log_context(), failure, &[&tracing.custom_tags, route_tags(x)]);
    let name = match &tracing.upstream_operation {
        Some(format) => x.format(format),
        None => format!("router {} egress", x.info.cluster.as_deref().unwrap_or("-")),
    };
    manager.worker.spans.send(Span {
        provider: provider.clone(),
        context: TraceContext { span_id, parent_id: x.info.trace.span_id, ..x.info.trace },
        state: x.trace_state.clone(),
        name,
        kind: Kind::Client,
        start,
        end: manager.worker.local.clock.system(),
        error: x.info.status >= 500,
        attributes,
    });
}

/// Answers what the codec refused; it is counted and logged like a request.
pub fn rejected(connection: &Connection, rejection: &Rejection) -> Response<Body> {
    let manager = &connection.manager;
    let stats = &manager.stats;
    let status = rejection.status.as_u16();
    // A reset has no status; an HTTP/1 connection is closed after one that could not be sent.
    let reset = rejection.silent && rejection.protocol == Protocol::Http2;
    if !rejection.in_request {
        stats.downstream_rq_total.inc();
        match rejection.protocol {
            Protocol::Http2 => stats.downstream_rq_http2_total.inc(),
            _ => stats.downstream_rq_http1_total.inc(),
        }
        if !reset {
            stats.downstream_rq.record(status);
            manager.listener_stats.downstream_rq.record(status);
        }
    }
    if reset {
        stats.downstream_rq_rx_reset.inc();
    } else if !rejection.in_request && rejection.details != "path_normalization_failed" {
        // The request is answered before it is complete, and what is left of it is reset.
        stats.downstream_rq_rx_reset.inc();
        stats.downstream_rq_response_before_rq_complete.inc();
    }
    // That the connection ends for it is counted when it does.
    match (status, rejection.details) {
        (408, _) => stats.downstream_rq_header_timeout.inc(),
        (_, "path_normalization_failed") => stats.downstream_rq_failed_path_normalization.inc(),
        _ => {}
    }
    let flags: &[ResponseFlags] = match (status, rejection.details) {
        (431, _) if reset => &[ResponseFlags::DOWNSTREAM_REMOTE_RESET],
        (_, "path_normalization_failed") => &[],
        _ => &[ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR],
    };
    let mut x = Exchange::headless(connection, rejection.protocol, rejection.head_bytes);
    let reply = LocalReply::new(rejection.status, rejection.details, "").body(rejection.body);
    let (mut response, content_type) = reply::render_reply(&mut x, reply.flags(flags));
    let headers = response.headers_mut();
    content_type.tell(headers);
    headers.insert(SERVER, manager.server_name.clone());
    headers.insert(DATE, finish::date(manager));
    if reset {
        x.info.status = 0;
    }
    x.info.response_body_bytes = x.local_body.len() as u64;
    count_bytes(&mut x, stats);
    let logs = &manager.config.access_logs;
    // A request that the handler had has its own line.
    if !logs.is_empty() && !rejection.in_request {
        x.info.timing.downstream_tx_end = Some(x.now());
        x.response_headers = response.headers().clone();
        manager.worker.log.log(logs, &x.log_context(), &x.config.runtime, x.random);
    }
    x.done = true;
    response
}
