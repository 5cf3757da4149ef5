//! `rbac.v3.RBAC`, the rules of the HTTP filter and of the network filter.

use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::path::UriTemplate;
use crate::matcher::string::StringMatcher;
use crate::value::{Cidr, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct RbacFilter {
    pub rules: Option<Rbac>,
    pub shadow_rules: Option<Rbac>,
    pub stat_prefix: Name,
    pub shadow_stat_prefix: Name,
    pub track_per_rule_stats: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rbac {
    pub action: RbacAction,
    /// Sorted by name, as Envoy evaluates them.
    pub policies: Vec<RbacPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    Allow,
    Deny,
    Log,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RbacPolicy {
    pub name: Name,
    pub permissions: Vec<Permission>,
    pub principals: Vec<Principal>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Permission {
    Any,
    All(Vec<Permission>),
    AnyOf(Vec<Permission>),
    Not(Box<Permission>),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    UriTemplate(UriTemplate),
    DestinationIp(Cidr),
    DestinationPort(u16),
    DestinationPortRange(std::ops::Range<u32>),
    Metadata(MetadataMatcher),
    RequestedServerName(StringMatcher),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Principal {
    Any,
    All(Vec<Principal>),
    AnyOf(Vec<Principal>),
    Not(Box<Principal>),
    /// `None`: any authenticated peer.
    Authenticated(Option<StringMatcher>),
    SourceIp(Cidr),
    DirectRemoteIp(Cidr),
    RemoteIp(Cidr),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    Metadata(MetadataMatcher),
}
