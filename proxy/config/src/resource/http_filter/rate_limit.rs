//! `local_ratelimit.v3.LocalRateLimit` and `ratelimit.v3.RateLimit` (the global one).

use std::sync::Arc;
use std::time::Duration;

use crate::resource::core::HeaderEdits;
use crate::resource::route::RateLimit;
use crate::value::{GrpcService, Name, RuntimeFraction};

#[derive(Debug, Clone, PartialEq)]
pub struct LocalRateLimit {
    pub stat_prefix: Name,
    /// Default 429.
    pub status: u16,
    pub bucket: Option<TokenBucket>,
    pub enabled: RuntimeFraction,
    pub enforced: RuntimeFraction,
    pub request_headers_when_not_enforced: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub descriptors: Vec<LocalDescriptor>,
    pub stage: u32,
    pub per_connection: bool,
    pub rate_limited_as_resource_exhausted: bool,
    pub enable_x_ratelimit_headers: bool,
    pub vh_rate_limits: VhRateLimits,
    pub always_consume_default_bucket: bool,
    pub rate_limits: Arc<[RateLimit]>,
    pub max_dynamic_descriptors: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    pub max_tokens: u32,
    pub tokens_per_fill: u32,
    pub fill_interval: Duration,
}

/// Entries with an empty value match any value, each with a bucket of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalDescriptor {
    pub entries: Vec<(Name, Name)>,
    pub bucket: TokenBucket,
    pub shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VhRateLimits {
    #[default]
    Override,
    Include,
    Ignore,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitFilter {
    pub domain: Name,
    pub stage: u32,
    pub request_type: RequestType,
    pub timeout: Duration,
    pub failure_mode_deny: bool,
    pub rate_limited_as_resource_exhausted: bool,
    pub service: GrpcService,
    pub enable_x_ratelimit_headers: bool,
    pub disable_x_envoy_ratelimited_header: bool,
    pub rate_limited_status: u16,
    pub status_on_error: u16,
    pub response_headers: HeaderEdits,
    pub stat_prefix: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestType {
    Both,
    Internal,
    External,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RateLimitOverride {
    pub vh_rate_limits: VhRateLimits,
    pub rate_limits: Arc<[RateLimit]>,
    pub domain: Option<Name>,
}
