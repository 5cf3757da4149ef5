//! Fault injection (`fault.v3.HTTPFault`): delays, aborts and a throttled response, by percentage or as the caller asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::HeaderName;
use http::{Response, StatusCode};
use http_body::Frame;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::fault::{AbortKind, Fault};
use sidemesh_config::value::Fraction;

use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::clock::{Sleep, Timers};
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;

stats_group! {
    /// `http.<stat_prefix>.fault.`
    pub struct FaultStats {
        aborts_injected: Counter,
        delays_injected: Counter,
        response_rl_injected: Counter,
        faults_overflow: Counter,
        active_faults: Gauge,
    }
}

/// A fault under way, and the throttle of its response.
pub struct Active {
    kbps: Option<u64>,
    counted: Counted,
}

/// How often a throttled response moves on.
const TICK: Duration = Duration::from_millis(50);

fn in_force<'a>(own: &'a Fault, over: Option<&'a FilterOverride>) -> &'a Fault {
    match over {
        Some(FilterOverride::Fault(fault)) => fault,
        _ => own,
    }
}

pub fn on_request(
    own: &Fault,
    stats: &Arc<FaultStats>,
    at: u16,
    x: &mut Exchange,
    over: Option<&FilterOverride>,
) -> Flow {
    let fault = in_force(own, over);
    if fault.delay.is_none() && fault.abort.is_none() && fault.response_rate_limit.is_none() {
        return Flow::Continue;
    }
    if !concerns(fault, x) {
        return Flow::Continue;
    }
    let most = fault.max_active_faults.map(|max| x.manager.worker.share_of(u64::from(max)));
    if most.is_some_and(|most| stats.active_faults.get() >= most as i64) {
        stats.faults_overflow.inc();
        return Flow::Continue;
    }
    if let Some(limit) = &fault.response_rate_limit
        && drawn(x, limit.percentage, X_ENVOY_FAULT_THROUGHPUT_RESPONSE_PERCENTAGE, limit.kbps.is_none(), 7)
        && let Some(kbps) = limit.kbps.or_else(|| number(x, X_ENVOY_FAULT_THROUGHPUT_RESPONSE)).filter(|k| *k > 0)
    {
        stats.response_rl_injected.inc();
        begin(stats, at, x, Some(kbps));
    }
    if delay(fault, x).is_some() {
        return Flow::Wait;
    }
    abort(fault, stats, at, x)
}

/// Notes the request's fault: it counts as active until the answer is through.
fn begin(stats: &Arc<FaultStats>, at: u16, x: &mut Exchange, kbps: Option<u64>) {
    let noted = x.data.iter_mut().find_map(|(i, data)| match data {
        Data::Fault(active) if *i == at => Some(active),
        _ => None,
    });
    match noted {
        Some(active) => active.kbps = kbps.or(active.kbps),
        None => {
            let counted = Counted::new(stats.clone());
            x.data.push((at, Data::Fault(Active { kbps, counted })));
        }
    }
}

/// The delay, then the abort.
pub async fn wait(
    own: &Fault,
    stats: &Arc<FaultStats>,
    at: u16,
    x: &mut Exchange,
    over: Option<&FilterOverride>,
) -> Flow {
    let fault = in_force(own, over);
    let Some(delay) = delay(fault, x) else { return Flow::Continue };
    stats.delays_injected.inc();
    begin(stats, at, x, None);
    x.flag(ResponseFlags::DELAY_INJECTED);
    x.manager.worker.local.timers.after(delay).await;
    abort(fault, stats, at, x)
}

/// Counts a fault as active until dropped, also by a client that leaves.
struct Counted(Arc<FaultStats>);

impl Counted {
    fn new(stats: Arc<FaultStats>) -> Self {
        stats.active_faults.inc();
        Counted(stats)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.active_faults.dec();
    }
}

/// Cluster, headers, caller.
fn concerns(fault: &Fault, x: &Exchange) -> bool {
    if let Some(cluster) = &fault.upstream_cluster
        && x.info.cluster.as_ref() != Some(cluster)
    {
        return false;
    }
    if !fault.headers.is_empty() {
        let view = x.view();
        if !fault.headers.iter().all(|m| m.matches(&view)) {
            return false;
        }
    }
    fault.downstream_nodes.is_empty()
        || x.parts
            .headers
            .get(X_ENVOY_DOWNSTREAM_SERVICE_NODE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|node| fault.downstream_nodes.iter().any(|n| **n == *node))
}

