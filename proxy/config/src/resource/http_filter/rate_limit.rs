//! `local_ratelimit.v3.LocalRateLimit` and `ratelimit.v3.RateLimit` (the global one).

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::common::ratelimit::v3 as common;
use sidemesh_proto::envoy::extensions::filters::http::local_ratelimit::v3 as local_pb;
use sidemesh_proto::envoy::extensions::filters::http::ratelimit::v3 as pb;
use sidemesh_proto::envoy::r#type::v3 as types;

use super::http_status;
use crate::rejection::{Rejection, Within};
use crate::resource::core::HeaderEdits;
use crate::resource::route::{RateLimit, rate_limits};
use crate::resource::substitution;
use crate::value::{Fraction, GrpcService, Name, RuntimeFraction, name};
use crate::wire::{self, enumeration, flag, non_empty, optional_name, required, uint32};

const MAX_STAGE: u32 = 10;
const TOO_MANY_REQUESTS: u16 = 429;
/// The most headers that a rate-limit filter may add.
const MAX_HEADERS: usize = 10;
const LEAST_FILL_INTERVAL: Duration = Duration::from_millis(50);
const DEFAULT_MAX_DYNAMIC_DESCRIPTORS: u32 = 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
const DEFAULT_METADATA: &str = "envoy.filters.http.ratelimit";

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
    pub enable_retry_after: bool,
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
    pub enabled: RuntimeFraction,
    pub enforced: RuntimeFraction,
    /// In place of `failure_mode_deny`, for so many requests.
    pub failure_mode_deny_percent: Option<RuntimeFraction>,
    /// The policies of routes that have none of their own for this filter.
    pub rate_limits: Arc<[RateLimit]>,
    /// Under which name the service's metadata is kept.
    pub metadata_namespace: Name,
    pub enable_retry_after: bool,
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

fn stage(stage: u32) -> Result<u32, Rejection> {
    if stage > MAX_STAGE {
        return Err(Rejection::invalid("stage", format!("{stage} is more than {MAX_STAGE}")));
    }
    Ok(stage)
}

fn headers(list: &[core::HeaderValueOption], field: &str) -> Result<HeaderEdits, Rejection> {
    if list.len() > MAX_HEADERS {
        return Err(Rejection::invalid(field, format!("holds more than {MAX_HEADERS} headers")));
    }
    Ok(HeaderEdits { add: substitution::header_additions(list, field)?, remove: Vec::new() })
}

/// The status of a refusal; one below 400 counts as 429.
fn refusal(status: &Option<types::HttpStatus>, field: &str) -> Result<u16, Rejection> {
    let status = http_status(status, TOO_MANY_REQUESTS, field)?;
    Ok(if status < 400 { TOO_MANY_REQUESTS } else { status })
}

/// The local rate limit, of the filter or of a route.
pub(super) fn parse_local(config: &local_pb::LocalRateLimit) -> Result<LocalRateLimit, Rejection> {
    let fraction = |f: &Option<core::RuntimeFractionalPercent>, field: &str| match f {
        Some(f) => wire::runtime_fraction(f, field),
        None => Ok(RuntimeFraction { key: None, default: Fraction::NEVER }),
    };
    let ratelimit_headers: common::XRateLimitHeadersRfcVersion =
        enumeration(config.enable_x_ratelimit_headers, "enable_x_ratelimit_headers")?;
    let descriptors = config.descriptors.iter().enumerate();
    let bucket = config.token_bucket.as_ref().map(|b| token_bucket(b).within("token_bucket"));
    let max_dynamic_descriptors = uint32(&config.max_dynamic_descriptors).unwrap_or(DEFAULT_MAX_DYNAMIC_DESCRIPTORS);
    if max_dynamic_descriptors == 0 {
        return Err(Rejection::invalid("max_dynamic_descriptors", "must be at least 1"));
    }
    Ok(LocalRateLimit {
        stat_prefix: non_empty(&config.stat_prefix, "stat_prefix")?,
        status: refusal(&config.status, "status")?,
        bucket: bucket.transpose()?,
        enabled: fraction(&config.filter_enabled, "filter_enabled")?,
        enforced: fraction(&config.filter_enforced, "filter_enforced")?,
        request_headers_when_not_enforced: headers(
            &config.request_headers_to_add_when_not_enforced,
            "request_headers_to_add_when_not_enforced",
        )?,
        response_headers: headers(&config.response_headers_to_add, "response_headers_to_add")?,
        descriptors: descriptors
            .map(|(i, d)| descriptor(d).within_index("descriptors", i))
            .collect::<Result<_, _>>()?,
        stage: stage(config.stage)?,
        per_connection: config.local_rate_limit_per_downstream_connection,
        rate_limited_as_resource_exhausted: config.rate_limited_as_resource_exhausted,
        enable_x_ratelimit_headers: ratelimit_headers == common::XRateLimitHeadersRfcVersion::DraftVersion03,
        enable_retry_after: config.enable_retry_after_header,
        vh_rate_limits: match enumeration(config.vh_rate_limits, "vh_rate_limits")? {
            common::VhRateLimitsOptions::Override => VhRateLimits::Override,
            common::VhRateLimitsOptions::Include => VhRateLimits::Include,
            common::VhRateLimitsOptions::Ignore => VhRateLimits::Ignore,
        },
        always_consume_default_bucket: flag(&config.always_consume_default_token_bucket, true),
        rate_limits: rate_limits(&config.rate_limits, "rate_limits")?,
        max_dynamic_descriptors,
    })
}

