//! The answer on its way out: header edits, response filters in reverse, the connection manager's own headers, limits on the
//! body, and the record that is written when the last byte is out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, SERVER, SET_COOKIE, VIA};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use sidemesh_config::resource::http_connection_manager::ServerHeader;
use sidemesh_config::resource::listener::TrafficDirection;
use sidemesh_config::resource::route::RouteAction;

use super::exchange::Exchange;
use super::forwarded::append_joined;
use super::guard::{Guard, Limit, Limits};
use super::names::*;
use super::reply::{self, LocalReply};
use super::{ConnectionManager, filter, forward, headers, proxy_status, record};
use crate::body::{Body, End, Error, Watch};
use crate::codec::{self, Protocol};

/// What the steps came to.
pub enum Answer {
    /// Made here.
    Local(LocalReply),
    /// Made here with its head complete (a filter's own answer).
    Own(Response<Body>),
    /// From the upstream, with the limits that still hold for its body.
    Upstream(Response<Body>, Box<Limits>),
    /// The upstream redirects, and the exchange has become the request it redirects to.
    Again(Response<Body>),
    /// No answer: the stream is reset, the connection closed.
    Abort(Error),
}

/// Completes the answer and hands the exchange over to its body.
pub fn respond(mut x: Box<Exchange>, answer: Answer) -> Response<Body> {
    let (mut response, limits) = match answer {
        Answer::Upstream(response, limits) => (response, Some(limits)),
        Answer::Own(response) | Answer::Again(response) => (response, None),
        Answer::Local(reply) => (local(&mut x, reply), None),
        Answer::Abort(error) => {
            record::aborted(&mut x, &error);
            return codec::abort(error);
        }
    };
    if let Some(cookie) = x.hash_cookie.take() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    filter::run_response(&mut x, &mut response);
    own_headers(&mut x, &mut response);
    // What logs call the status is what the client sees, but for gRPC's mapped answers.
    if limits.is_some() || x.info.status == 0 {
        x.info.status = response.status().as_u16();
    }
    deliver(x, response, limits)
}

fn local(x: &mut Exchange, reply: LocalReply) -> Response<Body> {
    let (mut response, content_type) = reply::render_reply(x, reply);
    // Without a route there is nothing that edits would belong to.
    let Some(route) = x.selected.as_ref().and_then(|s| s.route.as_deref()) else {
        content_type.tell(response.headers_mut());
        return response;
    };
    let forwards = matches!(route.action, RouteAction::Forward(_));
    if forwards && x.info.upstream.attempts > 0 && forward::tells_attempts(x) {
        response.headers_mut().insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(x.info.upstream.attempts));
    }
    // Formats see the answer before it is sent, as in Envoy: it has no status yet.
    let status = std::mem::take(&mut x.info.status);
    edit_headers(x, &mut response);
    x.info.status = status;
    content_type.tell(response.headers_mut());
    if let Some(length) = response.body().exact_len()
        && response.headers().contains_key(CONTENT_LENGTH)
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

/// Response header edits of the route's levels; formats see the response as it came.
pub fn edit_response(x: &mut Exchange, response: &mut Response<Body>) {
    x.info.status = response.status().as_u16();
    edit_headers(x, response);
}

fn edit_headers(x: &mut Exchange, response: &mut Response<Body>) {
    let Some(selected) = &x.selected else { return };
    let levels = [
        selected.route.as_ref().map(|r| &r.response_headers),
        selected.vhost.as_ref().map(|v| &v.response_headers),
        Some(&selected.table.response_headers),
    ];
    let weighted = selected.weighted().map(|w| &w.response_headers).filter(|e| !e.is_empty());
    if weighted.is_none() && levels.iter().flatten().all(|e| e.is_empty()) {
        return;
    }
    // The tables outlive the edits: they are shared, the head is not.
    let selected = selected.clone();
    let levels = [
        selected.route.as_ref().map(|r| &r.response_headers),
        selected.vhost.as_ref().map(|v| &v.response_headers),
        Some(&selected.table.response_headers),
    ];
    let weighted = selected.weighted().map(|w| &w.response_headers).filter(|e| !e.is_empty());
    let order = headers::in_order(selected.table.most_specific_header_mutations_wins, levels);
    for edits in weighted.into_iter().chain(order) {
        headers::remove(response.headers_mut(), &edits.remove);
        if edits.add.is_empty() {
            continue;
        }
        x.info.request_body_bytes = x.upload.as_ref().map_or(0, |u| u.bytes());
        // Formats may name response headers: they see the map as it stands.
        let held = std::mem::take(response.headers_mut());
        let held = std::mem::replace(&mut x.response_headers, held);
        let mut changes = headers::Changes::new();
        headers::evaluate(&edits.add, &x.response_headers, &x.log_context(), &mut changes);
        *response.headers_mut() = std::mem::replace(&mut x.response_headers, held);
        headers::apply(changes, response.headers_mut());
    }
}

