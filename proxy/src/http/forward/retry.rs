//! Whether a request is sent again, and after how long (`route.v3.RetryPolicy` and the `x-envoy-retry-*` request headers).
//!
//! Pure: outcomes of attempts, headers, the time and random bits in, verdicts out. Permits (the circuit breaker's) are
//! asked for by the loop after a verdict; what is safe to send again whatever the policy says (never sent, refused
//! unprocessed) is the pools' business.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName};
use sidemesh_config::matcher::RequestView;
use sidemesh_config::resource::route::{RateLimitedBackoff, ResetFormat, RetryOn, RetryPolicy};
use sidemesh_config::value::Backoff;
use smallvec::SmallVec;

use crate::http::names::*;

/// The retry state of one request.
#[derive(Debug, Clone)]
pub struct Retry {
    on: RetryOn,
    remaining: u32,
    codes: SmallVec<[u16; 4]>,
    header_names: SmallVec<[HeaderName; 2]>,
    policy: Option<Arc<RetryPolicy>>,
    backoff: Backoff,
    interval: Duration,
}

/// How an attempt failed to bring a response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failure {
    pub connect: bool,
    pub refused: bool,
    /// The circuit breaker said no: never sent again.
    pub overflow: bool,
    /// Some of the request had left for the upstream.
    pub sent: bool,
}

/// What follows from an attempt's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The outcome stands.
    Keep,
    /// It would be sent again, had it retries left.
    Exhausted,
    /// Send again after this long.
    Again(Pause),
}

/// The pause before another attempt, by what decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    Exponential(Duration),
    /// The upstream said when (`rate_limited_retry_back_off`).
    Told(Duration),
}

impl Pause {
    pub fn length(self) -> Duration {
        match self {
            Pause::Exponential(length) | Pause::Told(length) => length,
        }
    }
}

const DEFAULT_BACKOFF: Backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

/// Any gRPC condition.
const GRPC: u32 = RetryOn::GRPC_CANCELLED
    | RetryOn::GRPC_DEADLINE_EXCEEDED
    | RetryOn::GRPC_INTERNAL
    | RetryOn::GRPC_RESOURCE_EXHAUSTED
    | RetryOn::GRPC_UNAVAILABLE;

impl Retry {
    /// Reads the policy and the request's own wishes; `None` when nothing asks for retries. The headers are consumed in any
    /// case: see [`strip`].
    pub fn new(policy: Option<&Arc<RetryPolicy>>, view: &RequestView<'_>) -> Option<Self> {
        if policy.is_none() && !any_envoy(view.headers) {
            return None;
        }
        let text = |name: &HeaderName| view.headers.get(name).and_then(|v| v.to_str().ok());
        let asked = text(&X_ENVOY_RETRY_ON).map_or(0, |v| RetryOn::parse(v).0.0 & !GRPC)
            | text(&X_ENVOY_RETRY_GRPC_ON).map_or(0, |v| RetryOn::parse(v).0.0 & GRPC);
        let mut on = policy.map_or(0, |p| p.on.0) | asked;
        if let Some(p) = policy
            && !p.retriable_request_headers.is_empty()
            && !p.retriable_request_headers.iter().any(|m| m.matches(view))
        {
            on = 0;
        }
        if on == 0 {
            return None;
        }
        let backoff = policy.map_or(DEFAULT_BACKOFF, |p| p.backoff);
        let codes = policy.into_iter().flat_map(|p| p.retriable_status_codes.iter().copied());
        let asked_codes = text(&X_ENVOY_RETRIABLE_STATUS_CODES).into_iter().flat_map(|v| v.split(','));
        Some(Retry {
            on: RetryOn(on),
            remaining: text(&X_ENVOY_MAX_RETRIES)
                .and_then(|v| v.parse().ok())
                .unwrap_or_else(|| policy.map_or(1, |p| p.num_retries)),
            codes: codes.chain(asked_codes.filter_map(|c| c.trim().parse().ok())).collect(),
            header_names: text(&X_ENVOY_RETRIABLE_HEADER_NAMES)
                .into_iter()
                .flat_map(|v| v.split(','))
                .filter_map(|n| n.trim().parse().ok())
                .collect(),
            policy: policy.cloned(),
            interval: backoff.base,
            backoff,
        })
    }

    pub fn policy(&self) -> Option<&Arc<RetryPolicy>> {
        self.policy.as_ref()
    }

