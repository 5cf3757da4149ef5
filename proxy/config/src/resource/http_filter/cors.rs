//! `cors.v3.CorsPolicy`, given per route or virtual host.

use sidemesh_proto::envoy::extensions::filters::http::cors::v3 as pb;

use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::Rejection;
use crate::value::{Name, RuntimeFraction, name};
use crate::wire;

/// One level's policy; what it leaves out the next level says.
#[derive(Debug, Clone, PartialEq)]
pub struct CorsPolicy {
    pub allow_origins: Vec<StringMatcher>,
    pub allow_methods: Name,
    pub allow_headers: Name,
    pub expose_headers: Name,
    pub max_age: Name,
    pub allow_credentials: Option<bool>,
    pub allow_private_network_access: Option<bool>,
    pub forward_not_matching_preflights: Option<bool>,
    pub enabled: RuntimeFraction,
    pub shadow: Option<RuntimeFraction>,
}

pub(super) fn parse(policy: &pb::CorsPolicy) -> Result<CorsPolicy, Rejection> {
    let enabled = policy.filter_enabled.as_ref().map(|f| wire::runtime_fraction(f, "filter_enabled"));
    let shadow = policy.shadow_enabled.as_ref().map(|f| wire::runtime_fraction(f, "shadow_enabled"));
    Ok(CorsPolicy {
        allow_origins: matcher::strings(&policy.allow_origin_string_match, "allow_origin_string_match")?,
        allow_methods: name(&policy.allow_methods),
        allow_headers: name(&policy.allow_headers),
        expose_headers: name(&policy.expose_headers),
        max_age: name(&policy.max_age),
        allow_credentials: policy.allow_credentials.as_ref().map(|v| v.value),
        allow_private_network_access: policy.allow_private_network_access.as_ref().map(|v| v.value),
        forward_not_matching_preflights: policy.forward_not_matching_preflights.as_ref().map(|v| v.value),
        enabled: enabled.transpose()?.unwrap_or_else(RuntimeFraction::always),
        shadow: shadow.transpose()?,
    })
}
