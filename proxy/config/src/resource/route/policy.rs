//! Policies of a route's action: retries, hedging, mirroring, hashing, upgrades, tracing.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::extensions::retry;
use sidemesh_proto::envoy::r#type::metadata::v3::metadata_kind;
use sidemesh_proto::envoy::r#type::tracing::v3 as tags;
use sidemesh_proto::{google, type_url};

use super::action::{cluster_leaf, host_name, subset_match};
use super::{
    ConnectConfig, HashPolicy, HashSource, HedgePolicy, MirrorPolicy, RateLimitedBackoff, RegexPattern, ResetFormat,
    RetryOn, RetryPolicy, RouteTracing, SubsetMatch, UpgradeConfig,
};
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::resource::http_connection_manager::{CustomTag, MetadataKind, TagValue};
use crate::resource::http_filter::cors::{self, CorsPolicy};
use crate::resource::http_filter::header_mutation::mutation;
use crate::resource::substitution;
use crate::value::{Backoff, Name, RuntimeFraction, name};
use crate::wire::{self, enumeration, flag, non_empty, optional_duration, optional_name, required, uint32};

const DEFAULT_RETRIES: u32 = 1;
const DEFAULT_RETRY_BASE: Duration = Duration::from_millis(25);
const LEAST_RETRY_BASE: Duration = Duration::from_millis(1);
const DEFAULT_RATE_LIMITED_MAX_INTERVAL: Duration = Duration::from_secs(300);

pub(super) fn optional_retry_policy(
    policy: &Option<pb::RetryPolicy>,
    field: &str,
) -> Result<Option<Arc<RetryPolicy>>, Rejection> {
    policy.as_ref().map(|p| retry_policy(p).map(Arc::new).within(field)).transpose()
}

/// A retry policy. Words of `retry_on` that are not known do nothing, as in Envoy.
pub fn retry_policy(p: &pb::RetryPolicy) -> Result<RetryPolicy, Rejection> {
    if !p.retry_options_predicates.is_empty() {
        return Err(Rejection::unsupported("retry_options_predicates", "remove it"));
    }
    let mut policy = RetryPolicy {
        on: RetryOn::parse(&p.retry_on).0,
        num_retries: uint32(&p.num_retries).unwrap_or(DEFAULT_RETRIES),
        per_try_timeout: timeout(&p.per_try_timeout, "per_try_timeout")?,
        per_try_idle_timeout: timeout(&p.per_try_idle_timeout, "per_try_idle_timeout")?,
        retriable_status_codes: statuses(&p.retriable_status_codes, "retriable_status_codes")?,
        retriable_headers: matcher::headers(&p.retriable_headers, "retriable_headers")?,
        retriable_request_headers: matcher::headers(&p.retriable_request_headers, "retriable_request_headers")?,
        backoff: backoff(&p.retry_back_off).within("retry_back_off")?,
        rate_limited_backoff: p
            .rate_limited_retry_back_off
            .as_ref()
            .map(|b| rate_limited_backoff(b).within("rate_limited_retry_back_off"))
            .transpose()?,
        avoid_previous_hosts: false,
        omit_hosts: Vec::new(),
        host_selection_retry_max_attempts: match u32::try_from(p.host_selection_retry_max_attempts) {
            Ok(0) => 1,
            Ok(attempts) => attempts,
            Err(_) => return Err(Rejection::invalid("host_selection_retry_max_attempts", "is out of range")),
        },
        previous_priorities: p
            .retry_priority
            .as_ref()
            .map(|r| previous_priorities(r).within("retry_priority"))
            .transpose()?,
    };
    for (i, predicate) in p.retry_host_predicate.iter().enumerate() {
        host_predicate(predicate, &mut policy).within_index("retry_host_predicate", i)?;
    }
    Ok(policy)
}

/// A time-out; zero is none.
fn timeout(d: &Option<google::Duration>, field: &str) -> Result<Option<Duration>, Rejection> {
    Ok(optional_duration(d, field)?.filter(|d| !d.is_zero()))
}

