//! Global rate limits (`ratelimit.v3.RateLimit`): a gRPC service counts for the whole fleet.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rate_limit::{RateLimitFilter, RateLimitOverride, RequestType};
use sidemesh_config::value::name;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::common::ratelimit::v3 as common;
use sidemesh_proto::envoy::service::ratelimit::v3 as service;
use sidemesh_proto::json::well_known::from_struct;

use service::rate_limit_response::{DescriptorStatus, RateLimit as RateLimitValue};

use super::cluster_stats::{ByCluster, charge_cluster};
use super::grpc_call::{CallError, call};
use super::ratelimit_descriptor::{Descriptor, descriptors};
use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::headers;
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;
use crate::worker::Worker;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

stats_group! {
    /// `cluster.<route's cluster>.ratelimit.`
    pub struct VerdictStats {
        ok: Counter,
        over_limit: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
    }
}

pub struct RateLimit {
    config: Arc<RateLimitFilter>,
    stats: ByCluster<VerdictStats>,
}

impl RateLimit {
    pub fn new(config: Arc<RateLimitFilter>, worker: &Rc<Worker>) -> Self {
        let part = match config.stat_prefix.trim_end_matches('.') {
            "" => name("ratelimit"),
            own => name(&format!("ratelimit.{own}")),
        };
        RateLimit { stats: ByCluster::new(part, worker), config }
    }

    pub async fn wait(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let config = &*self.config;
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
        let own = if over.rate_limits.is_empty() { &config.rate_limits } else { &over.rate_limits };
        let made = descriptors(x, own, over.vh_rate_limits, config.stage);
        if !concerned || made.is_empty() || !config.enabled.value(&x.config.runtime).hit(x.random) {
            return Flow::Continue;
        }
        let request = service::RateLimitRequest {
            domain: over.domain.as_ref().unwrap_or(&config.domain).to_string(),
            descriptors: made.iter().map(descriptor).collect(),
            hits_addend: 0,
        };
        match call(x, &config.service, SHOULD_RATE_LIMIT, &request, config.timeout).await {
            Ok(answer) => self.decide(at, x, &answer),
            Err(error) => self.failed(x, &error),
        }
    }

    /// The service gave no verdict.
    fn failed(&self, x: &Exchange, error: &CallError) -> Flow {
        tracing::debug!(%error, "the rate limit service gave no verdict");
        self.stats.count(x, |s| s.error.inc());
        let deny = match &self.config.failure_mode_deny_percent {
            Some(percent) => percent.value(&x.config.runtime).hit(x.random.rotate_left(17)),
            None => self.config.failure_mode_deny,
        };
        if !deny {
            self.stats.count(x, |s| s.failure_mode_allowed.inc());
            return Flow::Continue;
        }
        let status = StatusCode::from_u16(self.config.status_on_error).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reply = LocalReply::new(status, "rate_limiter_error", "ratelimit.unavailable");
        Flow::Answer(reply.flags(&[ResponseFlags::RATE_LIMIT_SERVICE_ERROR]))
    }

    fn decide(&self, at: u16, x: &mut Exchange, answer: &service::RateLimitResponse) -> Flow {
        use service::rate_limit_response::Code;
        let config = &*self.config;
        let mut told = HeaderMap::new();
        add(&mut told, &answer.response_headers_to_add);
        if config.enable_x_ratelimit_headers {
            tell(&mut told, answer);
        }
        if let Some(metadata) = &answer.dynamic_metadata
            && let serde_json::Value::Object(fields) = from_struct(metadata)
        {
            x.info.metadata.merge(&config.metadata_namespace, fields);
        }
        if answer.overall_code != Code::OverLimit as i32 {
            self.stats.count(x, |s| s.ok.inc());
            add(&mut x.parts.headers, &answer.request_headers_to_add);
            if !told.is_empty() {
                x.data.push((at, Data::RateLimit(Box::new(told))));
            }
            return Flow::Continue;
        }
        self.stats.count(x, |s| s.over_limit.inc());
        charge_cluster(x, config.rate_limited_status);
        if !config.disable_x_envoy_ratelimited_header && !x.manager.suppresses() {
            told.insert(X_ENVOY_RATELIMITED, HeaderValue::from_static("true"));
        }
        if !config.enforced.value(&x.config.runtime).hit(x.random.rotate_left(9)) {
            // The client is told all the same.
            add(&mut x.parts.headers, &answer.request_headers_to_add);
            x.data.push((at, Data::RateLimit(Box::new(told))));
            return Flow::Continue;
        }
        Flow::Answer(over_limit(config, x, answer, told))
    }
}

/// The answer to a request beyond the limit.
fn over_limit(
    config: &RateLimitFilter,
    x: &mut Exchange,
    answer: &service::RateLimitResponse,
    mut told: HeaderMap,
) -> LocalReply {
    if config.enable_retry_after && config.rate_limited_status == 429 && !told.contains_key(RETRY_AFTER) {
        let over = answer.statuses.iter().filter(|s| s.code == service::rate_limit_response::Code::OverLimit as i32);
        let longest = over.filter_map(|s| s.duration_until_reset.as_ref()).map(|d| d.seconds).max();
        if let Some(seconds) = longest {
            told.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
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
    reply
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

/// `x-ratelimit-*` of the descriptor that is nearest to its limit, and the policies of all (`5, 5;w=60;name="n"`).
fn tell(headers: &mut HeaderMap, answer: &service::RateLimitResponse) {
    let mut policies = String::new();
    let mut nearest = None;
    for status in &answer.statuses {
        let Some(limit) = &status.current_limit else { continue };
        if nearest
            .is_none_or(|(have, _): (&DescriptorStatus, &RateLimitValue)| status.limit_remaining < have.limit_remaining)
        {
            nearest = Some((status, limit));
        }
        let window = window(limit.unit);
        if window > 0 {
            policies.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                policies.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let Some((status, limit)) = nearest else { return };
    if let Ok(value) = HeaderValue::try_from(format!("{}{policies}", limit.requests_per_unit)) {
        headers.insert(X_RATELIMIT_LIMIT, value);
    }
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(status.limit_remaining));
    let reset = status.duration_until_reset.as_ref().map_or(0, |d| d.seconds.max(0));
    headers.insert(X_RATELIMIT_RESET, HeaderValue::from(reset));
}

/// Seconds of a unit; 0: not known.
fn window(unit: i32) -> u32 {
    use service::rate_limit_response::rate_limit::Unit;
    match Unit::try_from(unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 3600,
        Ok(Unit::Day) => 86_400,
        Ok(Unit::Week) => 604_800,
        Ok(Unit::Month) => 2_592_000,
        Ok(Unit::Year) => 31_536_000,
        _ => 0,
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
