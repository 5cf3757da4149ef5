//! What an attempt, a timeout, an answer or a retry is charged to: the host, the cluster's counters, the retry limit.

use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use sidemesh_config::resource::cluster::RetryBudget;
use sidemesh_config::resource::route::Priority;

use super::breaker::{self, Overflow, Permit};
use super::cluster::Cluster;
use super::error::AttemptError;
use super::grpc;
use super::host::Host;
use super::info::AttemptInfo;
use super::outlier::Outcome;
use crate::body::Body;
use crate::codec::SendError;

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
                let status = response.status().as_u16();
                if status >= 500 {
                    counters.rq_error.inc()
                } else {
                    counters.rq_success.inc()
                }
                match grpc::outcome(head, response) {
                    Some(status) => Outcome::Status(status),
                    None => return,
                }
            }
            Err(AttemptError::Overflow(_) | AttemptError::Send(SendError::RequestBody(_))) => return,
            Err(error) => {
                counters.rq_error.inc();
                if let Some(detail) = error.detail() {
                    info.set_failure(detail.into());
                }
                match error {
                    AttemptError::Send(_) => {
                        self.stats().upstream_rq_rx_reset.inc();
                        Outcome::Failed
                    }
                    _ => {
                        self.stats().upstream_rq_pending_failure_eject.inc();
                        Outcome::ConnectFailed
                    }
                }
            }
        };
        self.judge(host, outcome);
    }

    /// A gRPC answer's status came in its trailers.
    pub fn on_grpc_status(self: &Rc<Self>, host: &Host, status: u16) {
        self.owner(host).judge(host, Outcome::Status(crate::grpc::http_status(u32::from(status))));
    }

    /// The caller has waited too long for `host` (the request's or one try's time is over). Which timeout it was is the
    /// caller's to count.
    pub fn on_timeout(self: &Rc<Self>, host: &Host) {
        let owner = self.owner(host);
        host.counters().rq_timeout.inc();
        host.counters().rq_error.inc();
        owner.stats().upstream_rq_tx_reset.inc();
        owner.judge(host, Outcome::Timeout);
    }

    /// Counts an answer given on behalf of the cluster, also one made here.
    pub fn charge_response(&self, status: u16, took: Option<Duration>) {
        self.stats().upstream_rq.record(status);
        if let Some(took) = took {
            self.stats().upstream_rq_time.record_duration(took);
        }
    }

    /// Leave for one more retry, under the cluster's limit. Counts either outcome.
    pub fn try_retry(&self, priority: Priority) -> Result<RetryPermit, Overflow> {
        let limits = &self.config().circuit_breakers;
        self.retry_claimed(breaker::claim(&self.breakers, limits, priority, Overflow::Retries))
    }

    /// The same under a budget of the route's own.
    pub fn try_retry_within(&self, priority: Priority, budget: &RetryBudget) -> Result<RetryPermit, Overflow> {
        self.retry_claimed(breaker::claim_retry(&self.breakers, budget, priority))
    }

    fn retry_claimed(&self, claimed: Result<Permit, Overflow>) -> Result<RetryPermit, Overflow> {
        match claimed {
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
