//! `jwt_authn.v3.JwtAuthentication`.

use std::sync::Arc;
use std::time::Duration;

use crate::matcher::string::StringMatcher;
use crate::resource::http_connection_manager::HttpService;
use crate::resource::route::RouteMatch;
use crate::value::{Backoff, DataSource, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct JwtAuthn {
    pub providers: Vec<Arc<JwtProvider>>,
    pub rules: Vec<JwtRule>,
    pub bypass_cors_preflight: bool,
    pub requirement_map: Vec<(Name, Arc<Requirement>)>,
    pub strip_failure_response: bool,
    pub stat_prefix: Name,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JwtProvider {
    pub name: Name,
    pub issuer: Name,
    pub audiences: Vec<Name>,
    pub subjects: Option<StringMatcher>,
    pub require_expiration: bool,
    pub max_lifetime: Option<Duration>,
    /// Default 60 s.
    pub clock_skew: Duration,
    pub jwks: Jwks,
    pub forward: bool,
    pub from_headers: Vec<(http::HeaderName, String)>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub forward_payload_header: Option<http::HeaderName>,
    pub pad_forward_payload_header: bool,
    pub payload_in_metadata: Option<Name>,
    pub header_in_metadata: Option<Name>,
    pub claim_to_headers: Vec<(http::HeaderName, Name)>,
    pub clear_route_cache: bool,
    pub cache_size: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Jwks {
    Local(DataSource),
    Remote { service: HttpService, cache_duration: Duration, async_fetch: bool, fast_listener: bool, failed_refetch: Duration, retry: Option<Backoff> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct JwtRule {
    pub matcher: RouteMatch,
    /// `None`: no token needed.
    pub requirement: Option<Arc<Requirement>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    Provider { name: Name, audiences: Vec<Name> },
    Any(Vec<Requirement>),
    All(Vec<Requirement>),
    AllowMissingOrFailed,
    AllowMissing,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JwtOverride {
    Disabled,
    RequirementName(Name),
}
