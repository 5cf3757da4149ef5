//! TrafficPolicy: balancing, circuit breaking, outlier detection, retries, budget and timeouts of a Service, or
//! retries and timeouts of an HTTPRoute or GRPCRoute.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::kind::{Key, Kind, Name};
use super::strict::{Errors, FieldError, decode};

#[derive(Debug, Deserialize)]
struct Raw {
    #[allow(dead_code)]
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: Spec,
    #[allow(dead_code)]
    status: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_ref: TargetRef,
    load_balancing: Option<RawBalancing>,
    circuit_breaker: Option<RawBreaker>,
    outlier_detection: Option<RawOutlier>,
    retries: Option<RawRetries>,
    retry_budget: Option<RawBudget>,
    timeouts: Option<RawTimeouts>,
}

#[derive(Debug, Deserialize)]
struct TargetRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBalancing {
    algorithm: Algorithm,
    hash_on: Option<RawHashOn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    LeastRequest,
    RoundRobin,
    Random,
    RingHash,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHashOn {
    header: Option<String>,
    source_address: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBreaker {
    max_connections: Option<i64>,
    max_pending_requests: Option<i64>,
    max_requests: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOutlier {
    enabled: Option<bool>,
    #[serde(rename = "consecutive5xx")]
    consecutive_5xx: Option<i64>,
    interval: Option<String>,
    base_ejection_time: Option<String>,
    max_ejection_percent: Option<i64>,
    panic_threshold_percent: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRetries {
    attempts: Option<i64>,
    per_try_timeout: Option<String>,
    on: Option<Vec<String>>,
    status_codes: Option<Vec<i64>>,
    backoff: Option<RawBackoff>,
    all_methods: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct RawBackoff {
    base: String,
    max: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBudget {
    percent: Option<f64>,
    min_concurrency: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct RawTimeouts {
    request: Option<String>,
    connect: Option<String>,
    idle: Option<String>,
}

/// What a policy speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service(Name),
    /// An HTTPRoute or a GRPCRoute.
    Route(Key),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    Header(String),
    SourceAddress,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: Name,
    pub created: String,
    pub target: Target,
    pub algorithm: Option<Algorithm>,
    pub hash_on: Option<HashOn>,
    pub breaker: Breaker,
    pub outlier: Outlier,
    pub retries: Retries,
    pub budget_percent: Option<f64>,
    pub budget_min_concurrency: Option<u32>,
    pub request_timeout: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    pub max_connections: Option<u32>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlier {
    pub enabled: Option<bool>,
    pub consecutive_5xx: Option<u32>,
    pub interval: Option<Duration>,
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<u32>,
    pub panic_threshold_percent: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retries {
    pub attempts: Option<u32>,
    pub per_try_timeout: Option<Duration>,
    pub on: Option<Vec<String>>,
    pub status_codes: Vec<u32>,
    pub backoff_base: Option<Duration>,
    pub backoff_max: Option<Duration>,
    /// The user says that every method of this target is idempotent.
    pub all_methods: bool,
}

/// Envoy's words that a policy may use.
const RETRY_ON: [&str; 9] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "cancelled",
    "unavailable",
];

pub fn policy(name: &Name, body: &Value) -> Result<Policy, Vec<FieldError>> {
    let raw: Raw = decode(body)?;
    let mut errors = Errors::default();
    let e = &mut errors;
    let spec = raw.spec;
    let target = target(name, &spec.target_ref, e);
    if matches!(target, Target::Route(_)) {
        for (path, given) in [
            ("spec.loadBalancing", spec.load_balancing.is_some()),
            ("spec.circuitBreaker", spec.circuit_breaker.is_some()),
            ("spec.outlierDetection", spec.outlier_detection.is_some()),
            ("spec.retryBudget", spec.retry_budget.is_some()),
        ] {
            if given {
                e.push(path, "belongs to a Service: write it in a policy whose targetRef is the Service");
            }
        }
    }
    let algorithm = spec.load_balancing.as_ref().map(|b| b.algorithm);
    let hash_on = spec.load_balancing.and_then(|b| hash_on(b, e));
    let breaker = spec.circuit_breaker.map(|b| breaker(&b, e)).unwrap_or_default();
    let outlier = spec.outlier_detection.map(|o| outlier(&o, e)).unwrap_or_default();
    let retries = spec.retries.map(|r| retries(&r, e)).unwrap_or_default();
    let budget = spec.retry_budget;
    let budget_percent = budget.as_ref().and_then(|b| b.percent);
    if let Some(percent) = budget_percent.filter(|p| !(0.0..=100.0).contains(p)) {
        e.push("spec.retryBudget.percent", format!("{percent} is out of range: use 0 to 100"));
    }
    let budget_min_concurrency =
        budget.and_then(|b| b.min_concurrency).map(|min| e.range("spec.retryBudget.minConcurrency", min, 0, 10_000));
    let timeouts = spec.timeouts;
    if matches!(target, Target::Route(_)) && timeouts.as_ref().is_some_and(|t| t.connect.is_some()) {
        e.push("spec.timeouts.connect", "belongs to a Service: write it in a policy whose targetRef is the Service");
    }
    let timeouts = timeouts.as_ref();
    let request_timeout = timeouts.and_then(|t| t.request.as_ref()).map(|t| e.duration("spec.timeouts.request", t));
    let connect_timeout = timeouts.and_then(|t| t.connect.as_ref()).map(|t| e.positive("spec.timeouts.connect", t));
    let idle_timeout = timeouts.and_then(|t| t.idle.as_ref()).map(|t| e.duration("spec.timeouts.idle", t));
    let created = body["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    errors.finish(Policy {
        name: name.clone(),
        created,
        target,
        algorithm,
        hash_on,
        breaker,
        outlier,
        retries,
        budget_percent,
        budget_min_concurrency,
        request_timeout,
        connect_timeout,
        idle_timeout,
    })
}

fn target(name: &Name, raw: &TargetRef, errors: &mut Errors) -> Target {
    let target = Name::new(name.namespace.clone(), raw.name.clone());
    match (raw.group.as_str(), raw.kind.as_str()) {
        ("" | "core", "Service") => Target::Service(target),
        (group, "HTTPRoute" | "GRPCRoute") => {
            if group != "gateway.networking.k8s.io" {
                errors.push("spec.targetRef.group", "routes have the group gateway.networking.k8s.io");
            }
            let kind = if raw.kind == "HTTPRoute" { Kind::HttpRoute } else { Kind::GrpcRoute };
            Target::Route(Key { kind, name: target })
        }
        (group, kind) => {
            let message = format!("`{group}/{kind}` is not supported: use Service, HTTPRoute or GRPCRoute");
            errors.push("spec.targetRef.kind", message);
            Target::Service(target)
        }
    }
}

fn hash_on(raw: RawBalancing, errors: &mut Errors) -> Option<HashOn> {
    let path = "spec.loadBalancing.hashOn";
    let hash_on = match raw.hash_on {
        None => None,
        Some(RawHashOn { header: Some(header), source_address: None | Some(false) }) => {
            if http::HeaderName::from_bytes(header.as_bytes()).is_err() {
                errors.push(format!("{path}.header"), format!("`{header}` is not a header name"));
            }
            Some(HashOn::Header(header))
        }
        Some(RawHashOn { header: None, source_address: Some(true) }) => Some(HashOn::SourceAddress),
        Some(_) => {
            errors.push(path, "give exactly one of header and sourceAddress: true");
            None
        }
    };
    match (raw.algorithm, &hash_on) {
        (Algorithm::RingHash, None) => errors.push(path, "missing: RingHash needs something to hash"),
        (Algorithm::RingHash, Some(_)) | (_, None) => {}
        (_, Some(_)) => errors.push(path, "only RingHash hashes: remove it, or set algorithm: RingHash"),
    }
    hash_on
}

fn breaker(raw: &RawBreaker, errors: &mut Errors) -> Breaker {
    let mut limit = |field: &str, value: Option<i64>| {
        value.map(|v| errors.range(format!("spec.circuitBreaker.{field}"), v, 1, i64::from(u32::MAX)))
    };
    Breaker {
        max_connections: limit("maxConnections", raw.max_connections),
        max_pending_requests: limit("maxPendingRequests", raw.max_pending_requests),
        max_requests: limit("maxRequests", raw.max_requests),
    }
}

fn outlier(raw: &RawOutlier, errors: &mut Errors) -> Outlier {
    let path = |field: &str| format!("spec.outlierDetection.{field}");
    Outlier {
        enabled: raw.enabled,
        consecutive_5xx: raw.consecutive_5xx.map(|v| errors.range(path("consecutive5xx"), v, 1, 10_000)),
        interval: raw.interval.as_ref().map(|t| errors.positive(&path("interval"), t)),
        base_ejection_time: raw.base_ejection_time.as_ref().map(|t| errors.positive(&path("baseEjectionTime"), t)),
        max_ejection_percent: raw.max_ejection_percent.map(|v| errors.range(path("maxEjectionPercent"), v, 0, 100)),
        panic_threshold_percent: raw
            .panic_threshold_percent
            .map(|v| errors.range(path("panicThresholdPercent"), v, 0, 100)),
    }
}

fn retries(raw: &RawRetries, errors: &mut Errors) -> Retries {
    for (i, word) in raw.on.iter().flatten().enumerate() {
        if !RETRY_ON.contains(&word.as_str()) {
            let message = format!("`{word}` is not known: use {}", RETRY_ON.join(", "));
            errors.push(format!("spec.retries.on[{i}]"), message);
        }
    }
    let codes = raw.status_codes.iter().flatten().enumerate();
    let status_codes =
        codes.map(|(i, c)| errors.range(format!("spec.retries.statusCodes[{i}]"), *c, 400, 599)).collect();
    let backoff_base = raw.backoff.as_ref().map(|b| errors.positive("spec.retries.backoff.base", &b.base));
    let backoff_max = raw.backoff.as_ref().and_then(|b| b.max.as_ref());
    let backoff_max = backoff_max.map(|t| errors.positive("spec.retries.backoff.max", t));
    if let (Some(base), Some(max)) = (backoff_base, backoff_max)
        && max < base
    {
        errors.push("spec.retries.backoff.max", "shorter than base: make it at least as long");
    }
    Retries {
        attempts: raw.attempts.map(|v| errors.range("spec.retries.attempts", v, 0, 10)),
        per_try_timeout: raw.per_try_timeout.as_ref().map(|t| errors.positive("spec.retries.perTryTimeout", t)),
        on: raw.on.clone(),
        status_codes,
        backoff_base,
        backoff_max,
        all_methods: raw.all_methods.unwrap_or(false),
    }
}
