//! What an attempt, a timeout, an answer or a retry is charged to: the host, the cluster's counters, the retry limit.

use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Response};
use sidemesh_config::resource::route::Priority;

use super::breaker::{self, Overflow, Permit};
use super::cluster::Cluster;
use super::error::AttemptError;
use super::grpc;
use super::host::{Host, flag};
use super::info::AttemptInfo;
use super::outlier::Outcome;
use crate::body::Body;
use crate::codec::{Protocol, SendError};

/// A retry's share of its limit; held until the attempt is over.
#[derive(Debug)]
pub struct RetryPermit {
    _permit: Permit,
}

impl Cluster {
    /// Charges the host with how the attempt went.
    pub(super) fn charge(
        &self,
        host: &Host,
        head: &Parts,
        result: &Result<Response<Body>, AttemptError>,
        info: &AttemptInfo,
    ) {
        let counters = host.counters();
        let outcome = match result {
            Ok(response) => {
                let outcome = grpc::outcome(head, response, response.body().is_end());
                match outcome.success {
                    Some(true) => counters.rq_success.inc(),
                    Some(false) => counters.rq_error.inc(),
                    // Who reads the answer's body charges what its trailers tell: see `Host::charge_trailers`.
                    None => {}
                }
                self.heed_health(host, response.headers());
                Outcome::Status(outcome.status)
            }
            Err(AttemptError::Overflow(_) | AttemptError::Send(SendError::RequestBody(_))) => return,
            Err(error) => {
                counters.rq_error.inc();
                if let Some(detail) = error.detail() {
                    info.set_failure(detail.into());
                }
                self.count_failure(error, info);
                Outcome::Failed
            }
        };
        self.judge(host, outcome);
    }

    /// A host under active health checks may say with any answer that it has failed: it is out at once.
    fn heed_health(&self, host: &Host, headers: &HeaderMap) {
        const IMMEDIATE: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
        if self.config().health_checks.is_empty() || !headers.contains_key(IMMEDIATE) {
            return;
        }
        let was_failed = host.state().flags() & flag::FAILED_ACTIVE_HC != 0;
        if host.state().change_flags(flag::FAILED_ACTIVE_HC | flag::EXCLUDED_IMMEDIATE_HC, 0) {
            if !was_failed {
                self.health_stats().passive_failure.inc();
            }
            self.shared.touch_health(self.now());
        }
    }

    /// Counts how an attempt failed. HTTP/1 has no resets of its own: there a request ends with its connection.
    fn count_failure(&self, error: &AttemptError, info: &AttemptInfo) {
        let http2 = info.connection().is_some_and(|c| c.protocol == Some(Protocol::Http2));
        let stats = self.stats();
        match error {
            AttemptError::Send(SendError::Refused) => {}
            AttemptError::Send(SendError::Reset(_)) => stats.upstream_rq_rx_reset.inc(),
            AttemptError::Send(SendError::Protocol(_) | SendError::TooLarge(_) | SendError::PartialResponse) => {
                stats.upstream_cx_protocol_error.inc();
                if http2 {
                    stats.upstream_rq_tx_reset.inc();
                }
            }
            AttemptError::Send(_) if !http2 => {}
            _ => stats.upstream_rq_pending_failure_eject.inc(),
        }
    }

    /// The caller has waited too long for `host` (the request's or one try's time is over). Which timeout it was is the
    /// caller's to count.
    pub fn on_timeout(self: &Rc<Self>, host: &Host, protocol: Option<Protocol>) {
        host.counters().rq_timeout.inc();
        host.counters().rq_error.inc();
        if protocol == Some(Protocol::Http2) {
            self.owner(host).stats().upstream_rq_tx_reset.inc();
        }
        self.on_slow(host);
    }

    /// An attempt that goes on has already taken too long.
    pub fn on_slow(self: &Rc<Self>, host: &Host) {
        self.owner(host).judge(host, Outcome::Timeout);
    }

    /// Counts an answer given on behalf of the cluster, also one made here.
    pub fn charge_response(&self, status: u16, took: Option<Duration>) {
        self.stats().upstream_rq.record(status);
        if let Some(took) = took {
            self.stats().upstream_rq_time.record_duration(took);
        }
    }

    /// Counts how a request of this proxy's own went (to a service that a filter asks, of a mirror): as a caller within the mesh.
    pub fn charge_own(&self, status: u16, took: Option<Duration>) {
        self.charge_response(status, took);
        self.stats().internal_rq.record(status, took);
    }

    /// Leave for one more retry, under the cluster's limit. Counts either outcome.
    pub fn try_retry(&self, priority: Priority) -> Result<RetryPermit, Overflow> {
        let limits = &self.config().circuit_breakers;
        match breaker::claim(&self.breakers, limits, priority, Overflow::Retries) {
            Ok(permit) => {
                self.stats().upstream_rq_retry.inc();
                Ok(RetryPermit { _permit: permit })
            }
            Err(overflow) => {
                self.stats().upstream_rq_retry_overflow.inc();
                Err(overflow)
            }
        }
    }
}