fn statuses(codes: &[u32], field: &str) -> Result<Vec<u16>, Rejection> {
    let one = |(i, code): (usize, &u32)| match u16::try_from(*code) {
        Ok(code @ 100..=599) => Ok(code),
        _ => Err(Rejection::invalid(format!("{field}[{i}]"), format!("{code} is no HTTP status"))),
    };
    codes.iter().enumerate().map(one).collect()
}

fn backoff(b: &Option<pb::retry_policy::RetryBackOff>) -> Result<Backoff, Rejection> {
    let Some(b) = b else {
        return Ok(Backoff { base: DEFAULT_RETRY_BASE, max: DEFAULT_RETRY_BASE * 10 });
    };
    let base = wire::positive_duration(required(&b.base_interval, "base_interval")?, "base_interval")?;
    let max = b.max_interval.as_ref().map(|m| wire::positive_duration(m, "max_interval")).transpose()?;
    if max.is_some_and(|max| max < base) {
        return Err(Rejection::invalid("max_interval", "is less than base_interval"));
    }
    let base = base.max(LEAST_RETRY_BASE);
    Ok(Backoff { base, max: max.unwrap_or(base.saturating_mul(10)).max(base) })
}

fn rate_limited_backoff(b: &pb::retry_policy::RateLimitedRetryBackOff) -> Result<RateLimitedBackoff, Rejection> {
    use pb::retry_policy::ResetHeaderFormat as Wire;
    if b.reset_headers.is_empty() {
        return Err(Rejection::invalid("reset_headers", "must name at least one header"));
    }
    let one = |header: &pb::retry_policy::ResetHeader| {
        let format = match enumeration(header.format, "format")? {
            Wire::Seconds => ResetFormat::Seconds,
            Wire::UnixTimestamp => ResetFormat::UnixTimestamp,
        };
        Ok((wire::header_name(&header.name, "name")?, format))
    };
    let headers = b.reset_headers.iter().enumerate();
    let max_interval = match &b.max_interval {
        Some(max) => wire::positive_duration(max, "max_interval")?,
        None => DEFAULT_RATE_LIMITED_MAX_INTERVAL,
    };
    Ok(RateLimitedBackoff {
        reset_headers: headers.map(|(i, h)| one(h).within_index("reset_headers", i)).collect::<Result<_, _>>()?,
        max_interval,
    })
}

fn host_predicate(p: &pb::retry_policy::RetryHostPredicate, policy: &mut RetryPolicy) -> Result<(), Rejection> {
    let Some(pb::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)) = &p.config_type else {
        return Err(Rejection::invalid("typed_config", "is required"));
    };
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => policy.avoid_previous_hosts = true,
        "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate" => {
            policy.omit_hosts.push(Arc::new(SubsetMatch(vec![(name("canary"), true.into())])));
        }
        "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig" => {
            let config: retry::host::omit_host_metadata::v3::OmitHostMetadataConfig =
                wire::unpack(any, "typed_config")?;
            policy.omit_hosts.extend(subset_match(&config.metadata_match));
        }
        other => {
            let reason =
                format!("`{other}` is not supported; use previous_hosts, omit_canary_hosts, omit_host_metadata");
            return Err(Rejection::unsupported("typed_config", reason));
        }
    }
    Ok(())
}

fn previous_priorities(p: &pb::retry_policy::RetryPriority) -> Result<u32, Rejection> {
    let Some(pb::retry_policy::retry_priority::ConfigType::TypedConfig(any)) = &p.config_type else {
        return Err(Rejection::invalid("typed_config", "is required"));
    };
    let config: retry::priority::previous_priorities::v3::PreviousPrioritiesConfig = wire::unpack(any, "typed_config")?;
    match u32::try_from(config.update_frequency) {
        Ok(frequency) if frequency > 0 => Ok(frequency),
        _ => Err(Rejection::invalid("typed_config.update_frequency", "must be greater than 0")),
    }
}

pub(super) fn hedge_policy(p: &Option<pb::HedgePolicy>) -> Option<HedgePolicy> {
    p.as_ref().map(|p| HedgePolicy { hedge_on_per_try_timeout: p.hedge_on_per_try_timeout })
}

