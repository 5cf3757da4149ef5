//! HTTP protocol options of both sides, and the upstream protocol of a cluster (`upstreams.http.v3.HttpProtocolOptions`, or
//! the deprecated fields on the cluster itself).

use std::time::Duration;

use prost::Name as _;
use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use sidemesh_proto::envoy::extensions::http::header_formatters::preserve_case::v3 as preserve_case;
use sidemesh_proto::envoy::extensions::upstreams::http::v3 as upstreams;
use sidemesh_proto::type_url;

use super::{
    CommonHttpOptions, FloodLimits, HeaderCase, Http2Options, KeepalivePing, UnderscoresAction, UpstreamHttp1,
    UpstreamProtocol, UpstreamVersion,
};
use crate::rejection::{Rejection, Within};
use crate::wire;

const MAX_WINDOW: u32 = 0x7fff_ffff;
const MIN_WINDOW: u32 = 65_535;
const DEFAULT_STREAM_WINDOW: u32 = 16 << 20;
const DEFAULT_CONNECTION_WINDOW: u32 = 24 << 20;
const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = 1024;
const MAX_HEADERS_KB: u32 = 8192;

/// The key of `HttpProtocolOptions` in `typed_extension_protocol_options`.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How requests reach the hosts of the cluster.
pub(super) fn upstream_protocol(cluster: &pb::Cluster) -> Result<UpstreamProtocol, Rejection> {
    for key in cluster.typed_extension_protocol_options.keys() {
        if key != HTTP_OPTIONS {
            let reason = format!("no protocol options `{key}`; there are {HTTP_OPTIONS}");
            return Err(Rejection::unsupported("typed_extension_protocol_options", reason));
        }
    }
    match cluster.typed_extension_protocol_options.get(HTTP_OPTIONS) {
        Some(any) => {
            let path = format!("typed_extension_protocol_options[{HTTP_OPTIONS}]");
            let options = wire::unpack::<upstreams::HttpProtocolOptions>(any, &path)?;
            http_protocol_options(&options).within(&path)
        }
        None => deprecated_options(cluster),
    }
}

/// Fields of the cluster from before `typed_extension_protocol_options`.
fn deprecated_options(cluster: &pb::Cluster) -> Result<UpstreamProtocol, Rejection> {
    use pb::cluster::ClusterProtocolSelection;
    let selection = wire::enumeration::<ClusterProtocolSelection>(cluster.protocol_selection, "protocol_selection")?;
    let version = match (selection, &cluster.http2_protocol_options) {
        (ClusterProtocolSelection::UseDownstreamProtocol, _) => UpstreamVersion::Downstream,
        (_, Some(_)) => UpstreamVersion::Http2,
        _ => UpstreamVersion::Http1,
    };
    let mut protocol = UpstreamProtocol {
        version,
        http1: upstream_http1(cluster.http_protocol_options.as_ref()).within("http_protocol_options")?,
        http2: http2_options(cluster.http2_protocol_options.as_ref()).within("http2_protocol_options")?,
        common: common_options(cluster.common_http_protocol_options.as_ref()).within("common_http_protocol_options")?,
        auto_sni: false,
        auto_san_validation: false,
        override_auto_sni_header: None,
    };
    set_upstream_options(&mut protocol, cluster.upstream_http_protocol_options.as_ref())?;
    if let Some(max) = wire::uint32(&cluster.max_requests_per_connection) {
        protocol.common.max_requests_per_connection = (max != 0).then_some(max);
    }
    Ok(protocol)
}

