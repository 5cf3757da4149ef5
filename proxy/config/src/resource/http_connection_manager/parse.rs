//! `HttpConnectionManager` from the wire, with Envoy's defaults.

use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use sidemesh_proto::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use sidemesh_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use sidemesh_proto::{google, type_url};

use super::source::route_source;
use super::tracing::tracing;
use super::{
    ClientCertDetails, CodecType, DownstreamHttp1, EscapedSlashes, ForwardClientCert, HcmUpgrade,
    HttpConnectionManager, LocalReply, LocalReplyMapper, ProxyStatus, ProxyStatusName, ServerHeader, ip_detection,
};
use crate::rejection::{Rejection, Within};
use crate::resource::access_log;
use crate::resource::cluster::{Http2Options, common_options, header_case, http2_options};
use crate::resource::core::HeaderEdits;
use crate::resource::http_filter::header_mutation::{Mutation, mutation};
use crate::resource::http_filter::{self, HttpFilter, HttpFilterKind};
use crate::resource::route::UpgradeConfig;
use crate::resource::substitution;
use crate::value::{Name, name};
use crate::wire;

const DEFAULT_SERVER_NAME: &str = "envoy";
const DEFAULT_MAX_REQUEST_HEADERS_KB: u32 = 60;
const MAX_REQUEST_HEADERS_KB: u32 = 8192;
const DEFAULT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE: Duration = Duration::from_secs(1);

type Wire = pb::HttpConnectionManager;

/// At least a millisecond, as in Envoy.
fn log_interval(
    hcm: &Wire,
    options: &pb::http_connection_manager::HcmAccessLogOptions,
) -> Result<Option<Duration>, Rejection> {
    let (given, field) = match &options.access_log_flush_interval {
        None => (&hcm.access_log_flush_interval, "access_log_flush_interval"),
        own => (own, "access_log_options.access_log_flush_interval"),
    };
    match wire::optional_duration(given, field)? {
        Some(every) if every < Duration::from_millis(1) => Err(Rejection::invalid(field, "must be at least 1ms")),
        every => Ok(every),
    }
}

pub fn parse(hcm: &Wire) -> Result<HttpConnectionManager, Rejection> {
    check(hcm)?;
    let off_at_zero = |d: &Option<google::Duration>, field: &str, default: Duration| {
        wire::duration_or(d, field, default).map(|d| (!d.is_zero()).then_some(d))
    };
    let internal = hcm.internal_address_config.as_ref();
    let log_options = hcm.access_log_options.unwrap_or_default();
    let server_name = if hcm.server_name.is_empty() { DEFAULT_SERVER_NAME } else { &hcm.server_name };
    Ok(HttpConnectionManager {
        stat_prefix: wire::non_empty(&hcm.stat_prefix, "stat_prefix")?,
        codec: codec(hcm.codec_type)?,
        routes: route_source(hcm)?,
        filters: filters(&hcm.http_filters)?,
        add_user_agent: wire::flag(&hcm.add_user_agent, false),
        tracing: hcm.tracing.as_ref().map(|t| tracing(t).map(Arc::new)).transpose().within("tracing")?,
        common: common_options(hcm.common_http_protocol_options.as_ref()).within("common_http_protocol_options")?,
        http1: http1(hcm.http_protocol_options.as_ref()).within("http_protocol_options")?,
        http2: http2(hcm)?,
        server_name: name(server_name),
        server_header: server_header(hcm.server_header_transformation)?,
        scheme_override: scheme_override(hcm)?,
        scheme_matches_upstream: hcm.scheme_header_transformation.as_ref().is_some_and(|t| t.match_upstream),
        max_request_headers_kb: max_request_headers_kb(hcm)?,
        stream_flush_timeout: wire::optional_duration(&hcm.stream_flush_timeout, "stream_flush_timeout")?,
        stream_idle_timeout: off_at_zero(&hcm.stream_idle_timeout, "stream_idle_timeout", DEFAULT_STREAM_IDLE_TIMEOUT)?,
        request_timeout: off_at_zero(&hcm.request_timeout, "request_timeout", Duration::ZERO)?,
        request_headers_timeout: off_at_zero(&hcm.request_headers_timeout, "request_headers_timeout", Duration::ZERO)?,
        drain_timeout: wire::duration_or(&hcm.drain_timeout, "drain_timeout", DEFAULT_DRAIN_TIMEOUT)?,
        delayed_close_timeout: off_at_zero(&hcm.delayed_close_timeout, "delayed_close_timeout", DEFAULT_DELAYED_CLOSE)?,
        log_new_requests: hcm.flush_access_log_on_new_request || log_options.flush_access_log_on_new_request,
        log_interval: log_interval(hcm, &log_options)?,
        log_tunnels: log_options.flush_log_on_tunnel_successfully_established,
        access_logs: wire::each(&hcm.access_log, "access_log", |l| access_log::parse(l).map(Arc::new))?,
        use_remote_address: wire::flag(&hcm.use_remote_address, false),
        xff_num_trusted_hops: hcm.xff_num_trusted_hops,
        skip_xff_append: hcm.skip_xff_append,
        ip_detection: ip_detection::parse(&hcm.original_ip_detection_extensions)?,
        via: wire::optional_name(&hcm.via),
        internal_addresses: internal
            .map(|i| wire::each(&i.cidr_ranges, "cidr_ranges", |c| wire::cidr(c, "")))
            .transpose()
            .within("internal_address_config")?,
        generate_request_id: wire::flag(&hcm.generate_request_id, true),
        preserve_external_request_id: hcm.preserve_external_request_id,
        always_set_request_id_in_response: hcm.always_set_request_id_in_response,
        request_id_pack_trace_reason: request_id(hcm).within("request_id_extension.typed_config")?,
        forward_client_cert: forward_client_cert(hcm.forward_client_cert_details)?,
        client_cert_details: client_cert_details(hcm)?,
        proxy_100_continue: hcm.proxy_100_continue,
        upgrades: wire::each(&hcm.upgrade_configs, "upgrade_configs", upgrade)?,
        normalize_path: wire::flag(&hcm.normalize_path, false),
        merge_slashes: hcm.merge_slashes,
        escaped_slashes: escaped_slashes(hcm.path_with_escaped_slashes_action)?,
        local_reply: hcm.local_reply_config.as_ref().map(local_reply).transpose().within("local_reply_config")?,
        strip_matching_host_port: hcm.strip_matching_host_port,
        strip_any_host_port: strips_any_port(hcm),
        strip_trailing_host_dot: hcm.strip_trailing_host_dot,
        proxy_status: hcm.proxy_status_config.as_ref().map(|p| Arc::new(proxy_status(p, server_name))),
        append_x_forwarded_port: hcm.append_x_forwarded_port,
        early_header_mutation: early_mutations(hcm)?,
        http1_safe_max_connection_duration: hcm.http1_safe_max_connection_duration,
    })
}