pub(super) fn mirrors(list: &[pb::route_action::RequestMirrorPolicy]) -> Result<Arc<[MirrorPolicy]>, Rejection> {
    let one = |m: &pb::route_action::RequestMirrorPolicy| {
        let fraction = m.runtime_fraction.as_ref().map(|f| wire::runtime_fraction(f, "runtime_fraction"));
        Ok(MirrorPolicy {
            cluster: cluster_leaf(&m.cluster, &m.cluster_header, "cluster")?,
            fraction: fraction.transpose()?.unwrap_or_else(RuntimeFraction::always),
            trace_sampled: m.trace_sampled.as_ref().map(|v| v.value),
            disable_shadow_host_suffix: m.disable_shadow_host_suffix_append,
            request_headers: wire::each(&m.request_headers_mutations, "request_headers_mutations", mutation)?,
            host_rewrite: optional_name(&host_name(&m.host_rewrite_literal, "host_rewrite_literal")?),
        })
    };
    list.iter().enumerate().map(|(i, m)| one(m).within_index("request_mirror_policies", i)).collect()
}

/// The deprecated `cors` of a virtual host or a route.
pub(super) fn cors(policy: &Option<pb::CorsPolicy>) -> Result<Option<Arc<CorsPolicy>>, Rejection> {
    policy.as_ref().map(|p| cors::parse_deprecated(p).map(Arc::new)).transpose().within("cors")
}

pub(super) fn hash_policies(list: &[pb::route_action::HashPolicy]) -> Result<Vec<HashPolicy>, Rejection> {
    let one = |(i, p): (usize, &pb::route_action::HashPolicy)| match hash_source(p).within_index("hash_policy", i) {
        Ok(source) => source.map(|source| Ok(HashPolicy { terminal: p.terminal, source })),
        Err(rejection) => Some(Err(rejection)),
    };
    list.iter().enumerate().filter_map(one).collect()
}

/// `None`: connection properties that name none.
fn hash_source(p: &pb::route_action::HashPolicy) -> Result<Option<HashSource>, Rejection> {
    use pb::route_action::hash_policy::PolicySpecifier as Wire;
    Ok(Some(match &p.policy_specifier {
        Some(Wire::Header(header)) => HashSource::Header {
            name: matcher::match_name(&header.header_name, "header_name").within("header")?,
            rewrite: header
                .regex_rewrite
                .as_ref()
                .map(|r| matcher::substitution(r, "header.regex_rewrite").map(|(p, s)| (RegexPattern(p), s)))
                .transpose()?,
        },
        Some(Wire::Cookie(cookie)) => HashSource::Cookie {
            name: non_empty(&cookie.name, "cookie.name")?.to_string(),
            path: cookie.path.clone(),
            ttl: optional_duration(&cookie.ttl, "cookie.ttl")?,
            attributes: cookie.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect(),
        },
        Some(Wire::ConnectionProperties(properties)) if properties.source_ip => HashSource::SourceIp,
        Some(Wire::ConnectionProperties(_)) => return Ok(None),
        Some(Wire::QueryParameter(parameter)) => {
            HashSource::QueryParameter(non_empty(&parameter.name, "query_parameter.name")?.to_string())
        }
        Some(Wire::FilterState(state)) => HashSource::FilterState(non_empty(&state.key, "filter_state.key")?),
        None => {
            let reason = "needs one of header, cookie, connection_properties, query_parameter";
            return Err(Rejection::invalid("", reason));
        }
    }))
}

pub(super) fn upgrades(list: &[pb::route_action::UpgradeConfig]) -> Result<Vec<UpgradeConfig>, Rejection> {
    let mut upgrades: Vec<UpgradeConfig> = Vec::with_capacity(list.len());
    for (i, config) in list.iter().enumerate() {
        let upgrade = upgrade_config(config).within_index("upgrade_configs", i)?;
        if upgrades.iter().any(|u| u.kind == upgrade.kind) {
            let reason = format!("`{}` is configured twice", config.upgrade_type);
            return Err(Rejection::invalid("upgrade_type", reason)).within_index("upgrade_configs", i);
        }
        upgrades.push(upgrade);
    }
    Ok(upgrades)
}

