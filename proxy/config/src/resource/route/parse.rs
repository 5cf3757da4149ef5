//! `route.v3.RouteConfiguration` → [`RouteConfig`]: tables, virtual hosts, routes and their matches.

use std::sync::Arc;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
use sidemesh_proto::google;

use super::{
    Decorator, RequireTls, Route, RouteAction, RouteConfig, RouteIndex, RouteMatch, RouteTree, TlsMatch, VirtualHost,
    action, answer, policy, rate_limits, tree, virtual_cluster,
};
use crate::matcher::domain::DomainIndex;
use crate::matcher::parse as matcher;
use crate::matcher::path::{PathMatcher, UriTemplate};
use crate::rejection::{Rejection, Within};
use crate::resource::http_filter::parse_overrides;
use crate::resource::substitution;
use crate::value::{ConfigOrigin, ConfigSource, Metadata, Name, name};
use crate::wire::{self, enumeration, flag, non_empty, required};

/// `max_direct_response_body_size_bytes` when it is not given.
const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

/// What the levels below a route table need to know of it.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_direct_response_body: u32,
}

/// A route table. `validate_clusters` is false unless it says so; for a table inside a connection manager Envoy's default is
/// true, which is for the connection manager's parser to apply.
pub fn parse(config: &pb::RouteConfiguration) -> Result<RouteConfig, Rejection> {
    let max_direct_response_body =
        wire::uint32(&config.max_direct_response_body_size_bytes).unwrap_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY);
    let limits = Limits { max_direct_response_body };
    let hosts = config.virtual_hosts.iter().enumerate();
    let virtual_hosts = hosts
        .map(|(i, host)| virtual_host(host, limits).map(Arc::new).within_index("virtual_hosts", i))
        .collect::<Result<Vec<_>, _>>()?;
    let internal = config.internal_only_headers.iter().enumerate();
    Ok(RouteConfig {
        name: name(&config.name),
        domains: index_domains(&virtual_hosts)?,
        virtual_hosts,
        internal_only_headers: internal
            .map(|(i, h)| wire::header_name(h, &format!("internal_only_headers[{i}]")))
            .collect::<Result<_, _>>()?,
        request_headers: substitution::header_edits(
            &config.request_headers_to_add,
            &config.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: substitution::header_edits(
            &config.response_headers_to_add,
            &config.response_headers_to_remove,
            "response_headers",
        )?,
        most_specific_header_mutations_wins: config.most_specific_header_mutations_wins,
        validate_clusters: flag(&config.validate_clusters, false),
        ignore_port_in_host_matching: config.ignore_port_in_host_matching,
        vhost_header: match config.vhost_header.as_str() {
            "" => None,
            name => Some(wire::header_name(name, "vhost_header")?),
        },
        ignore_path_parameters: config.ignore_path_parameters_in_path_matching,
        request_mirrors: policy::mirrors(&config.request_mirror_policies)?,
        overrides: parse_overrides(&config.typed_per_filter_config)?,
        metadata: metadata(&config.metadata),
        vhds: config.vhds.as_ref().map(vhds).transpose().within("vhds")?,
    })
}

/// The protocol of on-demand hosts is the delta variant alone.
fn vhds(vhds: &pb::Vhds) -> Result<ConfigSource, Rejection> {
    let source = wire::config_source(wire::required(&vhds.config_source, "config_source")?, "config_source")?;
    match &source.origin {
        ConfigOrigin::Ads => Ok(source),
        ConfigOrigin::Grpc(grpc) if grpc.delta => Ok(source),
        _ => Err(Rejection::invalid("config_source", "must be ads, or an api_config_source with api_type DELTA_GRPC")),
    }
}

impl RouteConfig {
    /// The table with these hosts as well; one whose domains are taken is left out, and named.
    pub fn with_hosts(&self, hosts: impl Iterator<Item = Arc<VirtualHost>>) -> (RouteConfig, Vec<Name>) {
        let mut table = self.clone();
        let mut left_out = Vec::new();
        for host in hosts {
            let mut domains = table.domains.clone();
            let at = table.virtual_hosts.len();
            if host.domains.iter().all(|domain| domains.insert(domain, at).is_ok()) {
                table.domains = domains;
                table.virtual_hosts.push(host);
            } else {
                left_out.push(host.name.clone());
            }
        }
        (table, left_out)
    }
}

