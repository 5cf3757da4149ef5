//! The gRPC form: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use sidemesh_config::format::TlsPart;
use sidemesh_config::resource::http_filter::ext_authz::{ExtAuthz, ExtAuthzOverride, RequestBody};
use sidemesh_config::value::GrpcService;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::service::auth::v3 as auth;
use sidemesh_proto::google;

use super::{Change, How, Verdict};
use crate::http::exchange::Exchange;
use crate::http::filter::grpc_call::{CallError, call, json_of};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

pub async fn ask(
    config: &ExtAuthz,
    x: &Exchange,
    service: &GrpcService,
    over: &ExtAuthzOverride,
    body: Option<&RequestBody>,
    timeout: Duration,
) -> Result<Verdict, CallError> {
    let request = auth::CheckRequest { attributes: Some(attributes(config, x, over, body)) };
    let answer: auth::CheckResponse = call(x, service, CHECK, &request, timeout).await?;
    Ok(verdict(answer))
}

fn attributes(
    config: &ExtAuthz,
    x: &Exchange,
    over: &ExtAuthzOverride,
    body: Option<&RequestBody>,
) -> auth::AttributeContext {
    let connection = &x.info.connection;
    let tls = connection.tls.as_deref();
    let peer_name =
        tls.and_then(|t| principal(|p| t.part(p), TlsPart::PeerUriSan, TlsPart::PeerDnsSan, TlsPart::PeerSubject));
    let own_name =
        tls.and_then(|t| principal(|p| t.part(p), TlsPart::LocalUriSan, TlsPart::LocalDnsSan, TlsPart::LocalSubject));
    let certificate = match config.include_peer_certificate {
        true => tls.and_then(|t| t.part(TlsPart::PeerCert)).map(|c| c.into_owned()),
        false => None,
    };
    let now = x.info.start_time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let peer =
        |address: SocketAddr, principal: Option<String>, certificate: Option<String>| auth::attribute_context::Peer {
            address: Some(address_of(address)),
            principal: principal.unwrap_or_default(),
            certificate: certificate.unwrap_or_default(),
            ..Default::default()
        };
    auth::AttributeContext {
        source: Some(peer(x.info.remote, peer_name, certificate)),
        destination: Some(peer(connection.local, own_name, None)),
        request: Some(auth::attribute_context::Request {
            time: Some(google::Timestamp { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() as i32 }),
            http: Some(http_request(config, x, body)),
        }),
        context_extensions: over.context_extensions.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        metadata_context: metadata(config, x),
        tls_session: config.include_tls_session.then(|| auth::attribute_context::TlsSession {
            sni: connection.server_name.as_deref().unwrap_or("").to_owned(),
        }),
        ..Default::default()
    }
}

/// The first URI SAN, else the first DNS SAN, else the subject.
fn principal<'a>(
    part: impl Fn(TlsPart) -> Option<std::borrow::Cow<'a, str>>,
    uri: TlsPart,
    dns: TlsPart,
    subject: TlsPart,
) -> Option<String> {
    [uri, dns]
        .into_iter()
        .find_map(|p| Some(part(p)?.split(',').next()?.to_owned()).filter(|v| !v.is_empty()))
        .or_else(|| part(subject).map(|s| s.into_owned()))
}

fn address_of(address: SocketAddr) -> core::Address {
    use core::socket_address::PortSpecifier;
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..Default::default()
        })),
    }
}

