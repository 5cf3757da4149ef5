//! Role-based access control: rules against a connection or request. Pure but for its counters; shared by
//! the HTTP filter and the network filter.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use sidemesh_config::matcher::RequestView;
use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::matcher::tree::Facts;
use sidemesh_config::resource::http_filter::rbac::{
    Input, Permission, Principal, Rbac, RbacAction, RbacMatcher, Rules,
};
use sidemesh_config::resource::listener::ConnectionView;
use sidemesh_config::value::{FilterState, Metadata, Name};

use crate::connection::ConnectionInfo;
use crate::stats_group;
use crate::telemetry::stats::{Registry, Scope, Shards};

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

stats_group! {
    /// `….policy.<name>.`: verdicts of one policy.
    struct OfPolicy {
        allowed: LazyCounter,
        denied: LazyCounter,
        shadow_allowed: LazyCounter,
        shadow_denied: LazyCounter,
    }
}

/// Policies counted apart per filter and worker before their list is begun anew.
const KEPT_POLICIES: usize = 4096;

/// What one filter's rules came to.
pub struct Counts {
    enforced: Arc<Enforced>,
    shadowed: Arc<Shadowed>,
    scopes: (Scope, Scope),
    policies: Shards<Name, OfPolicy>,
    shadow_policies: Shards<Name, OfPolicy>,
}

impl Counts {
    pub fn new(registry: &Registry, enforced: Scope, shadowed: Scope) -> Self {
        let scopes = (enforced.clone(), shadowed.clone());
        let policies = || Shards::new(KEPT_POLICIES);
        let (enforced, shadowed) = (registry.shard(enforced), registry.shard(shadowed));
        Counts { enforced, shadowed, scopes, policies: policies(), shadow_policies: policies() }
    }

    pub fn enforced(&self, verdict: &Verdict<'_>) {
        if verdict.allowed { &self.enforced.allowed } else { &self.enforced.denied }.inc();
    }

    pub fn shadowed(&self, verdict: &Verdict<'_>) {
        if verdict.allowed { &self.shadowed.shadow_allowed } else { &self.shadowed.shadow_denied }.inc();
    }

    /// Counts an enforced verdict under its policy too.
    pub fn of_policy(&self, registry: &Registry, verdict: &Verdict<'_>) {
        let Some(policy) = verdict.policy else { return };
        let of = self.policies.get(registry, policy, |policy| of_policy(&self.scopes.0, policy));
        if verdict.allowed { &of.allowed } else { &of.denied }.inc();
    }

    pub fn of_shadow_policy(&self, registry: &Registry, verdict: &Verdict<'_>) {
        let Some(policy) = verdict.policy else { return };
        let of = self.shadow_policies.get(registry, policy, |policy| of_policy(&self.scopes.1, policy));
        if verdict.allowed { &of.shadow_allowed } else { &of.shadow_denied }.inc();
    }
}

/// `….policy.<name>.`
fn of_policy(scope: &Scope, policy: &Name) -> Scope {
    let Scope::HttpFilter { prefix, filter } = scope else { return scope.clone() };
    Scope::HttpFilter { prefix: prefix.clone(), filter: format!("{filter}.policy.{policy}").into() }
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
    pub filter_state: Option<&'a FilterState>,
}

impl<'a> Subject<'a> {
    /// The connection itself, without a request.
    pub fn of_connection(connection: &'a ConnectionInfo) -> Self {
        Subject {
            connection,
            request: None,
            remote: connection.remote.ip(),
            metadata: Some(&connection.metadata),
            filter_state: None,
        }
    }
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a Name>,
    /// Whether to log, where the rules say so.
    pub hint: Option<bool>,
}

/// Holds policies or a matching tree against `subject`.
pub fn judge<'a>(rules: &'a Rules, subject: &Subject<'_>) -> Verdict<'a> {
    match rules {
        Rules::Policies(policies) => evaluate(policies, subject),
        Rules::Matcher(matcher) => search(matcher, subject),
    }
}

/// What the tree leads to; nothing found is a refusal.
fn search<'a>(matcher: &'a RbacMatcher, subject: &Subject<'_>) -> Verdict<'a> {
    let facts = Facts { value: &|input| value(input, subject), runtime: subject.request.map(|r| r.runtime) };
    let found = matcher.tree.find(&facts);
    let action = found.map(|(_, action)| *action);
    Verdict {
        allowed: matches!(action, Some(RbacAction::Allow | RbacAction::Log)),
        policy: found.map(|(policy, _)| policy),
        hint: matcher.logs.then_some(action == Some(RbacAction::Log)),
    }
}

fn value<'v>(input: &Input, s: &Subject<'v>) -> Option<Cow<'v, str>> {
    let given = |text: String| (!text.is_empty()).then_some(Cow::Owned(text));
    match input {
        Input::Connection(input) => {
            let c = s.connection;
            let alpn: Vec<&str> = c.alpn.as_deref().into_iter().collect();
            let view = ConnectionView {
                destination: Some(c.local),
                source: Some(c.remote),
                direct_source: Some(c.direct_remote),
                server_name: c.server_name.as_deref().unwrap_or_default(),
                transport_protocol: if c.is_tls() { "tls" } else { "raw_buffer" },
                application_protocols: &alpn,
            };
            view.value(*input).map(|text| Cow::Owned(text.into_owned()))
        }
        Input::UriSan => given(s.connection.tls.as_ref()?.uri_sans().join(",")),
        Input::DnsSan => given(s.connection.tls.as_ref()?.dns_sans().join(",")),
        Input::Subject => given(s.connection.tls.as_ref()?.subject().to_owned()),
        Input::Header(name) => name.joined(s.request?),
        Input::FilterState(key) => Some(Cow::Borrowed(&**s.filter_state?.get(key)?)),
    }
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
    let hint = (rules.action == RbacAction::Log).then_some(matched.is_some());
    Verdict { allowed, policy: matched.map(|p| &p.name), hint }
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
        Principal::FilterState(key, matcher) => {
            s.filter_state.and_then(|state| state.get(key)).is_some_and(|text| matcher.is_match(text))
        }
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
