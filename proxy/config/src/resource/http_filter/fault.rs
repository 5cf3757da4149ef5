//! `fault.v3.HTTPFault`: aborts, delays, response rate limits.

use std::time::Duration;

use crate::matcher::header::HeaderMatcher;
use crate::value::{Fraction, Name};

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
    pub disable_downstream_cluster_stats: bool,
    pub filter_metadata: bool,
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
