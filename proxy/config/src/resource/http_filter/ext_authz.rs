//! `ext_authz.v3.ExtAuthz`: a gRPC or HTTP service decides.

use std::sync::Arc;

use sidemesh_proto::envoy::extensions::filters::http::ext_authz::v3 as pb;

use super::{FilterOverride, http_status};
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::resource::http_connection_manager::HttpService;
use crate::resource::http_filter::compressor::RuntimeFlag;
use crate::resource::http_service::http_uri;
use crate::value::{GrpcService, Name, RuntimeFraction, name};
use crate::wire::{self, flag, optional_name, required};

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
    /// What a request meets when the filter is off for it: refusal or passage.
    pub deny_at_disable: Option<RuntimeFlag>,
    pub include_peer_certificate: bool,
    pub include_tls_session: bool,
    pub allowed_headers: Vec<StringMatcher>,
    pub disallowed_headers: Vec<StringMatcher>,
    pub encode_raw_headers: bool,
    pub charge_cluster_response_stats: bool,
    pub stat_prefix: Name,
    /// The filter is on for requests whose dynamic metadata match.
    pub enabled_metadata: Option<MetadataMatcher>,
    pub route_metadata_context_namespaces: Vec<Name>,
    /// Whether the service's metadata become the request's.
    pub ingests_metadata: bool,
    /// A denial's body is cut off after so many bytes; 0: never.
    pub max_denied_body: usize,
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
    /// In place of the request's path; empty: none.
    pub path_override: Name,
    pub allowed_headers: Vec<StringMatcher>,
    pub headers_to_add: Vec<(http::HeaderName, Name)>,
    pub allowed_upstream_headers: Vec<StringMatcher>,
    pub allowed_upstream_headers_to_append: Vec<StringMatcher>,
    pub allowed_client_headers: Vec<StringMatcher>,
    pub allowed_client_headers_on_success: Vec<StringMatcher>,
    pub metadata_from_headers: Vec<StringMatcher>,
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
    /// Asked in place of the filter's service.
    pub service: Option<AuthzService>,
}

pub(super) fn parse(config: &pb::ExtAuthz) -> Result<ExtAuthz, Rejection> {
    use pb::ext_authz::Services;
    let service = match &config.services {
        Some(Services::GrpcService(service)) => AuthzService::Grpc(wire::grpc_service(service, "grpc_service")?),
        Some(Services::HttpService(service)) => AuthzService::Http(Arc::new(http(service).within("http_service")?)),
        None => return Err(Rejection::invalid("", "needs one of grpc_service, http_service")),
    };
    let enabled = config.filter_enabled.as_ref().map(|f| wire::runtime_fraction(f, "filter_enabled"));
    let enabled_metadata = config.filter_enabled_metadata.as_ref();
    let enabled_metadata = enabled_metadata.map(|m| matcher::metadata(m, "filter_enabled_metadata"));
    let names = |list: &[String]| list.iter().map(|n| name(n)).collect();
    let body = config.with_request_body.as_ref().map(|b| request_body(b).within("with_request_body"));
    Ok(ExtAuthz {
        service,
        failure_mode_allow: config.failure_mode_allow,
        failure_mode_allow_header_add: config.failure_mode_allow_header_add,
        with_request_body: body.transpose()?,
        clear_route_cache: config.clear_route_cache,
        status_on_error: http_status(&config.status_on_error, 403, "status_on_error")?,
        validate_mutations: config.validate_mutations,
        metadata_context_namespaces: names(&config.metadata_context_namespaces),
        enabled: enabled.transpose()?,
        deny_at_disable: config
            .deny_at_disable
            .as_ref()
            .map(|f| RuntimeFlag { default: flag(&f.default_value, false), key: optional_name(&f.runtime_key) }),
        include_peer_certificate: config.include_peer_certificate,
        include_tls_session: config.include_tls_session,
        allowed_headers: matcher::string_list(&config.allowed_headers, "allowed_headers")?,
        disallowed_headers: matcher::string_list(&config.disallowed_headers, "disallowed_headers")?,
        encode_raw_headers: config.encode_raw_headers,
        charge_cluster_response_stats: flag(&config.charge_cluster_response_stats, true),
        stat_prefix: name(&config.stat_prefix),
        enabled_metadata: enabled_metadata.transpose()?,
        route_metadata_context_namespaces: names(&config.route_metadata_context_namespaces),
        ingests_metadata: flag(&config.enable_dynamic_metadata_ingestion, true),
        max_denied_body: config.max_denied_response_body_bytes as usize,
    })
}

