//! One finished span and what it says.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use sidemesh_config::format::Operator;
use sidemesh_config::resource::http_connection_manager::{CustomTag, MetadataKind, TagValue, TraceProvider};
use sidemesh_config::value::Name;

use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, RequestHead, TraceContext};

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
    pub provider: Arc<TraceProvider>,
    pub context: TraceContext,
    pub state: Option<http::HeaderValue>,
    pub name: String,
    pub kind: Kind,
    pub start: SystemTime,
    pub end: SystemTime,
    pub error: bool,
    pub attributes: Vec<Attribute>,
}

/// Who the spans come from.
#[derive(Clone, Copy)]
pub struct Proxy<'a> {
    pub node: &'a str,
    pub zone: &'a str,
}

/// The attributes of a request: Envoy's tags first, the OpenTelemetry HTTP names after them, then the custom tags.
/// `max_path` bounds the URL's path.
pub fn describe(ctx: &LogContext<'_>, proxy: Proxy<'_>, custom: &[&[CustomTag]], max_path: u32) -> Vec<Attribute> {
    let info = ctx.info;
    let mut out = Vec::with_capacity(24);
    let mut set = |key: &'static str, value: String| out.push(Attribute { key: Cow::Borrowed(key), value });
    set("node_id", proxy.node.to_owned());
    set("zone", proxy.zone.to_owned());
    if let Some(request) = &ctx.request {
        request_tags(request, max_path as usize, &mut set);
    }
    if let Some(protocol) = info.protocol {
        set("http.protocol", protocol.as_str().to_owned());
    }
    set("http.response.status_code", info.status.to_string());
    set("request_size", info.request_body_bytes.to_string());
    set("response_size", info.response_body_bytes.to_string());
    set("peer.address", info.connection.direct_remote.ip().to_string());
    if let Some(code) = info.error_code {
        set("sidemesh.error", code.to_owned());
    }
    if let Some(revision) = &info.revision {
        set("sidemesh.revision", revision.to_string());
    }
    common(ctx, custom, &mut out);
    out
}

/// The attributes of one attempt at an upstream host, and why it failed.
pub fn describe_attempt(
    ctx: &LogContext<'_>,
    failure: Option<&'static str>,
    custom: &[&[CustomTag]],
) -> Vec<Attribute> {
    let mut out = Vec::with_capacity(12);
    let mut set = |key: &'static str, value: String| out.push(Attribute { key: Cow::Borrowed(key), value });
    set("http.protocol", ctx.info.upstream.protocol.map_or("-", |protocol| protocol.as_str()).to_owned());
    if let Some(reason) = failure {
        set("error.reason", reason.to_owned());
    }
    if let Some(host) = ctx.info.upstream.host {
        set("upstream_address", host.to_string());
        set("peer.address", host.to_string());
    }
    common(ctx, custom, &mut out);
    out
}

fn request_tags(request: &RequestHead<'_>, max_path: usize, set: &mut impl FnMut(&'static str, String)) {
    let header = |name: &str| request.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let original = header("x-envoy-original-path");
    let path = original.as_deref().unwrap_or(request.path);
    let path = &path[..path.floor_char_boundary(max_path)];
    if let Some(id) = header("x-request-id") {
        set("guid:x-request-id", id);
    }
    set("http.method", request.method.to_string());
    set("http.url", format!("{}://{}{path}", request.scheme, request.authority));
    set("http.request.method", request.method.to_string());
    set("url.path", path.split('?').next().unwrap_or(path).to_owned());
    set("server.address", request.authority.split(':').next().unwrap_or("").to_owned());
    set("user_agent", header("user-agent").unwrap_or_else(|| "-".to_owned()));
    set("downstream_cluster", header("x-envoy-downstream-service-cluster").unwrap_or_else(|| "-".to_owned()));
    if let Some(id) = header("x-client-trace-id") {
        set("guid:x-client-trace-id", id);
    }
    let Some(kind) = header("content-type").filter(|k| k.starts_with("application/grpc")) else { return };
    set("grpc.path", request.path.to_owned());
    set("grpc.authority", request.authority.to_owned());
    set("grpc.content_type", kind);
    if let Some(timeout) = header("grpc-timeout") {
        set("grpc.timeout", timeout);
    }
}

/// What spans of both kinds say.
fn common(ctx: &LogContext<'_>, custom: &[&[CustomTag]], out: &mut Vec<Attribute>) {
    let info = ctx.info;
    let mut set = |key: &'static str, value: String| out.push(Attribute { key: Cow::Borrowed(key), value });
    set("component", "proxy".to_owned());
    if let Some(cluster) = &info.cluster {
        set("upstream_cluster", cluster.to_string());
        set("upstream_cluster.name", info.upstream.cluster_stat_name.as_ref().unwrap_or(cluster).to_string());
    }
    set("http.status_code", info.status.to_string());
    set("response_flags", info.flags.short());
    let grpc = format::grpc_code(ctx);
    if let Some(code) = grpc {
        set("grpc.status_code", code.to_string());
    }
    // The codes of gRPC that are the server's fault.
    if failed(info.status) || matches!(grpc, Some(2 | 4 | 12 | 13 | 14 | 15)) {
        set("error", "true".to_owned());
    }
    for tag in custom.iter().flat_map(|t| t.iter()) {
        if let Some(value) = custom_value(&tag.value, ctx) {
            out.retain(|a| a.key != *tag.tag);
            out.push(Attribute { key: Cow::Owned(tag.tag.to_string()), value });
        }
    }
}

/// Whether a status makes a span an error.
fn failed(status: u16) -> bool {
    status == 0 || status >= 500
}

/// The value of a custom tag; `None`: the request has none.
pub fn custom_value(tag: &TagValue, ctx: &LogContext<'_>) -> Option<String> {
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
