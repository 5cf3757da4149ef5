//! `csrf.v3.CsrfPolicy`.

use crate::matcher::string::StringMatcher;
use crate::value::RuntimeFraction;

#[derive(Debug, Clone, PartialEq)]
pub struct CsrfPolicy {
    pub enabled: RuntimeFraction,
    pub shadow: Option<RuntimeFraction>,
    pub additional_origins: Vec<StringMatcher>,
}