/// Draws; a caller who controls the fault may lower the percentage.
fn drawn(x: &Exchange, percentage: Fraction, header: HeaderName, by_header: bool, turn: u32) -> bool {
    let asked = if by_header { number(x, header) } else { None };
    let numerator =
        asked.map_or(percentage.numerator, |n| percentage.numerator.min(u32::try_from(n).unwrap_or(u32::MAX)));
    Fraction { numerator, ..percentage }.hit(x.random.rotate_left(turn * 8))
}

fn number(x: &Exchange, name: HeaderName) -> Option<u64> {
    x.parts.headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn delay(fault: &Fault, x: &Exchange) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let by_header = delay.fixed.is_none();
    if !drawn(x, delay.percentage, X_ENVOY_FAULT_DELAY_REQUEST_PERCENTAGE, by_header, 3) {
        return None;
    }
    delay.fixed.or_else(|| number(x, X_ENVOY_FAULT_DELAY_REQUEST).map(Duration::from_millis)).filter(|d| !d.is_zero())
}

fn abort(fault: &Fault, stats: &Arc<FaultStats>, at: u16, x: &mut Exchange) -> Flow {
    let Some(abort) = &fault.abort else { return Flow::Continue };
    let by_header = abort.kind == AbortKind::Header;
    if !drawn(x, abort.percentage, X_ENVOY_FAULT_ABORT_REQUEST_PERCENTAGE, by_header, 5) {
        return Flow::Continue;
    }
    let (http, grpc) = match abort.kind {
        AbortKind::Http(status) => (Some(status), None),
        AbortKind::Grpc(status) => (None, Some(status)),
        AbortKind::Header => (
            number(x, X_ENVOY_FAULT_ABORT_REQUEST)
                .and_then(|n| u16::try_from(n).ok())
                .filter(|s| (200..600).contains(s)),
            number(x, X_ENVOY_FAULT_ABORT_GRPC_REQUEST).and_then(|n| u32::try_from(n).ok()),
        ),
    };
    // The status of gRPC stands in its header, whoever asks.
    let Some(status) = http.or(grpc.map(|_| 200)).and_then(|s| StatusCode::from_u16(s).ok()) else {
        return Flow::Continue;
    };
    stats.aborts_injected.inc();
    begin(stats, at, x, None);
    let mut reply = LocalReply::new(status, "fault_filter_abort", "fault.abort")
        .body("fault filter abort")
        .flags(&[ResponseFlags::FAULT_INJECTED]);
    reply.grpc_status = grpc;
    Flow::Answer(reply)
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    let Some(Data::Fault(Active { kbps: Some(kbps), counted })) = super::take(x, at) else { return };
    let body = std::mem::take(response.body_mut());
    let per_tick = (kbps * 1024 * TICK.as_millis() as u64 / 1000).max(1);
    let timers = x.manager.worker.local.timers.clone();
    *response.body_mut() = Body::boxed(Throttled {
        body,
        pending: Bytes::new(),
        per_tick,
        left: per_tick,
        timers,
        sleep: None,
        _counted: counted,
    });
}

/// A body that gives so many bytes a tick.
struct Throttled {
    body: Body,
    pending: Bytes,
    per_tick: u64,
    left: u64,
    timers: Timers,
    sleep: Option<Sleep>,
    _counted: Counted,
}

impl HttpBody for Throttled {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Some(sleep) = &mut this.sleep {
            std::task::ready!(Pin::new(sleep).poll(cx));
            this.sleep = None;
            this.left = this.per_tick;
        }
        if this.pending.is_empty() {
            match std::task::ready!(this.body.poll_next(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        let now = usize::try_from(this.left).unwrap_or(usize::MAX).min(this.pending.len());
        let data = this.pending.copy_to_bytes(now);
        this.left -= now as u64;
        if this.left == 0 {
            this.sleep = Some(this.timers.after(TICK));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
