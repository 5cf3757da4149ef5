//! Time limits on an upstream's response body: the route's timeout, the stream's idle and longest duration, the per-try idle
//! timeout. One timer serves them all; it is moved only when it goes off.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::exchange::Exchange;
use super::finish::Last;
use super::upload::Upload;
use crate::body::{Body, Error, HttpBody};
use crate::clock::{Clock, Sleep};
use crate::codec::Protocol;
use crate::upstream::{Cluster, Host};

/// Which limit ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The route's timeout.
    Route,
    /// The per-try timeout (before the response only).
    PerTry,
    PerTryIdle,
    StreamIdle,
    /// `max_stream_duration`.
    Duration,
    /// The longest that one attempt may last: the cluster's `max_stream_duration`, or what the caller says.
    Upstream,
    /// The connection manager's `request_timeout`.
    Request,
}

impl Limit {
    /// Whether it is the stream's own: the answer is then not charged to the cluster.
    pub fn is_of_stream(self) -> bool {
        matches!(self, Limit::StreamIdle | Limit::Duration | Limit::Upstream | Limit::Request)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Route => "the route's timeout",
            Limit::PerTry => "the per-try timeout",
            Limit::PerTryIdle => "the per-try idle timeout",
            Limit::StreamIdle => "the stream idle timeout",
            Limit::Duration => "the longest stream duration",
            Limit::Upstream => "the longest upstream stream duration",
            Limit::Request => "the request timeout",
        }
    }
}

/// The limit that is reached first, of those considered; of two at one time the first.
#[derive(Debug, Default)]
pub struct Soonest(pub Option<(Instant, Limit)>);

impl Soonest {
    pub fn at(&mut self, at: Option<Instant>, limit: Limit) {
        if let Some(at) = at
            && self.0.is_none_or(|(soonest, _)| at < soonest)
        {
            self.0 = Some((at, limit));
        }
    }

    /// A limit that is reached `after` some moment.
    pub fn consider(&mut self, from: Option<Instant>, after: Option<Duration>, limit: Limit) {
        if let (Some(from), Some(after)) = (from, after) {
            self.at(from.checked_add(after), limit);
        }
    }
}

/// The limits of a request that waits in a filter: nothing has gone to the upstream yet.
pub struct Patience {
    clock: Clock,
    sleep: Sleep,
    started: Instant,
    idle: Option<Duration>,
    duration_ends: Option<Instant>,
    request_ends: Option<Instant>,
    upload: Option<Rc<Upload>>,
}

impl Patience {
    pub fn new(x: &Exchange) -> Self {
        let local = &x.manager.worker.local;
        let started = local.clock.now();
        let request_ends = x.manager.config.request_timeout.and_then(|t| x.info.start.checked_add(t));
        let mut patience = Patience {
            clock: local.clock.clone(),
            sleep: local.timers.until(started),
            started,
            idle: x.idle,
            duration_ends: x.duration_ends,
            request_ends,
            upload: x.upload.clone(),
        };
        if let Some((at, _)) = patience.next() {
            patience.sleep.reset(at);
        }
        patience
    }

    fn next(&self) -> Option<(Instant, Limit)> {
        let waits = self.upload.as_ref().filter(|u| u.ended().is_none());
        let active = waits.map_or(self.started, |u| u.active().max(self.started));
        let idle = self.idle.and_then(|t| active.checked_add(t)).map(|at| (at, Limit::StreamIdle));
        let request = self.request_ends.filter(|_| waits.is_some()).map(|at| (at, Limit::Request));
        let duration = self.duration_ends.map(|at| (at, Limit::Duration));
        [idle, request, duration].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        loop {
            let Some((at, limit)) = self.next() else { return Poll::Pending };
            if at <= self.clock.now() {
                return Poll::Ready(limit);
            }
            if Pin::new(&mut self.sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep.reset(at);
        }
    }
}

/// What still limits an upstream response.
pub struct Limits {
    /// The route's timeout; it starts with the end of the request.
    pub route: Option<Duration>,
    pub per_try_idle: Option<Duration>,
    /// When the attempt must be over.
    pub upstream_ends: Option<Instant>,
    pub cluster: Rc<Cluster>,
    pub host: Rc<Host>,
    /// The protocol of the upstream connection.
    pub protocol: Option<Protocol>,
    /// The trailers say whether the host has done well (gRPC).
    pub trailers_tell: bool,
}

impl Limits {
    /// Counts a body that breaks the protocol: for HTTP/1 also one that ends before it is complete.
    fn count_error(&self, error: &Error) {
        let http1 = self.protocol.is_some_and(|p| p != Protocol::Http2);
        if matches!(error, Error::Malformed(_) | Error::TooLarge(_)) || (http1 && *error == Error::Closed) {
            self.cluster.stats().upstream_cx_protocol_error.inc();
        }
    }

