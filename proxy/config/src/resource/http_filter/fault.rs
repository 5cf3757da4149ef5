//! `fault.v3.HTTPFault`: aborts, delays, response rate limits.

use std::time::Duration;

use sidemesh_proto::envoy::extensions::filters::common::fault::v3 as common;
use sidemesh_proto::envoy::extensions::filters::http::fault::v3 as pb;
use sidemesh_proto::envoy::r#type::v3::FractionalPercent;

use crate::matcher::header::HeaderMatcher;
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::value::{Fraction, Name, name};
use crate::wire::{self, optional_name, uint32};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
    pub response_rate_limit: Option<FaultRateLimit>,
    /// Empty: every cluster.
    pub upstream_cluster: Option<Name>,
    pub headers: Vec<HeaderMatcher>,
    pub downstream_nodes: Vec<Name>,
    pub max_active_faults: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FaultDelay {
    /// `None`: `header_delay`, the caller says how long in `x-envoy-fault-delay-request` (ms).
    pub fixed: Option<Duration>,
    pub percentage: Fraction,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FaultAbort {
    pub kind: AbortKind,
    pub percentage: Fraction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortKind {
    Http(u16),
    Grpc(u32),
    Header,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FaultRateLimit {
    /// `None`: `header_limit`.
    pub kbps: Option<u64>,
    pub percentage: Fraction,
}

pub(super) fn parse(fault: &pb::HttpFault) -> Result<Fault, Rejection> {
    Ok(Fault {
        delay: fault.delay.as_ref().map(|d| delay(d).within("delay")).transpose()?,
        abort: fault.abort.as_ref().map(|a| abort(a).within("abort")).transpose()?,
        response_rate_limit: fault
            .response_rate_limit
            .as_ref()
            .map(|l| rate_limit(l).within("response_rate_limit"))
            .transpose()?,
        upstream_cluster: optional_name(&fault.upstream_cluster),
        headers: matcher::headers(&fault.headers, "headers")?,
        downstream_nodes: fault.downstream_nodes.iter().map(|n| name(n)).collect(),
        max_active_faults: uint32(&fault.max_active_faults),
    })
}

/// Not given: never.
fn percentage(f: &Option<FractionalPercent>) -> Result<Fraction, Rejection> {
    f.as_ref().map_or(Ok(Fraction::NEVER), |f| wire::fraction(f, "percentage"))
}

fn delay(d: &common::FaultDelay) -> Result<FaultDelay, Rejection> {
    use common::fault_delay::FaultDelaySecifier as Wire;
    let fixed = match &d.fault_delay_secifier {
        Some(Wire::FixedDelay(d)) => Some(wire::positive_duration(d, "fixed_delay")?),
        Some(Wire::HeaderDelay(_)) => None,
        None => return Err(Rejection::invalid("", "needs one of fixed_delay, header_delay")),
    };
    Ok(FaultDelay { fixed, percentage: percentage(&d.percentage)? })
}

fn abort(a: &pb::FaultAbort) -> Result<FaultAbort, Rejection> {
    use pb::fault_abort::ErrorType as Wire;
    let kind = match &a.error_type {
        Some(Wire::HttpStatus(status)) => match u16::try_from(*status) {
            Ok(status @ 200..=599) => AbortKind::Http(status),
            _ => return Err(Rejection::invalid("http_status", format!("{status} is not between 200 and 599"))),
        },
        Some(Wire::GrpcStatus(status)) => AbortKind::Grpc(*status),
        Some(Wire::HeaderAbort(_)) => AbortKind::Header,
        None => return Err(Rejection::invalid("", "needs one of http_status, grpc_status, header_abort")),
    };
    Ok(FaultAbort { kind, percentage: percentage(&a.percentage)? })
}

fn rate_limit(l: &common::FaultRateLimit) -> Result<FaultRateLimit, Rejection> {
    use common::fault_rate_limit::LimitType as Wire;
    let kbps = match &l.limit_type {
        Some(Wire::FixedLimit(limit)) if limit.limit_kbps == 0 => {
            return Err(Rejection::invalid("fixed_limit.limit_kbps", "must be at least 1"));
        }
        Some(Wire::FixedLimit(limit)) => Some(limit.limit_kbps),
        Some(Wire::HeaderLimit(_)) => None,
        None => return Err(Rejection::invalid("", "needs one of fixed_limit, header_limit")),
    };
    Ok(FaultRateLimit { kbps, percentage: percentage(&l.percentage)? })
}
