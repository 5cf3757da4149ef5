//! `HttpConnectionManager.Tracing` and its providers, OpenTelemetry and Zipkin.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::trace::v3 as trace;
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use sidemesh_proto::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
use sidemesh_proto::envoy::extensions::tracers::opentelemetry::samplers::v3 as samplers;
use sidemesh_proto::envoy::r#type::v3 as types;
use sidemesh_proto::type_url;

use prost::Name as _;

use super::{HttpService, Sampler, TraceProvider, Tracing, Zipkin};
use crate::rejection::{Rejection, Within};
use crate::resource::http_service::http_service;
use crate::resource::route;
use crate::resource::substitution;
use crate::value::{Fraction, Name, name};
use crate::wire;

const DEFAULT_PATH_TAG_LENGTH: u32 = 256;
/// Envoy's name of a service that has none.
const DEFAULT_SERVICE_NAME: &str = "unknown_service:envoy";
/// The OpenTelemetry specification's name of the variable.
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// `ParentBased` samplers inside one another.
const MAX_SAMPLER_NESTING: u32 = 4;

pub(super) fn tracing(t: &pb::http_connection_manager::Tracing) -> Result<Tracing, Rejection> {
    let sampling = |p: &Option<types::Percent>, field: &str| match p {
        None => Ok(Fraction::ALWAYS),
        Some(p) => {
            let percent = wire::percent(p, field)?;
            Ok(Fraction { numerator: (percent * 100.0) as u32, denominator: 10_000 })
        }
    };
    let operation = |text: &str, field: &str| (!text.is_empty()).then(|| substitution::field(text, field)).transpose();
    Ok(Tracing {
        client_sampling: sampling(&t.client_sampling, "client_sampling")?,
        random_sampling: sampling(&t.random_sampling, "random_sampling")?,
        overall_sampling: sampling(&t.overall_sampling, "overall_sampling")?,
        max_path_tag_length: wire::uint32(&t.max_path_tag_length).unwrap_or(DEFAULT_PATH_TAG_LENGTH),
        custom_tags: route::custom_tags(&t.custom_tags)?,
        spawn_upstream_span: wire::flag(&t.spawn_upstream_span, false),
        provider: t.provider.as_ref().map(|p| provider(p).map(Arc::new)).transpose().within("provider")?,
        operation: operation(&t.operation, "operation")?,
        upstream_operation: operation(&t.upstream_operation, "upstream_operation")?,
    })
}

fn provider(provider: &trace::tracing::Http) -> Result<TraceProvider, Rejection> {
    let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = &provider.config_type else {
        return Err(Rejection::invalid("typed_config", format!("is required for `{}`", provider.name)));
    };
    match type_url::message_name(&any.type_url) {
        n if n == trace::OpenTelemetryConfig::full_name() => {
            open_telemetry(&wire::unpack::<trace::OpenTelemetryConfig>(any, "typed_config")?).within("typed_config")
        }
        n if n == trace::ZipkinConfig::full_name() => {
            zipkin(&wire::unpack::<trace::ZipkinConfig>(any, "typed_config")?).within("typed_config")
        }
        _ => {
            let reason = format!("no tracer `{}`; there are opentelemetry and zipkin", any.type_url);
            Err(Rejection::unsupported("typed_config", reason))
        }
    }
}

/// How long a post to a Zipkin collector may take.
const ZIPKIN_TIMEOUT: Duration = Duration::from_secs(5);

fn zipkin(c: &trace::ZipkinConfig) -> Result<TraceProvider, Rejection> {
    use trace::zipkin_config::{CollectorEndpointVersion as Version, TraceContextOption};
    let protobuf = match wire::enumeration(c.collector_endpoint_version, "collector_endpoint_version")? {
        Version::HttpJson => false,
        Version::HttpProto => true,
        other => {
            let reason = format!("{} is not supported; use HTTP_JSON or HTTP_PROTO", other.as_str_name());
            return Err(Rejection::unsupported("collector_endpoint_version", reason));
        }
    };
    let http = match &c.collector_service {
        Some(service) => http_service(service, "collector_service")?,
        None => {
            let cluster = wire::non_empty(&c.collector_cluster, "collector_cluster")?;
            let path = wire::non_empty(&c.collector_endpoint, "collector_endpoint")?;
            let host = if c.collector_hostname.is_empty() { &*cluster } else { &c.collector_hostname };
            let uri = name(&format!("http://{host}{path}"));
            if uri.parse::<http::Uri>().is_err() {
                return Err(Rejection::invalid("collector_endpoint", format!("`{uri}` is no URI")));
            }
            HttpService { uri, cluster, timeout: ZIPKIN_TIMEOUT, headers: Vec::new() }
        }
    };
    let option = wire::enumeration::<TraceContextOption>(c.trace_context_option, "trace_context_option")?;
    Ok(TraceProvider {
        service: None,
        http: Some(http),
        service_name: name(""),
        resource_attributes: Vec::new(),
        sampler: None,
        zipkin: Some(Zipkin {
            trace_id_128bit: c.trace_id_128bit,
            shared_span: wire::flag(&c.shared_span_context, true),
            protobuf,
            with_w3c: option == TraceContextOption::UseB3WithW3cPropagation,
            timestamp_ids: c.timestamp_trace_ids,
        }),
    })
}