    /// Counts a limit that has cut the body off, where the upstream is to blame.
    fn count(&self, limit: Limit) {
        let stats = self.cluster.stats();
        match limit {
            Limit::Route => stats.upstream_rq_timeout.inc(),
            Limit::PerTryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
            Limit::Upstream => return stats.upstream_rq_max_duration_reached.inc(),
            _ => return,
        }
        self.cluster.on_timeout(&self.host, self.protocol);
    }

    pub fn any(&self, x: &Exchange) -> bool {
        self.route.is_some()
            || self.per_try_idle.is_some()
            || self.upstream_ends.is_some()
            || x.idle.is_some()
            || x.duration_ends.is_some()
            || x.next_log.get().is_some()
            || self.cluster.weighs_reports()
            || self.trailers_tell
    }
}

/// The body within its limits.
pub struct Guard {
    body: Body,
    limits: Limits,
    clock: Clock,
    sleep: Sleep,
    started: Instant,
    active: Instant,
    idle: Option<Duration>,
    duration_ends: Option<Instant>,
    upload: Option<Rc<Upload>>,
    request_ended: Option<Instant>,
    last: Rc<Last>,
}

impl Guard {
    pub fn new(body: Body, x: &Exchange, limits: Limits, last: Rc<Last>) -> Self {
        let local = &x.manager.worker.local;
        let now = local.clock.coarse();
        let mut guard = Guard {
            body,
            limits,
            clock: local.clock.clone(),
            sleep: local.timers.until(now),
            started: now,
            active: now,
            idle: x.idle,
            duration_ends: x.duration_ends,
            upload: x.upload.clone(),
            request_ended: x.request_ended(),
            last,
        };
        let next = guard.next().map(|(at, _)| at);
        if let Some(at) = next.into_iter().chain(x.next_log.get()).min() {
            guard.sleep.reset(at);
        }
        guard
    }

    /// The next limit to be reached as things stand.
    fn next(&self) -> Option<(Instant, Limit)> {
        let ended = self.request_ended.or_else(|| self.upload.as_ref()?.ended());
        let mut active = self.active;
        if let Some(upload) = &self.upload {
            active = active.max(upload.active());
        }
        let mut next = Soonest::default();
        next.consider(ended, self.limits.route, Limit::Route);
        next.consider(Some(active), self.idle, Limit::StreamIdle);
        next.consider(Some(self.active), self.limits.per_try_idle, Limit::PerTryIdle);
        next.at(self.limits.upstream_ends, Limit::Upstream);
        next.at(self.duration_ends, Limit::Duration);
        if ended.is_none() {
            // A request that is not complete yet may arm the route's timeout any moment: look again soon enough.
            next.consider(Some(self.started.max(active)), self.limits.route, Limit::Route);
        }
        next.0
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            if Pin::new(&mut self.sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = self.clock.now();
            let log = self.last.log_if_due(now);
            match self.next() {
                Some((at, limit)) if at <= now => {
                    let waits_for_request = limit == Limit::Route
                        && self.request_ended.is_none()
                        && self.upload.as_ref().is_some_and(|u| u.ended().is_none());
                    if waits_for_request {
                        self.started = now;
                        continue;
                    }
                    self.limits.count(limit);
                    self.last.cut(limit);
                    return Poll::Ready(Error::Timeout(limit.as_str()));
                }
                next => match next.map(|(at, _)| at).into_iter().chain(log).min() {
                    Some(at) => self.sleep.reset(at),
                    None => return Poll::Pending,
                },
            }
        }
    }
}

impl HttpBody for Guard {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let guard = self.get_mut();
        match guard.body.poll_next(cx) {
            Poll::Ready(frame) => {
                // Behind the end there is nothing to be late.
                if frame.is_some() {
                    guard.active = guard.clock.now();
                }
                if let Some(Err(error)) = &frame {
                    guard.limits.count_error(error);
                }
                let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
                if let Some(trailers) = trailers {
                    guard.limits.cluster.on_load_report(&guard.limits.host, trailers);
                }
                if guard.limits.trailers_tell && (trailers.is_some() || frame.is_none()) {
                    guard.limits.trailers_tell = false;
                    guard.limits.host.charge_trailers(trailers);
                }
                Poll::Ready(frame)
            }
            Poll::Pending => guard.poll_limits(cx).map(|error| {
                guard.body = Body::empty();
                Some(Err(error))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
