//! `cors.v3.CorsPolicy`, given per route or virtual host.

use crate::matcher::string::StringMatcher;
use crate::value::{Name, RuntimeFraction};

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
