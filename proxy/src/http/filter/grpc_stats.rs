//! gRPC statistics (`grpc_stats.v3.FilterConfig`): calls, statuses and messages per cluster (`cluster.<name>.grpc.`) and, where
//! configured, per service and method.
//!
//! A call is counted with its `grpc-status`, which may stand in the answer's head or trailers; one that ends without is not. Which
//! cluster: the one that the route names when the request passes here.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http::header::HeaderMap;
use http_body::{Frame, SizeHint};
use sidemesh_config::resource::http_filter::GrpcStats as Config;
use sidemesh_config::value::Name;

use super::cluster_stats::KEPT_CLUSTERS;
use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::clock::Clock;
use crate::http::exchange::is_grpc;
use crate::http::names::GRPC_STATUS;
use crate::http::upload::Upload;
use crate::telemetry::stats::{Group, Histogram, LazyCounter, Metric, Scope, Shards, Visit};
use crate::worker::Worker;

/// Methods counted apart, per filter and worker; what comes after them is counted for the cluster alone. A bound, because with
/// `stats_for_all_methods` it is clients who name them.
pub(super) const MAX_METHODS: usize = 500;
/// `grpc-status` has so many values (OK to UNAUTHENTICATED).
const STATUSES: usize = 17;

/// `cluster.<name>.grpc.[<service>.<method>.]`
#[derive(Debug, Default)]
pub struct CallStats {
    success: LazyCounter,
    failure: LazyCounter,
    total: LazyCounter,
    request_message_count: LazyCounter,
    response_message_count: LazyCounter,
    /// Made with the first answer that is timed.
    upstream_rq_time: OnceLock<Histogram>,
    /// By status; shown once one has come.
    statuses: [LazyCounter; STATUSES],
}

impl Group for CallStats {
    fn visit(&self, each: &mut dyn FnMut(&str, Visit<'_>)) {
        let counters = [
            ("success", &self.success),
            ("failure", &self.failure),
            ("total", &self.total),
            ("request_message_count", &self.request_message_count),
            ("response_message_count", &self.response_message_count),
        ];
        // As many metrics as there are methods: those that have counted something are shown.
        for (name, counter) in counters {
            counter.visit(name, each);
        }
        if let Some(time) = self.upstream_rq_time.get() {
            time.visit("upstream_rq_time", each);
        }
        for (status, counter) in self.statuses.iter().enumerate() {
            counter.visit(&status.to_string(), each);
        }
    }
}

impl CallStats {
    /// Counts a call, when these are the headers that hold its status.
    pub(super) fn charge(&self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get(GRPC_STATUS) else { return false };
        self.total.inc();
        let status = status.to_str().ok().and_then(|s| s.parse::<usize>().ok());
        match status {
            Some(0) => self.success.inc(),
            _ => self.failure.inc(),
        }
        if let Some(counter) = status.and_then(|s| self.statuses.get(s)) {
            counter.inc();
        }
        true
    }
}

pub struct GrpcStats {
    config: Config,
    clusters: Shards<Name, CallStats>,
    methods: Shards<Method, CallStats>,
}

/// Cluster; service and method.
type Method = (Name, (Name, Name));

/// A call that is under way.
pub struct Call {
    stats: Arc<CallStats>,
    upload: Option<Rc<Upload>>,
    started: Instant,
}

impl GrpcStats {
    pub fn new(config: &Config) -> Self {
        GrpcStats { config: config.clone(), clusters: Shards::new(KEPT_CLUSTERS), methods: Shards::new(MAX_METHODS) }
    }

    pub fn on_request(&self, at: u16, x: &mut Exchange) -> Flow {
        if !x.is_grpc() {
            return Flow::Continue;
        }
        let Some(cluster) = x.info.cluster.clone() else { return Flow::Continue };
        let path = x.view().path_only();
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return Flow::Continue;
        };
        let apart = self.is_apart(service, method).then(|| (service.into(), method.into()));
        let stats = self.stats(&x.manager.worker, cluster, apart);
        if let Some(upload) = &x.upload {
            let messages = Messages { stats: stats.clone(), frames: Frames::default(), request: true };
            upload.map_source(|body| Body::boxed(Counted { body, messages, answer: None }));
        }
        x.data.push((at, Data::GrpcStats(Call { stats, upload: x.upload.clone(), started: x.info.start })));
        Flow::Continue
    }

    fn is_apart(&self, service: &str, method: &str) -> bool {
        let listed = |(s, methods): &(Name, Vec<Name>)| **s == *service && methods.iter().any(|m| **m == *method);
        self.config.stats_for_all_methods || self.config.services.iter().any(listed)
    }

