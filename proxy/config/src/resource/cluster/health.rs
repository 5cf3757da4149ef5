//! `core.v3.HealthCheck` and `cluster.v3.OutlierDetection`.

use std::path::PathBuf;
use std::time::Duration;

use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use sidemesh_proto::envoy::r#type::v3 as types;
use sidemesh_proto::google;

use super::{HealthCheck, HealthChecker, HttpHealthCheck, OutlierDetection};
use crate::matcher::parse::string;
use crate::rejection::{Rejection, Within};
use crate::resource::core::{HeaderEdit, HeaderEdits};
use crate::resource::substitution;
use crate::value::name;
use crate::wire;

const DEFAULT_NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_RESPONSE_BUFFER_BYTES: u64 = 1024;
const DEFAULT_MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

pub(super) fn health_check(check: &core::HealthCheck) -> Result<HealthCheck, Rejection> {
    if check.event_service.is_some() {
        return Err(Rejection::unsupported("event_service", "use event_logger with the file sink"));
    }
    if check.transport_socket_match_criteria.is_some() {
        return Err(Rejection::unsupported("transport_socket_match_criteria", "probes use the socket of the traffic"));
    }
    let positive =
        |d: &Option<google::Duration>, field: &str| d.as_ref().map(|d| wire::positive_duration(d, field)).transpose();
    let needed = |d: &Option<google::Duration>, field: &str| {
        wire::required(d, field).and_then(|d| wire::positive_duration(d, field))
    };
    let threshold = |v: &Option<google::UInt32Value>, field: &str| wire::required(v, field).map(|v| v.value);
    let interval = needed(&check.interval, "interval")?;
    let no_traffic_interval = positive(&check.no_traffic_interval, "no_traffic_interval")?;
    let unhealthy_interval = positive(&check.unhealthy_interval, "unhealthy_interval")?.unwrap_or(interval);
    let alt_port = match wire::uint32(&check.alt_port) {
        None | Some(0) => None,
        Some(port) => Some(
            u16::try_from(port).map_err(|_| Rejection::invalid("alt_port", format!("{port} is more than 65535")))?,
        ),
    };
    let no_traffic = no_traffic_interval.unwrap_or(DEFAULT_NO_TRAFFIC_INTERVAL);
    Ok(HealthCheck {
        timeout: needed(&check.timeout, "timeout")?,
        interval,
        initial_jitter: wire::duration_or(&check.initial_jitter, "initial_jitter", Duration::ZERO)?,
        interval_jitter: wire::duration_or(&check.interval_jitter, "interval_jitter", Duration::ZERO)?,
        interval_jitter_percent: check.interval_jitter_percent,
        unhealthy_threshold: threshold(&check.unhealthy_threshold, "unhealthy_threshold")?,
        healthy_threshold: threshold(&check.healthy_threshold, "healthy_threshold")?,
        reuse_connection: wire::flag(&check.reuse_connection, true),
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: positive(&check.no_traffic_healthy_interval, "no_traffic_healthy_interval")?
            .unwrap_or(no_traffic),
        unhealthy_interval,
        unhealthy_edge_interval: positive(&check.unhealthy_edge_interval, "unhealthy_edge_interval")?
            .unwrap_or(unhealthy_interval),
        healthy_edge_interval: positive(&check.healthy_edge_interval, "healthy_edge_interval")?.unwrap_or(interval),
        alt_port,
        event_log_path: event_log_path(check)?,
        always_log_failures: check.always_log_health_check_failures,
        always_log_success: check.always_log_health_check_success,
        alpn: check.tls_options.iter().flat_map(|t| &t.alpn_protocols).map(|p| p.as_bytes().to_vec()).collect(),
        checker: checker(check.health_checker.as_ref())?,
    })
}

fn event_log_path(check: &core::HealthCheck) -> Result<Option<PathBuf>, Rejection> {
    let mut path = (!check.event_log_path.is_empty()).then(|| PathBuf::from(&check.event_log_path));
    for (i, logger) in check.event_logger.iter().enumerate() {
        let field = format!("event_logger[{i}].typed_config");
        let config = wire::required(&logger.typed_config, &field)?;
        let sink = wire::unpack::<HealthCheckEventFileSink>(config, &field)?;
        if path.is_some() {
            return Err(Rejection::unsupported(field, "one event log is supported"));
        }
        path = Some(PathBuf::from(&*wire::non_empty(&sink.event_log_path, "event_log_path").within(&field)?));
    }
    Ok(path)
}

