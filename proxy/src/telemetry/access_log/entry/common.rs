//! `AccessLogCommon`: what HTTP and TCP entries share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sidemesh_config::format::Operator;
use sidemesh_config::resource::access_log::GrpcAccessLog;
use sidemesh_config::value::Metadata;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::data::accesslog::v3::response_flags::{Unauthorized, unauthorized};
use sidemesh_proto::envoy::data::accesslog::v3::tls_properties::certificate_properties::{
    SubjectAltName, subject_alt_name::San,
};
use sidemesh_proto::envoy::data::accesslog::v3::tls_properties::{CertificateProperties, TlsVersion};
use sidemesh_proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, ResponseFlags as Flags, TlsProperties,
};
use sidemesh_proto::google::{self, UInt32Value};
use sidemesh_proto::json::well_known::to_struct;

use super::{REQUEST_ID, text};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, StreamInfo};
use crate::telemetry::trace::custom_value;
use crate::tls::PeerInfo;

pub(super) fn properties(log: &GrpcAccessLog, ctx: &LogContext<'_>, kind: AccessLogType) -> AccessLogCommon {
    let info = ctx.info;
    let connection = &info.connection;
    let timing = &info.timing;
    let since = |at: Option<Instant>| at.map(|at| duration(at.saturating_duration_since(info.start)));
    let upstream = &info.upstream;
    AccessLogCommon {
        downstream_remote_address: Some(address(info.remote)),
        downstream_local_address: Some(address(connection.local)),
        downstream_direct_remote_address: Some(address(connection.direct_remote)),
        tls_properties: connection.tls.as_deref().map(|peer| tls(peer, connection.server_name.as_deref())),
        start_time: Some(timestamp(info.start_time)),
        time_to_last_rx_byte: since(timing.downstream_rx_end),
        time_to_first_upstream_tx_byte: since(timing.upstream_tx_begin),
        time_to_last_upstream_tx_byte: since(timing.upstream_tx_end),
        time_to_first_upstream_rx_byte: since(timing.upstream_rx_begin),
        time_to_last_upstream_rx_byte: since(timing.upstream_rx_end),
        time_to_first_downstream_tx_byte: since(timing.downstream_tx_begin),
        time_to_last_downstream_tx_byte: since(timing.downstream_tx_end),
        duration: since(Some(timing.downstream_tx_end.unwrap_or(ctx.now))),
        upstream_remote_address: upstream.host.map(address),
        upstream_local_address: upstream.local.map(address),
        upstream_cluster: info.cluster.as_deref().unwrap_or_default().to_owned(),
        upstream_transport_failure_reason: upstream.failure.as_deref().unwrap_or_default().to_owned(),
        upstream_request_attempt_count: upstream.attempts,
        response_flags: (!info.flags.is_empty()).then(|| flags(info.flags)),
        metadata: metadata(&info.metadata),
        custom_tags: custom_tags(log, ctx),
        route_name: info.route.as_deref().map(|r| r.name.to_string()).unwrap_or_default(),
        connection_termination_details: info.termination_details.as_deref().unwrap_or_default().to_owned(),
        stream_id: stream_id(ctx, info),
        downstream_wire_bytes_sent: info.response_header_bytes + info.response_body_bytes,
        downstream_wire_bytes_received: info.request_header_bytes + info.request_body_bytes,
        upstream_wire_bytes_sent: format::bytes(&Operator::UpstreamWireBytesSent, ctx),
        upstream_wire_bytes_received: format::bytes(&Operator::UpstreamWireBytesReceived, ctx),
        access_log_type: kind as i32,
        ..Default::default()
    }
}

/// The request id where there is one, else the number that `%STREAM_ID%` prints.
fn stream_id(ctx: &LogContext<'_>, info: &StreamInfo) -> String {
    let id = ctx.request.map(|r| text(r.headers, &REQUEST_ID)).unwrap_or_default();
    match id.is_empty() {
        true if info.stream_id != 0 => format!("{:032x}", info.stream_id),
        _ => id,
    }
}

fn address(at: SocketAddr) -> core::Address {
    use core::address::Address as Kind;
    use core::socket_address::PortSpecifier;
    core::Address {
        address: Some(Kind::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(at.port()))),
            ..Default::default()
        })),
    }
}

