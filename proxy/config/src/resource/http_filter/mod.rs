//! HTTP filters: their configuration, and what a route may override.
//!
//! One file per filter holds its types and conversion. The order of a chain is the order of `HttpConnectionManager::filters`.

pub mod buffer;
pub mod compressor;
pub mod cors;
pub mod csrf;
pub mod ext_authz;
pub mod fault;
pub mod header_mutation;
pub mod header_to_metadata;
pub mod health_check;
pub mod jwt_authn;
mod parse;
pub mod rate_limit;
pub mod rbac;
pub mod router;
pub mod set_filter_state;
pub mod set_metadata;
pub mod stateful_session;
#[cfg(test)]
mod tests;

pub use parse::{parse, parse_kind, parse_overrides};

use std::sync::Arc;

use sidemesh_proto::envoy::r#type::v3::HttpStatus;

use crate::rejection::Rejection;
use crate::value::{ConfigSource, Name};

/// One entry of a filter chain.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpFilter {
    /// The name under which routes override it.
    pub name: Name,
    pub kind: HttpFilterKind,
    /// Off unless a route turns it on.
    pub disabled: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HttpFilterKind {
    Router(router::Router),
    Buffer(buffer::Buffer),
    Compressor(Arc<compressor::Compressor>),
    Decompressor(Arc<compressor::Decompressor>),
    Cors,
    Csrf(csrf::CsrfPolicy),
    ExtAuthz(Arc<ext_authz::ExtAuthz>),
    Fault(Arc<fault::Fault>),
    GrpcStats(GrpcStats),
    GrpcWeb,
    HeaderMutation(Arc<header_mutation::HeaderMutation>),
    HeaderToMetadata(Arc<header_to_metadata::HeaderToMetadata>),
    HealthCheck(Arc<health_check::HealthCheckFilter>),
    JwtAuthn(Arc<jwt_authn::JwtAuthn>),
    LocalRateLimit(Arc<rate_limit::LocalRateLimit>),
    RateLimit(Arc<rate_limit::RateLimitFilter>),
    Rbac(Arc<rbac::RbacFilter>),
    SetFilterState(Arc<set_filter_state::SetFilterState>),
    SetMetadata(Arc<set_metadata::SetMetadata>),
    StatefulSession(Arc<stateful_session::StatefulSession>),
    OnDemand,
    /// ECDS: the configuration arrives under this name.
    Discovered {
        name: Name,
        source: ConfigSource,
        default: Option<Box<HttpFilterKind>>,
        type_urls: Vec<Name>,
        /// The default serves until the configuration arrives; nobody waits for it.
        without_warming: bool,
    },
}

impl HttpFilterKind {
    /// The message type of its configuration, below `envoy.extensions.filters.http.`; empty where it is discovered.
    pub fn message(&self) -> &'static str {
        match self {
            HttpFilterKind::Router(_) => "router.v3.Router",
            HttpFilterKind::Buffer(_) => "buffer.v3.Buffer",
            HttpFilterKind::Compressor(_) => "compressor.v3.Compressor",
            HttpFilterKind::Decompressor(_) => "decompressor.v3.Decompressor",
            HttpFilterKind::Cors => "cors.v3.Cors",
            HttpFilterKind::Csrf(_) => "csrf.v3.CsrfPolicy",
            HttpFilterKind::ExtAuthz(_) => "ext_authz.v3.ExtAuthz",
            HttpFilterKind::Fault(_) => "fault.v3.HTTPFault",
            HttpFilterKind::GrpcStats(_) => "grpc_stats.v3.FilterConfig",
            HttpFilterKind::GrpcWeb => "grpc_web.v3.GrpcWeb",
            HttpFilterKind::HeaderMutation(_) => "header_mutation.v3.HeaderMutation",
            HttpFilterKind::HeaderToMetadata(_) => "header_to_metadata.v3.Config",
            HttpFilterKind::HealthCheck(_) => "health_check.v3.HealthCheck",
            HttpFilterKind::JwtAuthn(_) => "jwt_authn.v3.JwtAuthentication",
            HttpFilterKind::LocalRateLimit(_) => "local_ratelimit.v3.LocalRateLimit",
            HttpFilterKind::RateLimit(_) => "ratelimit.v3.RateLimit",
            HttpFilterKind::Rbac(_) => "rbac.v3.RBAC",
            HttpFilterKind::SetFilterState(_) => "set_filter_state.v3.Config",
            HttpFilterKind::SetMetadata(_) => "set_metadata.v3.Config",
            HttpFilterKind::StatefulSession(_) => "stateful_session.v3.StatefulSession",
            HttpFilterKind::OnDemand => "on_demand.v3.OnDemand",
            HttpFilterKind::Discovered { .. } => "",
        }
    }

    /// Whether `type_urls` of a discovered filter allow a configuration of this kind.
    pub fn is_one_of(&self, type_urls: &[Name]) -> bool {
        let own = |url: &Name| {
            let name = sidemesh_proto::type_url::message_name(url).strip_prefix("envoy.extensions.filters.http.");
            name == Some(self.message())
        };
        type_urls.iter().any(own)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct GrpcStats {
    pub stats_for_all_methods: bool,
    pub enable_upstream_stats: bool,
    pub services: Vec<(Name, Vec<Name>)>,
}

/// `typed_per_filter_config`, by filter name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FilterOverrides(pub Vec<(Name, Arc<FilterOverride>)>);

impl FilterOverrides {
    pub fn get(&self, filter: &str) -> Option<&Arc<FilterOverride>> {
        self.0.iter().find(|(n, _)| &**n == filter).map(|(_, o)| o)
    }
}

/// What a route, virtual host or weighted cluster says about one filter.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterOverride {
    /// `FilterConfig { disabled: true }` or the filter's own per-route switch.
    Disabled,
    /// `FilterConfig {}` that only switches a disabled filter on.
    Enabled,
    Buffer(buffer::Buffer),
    Compressor(compressor::CompressorOverride),
    Cors(Arc<cors::CorsPolicy>),
    Csrf(csrf::CsrfPolicy),
    ExtAuthz(ext_authz::ExtAuthzOverride),
    Fault(Arc<fault::Fault>),
    HeaderMutation(Arc<header_mutation::HeaderMutation>),
    HeaderToMetadata(Arc<header_to_metadata::HeaderToMetadata>),
    SetFilterState(Arc<set_filter_state::SetFilterState>),
    JwtAuthn(jwt_authn::JwtOverride),
    LocalRateLimit(Arc<rate_limit::LocalRateLimit>),
    RateLimit(rate_limit::RateLimitOverride),
    StatefulSession(Arc<stateful_session::StatefulSession>),
    /// `None` rules: no authorization on this route.
    Rbac(Option<Arc<rbac::RbacFilter>>),
}

/// The status of a local answer; `default` when none is given.
fn http_status(status: &Option<HttpStatus>, default: u16, field: &str) -> Result<u16, Rejection> {
    match status.as_ref().map_or(Ok(default), |s| u16::try_from(s.code)) {
        Ok(code @ 100..=599) => Ok(code),
        _ => Err(Rejection::invalid(format!("{field}.code"), "is no HTTP status")),
    }
}
