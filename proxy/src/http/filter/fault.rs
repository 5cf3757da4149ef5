//! Fault injection (`fault.v3.HTTPFault`): delays, aborts and a throttled response, by percentage or as the caller asks.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::HeaderName;
use http::{Response, StatusCode};
use http_body::Frame;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::fault::{AbortKind, Fault, FaultAbort};
use sidemesh_config::value::{Fraction, Name};

use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::clock::{Sleep, Timers};
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::{Scope, Shards};
use crate::worker::Worker;

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

stats_group! {
    /// `http.<stat_prefix>.fault.<downstream cluster>.`
    pub struct OfCaller {
        aborts_injected: LazyCounter,
        delays_injected: LazyCounter,
    }
}

/// Downstream clusters that are counted apart at most: a bound for names that callers make up.
const COUNTED_CLUSTERS: usize = 256;

/// One fault filter of a worker.
pub struct FaultFilter {
    config: Arc<Fault>,
    stats: Arc<FaultStats>,
    worker: Rc<Worker>,
    stat_prefix: Name,
    callers: Shards<Name, OfCaller>,
}

impl FaultFilter {
    pub fn new(config: Arc<Fault>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let scope = Scope::HttpFilter { prefix: stat_prefix.clone(), filter: "fault".into() };
        let (worker, stat_prefix) = (worker.clone(), stat_prefix.clone());
        let (stats, callers) = (worker.stats().shard(scope), Shards::new(COUNTED_CLUSTERS));
        FaultFilter { config, stats, worker, stat_prefix, callers }
    }

    fn in_force<'a>(&'a self, over: Option<&'a FilterOverride>) -> &'a Fault {
        match over {
            Some(FilterOverride::Fault(fault)) => fault,
            _ => &self.config,
        }
    }

    pub fn on_request(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let (fault, stats) = (self.in_force(over), &self.stats);
        if fault.delay.is_none() && fault.abort.is_none() && fault.response_rate_limit.is_none() {
            return Flow::Continue;
        }
        if !concerns(fault, x) {
            return Flow::Continue;
        }
        if let Some(limit) = &fault.response_rate_limit
            && drawn(x, limit.percentage, &fault.runtime.rate_limit_percent, None, 7)
            && asked(x, limit.percentage, X_ENVOY_FAULT_THROUGHPUT_RESPONSE_PERCENTAGE, limit.kbps.is_none(), 7)
            && let Some(kbps) = limit.kbps.or_else(|| number(x, X_ENVOY_FAULT_THROUGHPUT_RESPONSE)).filter(|k| *k > 0)
            && self.room(fault, x)
        {
            stats.response_rl_injected.inc();
            self.begin(fault, at, x, Some(kbps));
        }
        if delay(fault, x).is_some() {
            return Flow::Wait;
        }
        self.abort(fault, at, x)
    }

    /// Whether one more fault may be active.
    fn room(&self, fault: &Fault, x: &Exchange) -> bool {
        let of_runtime = x.config.runtime.number(&fault.runtime.max_active_faults).map(|n| n.max(0.0) as u64);
        let most = of_runtime.or(fault.max_active_faults.map(u64::from)).map(|max| self.worker.share_of(max));
        let full = most.is_some_and(|most| self.stats.active_faults.get() >= most as i64);
        if full {
            self.stats.faults_overflow.inc();
        }
        !full
    }

    /// Notes the request's fault: it counts as active until the answer is through.
    fn begin(&self, fault: &Fault, at: u16, x: &mut Exchange, kbps: Option<u64>) {
        let noted = x.data.iter_mut().find_map(|(i, data)| match data {
            Data::Fault(active) if *i == at => Some(active),
            _ => None,
        });
        match noted {
            Some(active) => active.kbps = kbps.or(active.kbps),
            None => {
                let counted = Counted::new(self.stats.clone());
                x.data.push((at, Data::Fault(Active { kbps, counted })));
            }
        }
        if let Some(fields) = &fault.filter_metadata {
            x.info.metadata.0.insert("envoy.filters.http.fault".into(), fields.clone());
        }
    }

    /// The delay, then the abort.
    pub async fn wait(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let fault = self.in_force(over);
        let Some(delay) = delay(fault, x) else { return Flow::Continue };
        if self.room(fault, x) {
            self.stats.delays_injected.inc();
            if let Some(stats) = self.of_caller(fault, x) {
                stats.delays_injected.inc();
            }
            self.begin(fault, at, x, None);
            x.flag(ResponseFlags::DELAY_INJECTED);
            x.manager.worker.local.timers.after(delay).await;
        }
        self.abort(fault, at, x)
    }

