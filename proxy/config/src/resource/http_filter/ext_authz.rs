//! `ext_authz.v3.ExtAuthz`: a gRPC or HTTP service decides.

use std::sync::Arc;

use crate::matcher::string::StringMatcher;
use crate::resource::http_connection_manager::HttpService;
use crate::value::{GrpcService, Name, RuntimeFraction};

#[derive(Debug, Clone, PartialEq)]
pub struct ExtAuthz {
    pub service: AuthzService,
    pub failure_mode_allow: bool,
    pub failure_mode_allow_header_add: bool,
    pub with_request_body: Option<RequestBody>,
    pub clear_route_cache: bool,
    /// Default 403.
    pub status_on_error: u16,
    pub validate_mutations: bool,
    pub metadata_context_namespaces: Vec<Name>,
    pub enabled: Option<RuntimeFraction>,
    pub deny_at_disable: bool,
    pub include_peer_certificate: bool,
    pub include_tls_session: bool,
    pub allowed_headers: Vec<StringMatcher>,
    pub disallowed_headers: Vec<StringMatcher>,
    pub stat_prefix: Name,
    pub encode_raw_headers: bool,
    pub bootstrap_metadata_labels_key: Name,
    pub charge_cluster_response_stats: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AuthzService {
    Grpc(GrpcService),
    Http(Arc<HttpAuthz>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpAuthz {
    pub service: HttpService,
    pub path_prefix: Name,
    pub allowed_headers: Vec<StringMatcher>,
    pub headers_to_add: Vec<(http::HeaderName, Name)>,
    pub allowed_upstream_headers: Vec<StringMatcher>,
    pub allowed_upstream_headers_to_append: Vec<StringMatcher>,
    pub allowed_client_headers: Vec<StringMatcher>,
    pub allowed_client_headers_on_success: Vec<StringMatcher>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestBody {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

/// `ExtAuthzPerRoute.check_settings`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExtAuthzOverride {
    pub context_extensions: Vec<(Name, Name)>,
    pub disable_request_body_buffering: bool,
    pub with_request_body: Option<RequestBody>,
}