    /// After a response head.
    pub fn after_response(&mut self, status: u16, headers: &HeaderMap, now: SystemTime, random: u64) -> Verdict {
        if !self.wants_response(status, headers) {
            return Verdict::Keep;
        }
        let limited = self.policy.as_ref().and_then(|p| p.rate_limited_backoff.as_ref());
        let told = limited.and_then(|l| reset_interval(l, headers, now));
        self.spend(told, random)
    }

    /// After an attempt without a response head.
    pub fn after_failure(&mut self, failure: Failure, random: u64) -> Verdict {
        if failure.overflow || !self.wants_failure(failure) {
            return Verdict::Keep;
        }
        self.spend(None, random)
    }

    /// After the per-try timeout; a hedge goes out at once.
    pub fn after_try_timeout(&mut self, hedge: bool, random: u64) -> Verdict {
        if hedge {
            return match self.spend(None, random) {
                Verdict::Again(_) => Verdict::Again(Pause::Exponential(Duration::ZERO)),
                other => other,
            };
        }
        self.after_failure(Failure { sent: true, ..Failure::default() }, random)
    }

    fn wants_response(&self, status: u16, headers: &HeaderMap) -> bool {
        let on = self.on;
        if headers.contains_key(X_ENVOY_RATELIMITED) {
            return on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        (on.has(RetryOn::E5XX) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.codes.contains(&status))
            || (on.has(RetryOn::RETRIABLE_HEADERS) && self.has_retriable_header(headers))
            || (on.has(GRPC) && self.wants_grpc(headers))
    }

    fn has_retriable_header(&self, headers: &HeaderMap) -> bool {
        self.header_names.iter().any(|n| headers.contains_key(n))
            || self.policy.as_ref().is_some_and(|p| p.retriable_headers.iter().any(|m| m.matches_map(headers)))
    }

    fn wants_grpc(&self, headers: &HeaderMap) -> bool {
        let bit = match headers.get(GRPC_STATUS).map(|v| v.as_bytes()) {
            Some(b"1") => RetryOn::GRPC_CANCELLED,
            Some(b"4") => RetryOn::GRPC_DEADLINE_EXCEEDED,
            Some(b"8") => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            Some(b"13") => RetryOn::GRPC_INTERNAL,
            Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        self.on.has(bit)
    }

    fn wants_failure(&self, failure: Failure) -> bool {
        let on = self.on;
        on.has(RetryOn::RESET | RetryOn::E5XX | RetryOn::GATEWAY_ERROR)
            || (on.has(RetryOn::RESET_BEFORE_REQUEST) && !failure.sent)
            || (on.has(RetryOn::REFUSED_STREAM) && failure.refused)
            || (on.has(RetryOn::CONNECT_FAILURE) && failure.connect)
    }

    fn spend(&mut self, told: Option<Duration>, random: u64) -> Verdict {
        if self.remaining == 0 {
            return Verdict::Exhausted;
        }
        self.remaining -= 1;
        Verdict::Again(match told {
            // Half as much again, so that not all callers come back at one moment.
            Some(told) => Pause::Told(told + below(told / 2, random)),
            None => {
                let now = self.interval;
                self.interval = (now * 2).min(self.backoff.max);
                Pause::Exponential(below(now, random).min(self.backoff.max))
            }
        })
    }
}

/// A uniform duration below `limit`.
fn below(limit: Duration, random: u64) -> Duration {
    Duration::from_nanos(((u128::from(random) * limit.as_nanos()) >> 64) as u64)
}

/// Takes the headers that speak to the router alone out of the request.
pub fn strip(headers: &mut HeaderMap) {
    for name in [
        X_ENVOY_RETRY_ON,
        X_ENVOY_RETRY_GRPC_ON,
        X_ENVOY_MAX_RETRIES,
        X_ENVOY_RETRIABLE_HEADER_NAMES,
        X_ENVOY_RETRIABLE_STATUS_CODES,
        X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
        X_ENVOY_UPSTREAM_STREAM_DURATION_MS,
    ] {
        headers.remove(name);
    }
}

/// How long the upstream asks to wait, from the first reset header that says so within the bound.
fn reset_interval(backoff: &RateLimitedBackoff, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    backoff.reset_headers.iter().find_map(|(name, format)| {
        let value: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
        let wait = match format {
            ResetFormat::Seconds => Duration::from_secs(value),
            ResetFormat::UnixTimestamp => {
                Duration::from_secs(value).checked_sub(now.duration_since(UNIX_EPOCH).ok()?)?
            }
        };
        (wait <= backoff.max_interval).then_some(wait)
    })
}

#[cfg(test)]
mod tests;