/// Rules between fields, and what is not supported.
fn check(hcm: &Wire) -> Result<(), Rejection> {
    for (set, field) in [
        (hcm.represent_ipv4_remote_address_as_ipv4_mapped_ipv6, "represent_ipv4_remote_address_as_ipv4_mapped_ipv6"),
        (hcm.path_normalization_options.is_some(), "path_normalization_options"),
        (hcm.typed_header_validation_config.is_some(), "typed_header_validation_config"),
        (hcm.forward_client_cert_matcher.is_some(), "forward_client_cert_matcher"),
        (hcm.forward_proto_config.is_some(), "forward_proto_config"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    for (text, field) in [(&hcm.server_name, "server_name"), (&hcm.via, "via")] {
        if http::HeaderValue::from_str(text).is_err() {
            return Err(Rejection::invalid(field, "is no header value"));
        }
    }
    if hcm.strip_matching_host_port && strips_any_port(hcm) {
        let reason = "give strip_matching_host_port or strip_any_host_port, not both";
        return Err(Rejection::invalid("strip_any_host_port", reason));
    }
    if !hcm.original_ip_detection_extensions.is_empty() {
        let reason = "goes with neither use_remote_address nor xff_num_trusted_hops";
        if wire::flag(&hcm.use_remote_address, false) || hcm.xff_num_trusted_hops != 0 {
            return Err(Rejection::invalid("original_ip_detection_extensions", reason));
        }
    }
    Ok(())
}

fn strips_any_port(hcm: &Wire) -> bool {
    use pb::http_connection_manager::StripPortMode;
    matches!(hcm.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)))
}

fn codec(number: i32) -> Result<CodecType, Rejection> {
    use pb::http_connection_manager::CodecType as Wire;
    match wire::enumeration::<Wire>(number, "codec_type")? {
        Wire::Auto => Ok(CodecType::Auto),
        Wire::Http1 => Ok(CodecType::Http1),
        Wire::Http2 => Ok(CodecType::Http2),
        Wire::Http3 => Err(Rejection::unsupported("codec_type", "HTTP/3 is not supported")),
    }
}