fn http_protocol_options(options: &upstreams::HttpProtocolOptions) -> Result<UpstreamProtocol, Rejection> {
    use upstreams::http_protocol_options::{UpstreamProtocolOptions as Wire, explicit_http_config::ProtocolConfig};
    for (set, field) in [
        (options.header_validation_config.is_some(), "header_validation_config"),
        (options.outlier_detection.is_some(), "outlier_detection"),
        (!options.request_mirror_policies.is_empty(), "request_mirror_policies"),
        (!options.hash_policy.is_empty(), "hash_policy"),
        (options.retry_policy.is_some(), "retry_policy"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "set it on the route, or leave it out"));
        }
    }
    wire::each(&options.http_filters, "http_filters", upstream_filter)?;
    let no_http3 = |set: bool, field: &str| {
        if set { Err(Rejection::unsupported(field, "HTTP/3 is not supported")) } else { Ok(()) }
    };
    let (version, http1, http2, field) = match &options.upstream_protocol_options {
        Some(Wire::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(h1)) => {
                (UpstreamVersion::Http1, Some(h1), None, "explicit_http_config")
            }
            Some(ProtocolConfig::Http2ProtocolOptions(h2)) => {
                (UpstreamVersion::Http2, None, Some(h2), "explicit_http_config")
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(Rejection::unsupported(
                    "explicit_http_config.http3_protocol_options",
                    "HTTP/3 is not supported",
                ));
            }
            None => {
                let reason = "needs http_protocol_options or http2_protocol_options";
                return Err(Rejection::invalid("explicit_http_config", reason));
            }
        },
        Some(Wire::UseDownstreamProtocolConfig(down)) => {
            no_http3(down.http3_protocol_options.is_some(), "use_downstream_protocol_config.http3_protocol_options")?;
            let (h1, h2) = (down.http_protocol_options.as_ref(), down.http2_protocol_options.as_ref());
            (UpstreamVersion::Downstream, h1, h2, "use_downstream_protocol_config")
        }
        Some(Wire::AutoConfig(auto)) => {
            no_http3(auto.http3_protocol_options.is_some(), "auto_config.http3_protocol_options")?;
            no_http3(
                auto.alternate_protocols_cache_options.is_some(),
                "auto_config.alternate_protocols_cache_options",
            )?;
            let (h1, h2) = (auto.http_protocol_options.as_ref(), auto.http2_protocol_options.as_ref());
            (UpstreamVersion::Auto, h1, h2, "auto_config")
        }
        None => {
            let reason = "needs one of explicit_http_config, use_downstream_protocol_config, auto_config";
            return Err(Rejection::invalid("upstream_protocol_options", reason));
        }
    };
    let common = options.common_http_protocol_options.as_ref();
    let mut protocol = UpstreamProtocol {
        version,
        http1: upstream_http1(http1).within("http_protocol_options").within(field)?,
        http2: http2_options(http2).within("http2_protocol_options").within(field)?,
        common: common_options(common).within("common_http_protocol_options")?,
        auto_sni: false,
        auto_san_validation: false,
        override_auto_sni_header: None,
    };
    set_upstream_options(&mut protocol, options.upstream_http_protocol_options.as_ref())?;
    Ok(protocol)
}

/// The codec filter ends every upstream chain; it is the only one that this proxy has.
fn upstream_filter(filter: &HttpFilter) -> Result<(), Rejection> {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any))
            if type_url::message_name(&any.type_url) == UpstreamCodec::full_name() =>
        {
            Ok(())
        }
        _ => {
            let reason = format!("no upstream HTTP filter `{}`; only the upstream codec is supported", filter.name);
            Err(Rejection::unsupported("", reason))
        }
    }
}

fn set_upstream_options(
    protocol: &mut UpstreamProtocol,
    options: Option<&core::UpstreamHttpProtocolOptions>,
) -> Result<(), Rejection> {
    let Some(options) = options else { return Ok(()) };
    protocol.auto_sni = options.auto_sni;
    protocol.auto_san_validation = options.auto_san_validation;
    // `:authority` is the default; any other pseudo-header is no source of a name.
    if !matches!(options.override_auto_sni_header.as_str(), "" | ":authority") {
        let header = wire::header_name(&options.override_auto_sni_header, "override_auto_sni_header");
        protocol.override_auto_sni_header = Some(header.within("upstream_http_protocol_options")?);
    }
    Ok(())
}