/// Domains are unique within a table; names need not be.
fn index_domains(hosts: &[Arc<VirtualHost>]) -> Result<DomainIndex, Rejection> {
    let mut index = DomainIndex::default();
    for (i, host) in hosts.iter().enumerate() {
        for (j, domain) in host.domains.iter().enumerate() {
            index
                .insert(domain, i)
                .map_err(|e| Rejection::invalid(format!("domains[{j}]"), e.to_string()))
                .within_index("virtual_hosts", i)?;
        }
    }
    Ok(index)
}

/// A virtual host of its own (VHDS).
pub fn parse_virtual_host(host: &pb::VirtualHost) -> Result<VirtualHost, Rejection> {
    virtual_host(host, Limits { max_direct_response_body: DEFAULT_MAX_DIRECT_RESPONSE_BODY })
}

fn virtual_host(host: &pb::VirtualHost, limits: Limits) -> Result<VirtualHost, Rejection> {
    use pb::virtual_host::TlsRequirementType as Wire;
    if host.domains.is_empty() {
        return Err(Rejection::invalid("domains", "must name at least one domain"));
    }
    let (tree, routes) = routes(host, limits)?;
    Ok(VirtualHost {
        name: non_empty(&host.name, "name")?,
        domains: host.domains.iter().map(|d| name(d)).collect(),
        index: RouteIndex::new(&routes),
        routes,
        tree,
        require_tls: match enumeration(host.require_tls, "require_tls")? {
            Wire::None => RequireTls::None,
            Wire::ExternalOnly => RequireTls::ExternalOnly,
            Wire::All => RequireTls::All,
        },
        request_headers: substitution::header_edits(
            &host.request_headers_to_add,
            &host.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: substitution::header_edits(
            &host.response_headers_to_add,
            &host.response_headers_to_remove,
            "response_headers",
        )?,
        include_request_attempt_count: host.include_request_attempt_count,
        include_attempt_count_in_response: host.include_attempt_count_in_response,
        include_is_timeout_retry_header: host.include_is_timeout_retry_header,
        retry_policy: policy::optional_retry_policy(&host.retry_policy, "retry_policy")?,
        hedge_policy: policy::hedge_policy(&host.hedge_policy),
        rate_limits: rate_limits(&host.rate_limits, "rate_limits")?,
        per_request_buffer_limit: buffer_limit(&host.per_request_buffer_limit_bytes, &host.request_body_buffer_limit)?,
        request_mirrors: policy::mirrors(&host.request_mirror_policies)?,
        #[allow(deprecated)] // Envoy still takes it.
        cors: policy::cors(&host.cors)?,
        overrides: parse_overrides(&host.typed_per_filter_config)?,
        metadata: metadata(&host.metadata),
        virtual_clusters: virtual_cluster::parse(&host.virtual_clusters)?,
    })
}

/// Routes in a list, or at the leaves of a matching tree.
fn routes(host: &pb::VirtualHost, limits: Limits) -> Result<(Option<RouteTree>, Vec<Arc<Route>>), Rejection> {
    match &host.matcher {
        Some(_) if !host.routes.is_empty() => Err(Rejection::invalid("matcher", "excludes routes; give one of them")),
        Some(matcher) => {
            let (tree, routes) = tree::parse(matcher, limits).within("matcher")?;
            Ok((Some(tree), routes))
        }
        None => {
            let routes = host.routes.iter().enumerate();
            let routes = routes.map(|(i, r)| route(r, limits).map(Arc::new).within_index("routes", i));
            Ok((None, routes.collect::<Result<_, _>>()?))
        }
    }
}

fn metadata(m: &Option<core::Metadata>) -> Option<Arc<Metadata>> {
    m.as_ref().map(|m| Arc::new(wire::metadata(m)))
}

/// The two spellings of one limit.
fn buffer_limit(
    old: &Option<google::UInt32Value>,
    new: &Option<google::UInt64Value>,
) -> Result<Option<u64>, Rejection> {
    match (old, new) {
        (Some(_), Some(_)) => {
            let reason = "excludes per_request_buffer_limit_bytes; give request_body_buffer_limit alone";
            Err(Rejection::invalid("request_body_buffer_limit", reason))
        }
        (Some(old), None) => Ok(Some(u64::from(old.value))),
        (None, new) => Ok(new.as_ref().map(|v| v.value)),
    }
}

pub(super) fn route(route: &pb::Route, limits: Limits) -> Result<Route, Rejection> {
    use pb::route::Action as Wire;
    let matcher = required(&route.r#match, "match").and_then(|m| route_match(m).within("match"))?;
    let action = match &route.action {
        Some(Wire::Route(forward)) => action::forward(forward, &matcher.path).within("route")?,
        Some(Wire::Redirect(redirect)) => answer::redirect(redirect).within("redirect")?,
        Some(Wire::DirectResponse(response)) => answer::direct_response(response, limits).within("direct_response")?,
        Some(Wire::NonForwardingAction(_)) => RouteAction::NonForwarding,
        Some(Wire::FilterAction(_)) => {
            return Err(Rejection::unsupported("filter_action", "use route, redirect or direct_response"));
        }
        None => {
            return Err(Rejection::invalid("", "needs one of route, redirect, direct_response, non_forwarding_action"));
        }
    };
    let decorator = match &route.decorator {
        Some(decorator) => Some(Decorator {
            operation: non_empty(&decorator.operation, "operation").within("decorator")?,
            propagate: flag(&decorator.propagate, true),
        }),
        None => None,
    };
    Ok(Route {
        name: name(&route.name),
        stat_prefix: wire::optional_name(&route.stat_prefix),
        matcher,
        action,
        metadata: metadata(&route.metadata),
        decorator,
        request_headers: substitution::header_edits(
            &route.request_headers_to_add,
            &route.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: substitution::header_edits(
            &route.response_headers_to_add,
            &route.response_headers_to_remove,
            "response_headers",
        )?,
        tracing: route.tracing.as_ref().map(policy::tracing).transpose().within("tracing")?,
        per_request_buffer_limit: buffer_limit(
            &route.per_request_buffer_limit_bytes,
            &route.request_body_buffer_limit,
        )?,
        overrides: parse_overrides(&route.typed_per_filter_config)?,
    })
}

/// A `RouteMatch`, of a route or of a filter's rule.
pub fn route_match(m: &pb::RouteMatch) -> Result<RouteMatch, Rejection> {
    let fraction = m.runtime_fraction.as_ref().map(|f| wire::runtime_fraction(f, "runtime_fraction"));
    let dynamic_metadata = m.dynamic_metadata.iter().enumerate();
    Ok(RouteMatch {
        path: path_matcher(m)?,
        headers: matcher::headers(&m.headers, "headers")?,
        query: matcher::queries(&m.query_parameters, "query_parameters")?,
        runtime_fraction: fraction.transpose()?,
        grpc: m.grpc.is_some(),
        tls: m.tls_context.as_ref().map(|tls| TlsMatch {
            presented: tls.presented.as_ref().map(|v| v.value),
            validated: tls.validated.as_ref().map(|v| v.value),
        }),
        dynamic_metadata: dynamic_metadata
            .map(|(i, m)| matcher::metadata(m, &format!("dynamic_metadata[{i}]")))
            .collect::<Result<_, _>>()?,
        cookies: matcher::cookies(&m.cookies, "cookies")?,
        filter_state: wire::each(&m.filter_state, "filter_state", matcher::filter_state)?,
    })
}

fn path_matcher(m: &pb::RouteMatch) -> Result<PathMatcher, Rejection> {
    use pb::route_match::PathSpecifier as Wire;
    let case_sensitive = flag(&m.case_sensitive, true);
    match &m.path_specifier {
        Some(Wire::Prefix(value)) => Ok(PathMatcher::Prefix { value: value.clone(), case_sensitive }),
        Some(Wire::Path(value)) => Ok(PathMatcher::Exact { value: value.clone(), case_sensitive }),
        Some(Wire::SafeRegex(regex)) => Ok(PathMatcher::Regex(matcher::regex(regex, "safe_regex")?)),
        Some(Wire::ConnectMatcher(_)) => Ok(PathMatcher::Connect),
        Some(Wire::PathSeparatedPrefix(value)) => {
            if value.is_empty() || value == "/" || value.ends_with('/') || value.contains(['?', '#']) {
                let reason = format!("`{value}` must not be empty, end in `/` or hold `?` or `#`");
                return Err(Rejection::invalid("path_separated_prefix", reason));
            }
            Ok(PathMatcher::SeparatedPrefix { value: value.clone(), case_sensitive })
        }
        Some(Wire::PathMatchPolicy(policy)) => {
            Ok(PathMatcher::UriTemplate(match_template(policy).within("path_match_policy")?))
        }
        None => Err(Rejection::invalid(
            "",
            "needs one of prefix, path, safe_regex, path_separated_prefix, connect_matcher, path_match_policy",
        )),
    }
}

/// The `uri_template` path matcher, the only one there is.
pub(crate) fn match_template(extension: &core::TypedExtensionConfig) -> Result<UriTemplate, Rejection> {
    let any = required(&extension.typed_config, "typed_config")?;
    let config: uri_template::UriTemplateMatchConfig = wire::unpack(any, "typed_config")?;
    UriTemplate::new(&config.path_template).map_err(|e| Rejection::invalid("typed_config.path_template", e))
}
