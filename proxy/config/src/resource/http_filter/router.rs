//! `router.v3.Router`: the last filter; what it does is the request loop itself.

use std::sync::Arc;

use crate::resource::access_log::AccessLog;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Router {
    /// Default true.
    pub dynamic_stats: bool,
    pub start_child_span: bool,
    pub upstream_logs: Vec<Arc<AccessLog>>,
    pub suppress_envoy_headers: bool,
    pub strict_check_headers: Vec<http::HeaderName>,
    pub respect_expected_rq_timeout: bool,
    pub suppress_grpc_request_failure_code_stats: bool,
}
