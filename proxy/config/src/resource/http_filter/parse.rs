//! `HttpFilter` entries and `typed_per_filter_config` maps: the filter by its type URL.

use std::collections::HashMap;
use std::sync::Arc;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::route::v3::FilterConfig;
use sidemesh_proto::envoy::extensions::filters::http as pb;
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use sidemesh_proto::{google, type_url};

use super::{
    FilterOverride, FilterOverrides, GrpcStats, HttpFilter, HttpFilterKind, buffer, compressor, cors, csrf, ext_authz,
    fault, header_mutation, header_to_metadata, health_check, jwt_authn, rate_limit, rbac, router, set_filter_state,
    set_metadata, stateful_session,
};
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{self, flag, non_empty, required};

/// One entry of a filter chain. `None`: an optional filter of a type that is not implemented.
pub fn parse(entry: &hcm::HttpFilter) -> Result<Option<HttpFilter>, Rejection> {
    use hcm::http_filter::ConfigType;
    let name = non_empty(&entry.name, "name")?;
    let kind = match &entry.config_type {
        Some(ConfigType::TypedConfig(any)) if entry.is_optional && !is_known(any) => return Ok(None),
        Some(ConfigType::TypedConfig(any)) => parse_kind(any).within("typed_config")?,
        Some(ConfigType::ConfigDiscovery(source)) => discovered(&name, source).within("config_discovery")?,
        None => return Err(Rejection::invalid("typed_config", "is required")),
    };
    Ok(Some(HttpFilter { name, kind, disabled: entry.disabled }))
}

fn discovered(filter: &Name, source: &core::ExtensionConfigSource) -> Result<HttpFilterKind, Rejection> {
    if source.type_urls.is_empty() {
        return Err(Rejection::invalid("type_urls", "must name at least one type"));
    }
    let default = match &source.default_config {
        Some(any) => {
            let given = type_url::message_name(&any.type_url);
            if !source.type_urls.iter().any(|url| type_url::message_name(url) == given) {
                return Err(Rejection::invalid("default_config", format!("type `{given}` is not in type_urls")));
            }
            Some(Box::new(parse_kind(any).within("default_config")?))
        }
        None if source.apply_default_config_without_warming => {
            let reason = "needs a default_config";
            return Err(Rejection::invalid("apply_default_config_without_warming", reason));
        }
        None => None,
    };
    Ok(HttpFilterKind::Discovered {
        name: filter.clone(),
        source: wire::config_source(required(&source.config_source, "config_source")?, "config_source")?,
        default,
        type_urls: source.type_urls.iter().map(|url| name(url)).collect(),
        without_warming: source.apply_default_config_without_warming,
    })
}

type Parse = fn(&google::Any) -> Result<HttpFilterKind, Rejection>;

