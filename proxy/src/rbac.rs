//! Role-based access control: rules against a connection or request. Pure but for its counters; shared by
//! the HTTP filter and the network filter.

use std::net::IpAddr;
use std::sync::Arc;

use sidemesh_config::matcher::RequestView;
use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::resource::http_filter::rbac::{Permission, Principal, Rbac, RbacAction};
use sidemesh_config::value::{Metadata, Name};

use crate::connection::ConnectionInfo;
use crate::stats_group;
use crate::telemetry::stats::{Registry, Scope};

stats_group! {
    /// Verdicts of rules.
    pub struct Enforced {
        allowed: Counter,
        denied: Counter,
    }
}

stats_group! {
    /// Verdicts of rules that are only tried.
    pub struct Shadowed {
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

/// What one filter's rules came to.
pub struct Counts {
    enforced: Arc<Enforced>,
    shadowed: Arc<Shadowed>,
}

impl Counts {
    pub fn new(registry: &Registry, enforced: Scope, shadowed: Scope) -> Self {
        Counts { enforced: registry.shard(enforced), shadowed: registry.shard(shadowed) }
    }

    pub fn enforced(&self, verdict: &Verdict<'_>) {
        if verdict.allowed { &self.enforced.allowed } else { &self.enforced.denied }.inc();
    }

    pub fn shadowed(&self, verdict: &Verdict<'_>) {
        if verdict.allowed { &self.shadowed.shadow_allowed } else { &self.shadowed.shadow_denied }.inc();
    }
}

/// What the rules are held against.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub connection: &'a ConnectionInfo,
    /// `None` for a connection: rules about headers and paths do not match then.
    pub request: Option<&'a RequestView<'a>>,
    /// The client: the connection's, or what a trusted `x-forwarded-for` says.
    pub remote: IpAddr,
    /// Dynamic metadata of the request, else of the connection.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> Subject<'a> {
    /// The connection itself, without a request.
    pub fn of_connection(connection: &'a ConnectionInfo) -> Self {
        Subject { connection, request: None, remote: connection.remote.ip(), metadata: Some(&connection.metadata) }
    }
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a Name>,
}

/// Holds `rules` against `subject`: the first policy (by name) with a permission and a principal that match decides.
pub fn evaluate<'a>(rules: &'a Rbac, subject: &Subject<'_>) -> Verdict<'a> {
    let matched = rules.policies.iter().find(|policy| {
        policy.permissions.iter().any(|p| permits(p, subject)) && policy.principals.iter().any(|p| is(p, subject))
    });
    let allowed = match rules.action {
        RbacAction::Allow => matched.is_some(),
        RbacAction::Deny => matched.is_none(),
        RbacAction::Log => true,
    };
    Verdict { allowed, policy: matched.map(|p| &p.name) }
}

fn permits(permission: &Permission, s: &Subject<'_>) -> bool {
    match permission {
        Permission::Any => true,
        Permission::All(all) => all.iter().all(|p| permits(p, s)),
        Permission::AnyOf(any) => any.iter().any(|p| permits(p, s)),
        Permission::Not(not) => !permits(not, s),
        Permission::Header(header) => s.request.is_some_and(|r| header.matches(r)),
        Permission::UrlPath(path) => s.request.is_some_and(|r| path.is_match(r.path_only())),
        Permission::UriTemplate(template) => s.request.is_some_and(|r| template.regex.is_match(r.path_only())),
        Permission::DestinationIp(range) => range.contains(s.connection.local.ip()),
        Permission::DestinationPort(port) => s.connection.local.port() == *port,
        Permission::DestinationPortRange(range) => range.contains(&u32::from(s.connection.local.port())),
        Permission::Metadata(matcher) => matcher.matches(s.metadata),
        Permission::RequestedServerName(name) => name.is_match(s.connection.server_name.as_deref().unwrap_or_default()),
    }
}

fn is(principal: &Principal, s: &Subject<'_>) -> bool {
    match principal {
        Principal::Any => true,
        Principal::All(all) => all.iter().all(|p| is(p, s)),
        Principal::AnyOf(any) => any.iter().any(|p| is(p, s)),
        Principal::Not(not) => !is(not, s),
        Principal::Authenticated(name) => is_authenticated(s.connection, name.as_ref()),
        Principal::SourceIp(range) => range.contains(s.connection.remote.ip()),
        Principal::DirectRemoteIp(range) => range.contains(s.connection.direct_remote.ip()),
        Principal::RemoteIp(range) => range.contains(s.remote),
        Principal::Header(header) => s.request.is_some_and(|r| header.matches(r)),
        Principal::UrlPath(path) => s.request.is_some_and(|r| path.is_match(r.path_only())),
        Principal::Metadata(matcher) => matcher.matches(s.metadata),
    }
}

/// The URI names of the peer's certificate, else its DNS names, else its subject. Without a name: any TLS connection.
fn is_authenticated(connection: &ConnectionInfo, name: Option<&StringMatcher>) -> bool {
    let Some(peer) = &connection.tls else { return false };
    let Some(name) = name else { return true };
    peer.uri_sans().iter().chain(peer.dns_sans()).any(|san| name.is_match(san)) || name.is_match(peer.subject())
}

#[cfg(test)]
mod tests;
