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
    /// Faults are not counted under the cluster that the caller names.
    pub without_downstream_stats: bool,
    /// Becomes dynamic metadata of a request with a fault.
    pub filter_metadata: Option<serde_json::Value>,
    pub runtime: RuntimeKeys,
}

/// The runtime keys that override the figures above.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeKeys {
    pub delay_percent: Name,
    pub delay_duration: Name,
    pub abort_percent: Name,
    pub abort_http_status: Name,
    pub abort_grpc_status: Name,
    pub max_active_faults: Name,
    pub rate_limit_percent: Name,
}

impl Default for RuntimeKeys {
    fn default() -> Self {
        RuntimeKeys::of(&pb::HttpFault::default())
    }
}

impl RuntimeKeys {
    fn of(fault: &pb::HttpFault) -> Self {
        let key = |given: &str, default: &str| name(if given.is_empty() { default } else { given });
        RuntimeKeys {
            delay_percent: key(&fault.delay_percent_runtime, "fault.http.delay.fixed_delay_percent"),
            delay_duration: key(&fault.delay_duration_runtime, "fault.http.delay.fixed_duration_ms"),
            abort_percent: key(&fault.abort_percent_runtime, "fault.http.abort.abort_percent"),
            abort_http_status: key(&fault.abort_http_status_runtime, "fault.http.abort.http_status"),
            abort_grpc_status: key(&fault.abort_grpc_status_runtime, "fault.http.abort.grpc_status"),
            max_active_faults: key(&fault.max_active_faults_runtime, "fault.http.max_active_faults"),
            rate_limit_percent: key(&fault.response_rate_limit_percent_runtime, "fault.http.rate_limit.response_percent"),
        }
    }
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
    pub body: Name,
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
        filter_metadata: fault.filter_metadata.as_ref().map(wire::struct_to_json),
        without_downstream_stats: fault.disable_downstream_cluster_stats,
        runtime: RuntimeKeys::of(fault),
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
    let body = if a.response_body.is_empty() { "fault filter abort" } else { &a.response_body };
    Ok(FaultAbort { kind, percentage: percentage(&a.percentage)?, body: name(body) })
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