/// How header names are written.
pub(in crate::resource) fn header_case(options: &core::Http1ProtocolOptions) -> Result<HeaderCase, Rejection> {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    use preserve_case::preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders as FormatterType;
    let Some(format) = &options.header_key_format else { return Ok(HeaderCase::Lower) };
    match &format.header_format {
        Some(HeaderFormat::ProperCaseWords(_)) => Ok(HeaderCase::ProperWords),
        Some(HeaderFormat::StatefulFormatter(extension)) => {
            let path = "header_key_format.stateful_formatter.typed_config";
            let config: preserve_case::PreserveCaseFormatterConfig =
                wire::unpack(wire::required(&extension.typed_config, path)?, path)?;
            let (own, field) = (config.formatter_type_on_envoy_headers, "formatter_type_on_envoy_headers");
            let own = wire::enumeration::<FormatterType>(own, field);
            Ok(HeaderCase::Preserve {
                reason: config.forward_reason_phrase,
                own_proper: own.within(path)? == FormatterType::ProperCase,
            })
        }
        None => Err(Rejection::invalid("header_key_format", "needs proper_case_words or stateful_formatter")),
    }
}

fn upstream_http1(options: Option<&core::Http1ProtocolOptions>) -> Result<UpstreamHttp1, Rejection> {
    let Some(options) = options else { return Ok(UpstreamHttp1::default()) };
    Ok(UpstreamHttp1 {
        enable_trailers: options.enable_trailers,
        header_case: header_case(options)?,
        allow_chunked_length: options.allow_chunked_length,
        send_fully_qualified_url: options.send_fully_qualified_url,
    })
}

/// More than these a header map has no sure place for, beside those that the proxy adds.
const MAX_HEADERS: u32 = 16_384;

/// `HttpProtocolOptions`; a duration of zero is "off".
pub(in crate::resource) fn common_options(
    options: Option<&core::HttpProtocolOptions>,
) -> Result<CommonHttpOptions, Rejection> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Wire;
    let Some(options) = options else { return Ok(CommonHttpOptions::default()) };
    let off_at_zero = |d: Option<Duration>| d.filter(|d| !d.is_zero());
    let max_headers_count = wire::uint32(&options.max_headers_count);
    if max_headers_count.is_some_and(|n| n == 0 || n > MAX_HEADERS) {
        return Err(Rejection::invalid("max_headers_count", format!("must be between 1 and {MAX_HEADERS}")));
    }
    let max_response_headers_kb = wire::uint32(&options.max_response_headers_kb);
    if max_response_headers_kb.is_some_and(|kb| kb == 0 || kb > MAX_HEADERS_KB) {
        return Err(Rejection::invalid("max_response_headers_kb", format!("must be between 1 and {MAX_HEADERS_KB}")));
    }
    let underscores =
        wire::enumeration::<Wire>(options.headers_with_underscores_action, "headers_with_underscores_action")?;
    Ok(CommonHttpOptions {
        idle_timeout: wire::optional_duration(&options.idle_timeout, "idle_timeout")?.map(|d| off_at_zero(Some(d))),
        max_connection_duration: off_at_zero(wire::optional_duration(
            &options.max_connection_duration,
            "max_connection_duration",
        )?),
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration: off_at_zero(wire::optional_duration(&options.max_stream_duration, "max_stream_duration")?),
        max_requests_per_connection: wire::uint32(&options.max_requests_per_connection).filter(|max| *max != 0),
        headers_with_underscores: match underscores {
            Wire::Allow => UnderscoresAction::Allow,
            Wire::RejectRequest => UnderscoresAction::RejectRequest,
            Wire::DropHeader => UnderscoresAction::DropHeader,
        },
    })
}

