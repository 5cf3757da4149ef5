//! `rbac.v3.RBAC`, the rules of the HTTP filter and of the network filter.

use sidemesh_proto::envoy::config::rbac::v3 as rules_pb;
use sidemesh_proto::envoy::extensions::filters::http::rbac::v3 as pb;
use sidemesh_proto::envoy::r#type::matcher::v3 as matcher_pb;
use sidemesh_proto::xds::r#type::matcher::v3::Matcher;

mod tree;

use tree::action;

pub use tree::{Input, RbacMatcher};

use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::parse as matcher;
use crate::matcher::path::UriTemplate;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::resource::route::match_template;
use crate::value::{Cidr, Name, name};
use crate::wire::{self, enumeration, required};

#[derive(Debug, Clone, PartialEq)]
pub struct RbacFilter {
    pub rules: Option<Rules>,
    pub shadow_rules: Option<Rules>,
    pub stat_prefix: Name,
    pub shadow_stat_prefix: Name,
    /// Policies are counted one by one.
    pub per_rule_stats: bool,
    /// How long a refused connection is held before it is closed.
    pub delay_deny: Option<std::time::Duration>,
}

/// What decides: policies, or a matching tree that leads to actions.
#[derive(Debug, Clone, PartialEq)]
pub enum Rules {
    Policies(Rbac),
    Matcher(Box<RbacMatcher>),
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
    FilterState(Name, StringMatcher),
}

pub(super) fn parse(config: &pb::Rbac) -> Result<RbacFilter, Rejection> {
    Ok(RbacFilter {
        rules: either(&config.rules, &config.matcher, ["rules", "matcher"], true)?,
        shadow_rules: either(&config.shadow_rules, &config.shadow_matcher, ["shadow_rules", "shadow_matcher"], true)?,
        stat_prefix: name(&config.rules_stat_prefix),
        shadow_stat_prefix: name(&config.shadow_rules_stat_prefix),
        per_rule_stats: config.track_per_rule_stats,
        delay_deny: None,
    })
}

/// A matcher counts before rules.
pub fn either(
    policies: &Option<rules_pb::Rbac>,
    tree: &Option<Matcher>,
    [of_policies, of_tree]: [&str; 2],
    http: bool,
) -> Result<Option<Rules>, Rejection> {
    match (tree, policies) {
        (Some(tree), _) => Ok(Some(Rules::Matcher(Box::new(RbacMatcher::parse(tree, http).within(of_tree)?)))),
        (None, Some(policies)) => Ok(Some(Rules::Policies(rules(policies).within(of_policies)?))),
        (None, None) => Ok(None),
    }
}

pub(super) fn parse_override(config: &pb::RbacPerRoute) -> Result<Option<RbacFilter>, Rejection> {
    config.rbac.as_ref().map(|r| parse(r).within("rbac")).transpose()
}

/// `config.rbac.v3.RBAC`, of the HTTP filter or of the network filter.
pub fn rules(r: &rules_pb::Rbac) -> Result<Rbac, Rejection> {
    let action = action(r.action)?;
    let one = |(policy_name, p): (&String, &rules_pb::Policy)| {
        policy(policy_name, p).map_err(|r| r.within(&format!("policies[{policy_name}]")))
    };
    let mut policies = r.policies.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Rbac { action, policies })
}

fn policy(policy_name: &str, p: &rules_pb::Policy) -> Result<RbacPolicy, Rejection> {
    if p.condition.is_some() || p.checked_condition.is_some() {
        return Err(Rejection::unsupported("condition", "CEL is not supported; use permissions and principals"));
    }
    Ok(RbacPolicy {
        name: name(policy_name),
        permissions: permissions(&p.permissions, "permissions")?,
        principals: principals(&p.principals, "principals")?,
    })
}

fn permissions(list: &[rules_pb::Permission], field: &str) -> Result<Vec<Permission>, Rejection> {
    if list.is_empty() {
        return Err(Rejection::invalid(field, "must hold at least one rule"));
    }
    list.iter().enumerate().map(|(i, p)| permission(p).within_index(field, i)).collect()
}

