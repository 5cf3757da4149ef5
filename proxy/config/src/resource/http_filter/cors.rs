//! `cors.v3.CorsPolicy`, given per route or virtual host.

use sidemesh_proto::envoy::extensions::filters::http::cors::v3 as pb;

use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::Rejection;
use crate::value::{Name, RuntimeFraction, name};
use crate::wire::{self, flag};

#[derive(Debug, Clone, PartialEq)]
pub struct CorsPolicy {
    pub allow_origins: Vec<StringMatcher>,
    pub allow_methods: Name,
    pub allow_headers: Name,
    pub expose_headers: Name,
    pub max_age: Name,
    pub allow_credentials: bool,
    pub allow_private_network_access: bool,
    pub forward_not_matching_preflights: bool,
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
        allow_credentials: flag(&policy.allow_credentials, false),
        allow_private_network_access: flag(&policy.allow_private_network_access, false),
        forward_not_matching_preflights: flag(&policy.forward_not_matching_preflights, true),
        enabled: enabled.transpose()?.unwrap_or_else(RuntimeFraction::always),
        shadow: shadow.transpose()?,
    })
}
