//! The `proxy-status` header (RFC 9209): what went wrong, in the standard's words, for answers with a response flag.

use std::fmt::Write;

use http::header::HeaderValue;
use http::{Response, StatusCode};
use sidemesh_config::resource::http_connection_manager::{ProxyStatus, ProxyStatusName};

use super::exchange::Exchange;
use super::names::PROXY_STATUS;
use crate::body::Body;
use crate::telemetry::flags::ResponseFlags as F;

/// Flag, error type (RFC 9209 section 2.3), status that the standard recommends.
const ERRORS: &[(F, &str, u16)] = &[
    (F::DNS_RESOLUTION_FAILED, "dns_error", 502),
    (F::FAILED_LOCAL_HEALTH_CHECK, "destination_unavailable", 503),
    (F::NO_HEALTHY_UPSTREAM, "destination_unavailable", 503),
    (F::UPSTREAM_REQUEST_TIMEOUT, "http_response_timeout", 504),
    (F::LOCAL_RESET, "connection_timeout", 504),
    (F::UPSTREAM_REMOTE_RESET, "connection_terminated", 502),
    (F::UPSTREAM_CONNECTION_FAILURE, "connection_refused", 502),
    (F::UPSTREAM_CONNECTION_TERMINATION, "connection_terminated", 502),
    (F::UPSTREAM_OVERFLOW, "connection_limit_reached", 503),
    (F::NO_ROUTE_FOUND, "destination_not_found", 500),
    (F::RATE_LIMITED, "connection_limit_reached", 503),
    (F::RATE_LIMIT_SERVICE_ERROR, "connection_limit_reached", 503),
    (F::UPSTREAM_RETRY_LIMIT_EXCEEDED, "destination_unavailable", 503),
    (F::STREAM_IDLE_TIMEOUT, "http_response_timeout", 504),
    (F::INVALID_ENVOY_REQUEST_HEADERS, "http_request_error", 400),
    (F::DOWNSTREAM_PROTOCOL_ERROR, "http_request_error", 400),
    (F::UPSTREAM_MAX_STREAM_DURATION_REACHED, "http_response_timeout", 504),
    (F::DURATION_TIMEOUT, "http_response_timeout", 504),
    (F::NO_FILTER_CONFIG_FOUND, "proxy_configuration_error", 500),
    (F::UPSTREAM_PROTOCOL_ERROR, "http_protocol_error", 502),
    (F::NO_CLUSTER_FOUND, "destination_unavailable", 503),
];

/// Adds the header to an answer that has a flag.
pub fn apply(config: &ProxyStatus, x: &Exchange, response: &mut Response<Body>) {
    let Some((_, error, recommended)) = ERRORS.iter().find(|(flag, _, _)| x.info.flags.has(*flag)) else { return };
    if config.set_recommended_response_code
        && let Ok(status) = StatusCode::from_u16(*recommended)
    {
        *response.status_mut() = status;
    }
    let node = &x.manager.worker.shared.node;
    let name: &str = match &config.name {
        ProxyStatusName::NodeId => &node.id,
        ProxyStatusName::Literal(name) => name,
    };
    let mut text = format!("{name}; error={error}");
    let details = details(config, x);
    if !details.is_empty() {
        // A quoted string of structured fields (RFC 9651 section 4.1.6).
        let _ = write!(text, "; details=\"{}\"", details.replace('\\', "\\\\").replace('"', "\\\""));
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(PROXY_STATUS, value);
    }
}

fn details(config: &ProxyStatus, x: &Exchange) -> String {
    let mut parts: Vec<String> = Vec::new();
    if !config.remove_details {
        parts.push(x.info.details.to_string());
        if !config.remove_connection_termination_details
            && let Some(more) = &x.info.termination_details
        {
            parts.push(more.to_string());
        }
        if !config.remove_response_flags {
            parts.push(x.info.flags.short());
        }
    }
    parts.join("; ")
}