fn permission(p: &rules_pb::Permission) -> Result<Permission, Rejection> {
    use rules_pb::permission::Rule;
    Ok(match &p.rule {
        Some(Rule::Any(true)) => Permission::Any,
        Some(Rule::Any(false)) => return Err(Rejection::invalid("any", "must be true")),
        Some(Rule::AndRules(set)) => Permission::All(permissions(&set.rules, "and_rules.rules")?),
        Some(Rule::OrRules(set)) => Permission::AnyOf(permissions(&set.rules, "or_rules.rules")?),
        Some(Rule::NotRule(rule)) => Permission::Not(Box::new(permission(rule).within("not_rule")?)),
        Some(Rule::Header(header)) => Permission::Header(matcher::header(header, "header")?),
        Some(Rule::UrlPath(path)) => Permission::UrlPath(url_path(path)?),
        Some(Rule::UriTemplate(template)) => Permission::UriTemplate(match_template(template).within("uri_template")?),
        Some(Rule::DestinationIp(range)) => Permission::DestinationIp(wire::cidr(range, "destination_ip")?),
        Some(Rule::DestinationPort(port)) => Permission::DestinationPort(
            u16::try_from(*port).map_err(|_| Rejection::invalid("destination_port", "is more than 65535"))?,
        ),
        Some(Rule::DestinationPortRange(range)) => match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end && end <= 65_536 => Permission::DestinationPortRange(start..end),
            _ => return Err(Rejection::invalid("destination_port_range", "needs 0 <= start < end <= 65536")),
        },
        Some(Rule::Metadata(m)) => Permission::Metadata(matcher::metadata(m, "metadata")?),
        Some(Rule::SourcedMetadata(m)) => Permission::Metadata(sourced_metadata(m).within("sourced_metadata")?),
        Some(Rule::RequestedServerName(m)) => {
            Permission::RequestedServerName(matcher::string(m, "requested_server_name")?)
        }
        Some(Rule::Matcher(_)) => return Err(Rejection::unsupported("matcher", "use a built-in rule")),
        None => return Err(Rejection::invalid("", "needs a rule")),
    })
}

fn url_path(path: &matcher_pb::PathMatcher) -> Result<StringMatcher, Rejection> {
    match &path.rule {
        Some(matcher_pb::path_matcher::Rule::Path(m)) => matcher::string(m, "url_path.path"),
        None => Err(Rejection::invalid("url_path.path", "is required")),
    }
}

fn sourced_metadata(m: &rules_pb::SourcedMetadata) -> Result<MetadataMatcher, Rejection> {
    match enumeration(m.metadata_source, "metadata_source")? {
        rules_pb::MetadataSource::Dynamic => {}
        rules_pb::MetadataSource::Route => return Err(Rejection::unsupported("metadata_source", "use DYNAMIC")),
    }
    matcher::metadata(required(&m.metadata_matcher, "metadata_matcher")?, "metadata_matcher")
}

fn principals(list: &[rules_pb::Principal], field: &str) -> Result<Vec<Principal>, Rejection> {
    if list.is_empty() {
        return Err(Rejection::invalid(field, "must hold at least one identifier"));
    }
    list.iter().enumerate().map(|(i, p)| principal(p).within_index(field, i)).collect()
}

#[allow(deprecated)] // Envoy still takes `source_ip`.
fn principal(p: &rules_pb::Principal) -> Result<Principal, Rejection> {
    use rules_pb::principal::Identifier;
    Ok(match &p.identifier {
        Some(Identifier::Any(true)) => Principal::Any,
        Some(Identifier::Any(false)) => return Err(Rejection::invalid("any", "must be true")),
        Some(Identifier::AndIds(set)) => Principal::All(principals(&set.ids, "and_ids.ids")?),
        Some(Identifier::OrIds(set)) => Principal::AnyOf(principals(&set.ids, "or_ids.ids")?),
        Some(Identifier::NotId(id)) => Principal::Not(Box::new(principal(id).within("not_id")?)),
        Some(Identifier::Authenticated(peer)) => Principal::Authenticated(
            peer.principal_name.as_ref().map(|m| matcher::string(m, "authenticated.principal_name")).transpose()?,
        ),
        Some(Identifier::SourceIp(range)) => Principal::SourceIp(wire::cidr(range, "source_ip")?),
        Some(Identifier::DirectRemoteIp(range)) => Principal::DirectRemoteIp(wire::cidr(range, "direct_remote_ip")?),
        Some(Identifier::RemoteIp(range)) => Principal::RemoteIp(wire::cidr(range, "remote_ip")?),
        Some(Identifier::Header(header)) => Principal::Header(matcher::header(header, "header")?),
        Some(Identifier::UrlPath(path)) => Principal::UrlPath(url_path(path)?),
        Some(Identifier::Metadata(m)) => Principal::Metadata(matcher::metadata(m, "metadata")?),
        Some(Identifier::SourcedMetadata(m)) => Principal::Metadata(sourced_metadata(m).within("sourced_metadata")?),
        Some(Identifier::FilterState(m)) => {
            let (key, text) = matcher::filter_state(m).within("filter_state")?;
            Principal::FilterState(key, text)
        }
        Some(Identifier::Custom(_)) => return Err(Rejection::unsupported("custom", "use authenticated")),
        None => return Err(Rejection::invalid("", "needs an identifier")),
    })
}
