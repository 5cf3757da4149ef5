//! The action of a route that forwards (`route.v3.RouteAction`).

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::extensions::path::rewrite::uri_template::v3 as uri_template;
use sidemesh_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::{
    ClusterChoice, ClusterChoiceLeaf, Forward, GrpcTimeout, HostRewrite, PathRewrite, Priority, RegexPattern,
    RouteAction, RouteStreamDuration, SubsetMatch, TemplatePiece, WeightedCluster, WeightedClusters, internal_redirect,
    policy, rate_limits,
};
use crate::matcher::parse as matcher;
use crate::matcher::path::{PathMatcher, UriTemplate};
use crate::rejection::{Rejection, Within};
use crate::resource::http_filter::parse_overrides;
use crate::resource::substitution;
use crate::value::{Name, name};
use crate::wire::{self, enumeration, non_empty, optional_duration, optional_name, required};

/// `RouteAction.timeout` when it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The metadata that subset matches read.
const LB_METADATA: &str = "envoy.lb";

pub(super) fn forward(action: &pb::RouteAction, path: &PathMatcher) -> Result<RouteAction, Rejection> {
    use pb::route_action::ClusterNotFoundResponseCode as NotFound;
    let timeout = wire::duration_or(&action.timeout, "timeout", DEFAULT_TIMEOUT)?;
    let idle_timeout = optional_duration(&action.idle_timeout, "idle_timeout")?;
    Ok(RouteAction::Forward(Box::new(Forward {
        cluster: cluster_choice(action)?,
        cluster_not_found_status: match enumeration(
            action.cluster_not_found_response_code,
            "cluster_not_found_response_code",
        )? {
            NotFound::ServiceUnavailable => 503,
            NotFound::NotFound => 404,
            NotFound::InternalServerError => 500,
        },
        metadata_match: subset_match(&action.metadata_match),
        path_rewrite: path_rewrite(action, path)?,
        host_rewrite: host_rewrite(action)?,
        append_forwarded_host: action.append_x_forwarded_host,
        // As in Envoy: a route with a stream duration has given up the older timeout, whatever that says.
        timeout: (!timeout.is_zero() && action.max_stream_duration.is_none()).then_some(timeout),
        grpc_timeout: grpc_timeout(action)?,
        idle_timeout: idle_timeout.map(|t| (!t.is_zero()).then_some(t)),
        max_stream_duration: stream_duration(action).within("max_stream_duration")?,
        retry: policy::optional_retry_policy(&action.retry_policy, "retry_policy")?,
        hedge: policy::hedge_policy(&action.hedge_policy),
        mirrors: policy::mirrors(&action.request_mirror_policies)?,
        priority: match enumeration(action.priority, "priority")? {
            core::RoutingPriority::Default => Priority::Default,
            core::RoutingPriority::High => Priority::High,
        },
        rate_limits: rate_limits(&action.rate_limits, "rate_limits")?,
        include_vhost_rate_limits: action.include_vh_rate_limits.as_ref().map(|v| v.value),
        hash_policy: policy::hash_policies(&action.hash_policy)?,
        upgrades: policy::upgrades(&action.upgrade_configs)?,
        internal_redirect: internal_redirect::parse(action)?,
        #[allow(deprecated)] // Envoy still takes it.
        cors: policy::cors(&action.cors)?,
    })))
}

/// The deprecated pair `max_grpc_timeout` and `grpc_timeout_offset`; `max_stream_duration` overrides it.
fn grpc_timeout(action: &pb::RouteAction) -> Result<Option<GrpcTimeout>, Rejection> {
    #[allow(deprecated)] // Envoy still takes it.
    let (max, offset) = (&action.max_grpc_timeout, &action.grpc_timeout_offset);
    let max = optional_duration(max, "max_grpc_timeout")?.filter(|_| action.max_stream_duration.is_none());
    let offset = optional_duration(offset, "grpc_timeout_offset")?;
    Ok(max.map(|max| GrpcTimeout { max, offset: offset.unwrap_or_default() }))
}

fn stream_duration(action: &pb::RouteAction) -> Result<Option<RouteStreamDuration>, Rejection> {
    let Some(d) = &action.max_stream_duration else { return Ok(None) };
    Ok(Some(RouteStreamDuration {
        max_stream_duration: optional_duration(&d.max_stream_duration, "max_stream_duration")?,
        grpc_timeout_header_max: optional_duration(&d.grpc_timeout_header_max, "grpc_timeout_header_max")?,
        grpc_timeout_header_offset: optional_duration(&d.grpc_timeout_header_offset, "grpc_timeout_header_offset")?,
    }))
}

