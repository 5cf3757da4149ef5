//! One attempt within the limits that hold before the answer's head, and the pauses between attempts.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Response;
use sidemesh_config::resource::tls::UpstreamTransport;

use super::Plan;
use crate::body::Body;
use crate::clock::Sleep;
use crate::codec::{Scheme, SendOptions};
use crate::http::exchange::Exchange;
use crate::http::guard::{Limit, Soonest};
use crate::http::record;
use crate::telemetry::flags::ResponseFlags;
use crate::upstream::{AttemptError, AttemptInfo, AttemptOptions, Cluster, Downstream, Host, Naming, Overflow};

/// What came of an attempt.
pub enum Outcome {
    Response(Response<Body>),
    Failed(AttemptError),
    Limit(Limit),
}

/// What of a discarded response is read to keep its connection.
const DRAIN_BYTES: usize = 64 * 1024;

/// Sends the request as it stands to `host` and waits for the answer's head.
pub async fn run(x: &Exchange, plan: &Plan, host: &Rc<Host>, info: &AttemptInfo) -> Outcome {
    let body = x.upload.as_ref().map_or_else(Body::empty, |u| u.reader());
    let downstream = downstream(x, &plan.cluster);
    let options = AttemptOptions {
        priority: plan.priority,
        send: send_options(x, &plan.cluster),
        downstream: downstream.as_ref(),
        protocol: Some(x.protocol),
        connection: Some(&x.info.connection),
    };
    let mut request = pin!(plan.cluster.request(host, &x.parts, body, options, info));
    let mut waiting = Waiting::new(plan.started);
    poll_fn(|cx| match request.as_mut().poll(cx) {
        Poll::Ready(Ok(response)) => Poll::Ready(Outcome::Response(response)),
        Poll::Ready(Err(error)) => Poll::Ready(Outcome::Failed(error)),
        Poll::Pending => {
            if let Some(upload) = &x.upload
                && info.sent_start.get().is_none()
                && x.upgrade.is_none()
            {
                upload.poll_ahead(cx);
            }
            waiting.poll(x, plan, cx).map(Outcome::Limit)
        }
    })
    .await
}

/// The scheme of what goes to a cluster, after its transport.
pub fn scheme_of(cluster: &Cluster) -> Scheme {
    match cluster.config().transport {
        UpstreamTransport::Tls(_) => Scheme::Https,
        _ => Scheme::Http,
    }
}

/// What goes with the request besides its head and body.
pub fn send_options(x: &Exchange, cluster: &Cluster) -> SendOptions {
    SendOptions {
        informational: x.manager.config.proxy_100_continue.then(|| x.informational.clone()),
        upgrade: x.upgrade.clone(),
        scheme: match x.manager.config.scheme_matches_upstream {
            true => scheme_of(cluster),
            false => x.caller.scheme,
        },
    }
}

/// What an upstream PROXY protocol header says; nothing on the common way.
pub fn downstream(x: &Exchange, cluster: &Cluster) -> Option<Downstream> {
    let connection = &x.info.connection;
    let cluster = cluster.config();
    let proxied = |t: &UpstreamTransport| matches!(t, UpstreamTransport::ProxyProtocol { .. });
    (proxied(&cluster.transport) || cluster.transport_matches.iter().any(|m| proxied(&m.transport))).then(|| {
        Downstream {
            remote: connection.remote,
            local: connection.local,
            tlvs: connection.proxy_tlvs.clone(),
            sni: connection.server_name.clone(),
        }
    })
}

/// Where the request may name its host itself.
pub fn naming(x: &Exchange) -> Naming<'_> {
    let connection = &x.info.connection;
    Naming {
        headers: &x.parts.headers,
        metadata: [&x.info.metadata, &connection.metadata],
        connection: connection.local_restored.then_some(connection.local),
    }
}

/// The limits that run while an attempt waits for its head. The timer may go off early; then the limits are looked at again.
pub struct Waiting {
    sleep: Option<Sleep>,
    started: Instant,
}

impl Waiting {
    pub fn new(started: Instant) -> Self {
        Waiting { sleep: None, started }
    }