fn open_telemetry(c: &trace::OpenTelemetryConfig) -> Result<TraceProvider, Rejection> {
    if c.grpc_service.is_some() && c.http_service.is_some() {
        return Err(Rejection::invalid("http_service", "give grpc_service or http_service, not both"));
    }
    for (set, field) in [
        (c.exporter.is_some(), "exporter"),
        (
            c.set_service_name_resource_attribute.as_ref().is_some_and(|v| !v.value),
            "set_service_name_resource_attribute",
        ),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    let service_name = if c.service_name.is_empty() { DEFAULT_SERVICE_NAME } else { &c.service_name };
    Ok(TraceProvider {
        service: c.grpc_service.as_ref().map(|s| wire::grpc_service(s, "grpc_service")).transpose()?,
        http: c.http_service.as_ref().map(|s| http_service(s, "http_service")).transpose()?,
        service_name: name(service_name),
        resource_attributes: resource_attributes(&c.resource_detectors)?,
        zipkin: None,
        sampler: c.sampler.as_ref().map(|s| sampler(s, MAX_SAMPLER_NESTING)).transpose().within("sampler")?,
    })
}

/// What the detectors find, read once: fixed attributes, and those of `OTEL_RESOURCE_ATTRIBUTES`.
fn resource_attributes(list: &[core::TypedExtensionConfig]) -> Result<Vec<(Name, Name)>, Rejection> {
    let mut attributes: Vec<(Name, Name)> = Vec::new();
    for (i, detector) in list.iter().enumerate() {
        attributes.extend(detected(detector).within_index("resource_detectors", i)?);
    }
    attributes.sort();
    Ok(attributes)
}

fn detected(detector: &core::TypedExtensionConfig) -> Result<Vec<(Name, Name)>, Rejection> {
    let any = wire::required(&detector.typed_config, "typed_config")?;
    match type_url::message_name(&any.type_url) {
        n if n == detectors::StaticConfigResourceDetectorConfig::full_name() => {
            let config = wire::unpack::<detectors::StaticConfigResourceDetectorConfig>(any, "typed_config")?;
            Ok(config.attributes.iter().map(|(key, value)| (name(key), name(value))).collect())
        }
        n if n == detectors::EnvironmentResourceDetectorConfig::full_name() => {
            let text = std::env::var(RESOURCE_ATTRIBUTES).unwrap_or_default();
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            Ok(pairs.map(|(key, value)| (name(key.trim()), name(value.trim()))).collect())
        }
        _ => {
            let reason = format!("no resource detector `{}`; there are static_config and environment", any.type_url);
            Err(Rejection::unsupported("typed_config", reason))
        }
    }
}

fn sampler(s: &core::TypedExtensionConfig, depth: u32) -> Result<Sampler, Rejection> {
    if depth == 0 {
        return Err(Rejection::invalid("", "samplers are nested too deeply"));
    }
    let any = wire::required(&s.typed_config, "typed_config")?;
    match type_url::message_name(&any.type_url) {
        n if n == samplers::AlwaysOnSamplerConfig::full_name() => Ok(Sampler::AlwaysOn),
        n if n == samplers::TraceIdRatioBasedSamplerConfig::full_name() => {
            let config = wire::unpack::<samplers::TraceIdRatioBasedSamplerConfig>(any, "typed_config")?;
            let fraction = match &config.sampling_percentage {
                Some(f) => wire::fraction(f, "sampling_percentage").within("typed_config")?,
                None => Fraction::NEVER,
            };
            Ok(Sampler::TraceIdRatio(fraction))
        }
        n if n == samplers::ParentBasedSamplerConfig::full_name() => {
            let config = wire::unpack::<samplers::ParentBasedSamplerConfig>(any, "typed_config")?;
            let inner = wire::required(&config.wrapped_sampler, "wrapped_sampler");
            let inner = inner.and_then(|s| sampler(s, depth - 1).within("wrapped_sampler")).within("typed_config")?;
            Ok(Sampler::ParentBased(Box::new(inner)))
        }
        _ => {
            let known = "always_on, trace_id_ratio_based and parent_based";
            let reason = format!("no sampler `{}`; there are {known}", any.type_url);
            Err(Rejection::unsupported("typed_config", reason))
        }
    }
}
