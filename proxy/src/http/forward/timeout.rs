//! The time limits of a request: the route's, what internal callers ask for in headers, and what the upstream is told.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use sidemesh_config::resource::route::{Forward, GrpcTimeout, RetryPolicy};

use crate::http::exchange::Exchange;
use crate::http::names::*;
use crate::http::route;

/// `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the end of the request to the end of the response.
    pub route: Option<Duration>,
    /// From the start of an attempt to its response head.
    pub per_try: Option<Duration>,
    pub per_try_idle: Option<Duration>,
    /// From the start of an attempt to its end: the caller's `x-envoy-upstream-stream-duration-ms`, or the cluster's.
    pub upstream: Option<Duration>,
    /// The upstream is told the limit as `grpc-timeout`, too.
    pub tells_grpc: bool,
    /// A hedge leaves the whole route timeout to each attempt.
    pub hedged: bool,
    /// `x-envoy-upstream-rq-timeout-alt-response`: the caller wants 204 instead of 504.
    pub no_content: bool,
}

impl Timeouts {
    /// Reads the configuration and, where it `asks` for anything, the caller's headers, which are consumed.
    pub fn new(
        x: &mut Exchange,
        forward: &Forward,
        policy: Option<&RetryPolicy>,
        cluster: Option<Duration>,
        asks: bool,
    ) -> Self {
        let grpc = forward.grpc_timeout.filter(|_| x.is_grpc());
        let mut timeouts = Timeouts {
            route: grpc.map_or(forward.timeout, |limits| of_grpc(limits, route::grpc_timeout(&x.parts.headers))),
            per_try: policy.and_then(|p| p.per_try_timeout),
            per_try_idle: policy.and_then(|p| p.per_try_idle_timeout),
            upstream: cluster,
            tells_grpc: grpc.is_some(),
            hedged: forward
                .hedge
                .or_else(|| x.info.vhost.as_ref()?.hedge_policy)
                .is_some_and(|h| h.hedge_on_per_try_timeout),
            no_content: false,
        };
        if asks {
            timeouts.take_asked(x);
        }
        if let (Some(per_try), Some(route)) = (timeouts.per_try, timeouts.route)
            && per_try >= route
        {
            timeouts.per_try = None;
        }
        timeouts
    }

    /// What the caller's headers ask for.
    fn take_asked(&mut self, x: &mut Exchange) {
        self.no_content = x.parts.headers.remove(X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE).is_some();
        let expected = if x.manager.router.respect_expected_rq_timeout {
            // It stays: where Envoy's headers are not suppressed it is replaced.
            x.parts.headers.get(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS).and_then(millis)
        } else {
            None
        };
        let asked = take_millis(x, X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
        if let Some(asked) = expected.or(asked) {
            self.route = some(asked);
        }
        if let Some(asked) = take_millis(x, X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
            self.per_try = some(asked);
        }
        if let Some(asked) = take_millis(x, X_ENVOY_UPSTREAM_STREAM_DURATION_MS) {
            self.upstream = some(asked);
        }
        if let Some(value) = x.parts.headers.get(X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT) {
            self.hedged = value == "true";
        }
    }

    /// What the upstream may take, `elapsed` after the request's arrival (`x-envoy-expected-rq-timeout-ms`).
    pub fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let expected = match self.per_try {
            Some(per_try) if !self.hedged => per_try,
            _ => self.route?,
        };
        let Some(route) = self.route else { return Some(expected) };
        let left = route.checked_sub(elapsed).filter(|d| !d.is_zero());
        // Out of time: zero would stand for no limit.
        Some(left.map_or(Duration::from_millis(1), |left| expected.min(left)))
    }

    /// Tells the upstream.
    pub fn announce(&self, x: &mut Exchange, elapsed: Duration) {
        let Some(expected) = self.expected(elapsed) else { return };
        if self.tells_grpc {
            x.parts.headers.insert(GRPC_TIMEOUT, route::grpc_timeout_text(expected));
        }
        if !x.manager.suppresses() {
            let value = x.manager.expected_timeout.value(expected.as_millis() as u64, HeaderValue::from);
            x.parts.headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, value);
        }
    }
}

/// `max_grpc_timeout` and `grpc_timeout_offset`; zero stands for no limit on either side.
fn of_grpc(limits: GrpcTimeout, asked: Option<Duration>) -> Option<Duration> {
    let asked = asked.unwrap_or_default();
    let asked = if limits.offset < asked { asked - limits.offset } else { asked };
    match some(limits.max) {
        Some(max) if asked.is_zero() => Some(max),
        Some(max) => Some(max.min(asked)),
        None => some(asked),
    }
}

fn some(limit: Duration) -> Option<Duration> {
    Some(limit).filter(|d| !d.is_zero())
}

fn millis(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

fn take_millis(x: &mut Exchange, name: HeaderName) -> Option<Duration> {
    millis(&x.parts.headers.remove(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_grpc_timeout_is_capped_and_moved() {
        let limits = GrpcTimeout { max: ms(400), offset: ms(100) };
        assert_eq!(of_grpc(limits, None), Some(ms(400)));
        assert_eq!(of_grpc(limits, Some(ms(3000))), Some(ms(400)));
        assert_eq!(of_grpc(limits, Some(ms(300))), Some(ms(200)));
        assert_eq!(of_grpc(limits, Some(ms(100))), Some(ms(100)));
        let unbounded = GrpcTimeout { max: ms(0), offset: ms(0) };
        assert_eq!(of_grpc(unbounded, Some(ms(3000))), Some(ms(3000)));
        assert_eq!(of_grpc(unbounded, None), None);
    }

    #[test]
    fn the_upstream_is_told_what_is_left() {
        let route = Timeouts { route: Some(ms(1000)), ..Timeouts::default() };
        assert_eq!(route.expected(ms(0)), Some(ms(1000)));
        assert_eq!(route.expected(ms(300)), Some(ms(700)));
        assert_eq!(route.expected(ms(1500)), Some(ms(1)));
        let tries = Timeouts { per_try: Some(ms(400)), ..route };
        assert_eq!(tries.expected(ms(0)), Some(ms(400)));
        assert_eq!(tries.expected(ms(800)), Some(ms(200)));
        assert_eq!(Timeouts { hedged: true, ..tries }.expected(ms(0)), Some(ms(1000)));
        assert_eq!(Timeouts::default().expected(ms(0)), None);
    }
}
