//! Global rate limits (`ratelimit.v3.RateLimit`): a gRPC service counts for the whole fleet.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rate_limit::{RateLimitFilter, RateLimitOverride, RequestType};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::common::ratelimit::v3 as common;
use sidemesh_proto::envoy::service::ratelimit::v3 as service;

use super::grpc_call::call;
use super::ratelimit_descriptor::{Descriptor, descriptors};
use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::headers;
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::telemetry::flags::ResponseFlags;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

pub async fn wait(config: &RateLimitFilter, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let concerned = match config.request_type {
        RequestType::Both => true,
        RequestType::Internal => x.caller.internal,
        RequestType::External => !x.caller.internal,
    };
    let default = RateLimitOverride::default();
    let over = match over {
        Some(FilterOverride::RateLimit(over)) => over,
        _ => &default,
    };
    let made = descriptors(x, &over.rate_limits, over.vh_rate_limits, config.stage);
    if !concerned || made.is_empty() {
        return Flow::Continue;
    }
    let request = service::RateLimitRequest {
        domain: over.domain.as_ref().unwrap_or(&config.domain).to_string(),
        descriptors: made.iter().map(descriptor).collect(),
        hits_addend: 0,
    };
    let answer =
        call::<_, service::RateLimitResponse>(x, &config.service, SHOULD_RATE_LIMIT, &request, config.timeout).await;
    match answer {
        Ok(answer) => decide(config, at, x, &answer),
        Err(error) => {
            tracing::debug!(%error, "the rate limit service gave no verdict");
            if !config.failure_mode_deny {
                return Flow::Continue;
            }
            let status = StatusCode::from_u16(config.status_on_error).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let reply = LocalReply::new(status, "rate_limiter_error", "ratelimit.unavailable");
            Flow::Answer(reply.flags(&[ResponseFlags::RATE_LIMIT_SERVICE_ERROR]))
        }
    }
}

fn descriptor(d: &Descriptor) -> common::RateLimitDescriptor {
    use common::rate_limit_descriptor::{Entry, RateLimitOverride as Override};
    common::RateLimitDescriptor {
        entries: d.entries.iter().map(|(k, v)| Entry { key: k.to_string(), value: v.to_string() }).collect(),
        limit: d.limit.map(|(requests_per_unit, unit)| Override { requests_per_unit, unit }),
        hits_addend: d.hits_addend.map(|value| sidemesh_proto::google::UInt64Value { value }),
        ..Default::default()
    }
}

fn decide(config: &RateLimitFilter, at: u16, x: &mut Exchange, answer: &service::RateLimitResponse) -> Flow {
    use service::rate_limit_response::Code;
    let mut told = HeaderMap::new();
    add(&mut told, &answer.response_headers_to_add);
    if config.enable_x_ratelimit_headers {
        tell(&mut told, answer);
    }
    if answer.overall_code != Code::OverLimit as i32 {
        add(&mut x.parts.headers, &answer.request_headers_to_add);
        if !told.is_empty() {
            x.data.push((at, Data::RateLimit(Box::new(told))));
        }
        return Flow::Continue;
    }
    if !config.disable_x_envoy_ratelimited_header && !x.manager.suppresses() {
        told.insert(X_ENVOY_RATELIMITED, HeaderValue::from_static("true"));
    }
    let mut changes = headers::Changes::new();
    headers::evaluate(&config.response_headers.add, &told, &x.log_context(), &mut changes);
    headers::apply(changes, &mut told);
    let status = StatusCode::from_u16(config.rate_limited_status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let body = String::from_utf8_lossy(&answer.raw_body).into_owned();
    let mut reply = LocalReply::new(status, "request_rate_limited", "ratelimit.global")
        .body(body)
        .flags(&[ResponseFlags::RATE_LIMITED]);
    if config.rate_limited_as_resource_exhausted {
        reply = reply.grpc(8);
    }
    reply.headers = Some(Box::new(told));
    Flow::Answer(reply)
}

/// `x-ratelimit-*` of the descriptor that is nearest to its limit.
fn tell(headers: &mut HeaderMap, answer: &service::RateLimitResponse) {
    let nearest = answer.statuses.iter().filter(|s| s.current_limit.is_some()).min_by_key(|s| s.limit_remaining);
    let Some((status, limit)) = nearest.and_then(|s| Some((s, s.current_limit.as_ref()?))) else { return };
    headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(limit.requests_per_unit));
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(status.limit_remaining));
    if let Some(reset) = &status.duration_until_reset {
        headers.insert(X_RATELIMIT_RESET, HeaderValue::from(reset.seconds.max(0)));
    }
}

fn add(headers: &mut HeaderMap, list: &[core::HeaderValue]) {
    for header in list {
        if let (Ok(name), Ok(value)) =
            (header.key.to_ascii_lowercase().parse::<HeaderName>(), HeaderValue::from_str(&header.value))
        {
            headers.append(name, value);
        }
    }
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    super::local_ratelimit::on_response(at, x, response);
}
