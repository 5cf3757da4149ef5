//! The HTTP form: the request's head goes to the service, 200 allows, anything else is the client's answer.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::resource::http_filter::ext_authz::{HttpAuthz, RequestBody};

use super::{Change, How, Verdict};
use crate::body::Body;
use crate::http::exchange::Exchange;
use crate::http::filter::grpc_call::{CallError, cluster, head, send};
use crate::http::names::X_FORWARDED_FOR;

pub async fn ask(x: &Exchange, service: &HttpAuthz, body: Option<&RequestBody>) -> Result<Verdict, CallError> {
    let path = format!("{}{}", service.path_prefix, x.target());
    let mut asked = head(x.parts.method.clone(), &path)?;
    let host = authority(&service.service.uri).unwrap_or_else(|| x.authority());
    let is = |list: &[StringMatcher], name: &str| list.iter().any(|m| m.is_match(name));
    for (name, value) in &x.parts.headers {
        if *name == AUTHORIZATION || *name == X_FORWARDED_FOR || is(&service.allowed_headers, name.as_str()) {
            asked.headers.append(name.clone(), value.clone());
        }
    }
    asked.headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| CallError::Malformed)?);
    for (name, value) in &service.headers_to_add {
        if let Ok(value) = HeaderValue::from_str(value) {
            asked.headers.insert(name.clone(), value);
        }
    }
    let content = match (body, &x.upload) {
        (Some(wanted), Some(upload)) => upload.kept(wanted.max_request_bytes as usize),
        _ => Bytes::new(),
    };
    asked.headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    let cluster = cluster(x, &service.service.cluster)?;
    let answer = send(x, &cluster, asked, Body::full(content), service.service.timeout).await?;
    if answer.status >= 500 {
        return Err(CallError::Http(answer.status));
    }
    Ok(match answer.status {
        200 => allowed(service, &answer.headers),
        status => denied(service, status, &answer.headers, answer.body),
    })
}

fn allowed(service: &HttpAuthz, headers: &HeaderMap) -> Verdict {
    let pick = |list: &[StringMatcher], how| {
        headers
            .iter()
            .filter(|(n, _)| list.iter().any(|m| m.is_match(n.as_str())))
            .map(|(n, v)| Change { name: n.clone(), value: v.clone(), how })
            .collect::<Vec<_>>()
    };
    let mut to_upstream = pick(&service.allowed_upstream_headers, How::Set);
    to_upstream.extend(pick(&service.allowed_upstream_headers_to_append, How::Append));
    Verdict {
        allowed: true,
        headers: to_upstream,
        response_headers: pick(&service.allowed_client_headers_on_success, How::Append),
        ..Verdict::default()
    }
}

fn denied(service: &HttpAuthz, status: u16, headers: &HeaderMap, body: Bytes) -> Verdict {
    let all = service.allowed_client_headers.is_empty();
    let passes = |name: &http::HeaderName| {
        let always = [CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE].contains(name);
        let listed = all || service.allowed_client_headers.iter().any(|m| m.is_match(name.as_str()));
        (always || listed) && *name != CONTENT_LENGTH
    };
    Verdict {
        allowed: false,
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
        headers: headers
            .iter()
            .filter(|(n, _)| passes(n))
            .map(|(n, v)| Change { name: n.clone(), value: v.clone(), how: How::Append })
            .collect(),
        ..Verdict::default()
    }
}

/// The authority of a URI.
fn authority(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.split(['/', '?']).next().filter(|a| !a.is_empty())
}