/// `metadata_match` as the pairs below `envoy.lb`, sorted.
pub(in crate::resource) fn subset_match(metadata: &Option<core::Metadata>) -> Option<Arc<SubsetMatch>> {
    let fields = &metadata.as_ref()?.filter_metadata.get(LB_METADATA)?.fields;
    let mut pairs: Vec<_> = fields.iter().map(|(k, v)| (name(k), wire::value_to_json(v))).collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(Arc::new(SubsetMatch(pairs)))
}

impl SubsetMatch {
    /// What `entry` (a weighted cluster's) asks, and what `base` asks beyond that.
    pub fn merged(base: Option<&Arc<SubsetMatch>>, entry: Option<&Arc<SubsetMatch>>) -> Option<Arc<SubsetMatch>> {
        match (base, entry) {
            (Some(base), Some(entry)) => {
                let mut all = entry.0.clone();
                all.extend(base.0.iter().filter(|(k, _)| !entry.0.iter().any(|(e, _)| e == k)).cloned());
                all.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Arc::new(SubsetMatch(all)))
            }
            (base, entry) => entry.or(base).cloned(),
        }
    }
}

fn cluster_choice(action: &pb::RouteAction) -> Result<ClusterChoice, Rejection> {
    use pb::route_action::ClusterSpecifier as Wire;
    match &action.cluster_specifier {
        Some(Wire::Cluster(cluster)) => Ok(ClusterChoice::Cluster(non_empty(cluster, "cluster")?)),
        Some(Wire::ClusterHeader(header)) => Ok(ClusterChoice::Header(matcher::match_name(header, "cluster_header")?)),
        Some(Wire::WeightedClusters(clusters)) => Ok(ClusterChoice::Weighted(Box::new(
            weighted_clusters(clusters, &action.metadata_match).within("weighted_clusters")?,
        ))),
        Some(Wire::ClusterSpecifierPlugin(_) | Wire::InlineClusterSpecifierPlugin(_)) => {
            let reason = "use cluster, cluster_header or weighted_clusters";
            Err(Rejection::unsupported("cluster_specifier_plugin", reason))
        }
        None => Err(Rejection::invalid("", "needs one of cluster, cluster_header, weighted_clusters")),
    }
}

/// A name or a header, exactly one of the two.
pub(super) fn cluster_leaf(cluster: &str, header: &str, field: &str) -> Result<ClusterChoiceLeaf, Rejection> {
    match (cluster, header) {
        ("", "") => Err(Rejection::invalid(field, "is required, or cluster_header")),
        (cluster, "") => Ok(ClusterChoiceLeaf::Cluster(name(cluster))),
        ("", header) => Ok(ClusterChoiceLeaf::Header(matcher::match_name(header, "cluster_header")?)),
        _ => Err(Rejection::invalid("cluster_header", format!("excludes {field}; give one of them"))),
    }
}

fn weighted_clusters(
    w: &pb::WeightedCluster,
    metadata: &Option<core::Metadata>,
) -> Result<WeightedClusters, Rejection> {
    use pb::weighted_cluster::RandomValueSpecifier;
    let clusters = w.clusters.iter().enumerate();
    let mut clusters =
        clusters.map(|(i, c)| weighted_cluster(c).within_index("clusters", i)).collect::<Result<Vec<_>, _>>()?;
    let shared = subset_match(metadata);
    for cluster in &mut clusters {
        cluster.metadata_match = SubsetMatch::merged(shared.as_ref(), cluster.metadata_match.as_ref());
    }
    let total_weight: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    if total_weight == 0 {
        return Err(Rejection::invalid("clusters", "the sum of the weights must be greater than 0"));
    }
    if total_weight > u64::from(u32::MAX) {
        return Err(Rejection::invalid("clusters", format!("the sum of the weights exceeds {}", u32::MAX)));
    }
    let (random_value_header, use_hash_policy) = match &w.random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(header)) => (Some(wire::header_name(header, "header_name")?), false),
        Some(RandomValueSpecifier::UseHashPolicy(on)) => (None, on.value),
        None => (None, false),
    };
    Ok(WeightedClusters {
        clusters,
        total_weight,
        runtime_key_prefix: optional_name(&w.runtime_key_prefix),
        random_value_header,
        use_hash_policy,
    })
}

fn weighted_cluster(c: &pb::weighted_cluster::ClusterWeight) -> Result<WeightedCluster, Rejection> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let host_rewrite = match &c.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host_name(host, "host_rewrite_literal")?),
        None => None,
    };
    Ok(WeightedCluster {
        cluster: cluster_leaf(&c.name, &c.cluster_header, "name")?,
        weight: required(&c.weight, "weight")?.value,
        metadata_match: subset_match(&c.metadata_match),
        request_headers: substitution::header_edits(
            &c.request_headers_to_add,
            &c.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: substitution::header_edits(
            &c.response_headers_to_add,
            &c.response_headers_to_remove,
            "response_headers",
        )?,
        host_rewrite,
        overrides: parse_overrides(&c.typed_per_filter_config)?,
    })
}