/// One upgrade of a route.
pub fn upgrade_config(config: &pb::route_action::UpgradeConfig) -> Result<UpgradeConfig, Rejection> {
    if http::HeaderValue::from_str(&config.upgrade_type).is_err() {
        return Err(Rejection::invalid("upgrade_type", "is no header value"));
    }
    let kind: Name = name(&non_empty(&config.upgrade_type, "upgrade_type")?.to_ascii_lowercase());
    let connect = match &config.connect_config {
        Some(_) if &*kind != "connect" => {
            return Err(Rejection::invalid("connect_config", "is for the upgrade type CONNECT only"));
        }
        Some(connect) => {
            if connect.proxy_protocol_config.is_some() {
                let reason = "give the cluster the transport socket upstream_proxy_protocol";
                return Err(Rejection::unsupported("connect_config.proxy_protocol_config", reason));
            }
            Some(ConnectConfig { allow_post: connect.allow_post })
        }
        None => None,
    };
    Ok(UpgradeConfig { kind, enabled: flag(&config.enabled, true), connect })
}

pub(super) fn tracing(t: &pb::Tracing) -> Result<RouteTracing, Rejection> {
    // What a route leaves out is 100 percent, whatever the connection manager says.
    let sampling = |f: &Option<sidemesh_proto::envoy::r#type::v3::FractionalPercent>, field| {
        f.as_ref().map_or(Ok(crate::value::Fraction::ALWAYS), |f| wire::fraction(f, field)).map(Some)
    };
    Ok(RouteTracing {
        client_sampling: sampling(&t.client_sampling, "client_sampling")?,
        random_sampling: sampling(&t.random_sampling, "random_sampling")?,
        overall_sampling: sampling(&t.overall_sampling, "overall_sampling")?,
        custom_tags: custom_tags(&t.custom_tags)?,
    })
}

/// `custom_tags` of a tracing configuration.
pub fn custom_tags(list: &[tags::CustomTag]) -> Result<Vec<CustomTag>, Rejection> {
    let one = |t: &tags::CustomTag| Ok(CustomTag { tag: non_empty(&t.tag, "tag")?, value: tag_value(t)? });
    list.iter().enumerate().map(|(i, t)| one(t).within_index("custom_tags", i)).collect()
}

fn tag_value(t: &tags::CustomTag) -> Result<TagValue, Rejection> {
    use tags::custom_tag::Type;
    Ok(match &t.r#type {
        Some(Type::Literal(literal)) => TagValue::Literal(non_empty(&literal.value, "literal.value")?),
        Some(Type::Environment(variable)) => TagValue::Environment {
            name: non_empty(&variable.name, "environment.name")?,
            default: optional_name(&variable.default_value),
        },
        Some(Type::RequestHeader(header)) => TagValue::RequestHeader {
            name: wire::header_name(&header.name, "request_header.name")?,
            default: optional_name(&header.default_value),
        },
        Some(Type::Metadata(metadata)) => {
            let key = required(&metadata.metadata_key, "metadata_key").within("metadata")?;
            let (filter, path) = matcher::metadata_key(key, "metadata_key").within("metadata")?;
            let default = optional_name(&metadata.default_value);
            TagValue::Metadata { kind: metadata_kind(metadata).within("metadata")?, filter, path, default }
        }
        Some(Type::Value(text)) => TagValue::Format(substitution::field(text, "value")?),
        None => {
            let reason = "needs one of literal, environment, request_header, metadata, value";
            return Err(Rejection::invalid("", reason));
        }
    })
}

fn metadata_kind(m: &tags::custom_tag::Metadata) -> Result<MetadataKind, Rejection> {
    use metadata_kind::Kind;
    match m.kind.as_ref().and_then(|k| k.kind.as_ref()) {
        Some(Kind::Request(_)) => Ok(MetadataKind::Request),
        Some(Kind::Route(_)) => Ok(MetadataKind::Route),
        Some(Kind::Cluster(_)) => Ok(MetadataKind::Cluster),
        Some(Kind::Host(_)) => Ok(MetadataKind::Host),
        None => Err(Rejection::invalid("kind", "needs one of request, route, cluster, host")),
    }
}