fn checker(checker: Option<&core::health_check::HealthChecker>) -> Result<HealthChecker, Rejection> {
    use core::health_check::HealthChecker as Wire;
    match checker {
        Some(Wire::HttpHealthCheck(http)) => Ok(HealthChecker::Http(http_check(http).within("http_health_check")?)),
        Some(Wire::TcpHealthCheck(tcp)) => {
            if tcp.proxy_protocol_config.is_some() {
                return Err(Rejection::unsupported("tcp_health_check.proxy_protocol_config", "leave it out"));
            }
            let send = tcp.send.as_ref().map(payload).transpose().within("tcp_health_check.send")?.unwrap_or_default();
            let receive = wire::each(&tcp.receive, "receive", payload).within("tcp_health_check")?;
            Ok(HealthChecker::Tcp { send, receive })
        }
        Some(Wire::GrpcHealthCheck(grpc)) => Ok(HealthChecker::Grpc {
            service: name(&grpc.service_name),
            authority: name(&grpc.authority),
            metadata: HeaderEdits {
                add: plain(
                    substitution::header_additions(&grpc.initial_metadata, "initial_metadata"),
                    "initial_metadata",
                )
                .within("grpc_health_check")?,
                remove: Vec::new(),
            },
        }),
        Some(Wire::CustomHealthCheck(custom)) => {
            let reason = format!("no health checker `{}`; there are http, tcp and grpc", custom.name);
            Err(Rejection::unsupported("custom_health_check", reason))
        }
        None => Err(Rejection::invalid("", "needs one of http_health_check, tcp_health_check, grpc_health_check")),
    }
}

fn http_check(http: &core::health_check::HttpHealthCheck) -> Result<HttpHealthCheck, Rejection> {
    use types::CodecClientType;
    let http2 = match wire::enumeration::<CodecClientType>(http.codec_client_type, "codec_client_type")? {
        CodecClientType::Http1 => false,
        CodecClientType::Http2 => true,
        CodecClientType::Http3 => return Err(Rejection::unsupported("codec_client_type", "HTTP3 is not supported")),
    };
    let headers =
        substitution::header_edits(&http.request_headers_to_add, &http.request_headers_to_remove, "request_headers")?;
    let headers = HeaderEdits { add: plain(Ok(headers.add), "request_headers_to_add")?, ..headers };
    let matcher = http.service_name_matcher.as_ref().map(|m| string(m, "service_name_matcher")).transpose()?;
    let path = wire::non_empty(&http.path, "path")?;
    if http::HeaderValue::from_str(&path).is_err() || http::HeaderValue::from_str(&http.host).is_err() {
        return Err(Rejection::invalid("path", "path and host must hold no control characters"));
    }
    Ok(HttpHealthCheck {
        host: name(&http.host),
        path,
        method: method(http.method)?,
        headers,
        expected_statuses: wire::each(&http.expected_statuses, "expected_statuses", status_range)?,
        retriable_statuses: wire::each(&http.retriable_statuses, "retriable_statuses", status_range)?,
        service_name: matcher,
        http2,
        send: http.send.as_ref().map(payload).transpose().within("send")?.unwrap_or_default(),
        receive: wire::each(&http.receive, "receive", payload)?,
        response_buffer_size: http.response_buffer_size.as_ref().map_or(DEFAULT_RESPONSE_BUFFER_BYTES, |v| v.value),
    })
}

/// Headers of a probe, which has no request that an operator could read.
fn plain(headers: Result<Vec<HeaderEdit>, Rejection>, field: &str) -> Result<Vec<HeaderEdit>, Rejection> {
    let headers = headers?;
    match headers.iter().position(|h| h.value.as_static().is_none()) {
        Some(i) => {
            let path = format!("{field}[{i}].header.value");
            Err(Rejection::unsupported(path, "a health check has no request for % operators to read; give plain text"))
        }
        None => Ok(headers),
    }
}

fn method(number: i32) -> Result<http::Method, Rejection> {
    use core::RequestMethod;
    Ok(match wire::enumeration::<RequestMethod>(number, "method")? {
        RequestMethod::MethodUnspecified | RequestMethod::Get => http::Method::GET,
        RequestMethod::Head => http::Method::HEAD,
        RequestMethod::Post => http::Method::POST,
        RequestMethod::Put => http::Method::PUT,
        RequestMethod::Delete => http::Method::DELETE,
        RequestMethod::Options => http::Method::OPTIONS,
        RequestMethod::Trace => http::Method::TRACE,
        RequestMethod::Patch => http::Method::PATCH,
        RequestMethod::Connect => return Err(Rejection::invalid("method", "CONNECT is no method of a health check")),
    })
}

fn status_range(range: &types::Int64Range) -> Result<std::ops::Range<u16>, Rejection> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if (100..end).contains(&start) && end <= 600 => Ok(start..end),
        _ => Err(Rejection::invalid("", format!("[{}, {}) is no range of HTTP statuses", range.start, range.end))),
    }
}