/// A host that is put into a header as it stands.
pub(super) fn host_name(text: &str, field: &str) -> Result<Name, Rejection> {
    match http::HeaderValue::from_str(text) {
        Ok(_) => Ok(name(text)),
        Err(_) => Err(Rejection::invalid(field, "is no header value")),
    }
}

fn path_rewrite(action: &pb::RouteAction, path: &PathMatcher) -> Result<Option<PathRewrite>, Rejection> {
    let given = [
        ("prefix_rewrite", !action.prefix_rewrite.is_empty()),
        ("regex_rewrite", action.regex_rewrite.is_some()),
        ("path_rewrite_policy", action.path_rewrite_policy.is_some()),
        ("path_rewrite", !action.path_rewrite.is_empty()),
    ];
    let mut given = given.iter().filter(|(_, given)| *given).map(|(field, _)| *field);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        return Err(Rejection::invalid(second, format!("excludes {first}; give one of them")));
    }
    if let Some(rewrite) = &action.regex_rewrite {
        let (pattern, substitution) = substitution(rewrite, "regex_rewrite")?;
        return Ok(Some(PathRewrite::Regex { pattern, substitution }));
    }
    if let Some(extension) = &action.path_rewrite_policy {
        return template_rewrite(extension, path).map(Some).within("path_rewrite_policy");
    }
    if !action.path_rewrite.is_empty() {
        return Ok(Some(PathRewrite::Format(substitution::field(&action.path_rewrite, "path_rewrite")?)));
    }
    Ok(optional_name(&action.prefix_rewrite).map(PathRewrite::Prefix))
}

pub(super) fn substitution(
    rewrite: &RegexMatchAndSubstitute,
    field: &str,
) -> Result<(RegexPattern, String), Rejection> {
    let (pattern, substitution) = matcher::substitution(rewrite, field)?;
    Ok((RegexPattern(pattern), substitution))
}

fn template_rewrite(extension: &core::TypedExtensionConfig, path: &PathMatcher) -> Result<PathRewrite, Rejection> {
    let any = required(&extension.typed_config, "typed_config")?;
    let config: uri_template::UriTemplateRewriteConfig = wire::unpack(any, "typed_config")?;
    let PathMatcher::UriTemplate(from) = path else {
        return Err(Rejection::invalid("", "needs a uri_template path_match_policy in the route's match"));
    };
    let rewrite = template_pieces(&config.path_template_rewrite, from)
        .map_err(|e| Rejection::invalid("typed_config.path_template_rewrite", e))?;
    Ok(PathRewrite::Template { rewrite, from: from.clone() })
}

/// `/a/{x}/b` as pieces; every variable must be one that `from` captures.
fn template_pieces(text: &str, from: &UriTemplate) -> Result<Vec<TemplatePiece>, String> {
    if !text.starts_with('/') {
        return Err(format!("`{text}` must start with `/`"));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (variable, after) = after.split_once('}').ok_or_else(|| format!("`{text}` leaves a variable open"))?;
        if !from.variables.iter().any(|v| v == variable) {
            return Err(format!("variable `{variable}` is not in the match template `{}`", from.template));
        }
        if !literal.is_empty() {
            pieces.push(TemplatePiece::Text(literal.to_owned()));
        }
        pieces.push(TemplatePiece::Variable(variable.to_owned()));
        rest = after;
    }
    if text.contains(['*', '?', '#']) || rest.contains('}') {
        return Err(format!("`{text}` may hold literal text and `{{variable}}` only"));
    }
    if !rest.is_empty() {
        pieces.push(TemplatePiece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn host_rewrite(action: &pb::RouteAction) -> Result<Option<HostRewrite>, Rejection> {
    use pb::route_action::HostRewriteSpecifier as Wire;
    Ok(match &action.host_rewrite_specifier {
        Some(Wire::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host_name(host, "host_rewrite_literal")?)),
        Some(Wire::AutoHostRewrite(on)) => on.value.then_some(HostRewrite::Auto),
        Some(Wire::HostRewriteHeader(header)) => {
            Some(HostRewrite::Header(wire::header_name(header, "host_rewrite_header")?))
        }
        Some(Wire::HostRewritePathRegex(rewrite)) => {
            let (pattern, substitution) = substitution(rewrite, "host_rewrite_path_regex")?;
            Some(HostRewrite::PathRegex { pattern, substitution })
        }
        Some(Wire::HostRewrite(text)) => Some(HostRewrite::Format(substitution::field(text, "host_rewrite")?)),
        None => None,
    })
}