/// The message types of filters, and what each becomes.
const FILTERS: &[(&str, Parse)] = &[
    ("envoy.extensions.filters.http.router.v3.Router", |any| {
        Ok(HttpFilterKind::Router(router::parse(&wire::unpack(any, "")?)?))
    }),
    ("envoy.extensions.filters.http.buffer.v3.Buffer", |any| {
        Ok(HttpFilterKind::Buffer(buffer::parse(&wire::unpack(any, "")?)?))
    }),
    ("envoy.extensions.filters.http.compressor.v3.Compressor", |any| {
        Ok(HttpFilterKind::Compressor(Arc::new(compressor::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.decompressor.v3.Decompressor", |any| {
        Ok(HttpFilterKind::Decompressor(Arc::new(compressor::parse_decompressor(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.cors.v3.Cors", |any| {
        wire::unpack::<pb::cors::v3::Cors>(any, "").map(|_| HttpFilterKind::Cors)
    }),
    ("envoy.extensions.filters.http.csrf.v3.CsrfPolicy", |any| {
        Ok(HttpFilterKind::Csrf(csrf::parse(&wire::unpack(any, "")?)?))
    }),
    ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", |any| {
        Ok(HttpFilterKind::ExtAuthz(Arc::new(ext_authz::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.fault.v3.HTTPFault", |any| {
        Ok(HttpFilterKind::Fault(Arc::new(fault::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", |any| {
        Ok(HttpFilterKind::GrpcStats(grpc_stats(&wire::unpack(any, "")?)))
    }),
    ("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", |any| {
        wire::unpack::<pb::grpc_web::v3::GrpcWeb>(any, "").map(|_| HttpFilterKind::GrpcWeb)
    }),
    ("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", |any| {
        Ok(HttpFilterKind::HeaderMutation(Arc::new(header_mutation::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.header_to_metadata.v3.Config", |any| {
        Ok(HttpFilterKind::HeaderToMetadata(Arc::new(header_to_metadata::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.health_check.v3.HealthCheck", |any| {
        Ok(HttpFilterKind::HealthCheck(Arc::new(health_check::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", |any| {
        Ok(HttpFilterKind::JwtAuthn(Arc::new(jwt_authn::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", |any| {
        Ok(HttpFilterKind::LocalRateLimit(Arc::new(rate_limit::parse_local(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.ratelimit.v3.RateLimit", |any| {
        Ok(HttpFilterKind::RateLimit(Arc::new(rate_limit::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.rbac.v3.RBAC", |any| {
        Ok(HttpFilterKind::Rbac(Arc::new(rbac::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.set_filter_state.v3.Config", |any| {
        Ok(HttpFilterKind::SetFilterState(Arc::new(set_filter_state::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.set_metadata.v3.Config", |any| {
        Ok(HttpFilterKind::SetMetadata(Arc::new(set_metadata::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.stateful_session.v3.StatefulSession", |any| {
        Ok(HttpFilterKind::StatefulSession(Arc::new(stateful_session::parse(&wire::unpack(any, "")?)?)))
    }),
    ("envoy.extensions.filters.http.on_demand.v3.OnDemand", |any| {
        on_demand(&wire::unpack(any, "")?).map(|()| HttpFilterKind::OnDemand)
    }),
];

fn is_known(any: &google::Any) -> bool {
    let given = type_url::message_name(&any.type_url);
    FILTERS.iter().any(|(message, _)| *message == given)
}

/// A filter's own configuration: `typed_config` of an entry, or what ECDS delivers.
pub fn parse_kind(any: &google::Any) -> Result<HttpFilterKind, Rejection> {
    let given = type_url::message_name(&any.type_url);
    match FILTERS.iter().find(|(message, _)| *message == given) {
        Some((_, parse)) => parse(any),
        None => {
            let reason = format!("HTTP filter `{}` is not supported; remove it or set is_optional", any.type_url);
            Err(Rejection::unsupported("", reason))
        }
    }
}

fn grpc_stats(config: &pb::grpc_stats::v3::FilterConfig) -> GrpcStats {
    use pb::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
    let (services, all) = match &config.per_method_stat_specifier {
        Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
            let methods = |s: &core::grpc_method_list::Service| s.method_names.iter().map(|m| name(m)).collect();
            (list.services.iter().map(|s| (name(&s.name), methods(s))).collect(), false)
        }
        Some(PerMethodStatSpecifier::StatsForAllMethods(on)) => (Vec::new(), flag(&Some(*on), false)),
        None => (Vec::new(), false),
    };
    GrpcStats { stats_for_all_methods: all, enable_upstream_stats: config.enable_upstream_stats, services }
}

fn on_demand(config: &pb::on_demand::v3::OnDemand) -> Result<(), Rejection> {
    match &config.odcds {
        Some(_) => Err(Rejection::unsupported("odcds", "clusters cannot be fetched on demand; remove it")),
        None => Ok(()),
    }
}

/// `typed_per_filter_config`, sorted by filter name. Each value may stand in a `FilterConfig`.
pub fn parse_overrides(map: &HashMap<String, google::Any>) -> Result<FilterOverrides, Rejection> {
    let mut overrides = Vec::with_capacity(map.len());
    for (filter, any) in map {
        let parsed = wrapped(any).map_err(|r| r.within(&format!("typed_per_filter_config[{filter}]")))?;
        overrides.extend(parsed.map(|o| (name(filter), Arc::new(o))));
    }
    overrides.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(FilterOverrides(overrides))
}

/// `None`: the configuration of an optional filter that is not implemented.
fn wrapped(any: &google::Any) -> Result<Option<FilterOverride>, Rejection> {
    if type_url::message_name(&any.type_url) != "envoy.config.route.v3.FilterConfig" {
        return match one_override(any)? {
            None => Err(unknown_override(any)),
            parsed => Ok(parsed),
        };
    }
    let wrapper: FilterConfig = wire::unpack(any, "")?;
    match &wrapper.config {
        _ if wrapper.disabled => Ok(Some(FilterOverride::Disabled)),
        None => Ok(Some(FilterOverride::Enabled)),
        Some(inner) if inner.type_url.is_empty() => Ok(Some(FilterOverride::Enabled)),
        Some(inner) => match one_override(inner).within("config")? {
            None if !wrapper.is_optional => Err(unknown_override(inner)).within("config"),
            parsed => Ok(parsed),
        },
    }
}

fn unknown_override(any: &google::Any) -> Rejection {
    Rejection::unsupported("", format!("per-route configuration `{}` is not supported; remove it", any.type_url))
}

/// `None`: of a type that is not known.
fn one_override(any: &google::Any) -> Result<Option<FilterOverride>, Rejection> {
    Ok(Some(match type_url::message_name(&any.type_url) {
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => buffer::parse_override(&wire::unpack(any, "")?)?,
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute" => {
            compressor::parse_override(&wire::unpack(any, "")?)?
        }
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
            FilterOverride::Cors(Arc::new(cors::parse(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy" => {
            FilterOverride::Csrf(csrf::parse(&wire::unpack(any, "")?)?)
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            ext_authz::parse_override(&wire::unpack(any, "")?)?
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            FilterOverride::Fault(Arc::new(fault::parse(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            FilterOverride::HeaderMutation(Arc::new(header_mutation::parse_override(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            FilterOverride::HeaderToMetadata(Arc::new(header_to_metadata::parse(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
            FilterOverride::SetFilterState(Arc::new(set_filter_state::parse(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            FilterOverride::JwtAuthn(jwt_authn::parse_override(&wire::unpack(any, "")?)?)
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            FilterOverride::LocalRateLimit(Arc::new(rate_limit::parse_local(&wire::unpack(any, "")?)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
            FilterOverride::RateLimit(rate_limit::parse_override(&wire::unpack(any, "")?)?)
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            FilterOverride::Rbac(rbac::parse_override(&wire::unpack(any, "")?)?.map(Arc::new))
        }
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute" => {
            stateful_session::parse_override(&wire::unpack(any, "")?)?
        }
        _ => return Ok(None),
    }))
}