fn timestamp(at: SystemTime) -> google::Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    google::Timestamp { seconds: seconds(since), nanos: since.subsec_nanos() as i32 }
}

fn duration(d: Duration) -> google::Duration {
    google::Duration { seconds: seconds(d), nanos: d.subsec_nanos() as i32 }
}

fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}

fn custom_tags(log: &GrpcAccessLog, ctx: &LogContext<'_>) -> HashMap<String, String> {
    let tags = log.custom_tags.iter();
    tags.filter_map(|tag| Some((tag.tag.to_string(), custom_value(&tag.value, ctx)?))).collect()
}

fn metadata(metadata: &Metadata) -> Option<core::Metadata> {
    if metadata.0.is_empty() {
        return None;
    }
    let objects =
        metadata.0.iter().filter_map(|(filter, value)| Some((filter.to_string(), to_struct(value.as_object()?))));
    Some(core::Metadata { filter_metadata: objects.collect(), ..Default::default() })
}

fn flags(flags: ResponseFlags) -> Flags {
    use ResponseFlags as F;
    let external = flags.has(F::UNAUTHORIZED_EXTERNAL_SERVICE);
    Flags {
        failed_local_healthcheck: flags.has(F::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: flags.has(F::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: flags.has(F::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: flags.has(F::LOCAL_RESET),
        upstream_remote_reset: flags.has(F::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: flags.has(F::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: flags.has(F::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: flags.has(F::UPSTREAM_OVERFLOW),
        no_route_found: flags.has(F::NO_ROUTE_FOUND),
        delay_injected: flags.has(F::DELAY_INJECTED),
        fault_injected: flags.has(F::FAULT_INJECTED),
        rate_limited: flags.has(F::RATE_LIMITED),
        unauthorized_details: external.then_some(Unauthorized { reason: unauthorized::Reason::ExternalService as i32 }),
        rate_limit_service_error: flags.has(F::RATE_LIMIT_SERVICE_ERROR),
        downstream_connection_termination: flags.has(F::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: flags.has(F::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: flags.has(F::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: flags.has(F::INVALID_ENVOY_REQUEST_HEADERS),
        downstream_protocol_error: flags.has(F::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: flags.has(F::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        response_from_cache_filter: false,
        no_filter_config_found: flags.has(F::NO_FILTER_CONFIG_FOUND),
        duration_timeout: flags.has(F::DURATION_TIMEOUT),
        upstream_protocol_error: flags.has(F::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: flags.has(F::NO_CLUSTER_FOUND),
        overload_manager: flags.has(F::OVERLOAD_MANAGER),
        dns_resolution_failure: flags.has(F::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: flags.has(F::DOWNSTREAM_REMOTE_RESET),
    }
}

fn tls(peer: &PeerInfo, server_name: Option<&str>) -> TlsProperties {
    let version = match peer.version() {
        "TLSv1.3" => TlsVersion::TlSv13,
        "TLSv1.2" => TlsVersion::TlSv12,
        _ => TlsVersion::VersionUnspecified,
    };
    TlsProperties {
        tls_version: version as i32,
        tls_cipher_suite: cipher_suite(peer.cipher()).map(|value| UInt32Value { value }),
        tls_sni_hostname: server_name.unwrap_or_default().to_owned(),
        local_certificate_properties: Some(CertificateProperties {
            subject_alt_name: alt_names(peer.local_uri_sans(), peer.local_dns_sans()),
            subject: peer.local_subject().to_owned(),
            issuer: String::new(),
        }),
        peer_certificate_properties: peer.presented().then(|| CertificateProperties {
            subject_alt_name: alt_names(peer.uri_sans(), peer.dns_sans()),
            subject: peer.subject().to_owned(),
            issuer: peer.issuer().to_owned(),
        }),
        ..Default::default()
    }
}

fn alt_names(uris: &[String], names: &[String]) -> Vec<SubjectAltName> {
    let uris = uris.iter().map(|uri| San::Uri(uri.clone()));
    let names = names.iter().map(|dns| San::Dns(dns.clone()));
    uris.chain(names).map(|san| SubjectAltName { san: Some(san) }).collect()
}

/// The IANA number of a suite by OpenSSL's name: all that this proxy negotiates.
fn cipher_suite(name: &str) -> Option<u32> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}