    pub fn poll(&mut self, x: &Exchange, plan: &Plan, cx: &mut Context<'_>) -> Poll<Limit> {
        loop {
            let (limit, log) = (self.next(x, plan), x.next_log.get());
            let Some(at) = limit.map(|(at, _)| at).into_iter().chain(log).min() else { return Poll::Pending };
            let local = &x.manager.worker.local;
            let sleep = self.sleep.get_or_insert_with(|| local.timers.until(at));
            if at < sleep.deadline() {
                sleep.reset(at);
            }
            if Pin::new(&mut *sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = local.clock.now();
            if let Some((_, limit)) = limit.filter(|(at, _)| *at <= now) {
                return Poll::Ready(limit);
            }
            if log.is_some_and(|log| log <= now) {
                record::periodic(x, 0);
            } else {
                sleep.reset(at);
            }
        }
    }

    /// Which limit is next, as things stand.
    fn next(&self, x: &Exchange, plan: &Plan) -> Option<(Instant, Limit)> {
        let ended = x.request_ended();
        // Attempts and the pauses between them are no activity of the stream.
        let begun = if x.redirects == 0 { x.info.start } else { self.started };
        let quiet = x.upload.as_ref().map_or(begun, |u| u.active().max(begun));
        let active = quiet.max(self.started);
        let timeouts = &plan.timeouts;
        let tried = ended.map(|e| e.max(self.started));
        let request = if ended.is_none() { x.manager.config.request_timeout } else { None };
        let mut next = Soonest::default();
        next.consider(ended, timeouts.route, Limit::Route);
        next.consider(tried, timeouts.per_try, Limit::PerTry);
        next.consider(Some(active), timeouts.per_try_idle, Limit::PerTryIdle);
        next.consider(Some(quiet), x.idle, Limit::StreamIdle);
        next.consider(Some(self.started), timeouts.upstream, Limit::Upstream);
        next.consider(Some(x.info.start), request, Limit::Request);
        next.at(x.duration_ends, Limit::Duration);
        next.0
    }
}

/// Waits before the next attempt; a limit may end the stream meanwhile.
pub async fn back_off(x: &Exchange, plan: &Plan, wait: Duration) -> Option<Limit> {
    if wait.is_zero() {
        return None;
    }
    let mut sleep = x.manager.worker.local.timers.after(wait);
    let mut waiting = Waiting::new(x.now());
    poll_fn(|cx| {
        if Pin::new(&mut sleep).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match waiting.poll(x, plan, cx) {
            // No attempt is under way whose time could be over.
            Poll::Ready(Limit::PerTry | Limit::PerTryIdle | Limit::Upstream) | Poll::Pending => Poll::Pending,
            Poll::Ready(limit) => Poll::Ready(Some(limit)),
        }
    })
    .await
}

/// Reads what is there of a response nobody wants, so that its connection can carry the next attempt.
pub async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES;
    poll_fn(|cx| {
        loop {
            match body.poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                    match left.checked_sub(bytes) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) | Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// An attempt has its outcome: it is put on record, into the upstream log and a span, where they are asked for.
pub fn over(x: &mut Exchange, info: &AttemptInfo, outcome: &Outcome) {
    note(x, info);
    if let Outcome::Failed(AttemptError::Overflow(Overflow::Pending | Overflow::Connections)) = outcome {
        // No host was asked.
        let upstream = &mut x.info.upstream;
        (upstream.endpoint, upstream.host) = (None, None);
        upstream.attempted.clear();
    }
    if x.manager.keeps_heads
        && let Outcome::Response(response) = outcome
    {
        let bytes: usize = response.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 3).sum();
        x.info.upstream.head_received = (bytes as u64, response.headers().len() as u64);
    }
    if x.manager.router.upstream_logs.is_empty() && x.attempt_span.is_none() {
        return;
    }
    let before = x.info.status;
    x.info.status = match outcome {
        Outcome::Response(response) => response.status().as_u16(),
        _ => 0,
    };
    // Its record has the flag of its own failure; what becomes of the request is not known yet.
    let flags = x.info.flags;
    let failure = match outcome {
        Outcome::Failed(error) => {
            ResponseFlags::parse(error.flag()).into_iter().for_each(|flag| x.flag(flag));
            Some(error.reason())
        }
        _ => None,
    };
    x.info.timing.downstream_tx_end = Some(x.now());
    record::attempt(x, failure);
    x.info.timing.downstream_tx_end = None;
    x.info.status = before;
    x.info.flags = flags;
}

/// Puts what an attempt found out into the record.
pub fn note(x: &mut Exchange, info: &AttemptInfo) {
    let timing = &mut x.info.timing;
    timing.upstream_pool_ready = info.pool_ready.get();
    timing.upstream_connect_start = info.connect_start.get();
    timing.upstream_connect_end = info.connect_end.get();
    timing.upstream_tx_begin = info.sent_start.get();
    timing.upstream_rx_begin = info.response_head.get();
    let upstream = &mut x.info.upstream;
    upstream.host = upstream.endpoint.as_ref().and_then(|e| match &e.address {
        sidemesh_config::value::Address::Socket(a) => Some(*a),
        _ => None,
    });
    if let Some(connection) = info.connection() {
        upstream.attempted.clear();
        upstream.attempted.extend(upstream.endpoint.clone().map(|e| (e, connection.id)));
        upstream.remote = connection.peer.or(upstream.host);
        upstream.local = connection.local;
        upstream.connection_id = connection.id;
        upstream.tls = connection.tls.clone();
        timing.upstream_handshake_complete = timing.upstream_connect_end.filter(|_| upstream.tls.is_some());
        upstream.protocol = connection.protocol;
    }
    upstream.failure = info.failure().map(|text| Box::from(&*text));
}