fn http_request(config: &ExtAuthz, x: &Exchange, body: Option<&RequestBody>) -> auth::attribute_context::HttpRequest {
    let mut headers: HashMap<String, String> = HashMap::new();
    let allowed = |name: &str| {
        (config.allowed_headers.is_empty() || config.allowed_headers.iter().any(|m| m.is_match(name)))
            && !config.disallowed_headers.iter().any(|m| m.is_match(name))
    };
    for (name, value) in &x.parts.headers {
        if !allowed(name.as_str()) || *name == http::header::HOST {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|have| {
                have.push(',');
                have.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    for (name, value) in [
        (":method", x.parts.method.as_str()),
        (":path", x.target()),
        (":authority", x.authority()),
        (":scheme", x.caller.scheme.as_str()),
    ] {
        if allowed(name) {
            headers.insert(name.to_owned(), value.to_owned());
        }
    }
    let (mut text, mut raw) = (String::new(), Vec::new());
    if let (Some(wanted), Some(upload)) = (body, &x.upload) {
        let bytes = upload.kept(wanted.max_request_bytes as usize);
        let partial = upload.ended().is_none() || upload.kept_bytes() > bytes.len();
        headers.insert("x-envoy-auth-partial-body".to_owned(), partial.to_string());
        match wanted.pack_as_bytes {
            true => raw = bytes.to_vec(),
            false => text = String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
    let header_map = config.encode_raw_headers.then(|| raw_headers(x, allowed));
    if header_map.is_some() {
        headers.clear();
    }
    let size = x.parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(-1);
    auth::attribute_context::HttpRequest {
        id: format!("{}", x.random),
        method: x.parts.method.to_string(),
        headers,
        header_map,
        path: x.target().to_owned(),
        host: x.authority().to_owned(),
        scheme: x.caller.scheme.as_str().to_owned(),
        size,
        protocol: x.protocol.as_str().to_owned(),
        body: text,
        raw_body: raw,
        ..Default::default()
    }
}

/// The headers one by one, as bytes (`encode_raw_headers`).
fn raw_headers(x: &Exchange, allowed: impl Fn(&str) -> bool) -> core::HeaderMap {
    let headers = x.parts.headers.iter().filter(|(name, _)| allowed(name.as_str()));
    let raw = headers.map(|(name, value)| core::HeaderValue {
        key: name.as_str().to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    });
    core::HeaderMap { headers: raw.collect() }
}

/// `metadata_context_namespaces` of the request's dynamic metadata.
fn metadata(config: &ExtAuthz, x: &Exchange) -> Option<core::Metadata> {
    let filter_metadata: HashMap<String, google::Struct> = config
        .metadata_context_namespaces
        .iter()
        .filter_map(|n| Some((n.to_string(), struct_of(x.info.metadata.0.get(n)?.as_object()?))))
        .collect();
    Some(core::Metadata { filter_metadata, ..Default::default() })
}

fn struct_of(object: &serde_json::Map<String, serde_json::Value>) -> google::Struct {
    google::Struct { fields: object.iter().map(|(k, v)| (k.clone(), value_of(v))).collect() }
}

fn value_of(value: &serde_json::Value) -> google::Value {
    use google::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(b) => Kind::BoolValue(*b),
        serde_json::Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(0.0)),
        serde_json::Value::String(s) => Kind::StringValue(s.clone()),
        serde_json::Value::Array(a) => Kind::ListValue(google::ListValue { values: a.iter().map(value_of).collect() }),
        serde_json::Value::Object(o) => Kind::StructValue(struct_of(o)),
    };
    google::Value { kind: Some(kind) }
}

fn verdict(answer: auth::CheckResponse) -> Verdict {
    use auth::check_response::HttpResponse;
    let allowed = answer.status.as_ref().is_none_or(|s| s.code == 0);
    let metadata = answer.dynamic_metadata.as_ref().map(json_of);
    let mut out = Verdict { allowed, status: 403, metadata, ..Verdict::default() };
    match answer.http_response {
        Some(HttpResponse::OkResponse(ok)) if allowed => {
            out.invalid = ok.headers.iter().chain(&ok.response_headers_to_add).any(|h| change(h).is_none());
            out.headers = ok.headers.iter().filter_map(change).collect();
            out.remove = ok.headers_to_remove.iter().filter_map(|n| n.to_ascii_lowercase().parse().ok()).collect();
            out.response_headers = ok.response_headers_to_add.iter().filter_map(change).collect();
            out.query_set = ok.query_parameters_to_set.into_iter().map(|q| (q.key, q.value)).collect();
            out.query_remove = ok.query_parameters_to_remove;
        }
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) if !allowed => {
            if let Some(code) = denied.status.and_then(|s| u16::try_from(s.code).ok()).filter(|c| *c >= 200) {
                out.status = code;
            }
            out.body = denied.body;
            out.invalid = denied.headers.iter().any(|h| change(h).is_none());
            out.headers = denied.headers.iter().filter_map(change).collect();
        }
        _ => {}
    }
    out
}

#[allow(deprecated)]
fn change(option: &core::HeaderValueOption) -> Option<Change> {
    use core::header_value_option::HeaderAppendAction as Action;
    let header = option.header.as_ref()?;
    let name: HeaderName = header.key.to_ascii_lowercase().parse().ok()?;
    let value = match header.raw_value.is_empty() {
        true => HeaderValue::from_str(&header.value).ok()?,
        false => HeaderValue::from_bytes(&header.raw_value).ok()?,
    };
    // Here an option that says nothing overwrites, other than in routes.
    let how = match (&option.append, Action::try_from(option.append_action)) {
        (Some(append), _) if append.value => How::Append,
        (Some(_), _) => How::Set,
        (None, Ok(Action::AddIfAbsent)) => How::IfAbsent,
        (None, Ok(Action::OverwriteIfExists)) => How::IfPresent,
        (None, _) => How::Set,
    };
    Some(Change { name, value, how })
}
