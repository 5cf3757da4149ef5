//! The gRPC form: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use sidemesh_config::format::TlsPart;
use sidemesh_config::resource::http_filter::ext_authz::{ExtAuthz, ExtAuthzOverride, RequestBody};
use sidemesh_config::resource::substitution;
use sidemesh_config::value::{GrpcService, Metadata, Name};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::service::auth::v3 as auth;
use sidemesh_proto::google;
use sidemesh_proto::json::well_known::{from_struct, to_struct};

use super::{Change, How, Verdict, seen_body};
use crate::http::exchange::Exchange;
use crate::http::filter::grpc_call::{CallError, call};
use crate::http::names::X_ENVOY_AUTH_PARTIAL_BODY as PARTIAL_BODY;

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
    let asked = x.now();
    let answer: auth::CheckResponse = call(x, service, CHECK, &request, timeout).await?;
    Ok(verdict(answer, x.now().saturating_duration_since(asked)))
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
        metadata_context: Some(metadata(&config.metadata_context_namespaces, Some(&x.info.metadata))),
        route_metadata_context: Some(route_metadata(config, x)),
        tls_session: config.include_tls_session.then(|| auth::attribute_context::TlsSession {
            sni: tls.and_then(|t| t.server_name()).or(connection.server_name.as_deref()).unwrap_or("").to_owned(),
        }),
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
        if !allowed(name.as_str()) || *name == HOST {
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
    let (mut text, mut raw, mut told) = (String::new(), Vec::new(), None);
    if let Some((bytes, partial)) = seen_body(x, body) {
        headers.insert(PARTIAL_BODY.as_str().to_owned(), partial.to_string());
        told = Some(partial);
        // As in Envoy: a route says how much, the filter how.
        match config.with_request_body.as_ref().is_some_and(|b| b.pack_as_bytes) {
            true => raw = bytes.to_vec(),
            false => text = String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
    let header_map = config.encode_raw_headers.then(|| raw_headers(x, told, allowed));
    if header_map.is_some() {
        headers.clear();
    }
    // As in Envoy: what has come of it, which is nothing unless the service is to see the body.
    let size = x.upload.as_ref().map_or(0, |u| u.bytes()) as i64;
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
fn raw_headers(x: &Exchange, partial: Option<bool>, allowed: impl Fn(&str) -> bool) -> core::HeaderMap {
    let pseudo = [
        (":authority", x.authority()),
        (":path", x.target()),
        (":method", x.parts.method.as_str()),
        (":scheme", x.caller.scheme.as_str()),
    ];
    let pseudo = pseudo.into_iter().map(|(name, value)| (name, value.as_bytes()));
    let headers = x.parts.headers.iter().filter(|(name, _)| **name != HOST);
    let all = pseudo.chain(headers.map(|(name, value)| (name.as_str(), value.as_bytes())));
    let raw = all.filter(|(name, _)| allowed(name)).map(|(name, value)| core::HeaderValue {
        key: name.to_owned(),
        raw_value: value.to_vec(),
        ..Default::default()
    });
    let partial = partial.map(|partial| core::HeaderValue {
        key: PARTIAL_BODY.as_str().to_owned(),
        raw_value: partial.to_string().into_bytes(),
        ..Default::default()
    });
    core::HeaderMap { headers: raw.chain(partial).collect() }
}

/// The wanted namespaces of some metadata.
fn metadata(namespaces: &[Name], of: Option<&Metadata>) -> core::Metadata {
    let filter_metadata: HashMap<String, google::Struct> =
        namespaces.iter().filter_map(|n| Some((n.to_string(), to_struct(of?.0.get(n)?.as_object()?)))).collect();
    core::Metadata { filter_metadata, ..Default::default() }
}

fn route_metadata(config: &ExtAuthz, x: &Exchange) -> core::Metadata {
    let of_route = x.info.route.as_ref().and_then(|r| r.metadata.as_deref());
    metadata(&config.route_metadata_context_namespaces, of_route)
}

fn verdict(answer: auth::CheckResponse, took: Duration) -> Verdict {
    use auth::check_response::HttpResponse;
    let allowed = answer.status.as_ref().is_none_or(|s| s.code == 0);
    let metadata = answer.dynamic_metadata.as_ref().map(from_struct).and_then(|m| match m {
        serde_json::Value::Object(mut fields) if !fields.is_empty() => {
            if allowed {
                fields.insert("ext_authz_duration".to_owned(), (took.as_millis() as u64).into());
            }
            Some(fields)
        }
        _ => None,
    });
    let mut out = Verdict { allowed, status: 403, metadata, ..Verdict::default() };
    match answer.http_response {
        Some(HttpResponse::OkResponse(ok)) if allowed => {
            out.invalid = ok.headers.iter().chain(&ok.response_headers_to_add).any(|h| change(h, How::Set).is_none());
            out.upstream = ok.headers.iter().filter_map(upstream_change).collect();
            out.remove = ok.headers_to_remove.iter().filter_map(|n| n.to_ascii_lowercase().parse().ok()).collect();
            out.client = ok.response_headers_to_add.iter().filter_map(client_change).collect();
            let odd = |text: &str| !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'&'));
            let set = ok.query_parameters_to_set.iter().flat_map(|q| [&q.key, &q.value]);
            out.invalid |= set.chain(&ok.query_parameters_to_remove).any(|text| odd(text));
            out.query_set = ok.query_parameters_to_set.into_iter().map(|q| (q.key, q.value)).collect();
            out.query_remove = ok.query_parameters_to_remove;
        }
        Some(HttpResponse::DeniedResponse(denied)) if !allowed => deny(&mut out, denied),
        Some(HttpResponse::ErrorResponse(denied)) if !allowed => {
            out.error = true;
            out.status = 0;
            deny(&mut out, denied);
        }
        _ => {}
    }
    out
}

/// What the service says of a denial, or of the answer where it cannot decide.
fn deny(out: &mut Verdict, denied: auth::DeniedHttpResponse) {
    if let Some(code) = denied.status.and_then(|s| u16::try_from(s.code).ok()).filter(|c| *c >= 200) {
        out.status = code;
    }
    out.body = denied.body;
    out.invalid = denied.headers.iter().any(|h| change(h, How::Set).is_none());
    // There is nothing yet that an appended header could join.
    out.client = denied.headers.iter().filter(|h| !appends(h)).filter_map(|h| change(h, How::Add)).collect();
}

#[allow(deprecated)] // Envoy reads `append` alone where requests are concerned.
fn appends(option: &core::HeaderValueOption) -> bool {
    option.append.as_ref().is_some_and(|a| a.value)
}

fn upstream_change(option: &core::HeaderValueOption) -> Option<Change> {
    change(option, if appends(option) { How::Join } else { How::Set })
}

#[allow(deprecated)]
fn client_change(option: &core::HeaderValueOption) -> Option<Change> {
    use core::header_value_option::HeaderAppendAction as Action;
    let how = match (&option.append, Action::try_from(option.append_action)) {
        (Some(append), _) if !append.value => How::Set,
        (Some(_), _) | (None, Ok(Action::AppendIfExistsOrAdd) | Err(_)) => How::Add,
        (None, Ok(Action::AddIfAbsent)) => How::IfAbsent,
        (None, Ok(Action::OverwriteIfExists)) => How::IfPresent,
        (None, Ok(Action::OverwriteIfExistsOrAdd)) => How::Set,
    };
    change(option, how)
}

/// `None`: no header can be called that, or hold that.
fn change(option: &core::HeaderValueOption, how: How) -> Option<Change> {
    let header = option.header.as_ref()?;
    let target = substitution::target(&header.key)?;
    let value = match header.raw_value.is_empty() {
        true => HeaderValue::from_str(&header.value).ok()?,
        false => HeaderValue::from_bytes(&header.raw_value).ok()?,
    };
    Some(Change { target, value, how })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(answer: &Value) -> Verdict {
        let answer = sidemesh_proto::json::parse("envoy.service.auth.v3.CheckResponse", answer).expect("well-formed");
        verdict(answer, Duration::ZERO)
    }

    #[test]
    fn a_service_allows_denies_or_cannot_tell() {
        let header = |value| json!({ "header": { "key": "x-d", "value": value } });
        let denied =
            said(&json!({ "status": { "code": 7 }, "denied_response": { "headers": [header("1"), header("2")] } }));
        assert!(!denied.allowed && !denied.error && denied.status == 403);
        assert_eq!(denied.client.len(), 2, "each value of a header is told");
        let error = said(&json!({ "status": { "code": 13 }, "error_response": { "body": "b" } }));
        assert!(error.error && error.status == 0 && error.body == "b", "the filter says the status");
        let edits = |value| {
            let set = json!([{ "key": "a", "value": value }]);
            said(&json!({ "status": { "code": 0 }, "ok_response": { "query_parameters_to_set": set } }))
        };
        assert!(edits("n w").invalid && !edits("n%20w").invalid);
    }
}