/// `Http2ProtocolOptions` with Envoy's defaults.
pub(in crate::resource) fn http2_options(
    options: Option<&core::Http2ProtocolOptions>,
) -> Result<Http2Options, Rejection> {
    let empty = core::Http2ProtocolOptions::default();
    let o = options.unwrap_or(&empty);
    for (set, field) in
        [(o.allow_metadata, "allow_metadata"), (!o.custom_settings_parameters.is_empty(), "custom_settings_parameters")]
    {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    let between = |value, least: u32, most: u32, default: u32, field: &str| {
        let value = wire::uint32(value).unwrap_or(default);
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(Rejection::invalid(field, format!("{value} is not between {least} and {most}")))
        }
    };
    Ok(Http2Options {
        max_concurrent_streams: between(
            &o.max_concurrent_streams,
            1,
            MAX_WINDOW,
            DEFAULT_MAX_CONCURRENT_STREAMS,
            "max_concurrent_streams",
        )?,
        initial_stream_window_size: between(
            &o.initial_stream_window_size,
            MIN_WINDOW,
            MAX_WINDOW,
            DEFAULT_STREAM_WINDOW,
            "initial_stream_window_size",
        )?,
        initial_connection_window_size: between(
            &o.initial_connection_window_size,
            MIN_WINDOW,
            MAX_WINDOW,
            DEFAULT_CONNECTION_WINDOW,
            "initial_connection_window_size",
        )?,
        hpack_table_size: wire::uint32(&o.hpack_table_size).unwrap_or(4096),
        allow_connect: o.allow_connect,
        keepalive: o.connection_keepalive.as_ref().map(keepalive).transpose().within("connection_keepalive")?,
        stream_error_on_invalid_message: match &o.override_stream_error_on_invalid_http_message {
            Some(set) => Some(set.value),
            #[allow(deprecated)] // Envoy still takes it.
            None => o.stream_error_on_invalid_http_messaging.then_some(true),
        },
        floods: flood_limits(o)?,
    })
}

fn flood_limits(o: &core::Http2ProtocolOptions) -> Result<FloodLimits, Rejection> {
    let default = FloodLimits::default();
    let positive = |value, default, field: &str| match wire::uint32(value) {
        Some(0) => Err(Rejection::invalid(field, "must be at least 1")),
        value => Ok(value.unwrap_or(default)),
    };
    let empty_frames = wire::uint32(&o.max_consecutive_inbound_frames_with_empty_payload);
    let priority_frames = wire::uint32(&o.max_inbound_priority_frames_per_stream);
    Ok(FloodLimits {
        outbound_frames: positive(&o.max_outbound_frames, default.outbound_frames, "max_outbound_frames")?,
        control_frames: positive(
            &o.max_outbound_control_frames,
            default.control_frames,
            "max_outbound_control_frames",
        )?,
        empty_frames: empty_frames.unwrap_or(default.empty_frames),
        priority_frames: priority_frames.unwrap_or(default.priority_frames),
        window_updates: positive(
            &o.max_inbound_window_update_frames_per_data_frame_sent,
            default.window_updates,
            "max_inbound_window_update_frames_per_data_frame_sent",
        )?,
        reset_burst: o.stream_reset_burst.as_ref().map_or(default.reset_burst, |burst| burst.value),
        reset_rate: o.stream_reset_rate.as_ref().map_or(default.reset_rate, |rate| rate.value),
    })
}

fn keepalive(k: &core::KeepaliveSettings) -> Result<KeepalivePing, Rejection> {
    let at_least_1ms = |d: Option<Duration>, field: &str| match d {
        Some(d) if d < Duration::from_millis(1) => Err(Rejection::invalid(field, "must be at least 1ms")),
        other => Ok(other),
    };
    let read = |d, field| at_least_1ms(wire::optional_duration(d, field)?, field);
    Ok(KeepalivePing {
        interval: read(&k.interval, "interval")?,
        timeout: read(&k.timeout, "timeout")?.ok_or_else(|| Rejection::invalid("timeout", "is required"))?,
        interval_jitter_percent: match &k.interval_jitter {
            Some(p) => wire::percent(p, "interval_jitter")?,
            None => 15.0,
        },
    })
}