fn token_bucket(b: &types::TokenBucket) -> Result<TokenBucket, Rejection> {
    let tokens_per_fill = uint32(&b.tokens_per_fill).unwrap_or(1);
    if b.max_tokens == 0 {
        return Err(Rejection::invalid("max_tokens", "must be greater than 0"));
    }
    if tokens_per_fill == 0 {
        return Err(Rejection::invalid("tokens_per_fill", "must be greater than 0"));
    }
    let fill_interval = wire::positive_duration(required(&b.fill_interval, "fill_interval")?, "fill_interval")?;
    if fill_interval < LEAST_FILL_INTERVAL {
        return Err(Rejection::invalid("fill_interval", "must be at least 50ms"));
    }
    Ok(TokenBucket { max_tokens: b.max_tokens, tokens_per_fill, fill_interval })
}

fn descriptor(d: &common::LocalRateLimitDescriptor) -> Result<LocalDescriptor, Rejection> {
    if d.entries.is_empty() {
        return Err(Rejection::invalid("entries", "must hold at least one entry"));
    }
    let entries = d.entries.iter().enumerate();
    Ok(LocalDescriptor {
        entries: entries
            .map(|(i, e)| Ok((non_empty(&e.key, "key").within_index("entries", i)?, name(&e.value))))
            .collect::<Result<_, Rejection>>()?,
        bucket: token_bucket(required(&d.token_bucket, "token_bucket")?).within("token_bucket")?,
        shadow: d.shadow_mode,
    })
}

/// The global rate limit.
pub(super) fn parse(config: &pb::RateLimit) -> Result<RateLimitFilter, Rejection> {
    use pb::rate_limit::XRateLimitHeadersRfcVersion as Version;
    let service = required(&config.rate_limit_service, "rate_limit_service")?;
    let service = required(&service.grpc_service, "grpc_service")
        .and_then(|s| wire::grpc_service(s, "grpc_service"))
        .within("rate_limit_service")?;
    let fraction = |f: &Option<core::RuntimeFractionalPercent>, field: &str, key: &str| match f {
        Some(f) => wire::runtime_fraction(f, field),
        None => Ok(RuntimeFraction { key: Some(name(key)), default: Fraction::ALWAYS }),
    };
    let deny = config.failure_mode_deny_percent.as_ref();
    let deny = deny.map(|f| wire::runtime_fraction(f, "failure_mode_deny_percent")).transpose()?;
    let ratelimit_headers: Version = enumeration(config.enable_x_ratelimit_headers, "enable_x_ratelimit_headers")?;
    Ok(RateLimitFilter {
        domain: non_empty(&config.domain, "domain")?,
        stage: stage(config.stage)?,
        request_type: match config.request_type.as_str() {
            "" | "both" => RequestType::Both,
            "internal" => RequestType::Internal,
            "external" => RequestType::External,
            other => {
                let reason = format!("`{other}` is none of internal, external, both");
                return Err(Rejection::invalid("request_type", reason));
            }
        },
        timeout: wire::duration_or(&config.timeout, "timeout", DEFAULT_TIMEOUT)?,
        failure_mode_deny: config.failure_mode_deny,
        rate_limited_as_resource_exhausted: config.rate_limited_as_resource_exhausted,
        service,
        enable_x_ratelimit_headers: ratelimit_headers == Version::DraftVersion03,
        disable_x_envoy_ratelimited_header: config.disable_x_envoy_ratelimited_header,
        rate_limited_status: refusal(&config.rate_limited_status, "rate_limited_status")?,
        status_on_error: http_status(&config.status_on_error, 500, "status_on_error")?,
        response_headers: headers(&config.response_headers_to_add, "response_headers_to_add")?,
        stat_prefix: name(&config.stat_prefix),
        enabled: fraction(&config.filter_enabled, "filter_enabled", "ratelimit.http_filter_enabled")?,
        enforced: fraction(&config.filter_enforced, "filter_enforced", "ratelimit.http_filter_enforcing")?,
        failure_mode_deny_percent: deny,
        rate_limits: rate_limits(&config.rate_limits, "rate_limits")?,
        metadata_namespace: match config.metadata_namespace.as_str() {
            "" => name(DEFAULT_METADATA),
            own => name(own),
        },
        enable_retry_after: config.enable_retry_after_header,
    })
}

pub(super) fn parse_override(config: &pb::RateLimitPerRoute) -> Result<RateLimitOverride, Rejection> {
    use pb::rate_limit_per_route::VhRateLimitsOptions as Wire;
    if config.override_option != 0 {
        return Err(Rejection::unsupported("override_option", "use vh_rate_limits"));
    }
    Ok(RateLimitOverride {
        vh_rate_limits: match enumeration(config.vh_rate_limits, "vh_rate_limits")? {
            Wire::Override => VhRateLimits::Override,
            Wire::Include => VhRateLimits::Include,
            Wire::Ignore => VhRateLimits::Ignore,
        },
        rate_limits: rate_limits(&config.rate_limits, "rate_limits")?,
        domain: optional_name(&config.domain),
    })
}
