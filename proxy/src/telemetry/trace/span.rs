//! One finished span and what it says.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use sidemesh_config::format::Operator;
use sidemesh_config::resource::http_connection_manager::{CustomTag, MetadataKind, OpenTelemetryProvider, TagValue};
use sidemesh_config::value::Name;

use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, TraceContext};

/// `opentelemetry.proto.trace.v1.Span.SpanKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server = 2,
    Client = 3,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    pub key: Cow<'static, str>,
    pub value: String,
}

/// A span on its way to the exporter.
#[derive(Debug, Clone)]
pub struct Span {
    pub provider: Arc<OpenTelemetryProvider>,
    pub context: TraceContext,
    pub state: Option<http::HeaderValue>,
    pub name: String,
    pub kind: Kind,
    pub start: SystemTime,
    pub end: SystemTime,
    pub error: bool,
    pub attributes: Vec<Attribute>,
}

/// The attributes of a request: Envoy's tags first, the OpenTelemetry HTTP names after them, then the custom tags.
/// `max_path` bounds the URL's path.
pub fn describe(ctx: &LogContext<'_>, custom: &[&[CustomTag]], max_path: u32, kind: Kind, out: &mut Vec<Attribute>) {
    let info = ctx.info;
    let mut set = |key: &'static str, value: String| out.push(Attribute { key: Cow::Borrowed(key), value });
    set("component", "proxy".to_owned());
    set("node_id", crate::telemetry::hostname().to_owned());
    if let Some(request) = &ctx.request {
        let path = &request.path[..floor_boundary(request.path, max_path as usize)];
        set("http.method", request.method.to_string());
        set("http.url", format!("{}://{}{path}", request.scheme, request.authority));
        set("http.request.method", request.method.to_string());
        set("url.path", path.split('?').next().unwrap_or(path).to_owned());
        set("server.address", request.authority.split(':').next().unwrap_or("").to_owned());
        for (key, header) in [
            ("user_agent", "user-agent"),
            ("guid:x-request-id", "x-request-id"),
            ("downstream_cluster", "x-envoy-downstream-service-cluster"),
        ] {
            let value =
                request.headers.get(header).map_or("-".into(), |v| String::from_utf8_lossy(v.as_bytes()).into_owned());
            set(key, value);
        }
    }
    if let Some(protocol) = info.protocol {
        set("http.protocol", protocol.as_str().to_owned());
    }
    set("http.status_code", info.status.to_string());
    set("http.response.status_code", info.status.to_string());
    set("response_flags", info.flags.short());
    set("request_size", info.request_body_bytes.to_string());
    set("response_size", info.response_body_bytes.to_string());
    set(
        "peer.address",
        match kind {
            Kind::Server => info.remote.ip().to_string(),
            Kind::Client => info.upstream.remote.map_or_else(String::new, |a| a.to_string()),
        },
    );
    if let Some(cluster) = &info.cluster {
        set("upstream_cluster", cluster.to_string());
        set("upstream_cluster.name", cluster.to_string());
    }
    if let Some(remote) = info.upstream.remote {
        set("upstream_address", remote.to_string());
    }
    if let Some(code) = info.error_code {
        set("sidemesh.error", code.to_owned());
    }
    if let Some(revision) = &info.revision {
        set("sidemesh.revision", revision.to_string());
    }
    if let Some(code) = format::grpc_code(ctx) {
        set("grpc.status_code", code.to_string());
    }
    if info.status >= 500 || info.status == 0 {
        set("error", "true".to_owned());
    }
    for tag in custom.iter().flat_map(|t| t.iter()) {
        if let Some(value) = custom_value(&tag.value, ctx) {
            out.push(Attribute { key: Cow::Owned(tag.tag.to_string()), value });
        }
    }
}

fn custom_value(tag: &TagValue, ctx: &LogContext<'_>) -> Option<String> {
    let owned = |n: &Name| n.to_string();
    match tag {
        TagValue::Literal(text) => Some(owned(text)),
        TagValue::RequestHeader { name, default } => ctx
            .request
            .and_then(|r| r.headers.get(name))
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .or_else(|| default.as_ref().map(owned)),
        TagValue::Environment { name, default } => std::env::var(&**name).ok().or_else(|| default.as_ref().map(owned)),
        TagValue::Metadata { kind, filter, path, default } => {
            let (filter, path) = (filter.clone(), path.clone());
            let operator = match kind {
                MetadataKind::Request => Operator::DynamicMetadata { filter, path },
                MetadataKind::Route => Operator::RouteMetadata { filter, path },
                MetadataKind::Cluster => Operator::ClusterMetadata { filter, path },
                MetadataKind::Host => Operator::UpstreamHostMetadata { filter, path },
            };
            match format::value(&operator, ctx) {
                Some(format::Field::Json(v)) => Some(v.as_str().map_or_else(|| v.to_string(), str::to_owned)),
                _ => default.as_ref().map(owned),
            }
        }
        TagValue::Format(f) => Some(format::to_string(f, ctx, "-")),
    }
}

fn floor_boundary(text: &str, max: usize) -> usize {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}
