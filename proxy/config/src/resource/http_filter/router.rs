//! `router.v3.Router`: the last filter; what it does is the request loop itself.

use std::sync::Arc;

use sidemesh_proto::envoy::extensions::filters::http::router::v3 as pb;

use crate::rejection::Rejection;
use crate::resource::access_log::{self, AccessLog};
use crate::wire::flag;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Router {
    /// Default true.
    pub dynamic_stats: bool,
    pub start_child_span: bool,
    pub upstream_logs: Vec<Arc<AccessLog>>,
    pub suppress_envoy_headers: bool,
    pub strict_check_headers: Vec<http::HeaderName>,
    pub respect_expected_rq_timeout: bool,
}

/// The headers whose values may be checked strictly.
const CHECKED_HEADERS: [&str; 5] = [
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-max-retries",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
];

pub(super) fn parse(config: &pb::Router) -> Result<Router, Rejection> {
    let checked = |(i, header): (usize, &String)| {
        let known = CHECKED_HEADERS.iter().find(|known| known.eq_ignore_ascii_case(header));
        known.map(|known| http::HeaderName::from_static(known)).ok_or_else(|| {
            let reason = format!("`{header}` is none of {}", CHECKED_HEADERS.join(", "));
            Rejection::invalid(format!("strict_check_headers[{i}]"), reason)
        })
    };
    Ok(Router {
        dynamic_stats: flag(&config.dynamic_stats, true),
        start_child_span: config.start_child_span,
        upstream_logs: access_log::parse_all(&config.upstream_log, "upstream_log")?,
        suppress_envoy_headers: config.suppress_envoy_headers,
        strict_check_headers: config.strict_check_headers.iter().enumerate().map(checked).collect::<Result<_, _>>()?,
        respect_expected_rq_timeout: config.respect_expected_rq_timeout,
    })
}