fn http(service: &pb::HttpService) -> Result<HttpAuthz, Rejection> {
    if !service.path_prefix.is_empty() && !service.path_prefix.starts_with('/') {
        return Err(Rejection::invalid("path_prefix", "must start with `/`"));
    }
    if !service.path_override.is_empty() && !service.path_prefix.is_empty() {
        return Err(Rejection::invalid("path_override", "excludes path_prefix"));
    }
    let request = service.authorization_request.clone().unwrap_or_default();
    let response = service.authorization_response.clone().unwrap_or_default();
    let of_response = |list, field: &str| matcher::string_list(list, field).within("authorization_response");
    #[allow(deprecated)] // Envoy still takes the list here.
    let allowed_headers = matcher::string_list(&request.allowed_headers, "authorization_request.allowed_headers")?;
    Ok(HttpAuthz {
        service: http_uri(required(&service.server_uri, "server_uri")?, Vec::new(), "server_uri")?,
        path_prefix: name(&service.path_prefix),
        path_override: name(&service.path_override),
        allowed_headers,
        headers_to_add: wire::header_values(&request.headers_to_add, "authorization_request.headers_to_add")?,
        allowed_upstream_headers: of_response(&response.allowed_upstream_headers, "allowed_upstream_headers")?,
        allowed_upstream_headers_to_append: of_response(
            &response.allowed_upstream_headers_to_append,
            "allowed_upstream_headers_to_append",
        )?,
        allowed_client_headers: of_response(&response.allowed_client_headers, "allowed_client_headers")?,
        allowed_client_headers_on_success: of_response(
            &response.allowed_client_headers_on_success,
            "allowed_client_headers_on_success",
        )?,
        metadata_from_headers: of_response(&response.dynamic_metadata_from_headers, "dynamic_metadata_from_headers")?,
    })
}

fn request_body(b: &pb::BufferSettings) -> Result<RequestBody, Rejection> {
    if b.max_request_bytes == 0 {
        return Err(Rejection::invalid("max_request_bytes", "must be greater than 0"));
    }
    Ok(RequestBody {
        max_request_bytes: b.max_request_bytes,
        allow_partial_message: b.allow_partial_message,
        pack_as_bytes: b.pack_as_bytes,
    })
}

pub(super) fn parse_override(config: &pb::ExtAuthzPerRoute) -> Result<FilterOverride, Rejection> {
    use pb::ext_authz_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(true)) => Ok(FilterOverride::Disabled),
        Some(Override::Disabled(false)) => Ok(FilterOverride::Enabled),
        Some(Override::CheckSettings(settings)) => {
            check_settings(settings).map(FilterOverride::ExtAuthz).within("check_settings")
        }
        None => Err(Rejection::invalid("", "needs one of disabled, check_settings")),
    }
}

fn check_settings(s: &pb::CheckSettings) -> Result<ExtAuthzOverride, Rejection> {
    use pb::check_settings::ServiceOverride;
    let service = match &s.service_override {
        Some(ServiceOverride::GrpcService(service)) => {
            Some(AuthzService::Grpc(wire::grpc_service(service, "grpc_service")?))
        }
        Some(ServiceOverride::HttpService(service)) => {
            Some(AuthzService::Http(Arc::new(http(service).within("http_service")?)))
        }
        None => None,
    };
    if s.disable_request_body_buffering && s.with_request_body.is_some() {
        return Err(Rejection::invalid("with_request_body", "excludes disable_request_body_buffering"));
    }
    let body = s.with_request_body.as_ref().map(|b| request_body(b).within("with_request_body"));
    let mut context_extensions: Vec<_> = s.context_extensions.iter().map(|(k, v)| (name(k), name(v))).collect();
    context_extensions.sort();
    Ok(ExtAuthzOverride {
        context_extensions,
        disable_request_body_buffering: s.disable_request_body_buffering,
        with_request_body: body.transpose()?,
        service,
    })
}
