//! Header names of the request path that the `http` crate has no constant for.

use http::{HeaderMap, HeaderName};

macro_rules! names {
    ($($ident:ident = $text:literal;)*) => { $(pub const $ident: HeaderName = HeaderName::from_static($text);)* };
}

names! {
    X_FORWARDED_FOR = "x-forwarded-for";
    X_FORWARDED_PROTO = "x-forwarded-proto";
    X_FORWARDED_HOST = "x-forwarded-host";
    X_FORWARDED_PORT = "x-forwarded-port";
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert";
    X_REQUEST_ID = "x-request-id";
    X_CLIENT_TRACE_ID = "x-client-trace-id";
    X_ENVOY_INTERNAL = "x-envoy-internal";
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address";
    X_ENVOY_FORCE_TRACE = "x-envoy-force-trace";
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation";
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster";
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node";
    X_ENVOY_RETRY_ON = "x-envoy-retry-on";
    X_ENVOY_RETRY_GRPC_ON = "x-envoy-retry-grpc-on";
    X_ENVOY_MAX_RETRIES = "x-envoy-max-retries";
    X_ENVOY_RETRIABLE_STATUS_CODES = "x-envoy-retriable-status-codes";
    X_ENVOY_RETRIABLE_HEADER_NAMES = "x-envoy-retriable-header-names";
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT = "x-envoy-hedge-on-per-try-timeout";
    X_ENVOY_IS_TIMEOUT_RETRY = "x-envoy-is-timeout-retry";
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS = "x-envoy-upstream-stream-duration-ms";
    X_ENVOY_UPSTREAM_CANARY = "x-envoy-upstream-canary";
    X_ENVOY_UPSTREAM_ALT_STAT_NAME = "x-envoy-upstream-alt-stat-name";
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS = "x-envoy-upstream-rq-timeout-ms";
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS = "x-envoy-upstream-rq-per-try-timeout-ms";
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response";
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms";
    X_ENVOY_IP_TAGS = "x-envoy-ip-tags";
    X_ENVOY_ORIGINAL_URL = "x-envoy-original-url";
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path";
    X_ENVOY_ORIGINAL_HOST = "x-envoy-original-host";
    X_ENVOY_UPSTREAM_SERVICE_TIME = "x-envoy-upstream-service-time";
    X_ENVOY_ATTEMPT_COUNT = "x-envoy-attempt-count";
    X_ENVOY_DROP_OVERLOAD = "x-envoy-drop-overload";
    X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD = "x-envoy-unconditional-drop-overload";
    X_ENVOY_OVERLOADED = "x-envoy-overloaded";
    X_ENVOY_RATELIMITED = "x-envoy-ratelimited";
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL = "x-envoy-immediate-health-check-fail";
    X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER = "x-envoy-upstream-healthchecked-cluster";
    X_ENVOY_AUTH_PARTIAL_BODY = "x-envoy-auth-partial-body";
    X_ENVOY_AUTH_FAILURE_MODE_ALLOWED = "x-envoy-auth-failure-mode-allowed";
    X_ENVOY_FAULT_ABORT_REQUEST = "x-envoy-fault-abort-request";
    X_ENVOY_FAULT_ABORT_REQUEST_PERCENTAGE = "x-envoy-fault-abort-request-percentage";
    X_ENVOY_FAULT_ABORT_GRPC_REQUEST = "x-envoy-fault-abort-grpc-request";
    X_ENVOY_FAULT_DELAY_REQUEST = "x-envoy-fault-delay-request";
    X_ENVOY_FAULT_DELAY_REQUEST_PERCENTAGE = "x-envoy-fault-delay-request-percentage";
    X_ENVOY_FAULT_THROUGHPUT_RESPONSE = "x-envoy-fault-throughput-response";
    X_ENVOY_FAULT_THROUGHPUT_RESPONSE_PERCENTAGE = "x-envoy-fault-throughput-response-percentage";
    X_SIDEMESH_ERROR = "x-sidemesh-error";
    GRPC_STATUS = "grpc-status";
    GRPC_MESSAGE = "grpc-message";
    GRPC_TIMEOUT = "grpc-timeout";
    KEEP_ALIVE = "keep-alive";
    PROXY_STATUS = "proxy-status";
    PROXY_CONNECTION = "proxy-connection";
    ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK = "access-control-request-private-network";
    ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK = "access-control-allow-private-network";
    X_RATELIMIT_LIMIT = "x-ratelimit-limit";
    X_RATELIMIT_REMAINING = "x-ratelimit-remaining";
    X_RATELIMIT_RESET = "x-ratelimit-reset";
    X_GRPC_WEB = "x-grpc-web";
}

/// Whether a header is there. In a small map comparing the names takes fewer steps than hashing one.
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    const SMALL: usize = 16;
    if headers.keys_len() > SMALL { headers.contains_key(name) } else { headers.keys().any(|have| have == name) }
}

/// Which of the headers that are looked at before the filters run a request may have; one that is not among them is not there. One
/// pass instead of a lookup for each.
#[derive(Debug, Default, Clone, Copy)]
pub struct Present {
    pub te: bool,
    /// Any `x-envoy-*`.
    pub envoy: bool,
    pub forwarded_for: bool,
    pub forwarded_proto: bool,
    pub client_cert: bool,
    pub request_id: bool,
}

impl Present {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "te" => present.te = true,
                "x-request-id" => present.request_id = true,
                "x-forwarded-for" => present.forwarded_for = true,
                "x-forwarded-proto" => present.forwarded_proto = true,
                "x-forwarded-client-cert" => present.client_cert = true,
                text => present.envoy |= text.starts_with("x-envoy-"),
            }
        }
        present
    }
}

/// Whether any `x-envoy-*` header is there: one pass instead of a lookup for each of those that most requests do not have.
pub fn any_envoy(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-envoy-"))
}