/// A chain ends with the router, which is nowhere else.
fn filters(list: &[pb::HttpFilter]) -> Result<Vec<Arc<HttpFilter>>, Rejection> {
    let mut filters = Vec::with_capacity(list.len());
    for (i, filter) in list.iter().enumerate() {
        // `None`: an optional filter that is not known here.
        if let Some(parsed) = http_filter::parse(filter).within_index("http_filters", i)? {
            let router = matches!(parsed.kind, HttpFilterKind::Router(_));
            let last = i + 1 == list.len();
            if router && !last {
                let reason = "the router must be the last filter";
                return Err(Rejection::invalid("", reason)).within_index("http_filters", i);
            }
            filters.push(Arc::new(parsed));
        }
    }
    match filters.last().map(|f| &f.kind) {
        Some(HttpFilterKind::Router(_)) => Ok(filters),
        _ => Err(Rejection::invalid("http_filters", "the last filter must be envoy.filters.http.router")),
    }
}

/// The listener's HTTP/2 options; what they leave open of malformed messages, the connection manager says for all protocols.
fn http2(hcm: &pb::HttpConnectionManager) -> Result<Http2Options, Rejection> {
    let mut http2 = http2_options(hcm.http2_protocol_options.as_ref()).within("http2_protocol_options")?;
    let overridden =
        hcm.http2_protocol_options.as_ref().is_some_and(|o| o.override_stream_error_on_invalid_http_message.is_some());
    if let Some(general) = hcm.stream_error_on_invalid_http_message.as_ref().filter(|_| !overridden) {
        http2.stream_error_on_invalid_message = Some(general.value);
    }
    Ok(http2)
}

fn http1(options: Option<&core::Http1ProtocolOptions>) -> Result<DownstreamHttp1, Rejection> {
    let empty = core::Http1ProtocolOptions::default();
    let o = options.unwrap_or(&empty);
    if !o.ignore_http_11_upgrade.is_empty() {
        return Err(Rejection::unsupported("ignore_http_11_upgrade", "leave it out"));
    }
    Ok(DownstreamHttp1 {
        allow_absolute_url: wire::flag(&o.allow_absolute_url, true),
        accept_http_10: o.accept_http_10,
        default_host_for_http_10: wire::optional_name(&o.default_host_for_http_10),
        enable_trailers: o.enable_trailers,
        header_case: header_case(o)?,
        allow_chunked_length: o.allow_chunked_length,
        allow_custom_methods: o.allow_custom_methods,
    })
}

fn server_header(number: i32) -> Result<ServerHeader, Rejection> {
    use pb::http_connection_manager::ServerHeaderTransformation as Wire;
    Ok(match wire::enumeration::<Wire>(number, "server_header_transformation")? {
        Wire::Overwrite => ServerHeader::Overwrite,
        Wire::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        Wire::PassThrough => ServerHeader::PassThrough,
    })
}

fn scheme_override(hcm: &Wire) -> Result<Option<Name>, Rejection> {
    use core::scheme_header_transformation::Transformation;
    let Some(transformation) = &hcm.scheme_header_transformation else { return Ok(None) };
    match &transformation.transformation {
        Some(Transformation::SchemeToOverwrite(scheme)) if matches!(scheme.as_str(), "http" | "https") => {
            Ok(Some(name(scheme)))
        }
        Some(Transformation::SchemeToOverwrite(_)) => {
            Err(Rejection::invalid("scheme_header_transformation.scheme_to_overwrite", "must be http or https"))
        }
        None => Ok(None),
    }
}

fn max_request_headers_kb(hcm: &Wire) -> Result<u32, Rejection> {
    match wire::uint32(&hcm.max_request_headers_kb).unwrap_or(DEFAULT_MAX_REQUEST_HEADERS_KB) {
        kb if (1..=MAX_REQUEST_HEADERS_KB).contains(&kb) => Ok(kb),
        kb => {
            let reason = format!("{kb} is not between 1 and {MAX_REQUEST_HEADERS_KB}");
            Err(Rejection::invalid("max_request_headers_kb", reason))
        }
    }
}

/// Whether the trace reason goes into the request id.
fn request_id(hcm: &Wire) -> Result<bool, Rejection> {
    let Some(any) = hcm.request_id_extension.as_ref().and_then(|e| e.typed_config.as_ref()) else { return Ok(true) };
    let config = wire::unpack::<UuidRequestIdConfig>(any, "")?;
    if !wire::flag(&config.use_request_id_for_trace_sampling, true) {
        return Err(Rejection::unsupported("use_request_id_for_trace_sampling", "false is not supported"));
    }
    Ok(wire::flag(&config.pack_trace_reason, true))
}

fn forward_client_cert(number: i32) -> Result<ForwardClientCert, Rejection> {
    use pb::http_connection_manager::ForwardClientCertDetails as Wire;
    Ok(match wire::enumeration::<Wire>(number, "forward_client_cert_details")? {
        Wire::Sanitize => ForwardClientCert::Sanitize,
        Wire::ForwardOnly => ForwardClientCert::ForwardOnly,
        Wire::AppendForward => ForwardClientCert::AppendForward,
        Wire::SanitizeSet => ForwardClientCert::SanitizeSet,
        Wire::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    })
}

