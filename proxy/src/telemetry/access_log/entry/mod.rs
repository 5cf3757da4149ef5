//! Entries of the gRPC access log service (`data.accesslog.v3`), from the record of a request or connection.

mod common;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use http::header::{HeaderMap, HeaderName, REFERER, USER_AGENT};
use sidemesh_config::format::Operator;
use sidemesh_config::resource::access_log::GrpcAccessLog;
use sidemesh_proto::envoy::config::core::v3::RequestMethod;
use sidemesh_proto::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use sidemesh_proto::envoy::data::accesslog::v3::{
    AccessLogType, ConnectionProperties, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
    TcpAccessLogEntry,
};
use sidemesh_proto::google::UInt32Value;

use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, Protocol, RequestHead};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

pub(super) fn http(log: &GrpcAccessLog, ctx: &LogContext<'_>) -> HttpAccessLogEntry {
    let version = match ctx.info.protocol {
        Some(Protocol::Http10) => HttpVersion::Http10,
        Some(Protocol::Http11) => HttpVersion::Http11,
        Some(Protocol::Http2) => HttpVersion::Http2,
        None => HttpVersion::ProtocolUnspecified,
    };
    HttpAccessLogEntry {
        common_properties: Some(common::properties(log, ctx, kind(ctx))),
        protocol_version: version as i32,
        request: Some(request(log, ctx)),
        response: Some(response(log, ctx)),
    }
}

fn kind(ctx: &LogContext<'_>) -> AccessLogType {
    AccessLogType::try_from(ctx.info.log_type().0).unwrap_or_default()
}

pub(super) fn tcp(log: &GrpcAccessLog, ctx: &LogContext<'_>) -> TcpAccessLogEntry {
    let kind = kind(ctx);
    TcpAccessLogEntry {
        common_properties: Some(common::properties(log, ctx, kind)),
        connection_properties: Some(ConnectionProperties {
            received_bytes: ctx.info.request_body_bytes,
            sent_bytes: ctx.info.response_body_bytes,
        }),
    }
}

fn request(log: &GrpcAccessLog, ctx: &LogContext<'_>) -> HttpRequestProperties {
    let info = ctx.info;
    let mut properties = HttpRequestProperties {
        request_headers_bytes: info.request_header_bytes,
        request_body_bytes: info.request_body_bytes,
        downstream_header_bytes_received: info.request_header_bytes,
        upstream_header_bytes_sent: format::bytes(&Operator::HeaderBytes { upstream: true, sent: true }, ctx),
        ..Default::default()
    };
    let Some(RequestHead { method, scheme, authority, path, headers }) = ctx.request else { return properties };
    properties.request_method = method_of(method) as i32;
    properties.scheme = scheme.to_owned();
    properties.authority = authority.to_owned();
    properties.path = path.to_owned();
    properties.user_agent = text(headers, &USER_AGENT);
    properties.referer = text(headers, &REFERER);
    properties.forwarded_for = text(headers, &FORWARDED_FOR);
    properties.request_id = text(headers, &REQUEST_ID);
    properties.original_path = text(headers, &ORIGINAL_PATH);
    properties.request_headers = selected(&log.request_headers, Some(headers));
    properties
}

fn response(log: &GrpcAccessLog, ctx: &LogContext<'_>) -> HttpResponseProperties {
    let info = ctx.info;
    HttpResponseProperties {
        response_code: (info.status != 0).then(|| UInt32Value { value: u32::from(info.status) }),
        response_headers_bytes: info.response_header_bytes,
        response_body_bytes: info.response_body_bytes,
        response_headers: selected(&log.response_headers, ctx.response_headers),
        response_trailers: selected(&log.response_trailers, ctx.response_trailers),
        response_code_details: info.details.to_string(),
        downstream_header_bytes_sent: info.response_header_bytes,
        upstream_header_bytes_received: format::bytes(&Operator::HeaderBytes { upstream: true, sent: false }, ctx),
    }
}

fn method_of(method: &http::Method) -> RequestMethod {
    match method.as_str() {
        "GET" => RequestMethod::Get,
        "HEAD" => RequestMethod::Head,
        "POST" => RequestMethod::Post,
        "PUT" => RequestMethod::Put,
        "DELETE" => RequestMethod::Delete,
        "CONNECT" => RequestMethod::Connect,
        "OPTIONS" => RequestMethod::Options,
        "TRACE" => RequestMethod::Trace,
        "PATCH" => RequestMethod::Patch,
        _ => RequestMethod::MethodUnspecified,
    }
}

/// The header's values joined; protobuf text is UTF-8, other bytes are replaced.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let mut joined = String::new();
    for value in headers.get_all(name) {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    joined
}

/// Those of the wanted headers that are there.
fn selected(wanted: &[HeaderName], headers: Option<&HeaderMap>) -> HashMap<String, String> {
    let Some(headers) = headers else { return HashMap::new() };
    let present = wanted.iter().filter(|name| headers.contains_key(*name));
    present.map(|name| (name.as_str().to_owned(), text(headers, name))).collect()
}
