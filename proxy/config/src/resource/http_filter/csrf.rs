//! `csrf.v3.CsrfPolicy`.

use sidemesh_proto::envoy::extensions::filters::http::csrf::v3 as pb;

use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::Rejection;
use crate::value::RuntimeFraction;
use crate::wire::{self, required};

#[derive(Debug, Clone, PartialEq)]
pub struct CsrfPolicy {
    pub enabled: RuntimeFraction,
    pub shadow: Option<RuntimeFraction>,
    pub additional_origins: Vec<StringMatcher>,
}

pub(super) fn parse(policy: &pb::CsrfPolicy) -> Result<CsrfPolicy, Rejection> {
    let shadow = policy.shadow_enabled.as_ref().map(|f| wire::runtime_fraction(f, "shadow_enabled"));
    Ok(CsrfPolicy {
        enabled: wire::runtime_fraction(required(&policy.filter_enabled, "filter_enabled")?, "filter_enabled")?,
        shadow: shadow.transpose()?,
        additional_origins: matcher::strings(&policy.additional_origins, "additional_origins")?,
    })
}