/// `server`, `date`, `via`, the request id and `connection: close`.
fn own_headers(x: &mut Exchange, response: &mut Response<Body>) {
    let manager = x.manager.clone();
    let headers = response.headers_mut();
    let (mut dated, mut of_hop) = (false, false);
    for name in headers.keys() {
        match name.as_str() {
            "date" => dated = true,
            "keep-alive" | "proxy-connection" => of_hop = true,
            _ => {}
        }
    }
    if of_hop {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
    }
    if (manager.config.always_set_request_id_in_response || has(&x.parts.headers, &X_ENVOY_FORCE_TRACE))
        && let Some(id) = x.parts.headers.get(X_REQUEST_ID)
    {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if x.tells_operation
        && let Some(value) = x.operation.as_deref().and_then(|o| HeaderValue::from_str(o).ok())
    {
        headers.insert(X_ENVOY_DECORATOR_OPERATION, value);
    } else if manager.config.tracing.is_some()
        && let Some(named) = headers.remove(X_ENVOY_DECORATOR_OPERATION)
    {
        // The callee's word for what it did.
        x.operation = named.to_str().ok().map(Box::from).or(x.operation.take());
    }
    if let Some(via) = &manager.config.via {
        append_joined(headers, VIA, via.as_bytes(), ", ");
    }
    match manager.overwrites_server() {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, manager.server_name.clone());
        }
        ServerHeader::AppendIfAbsent if !headers.contains_key(SERVER) => {
            headers.insert(SERVER, manager.server_name.clone());
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
    if !dated {
        headers.insert(DATE, date(&manager));
    }
    if let Some(config) = &manager.config.proxy_status
        && !x.info.flags.is_empty()
    {
        proxy_status::apply(config, x, response);
    }
    let unread = x.protocol != Protocol::Http2 && !x.request_complete() && !switches(response);
    let listener = &x.info.connection.listener;
    let inbound = listener.direction == TrafficDirection::Inbound;
    let drains = manager.worker.shutdown().says_goodbye(inbound, listener.drain_modify_only);
    if drains || (unread && closes_unread(x)) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// An HTTP/1 answer that comes before the end of its request leaves bytes on the connection that nobody will read.
fn closes_unread(x: &Exchange) -> bool {
    x.info.error_code.is_some() && x.upload.as_ref().is_none_or(|u| u.ended().is_none())
}

/// The bodies are raw bytes from here on.
fn switches(response: &Response<Body>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

fn deliver(mut x: Box<Exchange>, response: Response<Body>, limits: Option<Box<Limits>>) -> Response<Body> {
    // An upstream's answer has been timed a moment ago.
    let clock = &x.manager.worker.local.clock;
    let now = if limits.is_some() { clock.coarse() } else { clock.now() };
    x.info.timing.downstream_tx_begin = Some(now);
    if switches(&response) {
        x.manager.stats.downstream_cx_upgrades_active.inc();
    } else if !x.request_complete() {
        x.manager.stats.downstream_rq_response_before_rq_complete.inc();
    }
    if x.manager.keeps_heads {
        x.response_headers = response.headers().clone();
    }
    if switches(&response) || (x.parts.method == Method::CONNECT && response.status().is_success()) {
        record::tunnelled(&mut x);
    }
    x.info.response_header_bytes = head_bytes(&response);
    let (mut parts, mut body) = response.into_parts();
    parts.version = Version::HTTP_11;
    let last = Rc::new(Last::default());
    if let Some(limits) = limits
        && body.as_full().is_none()
        && !body.is_end()
        && limits.any(&x)
    {
        body = Body::boxed(Guard::new(body, &x, *limits, last.clone()));
    }
    *last.exchange.borrow_mut() = Some(x);
    Response::from_parts(parts, body.watched(last))
}

/// An estimate of the head's size on the wire, as HTTP/1 would write it.
fn head_bytes(response: &Response<Body>) -> u64 {
    response.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum::<usize>() as u64
}

/// Sees the last byte out and writes the record.
#[derive(Default)]
pub struct Last {
    exchange: RefCell<Option<Box<Exchange>>>,
    bytes: Cell<u64>,
    /// Why the body was cut short by us.
    cut: Cell<Option<Limit>>,
}

impl Last {
    /// The body is cut short here.
    pub fn cut(&self, limit: Limit) {
        self.cut.set(Some(limit));
    }

    /// Logs the request where it is time to; returns when it is next.
    pub fn log_if_due(&self, now: Instant) -> Option<Instant> {
        let exchange = self.exchange.borrow();
        let x = exchange.as_ref()?;
        if x.next_log.get()? <= now {
            record::periodic(x, self.bytes.get());
        }
        x.next_log.get()
    }

    pub fn was_cut(&self) -> Option<Limit> {
        self.cut.get()
    }
}

impl Watch for Last {
    fn on_data(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    fn on_trailers(&self, trailers: &HeaderMap) {
        if let Some(x) = self.exchange.borrow_mut().as_mut()
            && x.manager.keeps_heads
        {
            x.response_trailers = Some(trailers.clone());
        }
    }

    fn on_end(&self, end: End) {
        if let Some(mut x) = self.exchange.borrow_mut().take() {
            x.info.response_body_bytes = self.bytes.get();
            record::ended(&mut x, end, self.cut.get());
        }
    }
}

/// The `date` header.
pub fn date(manager: &ConnectionManager) -> HeaderValue {
    let now = manager.worker.local.clock.system();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let write = |_| HeaderValue::try_from(httpdate::fmt_http_date(now)).unwrap_or(HeaderValue::from_static(""));
    manager.date.value(second, write)
}