    fn abort(&self, fault: &Fault, at: u16, x: &mut Exchange) -> Flow {
        let Some(abort) = &fault.abort else { return Flow::Continue };
        let by_header = abort.kind == AbortKind::Header;
        let caller = of_caller(x, "abort.abort_percent");
        if !drawn(x, abort.percentage, &fault.runtime.abort_percent, caller.as_deref(), 5)
            || !asked(x, abort.percentage, X_ENVOY_FAULT_ABORT_REQUEST_PERCENTAGE, by_header, 5)
        {
            return Flow::Continue;
        }
        let (http, grpc) = statuses(fault, abort, x);
        // The status of gRPC stands in its header, whoever asks.
        let Some(status) = http.or(grpc.map(|_| 200)).and_then(|s| StatusCode::from_u16(s).ok()) else {
            return Flow::Continue;
        };
        if !self.room(fault, x) {
            return Flow::Continue;
        }
        self.stats.aborts_injected.inc();
        if let Some(stats) = self.of_caller(fault, x) {
            stats.aborts_injected.inc();
        }
        self.begin(fault, at, x, None);
        let mut reply = LocalReply::new(status, "fault_filter_abort", "fault.abort")
            .body(abort.body.to_string())
            .flags(&[ResponseFlags::FAULT_INJECTED]);
        reply.grpc_status = grpc;
        Flow::Answer(reply)
    }

    /// What is counted of the cluster that the caller names.
    fn of_caller(&self, fault: &Fault, x: &Exchange) -> Option<Arc<OfCaller>> {
        let cluster = downstream_cluster(x).filter(|_| !fault.without_downstream_stats)?;
        self.callers.admit(self.worker.stats(), &cluster.into(), |cluster| {
            let filter = format!("fault.{}", cluster.replace(':', "_")).into();
            Scope::HttpFilter { prefix: self.stat_prefix.clone(), filter }
        })
    }
}

/// The HTTP and the gRPC status of an abort, after the runtime had its say.
fn statuses(fault: &Fault, abort: &FaultAbort, x: &Exchange) -> (Option<u16>, Option<u32>) {
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
    let http = http.map(|status| {
        let status = figure(x, &fault.runtime.abort_http_status, "abort.http_status", status.into());
        u16::try_from(status).ok().filter(|s| (200..600).contains(s)).unwrap_or(503)
    });
    let grpc = grpc.map(|status| {
        let status = figure(x, &fault.runtime.abort_grpc_status, "abort.grpc_status", status.into());
        u32::try_from(status).unwrap_or(2)
    });
    (http, grpc)
}

fn downstream_cluster(x: &Exchange) -> Option<&str> {
    x.parts.headers.get(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER)?.to_str().ok().filter(|c| !c.is_empty())
}

/// The runtime key of the cluster that the caller names.
fn of_caller(x: &Exchange, key: &str) -> Option<String> {
    downstream_cluster(x).map(|cluster| format!("fault.http.{cluster}.{key}"))
}

/// A figure under its runtime key; where the caller names its cluster, under that cluster's alone.
fn figure(x: &Exchange, key: &str, of_cluster: &str, default: u64) -> u64 {
    let runtime = &x.config.runtime;
    let value = |key: &str| runtime.number(key).map(|n| n.max(0.0) as u64);
    of_caller(x, of_cluster).map_or_else(|| value(key), |key| value(&key)).unwrap_or(default)
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

/// Draws with the percentage of the runtime key; where the caller names its cluster, of that cluster's alone.
fn drawn(x: &Exchange, percentage: Fraction, own: &str, caller: Option<&str>, turn: u32) -> bool {
    let runtime = x.config.runtime.fraction(caller.unwrap_or(own));
    runtime.unwrap_or(percentage).hit(x.random.rotate_left(turn * 8))
}

/// Whether a caller who controls the fault lowers the percentage below what was drawn.
fn asked(x: &Exchange, percentage: Fraction, header: HeaderName, by_header: bool, turn: u32) -> bool {
    let Some(asked) = (if by_header { number(x, header) } else { None }) else { return true };
    let numerator = percentage.numerator.min(u32::try_from(asked).unwrap_or(u32::MAX));
    Fraction { numerator, ..percentage }.hit(x.random.rotate_left(turn * 8))
}

fn number(x: &Exchange, name: HeaderName) -> Option<u64> {
    x.parts.headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn delay(fault: &Fault, x: &Exchange) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let by_header = delay.fixed.is_none();
    let caller = of_caller(x, "delay.fixed_delay_percent");
    if !drawn(x, delay.percentage, &fault.runtime.delay_percent, caller.as_deref(), 3)
        || !asked(x, delay.percentage, X_ENVOY_FAULT_DELAY_REQUEST_PERCENTAGE, by_header, 3)
    {
        return None;
    }
    let own = delay.fixed.or_else(|| number(x, X_ENVOY_FAULT_DELAY_REQUEST).map(Duration::from_millis))?;
    let millis = u64::try_from(own.as_millis()).unwrap_or(u64::MAX);
    let millis = figure(x, &fault.runtime.delay_duration, "delay.fixed_duration_ms", millis);
    Some(Duration::from_millis(millis)).filter(|d| !d.is_zero())
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
