//! Spans as a Zipkin collector takes them (API v2): JSON, or its protobuf form.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::{Map, Value, json};
use sidemesh_config::resource::http_connection_manager::Zipkin;

use super::b3::trace_text;
use super::{Kind, Span};

/// Attributes that OpenTelemetry names besides, and our own: Zipkin's tags are Envoy's alone.
const LEFT_OUT: [&str; 6] = [
    "http.request.method",
    "url.path",
    "server.address",
    "http.response.status_code",
    "sidemesh.error",
    "sidemesh.revision",
];

/// The body of a post, and its content type.
pub(super) fn body(zipkin: &Zipkin, service: &str, spans: &[Span]) -> (Vec<u8>, &'static str) {
    if zipkin.protobuf {
        let spans = spans.iter().map(|s| proto(zipkin, service, s)).collect();
        return (ListOfSpans { spans }.encode_to_vec(), "application/x-protobuf");
    }
    let list: Vec<Value> = spans.iter().map(|s| to_json(zipkin, service, s)).collect();
    (Value::from(list).to_string().into_bytes(), "application/json")
}

fn to_json(zipkin: &Zipkin, service: &str, span: &Span) -> Value {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
    set("traceId", trace_text(span.context.trace_id).into());
    if span.context.parent_id != 0 {
        set("parentId", format!("{:016x}", span.context.parent_id).into());
    }
    set("id", format!("{:016x}", span.context.span_id).into());
    set("kind", if span.kind == Kind::Server { "SERVER" } else { "CLIENT" }.into());
    set("name", span.name.as_str().into());
    set("timestamp", micros(span.start).into());
    set("duration", duration(span).into());
    let address = local_address();
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    set("localEndpoint", json!({"serviceName": service, family: address.to_string(), "port": 0}));
    set("annotations", json!([{"timestamp": micros(span.end), "value": last_word(span.kind)}]));
    let tags: Map<String, Value> = tags(span).map(|(k, v)| (k.to_owned(), v.into())).collect();
    set("tags", tags.into());
    if shared(zipkin, span) {
        set("shared", true.into());
    }
    Value::Object(out)
}

/// The server's side of a span that its caller began too.
fn shared(zipkin: &Zipkin, span: &Span) -> bool {
    zipkin.shared_span && span.kind == Kind::Server
}

/// "Server send" or "client receive".
fn last_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Server => "ss",
        Kind::Client => "cr",
    }
}

fn tags(span: &Span) -> impl Iterator<Item = (&str, &str)> {
    let all = span.attributes.iter().map(|a| (&*a.key, a.value.as_str()));
    all.filter(|(key, value)| !value.is_empty() && !LEFT_OUT.contains(key))
}

fn micros(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

fn duration(span: &Span) -> u64 {
    micros(span.end).saturating_sub(micros(span.start)).max(1)
}

/// The machine's first IPv4 address off loopback, else loopback.
fn local_address() -> IpAddr {
    static ADDRESS: OnceLock<IpAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let mut addresses = interfaces.filter_map(|i| Some(i.address?.as_sockaddr_in()?.ip()));
        addresses.find(|ip| !ip.is_loopback()).unwrap_or(std::net::Ipv4Addr::LOCALHOST).into()
    })
}

fn proto(zipkin: &Zipkin, service: &str, span: &Span) -> ProtoSpan {
    let trace = span.context.trace_id.to_be_bytes();
    let address = local_address();
    let (ipv4, ipv6) = match address {
        IpAddr::V4(v4) => (v4.octets().to_vec(), Vec::new()),
        IpAddr::V6(v6) => (Vec::new(), v6.octets().to_vec()),
    };
    ProtoSpan {
        trace_id: if span.context.trace_id >> 64 == 0 { trace[8..].to_vec() } else { trace.to_vec() },
        parent_id: match span.context.parent_id {
            0 => Vec::new(),
            id => id.to_be_bytes().to_vec(),
        },
        id: span.context.span_id.to_be_bytes().to_vec(),
        kind: if span.kind == Kind::Server { 2 } else { 1 },
        name: span.name.clone(),
        timestamp: micros(span.start),
        duration: duration(span),
        local_endpoint: Some(Endpoint { service_name: service.to_owned(), ipv4, ipv6, port: 0 }),
        annotations: vec![Annotation { timestamp: micros(span.end), value: last_word(span.kind).to_owned() }],
        tags: tags(span).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        shared: shared(zipkin, span),
    }
}

/// `zipkin.proto3.ListOfSpans`.
#[derive(Clone, PartialEq, Message)]
struct ListOfSpans {
    #[prost(message, repeated, tag = "1")]
    spans: Vec<ProtoSpan>,
}

/// `zipkin.proto3.Span`.
#[derive(Clone, PartialEq, Message)]
struct ProtoSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    parent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    /// 1 is CLIENT, 2 is SERVER.
    #[prost(int32, tag = "4")]
    kind: i32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "6")]
    timestamp: u64,
    #[prost(uint64, tag = "7")]
    duration: u64,
    #[prost(message, optional, tag = "8")]
    local_endpoint: Option<Endpoint>,
    #[prost(message, repeated, tag = "10")]
    annotations: Vec<Annotation>,
    #[prost(map = "string, string", tag = "11")]
    tags: HashMap<String, String>,
    #[prost(bool, tag = "13")]
    shared: bool,
}

/// `zipkin.proto3.Endpoint`.
#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(bytes = "vec", tag = "2")]
    ipv4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ipv6: Vec<u8>,
    #[prost(int32, tag = "4")]
    port: i32,
}

/// `zipkin.proto3.Annotation`.
#[derive(Clone, PartialEq, Message)]
struct Annotation {
    #[prost(fixed64, tag = "1")]
    timestamp: u64,
    #[prost(string, tag = "2")]
    value: String,
}