/// Text is in hexadecimal digits.
fn payload(payload: &core::health_check::Payload) -> Result<Vec<u8>, Rejection> {
    use core::health_check::payload::Payload;
    let malformed = || Rejection::invalid("text", "must be pairs of hexadecimal digits");
    match &payload.payload {
        Some(Payload::Text(text)) => {
            if text.is_empty() || text.len() % 2 != 0 || !text.is_ascii() {
                return Err(malformed());
            }
            (0..text.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| malformed()))
                .collect()
        }
        Some(Payload::Binary(bytes)) => Ok(bytes.clone()),
        None => Err(Rejection::invalid("", "needs text or binary")),
    }
}

pub(super) fn outlier_detection(o: &pb::OutlierDetection) -> Result<OutlierDetection, Rejection> {
    if !o.monitors.is_empty() {
        return Err(Rejection::unsupported("monitors", "leave it out"));
    }
    if wire::flag(&o.detect_degraded_hosts, false) {
        return Err(Rejection::unsupported("detect_degraded_hosts", "leave it out"));
    }
    let or = |v: &Option<google::UInt32Value>, default: u32| wire::uint32(v).unwrap_or(default);
    let percent = |v: &Option<google::UInt32Value>, field: &str, default: u32| match or(v, default) {
        p if p <= 100 => Ok(p),
        p => Err(Rejection::invalid(field, format!("{p} is more than 100"))),
    };
    let time = |v: &Option<google::Duration>, field: &str, default: Duration| match v {
        Some(d) => wire::positive_duration(d, field),
        None => Ok(default),
    };
    let base = time(&o.base_ejection_time, "base_ejection_time", Duration::from_secs(30))?;
    let max = time(&o.max_ejection_time, "max_ejection_time", DEFAULT_MAX_EJECTION_TIME.max(base))?;
    if max < base {
        return Err(Rejection::invalid("max_ejection_time", "is less than base_ejection_time"));
    }
    let local_5xx =
        percent(&o.enforcing_consecutive_local_origin_failure, "enforcing_consecutive_local_origin_failure", 100)?;
    Ok(OutlierDetection {
        consecutive_5xx: or(&o.consecutive_5xx, 5),
        interval: time(&o.interval, "interval", Duration::from_secs(10))?,
        base_ejection_time: base,
        max_ejection_time: max,
        max_ejection_time_jitter: wire::duration_or(
            &o.max_ejection_time_jitter,
            "max_ejection_time_jitter",
            Duration::ZERO,
        )?,
        max_ejection_percent: percent(&o.max_ejection_percent, "max_ejection_percent", 10)?,
        enforcing_consecutive_5xx: percent(&o.enforcing_consecutive_5xx, "enforcing_consecutive_5xx", 100)?,
        enforcing_success_rate: percent(&o.enforcing_success_rate, "enforcing_success_rate", 100)?,
        success_rate_minimum_hosts: or(&o.success_rate_minimum_hosts, 5),
        success_rate_request_volume: or(&o.success_rate_request_volume, 100),
        success_rate_stdev_factor: or(&o.success_rate_stdev_factor, 1900),
        consecutive_gateway_failure: or(&o.consecutive_gateway_failure, 5),
        enforcing_consecutive_gateway_failure: percent(
            &o.enforcing_consecutive_gateway_failure,
            "enforcing_consecutive_gateway_failure",
            0,
        )?,
        split_external_local_origin_errors: o.split_external_local_origin_errors,
        consecutive_local_origin_failure: or(&o.consecutive_local_origin_failure, 5),
        enforcing_consecutive_local_origin_failure: local_5xx,
        enforcing_local_origin_success_rate: percent(
            &o.enforcing_local_origin_success_rate,
            "enforcing_local_origin_success_rate",
            100,
        )?,
        failure_percentage_threshold: percent(&o.failure_percentage_threshold, "failure_percentage_threshold", 85)?,
        enforcing_failure_percentage: percent(&o.enforcing_failure_percentage, "enforcing_failure_percentage", 0)?,
        enforcing_failure_percentage_local_origin: percent(
            &o.enforcing_failure_percentage_local_origin,
            "enforcing_failure_percentage_local_origin",
            0,
        )?,
        failure_percentage_minimum_hosts: or(&o.failure_percentage_minimum_hosts, 5),
        failure_percentage_request_volume: or(&o.failure_percentage_request_volume, 50),
        successful_active_health_check_uneject_host: wire::flag(&o.successful_active_health_check_uneject_host, true),
        always_eject_one_host: wire::flag(&o.always_eject_one_host, false),
    })
}