    fn stats(&self, worker: &Rc<Worker>, cluster: Name, apart: Option<(Name, Name)>) -> Arc<CallStats> {
        let registry = worker.stats();
        if let Some(method) = apart {
            let scope = |(cluster, method): &Method| scope(cluster, Some(method));
            if let Some(stats) = self.methods.admit(registry, &(cluster.clone(), method), scope) {
                return stats;
            }
        }
        self.clusters.get(registry, &cluster, |cluster| scope(cluster, None))
    }

    pub fn on_response(&self, at: u16, x: &mut Exchange, response: &mut Response<Body>) {
        let Some(Data::GrpcStats(call)) = super::take(x, at) else { return };
        let charged = call.stats.charge(response.headers());
        if response.body().is_end() || !is_grpc(response.headers()) {
            return;
        }
        let clock = x.manager.worker.local.clock.clone();
        let answer = Answer { call, clock, timed: self.config.enable_upstream_stats, charged };
        let messages = Messages { stats: answer.call.stats.clone(), frames: Frames::default(), request: false };
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = Body::boxed(Counted { body, messages, answer: Some(answer) });
    }
}

fn scope(cluster: &Name, method: Option<&(Name, Name)>) -> Scope {
    Scope::Grpc { cluster: cluster.clone(), method: method.cloned() }
}

/// What the end of an answer brings.
struct Answer {
    call: Call,
    clock: Clock,
    timed: bool,
    charged: bool,
}

impl Answer {
    fn trailers(&self, trailers: &HeaderMap) {
        if !self.charged {
            self.call.stats.charge(trailers);
        }
        if self.timed {
            // From the request's last byte to the answer's.
            let sent = self.call.upload.as_ref().and_then(|u| u.ended()).unwrap_or(self.call.started);
            let time = self.call.stats.upstream_rq_time.get_or_init(Histogram::default);
            time.record_duration(self.clock.now().saturating_duration_since(sent));
        }
    }
}

/// Counts the messages of one direction.
struct Messages {
    stats: Arc<CallStats>,
    frames: Frames,
    request: bool,
}

impl Messages {
    fn see(&mut self, data: &[u8]) {
        let count = self.frames.see(data);
        match self.request {
            true => self.stats.request_message_count.add(count),
            false => self.stats.response_message_count.add(count),
        }
    }
}

/// Length-prefixed messages as their bytes pass, however they are cut.
#[derive(Default)]
struct Frames {
    /// Bytes of a prefix that have come, and what they say so far.
    prefix: u8,
    length: u32,
    /// Bytes of the message that are to come.
    rest: u32,
}

impl Frames {
    /// How many messages begin in `data`: their prefix ends there.
    fn see(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            if self.rest > 0 {
                let skip = data.len().min(self.rest as usize);
                self.rest -= skip as u32;
                data = &data[skip..];
                continue;
            }
            // The first byte of a prefix is a flag, the others the length.
            self.length = if self.prefix == 0 { 0 } else { self.length << 8 | u32::from(data[0]) };
            self.prefix += 1;
            data = &data[1..];
            if self.prefix == 5 {
                begun += 1;
                (self.prefix, self.rest) = (0, self.length);
            }
        }
        begun
    }
}

/// A body whose messages are counted, and whose trailers say how the call went.
struct Counted {
    body: Body,
    messages: Messages,
    /// Of a response.
    answer: Option<Answer>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = ready!(this.body.poll_next(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                this.messages.see(data);
            }
            if let (Some(trailers), Some(answer)) = (frame.trailers_ref(), &this.answer) {
                answer.trailers(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\x01\0".iter().copied().chain([7u8; 256]).collect::<Vec<_>>();
        for size in [1, 2, 3, 4, 5, 7, 300] {
            let mut frames = Frames::default();
            let count: u64 = stream.chunks(size).map(|c| frames.see(c)).sum();
            assert_eq!((count, frames.rest, frames.prefix), (3, 0, 0), "chunks of {size}");
        }
    }

    #[test]
    fn a_call_counts_with_its_status_alone() {
        let stats = CallStats::default();
        let status = |s| HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(s))]);
        assert!(!stats.charge(&HeaderMap::new()));
        assert!(stats.charge(&status("0")) && stats.charge(&status("14")) && stats.charge(&status("99")));
        let mut seen = Vec::new();
        stats.visit(&mut |name, value| {
            if let Visit::Counter(n) = value {
                seen.push((name.to_owned(), n));
            }
        });
        let expected = [("success", 1), ("failure", 2), ("total", 3), ("0", 1), ("14", 1)];
        assert_eq!(seen, expected.map(|(name, n)| (name.to_owned(), n)));
    }
}
