//! The HTTP form: the request's head goes to the service, 200 allows, anything else below 500 is the client's answer.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use serde_json::{Map, Value};
use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::resource::http_filter::ext_authz::{ExtAuthz, HttpAuthz, RequestBody};

use super::{Change, How, Verdict, seen_body};
use crate::body::Body;
use crate::http::exchange::Exchange;
use crate::http::filter::grpc_call::{CallError, cluster, head, send};
use crate::http::names::{X_ENVOY_AUTH_PARTIAL_BODY, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_INTERNAL};

pub async fn ask(
    config: &ExtAuthz,
    x: &Exchange,
    service: &HttpAuthz,
    body: Option<&RequestBody>,
) -> Result<Verdict, CallError> {
    let path = match service.path_override.is_empty() {
        true => format!("{}{}", service.path_prefix, x.target()),
        false => service.path_override.to_string(),
    };
    let mut asked = head(x.parts.method.clone(), &path)?;
    let is = |list: &[StringMatcher], name: &str| list.iter().any(|m| m.is_match(name));
    for (name, value) in &x.parts.headers {
        let text = name.as_str();
        let allowed = is(&service.allowed_headers, text) || is(&config.allowed_headers, text);
        if (*name == AUTHORIZATION || allowed) && !is(&config.disallowed_headers, text) {
            asked.headers.append(name.clone(), value.clone());
        }
    }
    asked.headers.insert(HOST, HeaderValue::from_str(x.authority()).map_err(|_| CallError::Malformed)?);
    for (name, value) in &service.headers_to_add {
        if let Ok(value) = HeaderValue::from_str(value) {
            asked.headers.insert(name.clone(), value);
        }
    }
    let timeout = service.service.timeout;
    let content = match seen_body(x, body) {
        Some((content, partial)) => {
            let partial = HeaderValue::from_static(if partial { "true" } else { "false" });
            asked.headers.insert(X_ENVOY_AUTH_PARTIAL_BODY, partial);
            content
        }
        None => Bytes::new(),
    };
    asked.headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    asked.headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    asked.headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderValue::from(timeout.as_millis() as u64));
    let cluster = cluster(x, &service.service.cluster)?;
    let answer = send(x, &cluster, asked, Body::full(content), timeout).await?;
    if answer.status >= 500 {
        return Err(CallError::Http(answer.status));
    }
    let mut verdict = match answer.status {
        200 => allowed(service, &answer.headers),
        status => denied(service, status, &answer.headers, answer.body),
    };
    verdict.metadata = metadata(&service.metadata_from_headers, &answer.headers);
    Ok(verdict)
}

/// `dynamic_metadata_from_headers`.
fn metadata(wanted: &[StringMatcher], headers: &HeaderMap) -> Option<Map<String, Value>> {
    let picked = headers.iter().filter(|(n, _)| wanted.iter().any(|m| m.is_match(n.as_str())));
    let fields: Map<String, Value> =
        picked.map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into())).collect();
    (!fields.is_empty()).then_some(fields)
}

fn allowed(service: &HttpAuthz, headers: &HeaderMap) -> Verdict {
    let pick = |list: &[StringMatcher], how| {
        headers
            .iter()
            .filter(|(n, _)| list.iter().any(|m| m.is_match(n.as_str())))
            .map(|(n, v)| Change::header(n.clone(), v.clone(), how))
            .collect::<Vec<_>>()
    };
    let mut upstream = pick(&service.allowed_upstream_headers, How::Set);
    upstream.extend(pick(&service.allowed_upstream_headers_to_append, How::Add));
    let client = pick(&service.allowed_client_headers_on_success, How::Add);
    Verdict { allowed: true, upstream, client, ..Verdict::default() }
}

fn denied(service: &HttpAuthz, status: u16, headers: &HeaderMap, body: Bytes) -> Verdict {
    let all = service.allowed_client_headers.is_empty();
    let passes = |name: &http::HeaderName| {
        let always = [LOCATION, WWW_AUTHENTICATE].contains(name);
        let listed = all || service.allowed_client_headers.iter().any(|m| m.is_match(name.as_str()));
        (always || listed) && *name != CONTENT_LENGTH
    };
    let client = headers.iter().filter(|(n, _)| passes(n));
    Verdict {
        allowed: false,
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
        client: client.map(|(n, v)| Change::header(n.clone(), v.clone(), How::Add)).collect(),
        ..Verdict::default()
    }
}