fn client_cert_details(hcm: &Wire) -> Result<ClientCertDetails, Rejection> {
    let Some(d) = &hcm.set_current_client_cert_details else { return Ok(ClientCertDetails::default()) };
    if d.issuer || d.format != 0 {
        let reason = "issuer and format are not supported";
        return Err(Rejection::unsupported("set_current_client_cert_details", reason));
    }
    Ok(ClientCertDetails {
        subject: wire::flag(&d.subject, false),
        cert: d.cert,
        chain: d.chain,
        dns: d.dns,
        uri: d.uri,
    })
}

fn upgrade(u: &pb::http_connection_manager::UpgradeConfig) -> Result<HcmUpgrade, Rejection> {
    if http::HeaderValue::from_str(&u.upgrade_type).is_err() {
        return Err(Rejection::invalid("upgrade_type", "is no header value"));
    }
    let kind = wire::non_empty(&u.upgrade_type, "upgrade_type")?;
    let config =
        UpgradeConfig { kind: name(&kind.to_ascii_lowercase()), enabled: wire::flag(&u.enabled, true), connect: None };
    let filters = if u.filters.is_empty() { None } else { Some(filters(&u.filters).map_err(rename_filters)?) };
    Ok(HcmUpgrade { config, filters })
}

/// The chain of an upgrade stands in `filters`.
fn rename_filters(mut r: Rejection) -> Rejection {
    if let Some(rest) = r.path.strip_prefix("http_") {
        r.path = rest.to_owned();
    }
    r
}

fn escaped_slashes(number: i32) -> Result<EscapedSlashes, Rejection> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Wire;
    Ok(match wire::enumeration::<Wire>(number, "path_with_escaped_slashes_action")? {
        Wire::ImplementationSpecificDefault | Wire::KeepUnchanged => EscapedSlashes::Keep,
        Wire::RejectRequest => EscapedSlashes::Reject,
        Wire::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
        Wire::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
    })
}

fn local_reply(c: &pb::LocalReplyConfig) -> Result<Arc<LocalReply>, Rejection> {
    let mappers = wire::each(&c.mappers, "mappers", |m| {
        let filter = wire::required(&m.filter, "filter")?;
        let status = match wire::uint32(&m.status_code) {
            None => None,
            Some(status @ 200..600) => Some(status as u16),
            Some(status) => {
                return Err(Rejection::invalid("status_code", format!("{status} is not between 200 and 599")));
            }
        };
        Ok(LocalReplyMapper {
            filter: access_log::parse_filter(filter).within("filter")?,
            status,
            body: m.body.as_ref().map(|b| wire::data_source(b, "body")).transpose()?,
            body_format: m
                .body_format_override
                .as_ref()
                .map(|f| substitution::body_format(f, "body_format_override"))
                .transpose()?,
            headers: HeaderEdits {
                add: substitution::header_additions(&m.headers_to_add, "headers_to_add")?,
                remove: Vec::new(),
            },
        })
    })?;
    let body_format = c.body_format.as_ref().map(|f| substitution::body_format(f, "body_format")).transpose()?;
    Ok(Arc::new(LocalReply { mappers, body_format }))
}

fn proxy_status(p: &pb::http_connection_manager::ProxyStatusConfig, server_name: &str) -> ProxyStatus {
    use pb::http_connection_manager::proxy_status_config::ProxyName;
    ProxyStatus {
        remove_details: p.remove_details,
        remove_connection_termination_details: p.remove_connection_termination_details,
        remove_response_flags: p.remove_response_flags,
        set_recommended_response_code: p.set_recommended_response_code,
        name: match &p.proxy_name {
            Some(ProxyName::UseNodeId(true)) => ProxyStatusName::NodeId,
            Some(ProxyName::LiteralProxyName(literal)) if !literal.is_empty() => {
                ProxyStatusName::Literal(name(literal))
            }
            _ => ProxyStatusName::Literal(name(server_name)),
        },
    }
}

fn early_mutations(hcm: &Wire) -> Result<Vec<Mutation>, Rejection> {
    let mut steps = Vec::new();
    for (i, extension) in hcm.early_header_mutation_extensions.iter().enumerate() {
        let path = format!("early_header_mutation_extensions[{i}].typed_config");
        let any = wire::required(&extension.typed_config, &path)?;
        if type_url::message_name(&any.type_url) != HeaderMutation::full_name() {
            let reason = format!("no extension `{}`; there is header_mutation", any.type_url);
            return Err(Rejection::unsupported(path, reason));
        }
        let config = wire::unpack::<HeaderMutation>(any, &path)?;
        steps.extend(wire::each(&config.mutations, "mutations", mutation).within(&path)?);
    }
    Ok(steps)
}
