//! External authorization (`ext_authz.v3.ExtAuthz`): a gRPC or HTTP service decides about the request.

mod check;
mod over_http;

use std::future::poll_fn;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::ext_authz::{AuthzService, ExtAuthz, ExtAuthzOverride, RequestBody};
use sidemesh_config::value::name;

use super::grpc_call::CallError;
use super::{Data, Exchange, Flow, buffer};
use crate::body::Body;
use crate::http::handler;
use crate::http::names::X_ENVOY_AUTH_FAILURE_MODE_ALLOWED;
use crate::http::reply::LocalReply;
use crate::telemetry::flags::ResponseFlags;

/// Under which name the service's metadata is kept.
const METADATA: &str = "envoy.filters.http.ext_authz";
/// When the service has no timeout of its own.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

/// What the service said.
#[derive(Default)]
pub struct Verdict {
    pub allowed: bool,
    /// Of a denial.
    pub status: u16,
    pub body: String,
    /// Of a denial: to the client. Otherwise: to the upstream.
    pub headers: Vec<Change>,
    pub remove: Vec<HeaderName>,
    /// To the client of an allowed request.
    pub response_headers: Vec<Change>,
    pub query_set: Vec<(String, String)>,
    pub query_remove: Vec<String>,
    pub metadata: Option<serde_json::Value>,
    /// The service named a header that cannot be one.
    pub invalid: bool,
}

/// A header that the service sets.
pub struct Change {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Set,
    Append,
    IfAbsent,
    IfPresent,
}

impl Change {
    fn apply(&self, headers: &mut HeaderMap) {
        let present = headers.contains_key(&self.name);
        match self.how {
            How::Append => {
                headers.append(self.name.clone(), self.value.clone());
            }
            How::IfAbsent if present => {}
            How::IfPresent if !present => {}
            _ => {
                headers.insert(self.name.clone(), self.value.clone());
            }
        }
    }
}

pub fn on_request(config: &ExtAuthz, x: &mut Exchange) -> Flow {
    if let Some(enabled) = &config.enabled
        && !enabled.value(&x.config.runtime).hit(x.random.rotate_left(21))
    {
        x.manager.stats.ext_authz_disabled.inc();
        let flag = config.deny_at_disable.as_ref();
        let deny = flag.is_some_and(|f| f.key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(f.default));
        return if deny { Flow::Answer(failure(config)) } else { Flow::Continue };
    }
    Flow::Wait
}

pub async fn wait(config: &ExtAuthz, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let default = ExtAuthzOverride::default();
    let over = match over {
        Some(FilterOverride::ExtAuthz(over)) => over,
        _ => &default,
    };
    let wanted = match over.disable_request_body_buffering {
        true => None,
        false => over.with_request_body.as_ref().or(config.with_request_body.as_ref()),
    };
    if let Some(wanted) = wanted
        && let Err(reply) = take_body(x, wanted).await
    {
        return Flow::Answer(reply);
    }
    let asked = match &config.service {
        AuthzService::Grpc(service) => {
            check::ask(config, x, service, over, wanted, service.timeout.unwrap_or(DEFAULT_TIMEOUT)).await
        }
        AuthzService::Http(service) => over_http::ask(x, service, wanted).await,
    };
    match asked {
        Ok(verdict) if verdict.invalid && config.validate_mutations => {
            x.manager.stats.ext_authz_error.inc();
            let invalid =
                LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "ext_authz_invalid", "authz.invalid_mutation");
            Flow::Answer(invalid)
        }
        Ok(verdict) if verdict.allowed => allow(config, at, x, verdict),
        Ok(verdict) => {
            x.manager.stats.ext_authz_denied.inc();
            if config.charge_cluster_response_stats
                && let Some(cluster) = x.info.cluster.as_deref()
                && let Some(cluster) = x.manager.upstream.cluster(&x.config, cluster)
            {
                cluster.charge_response(verdict.status, None);
            }
            Flow::Answer(denial(x, verdict))
        }
        Err(error) => failed(config, x, &error),
    }
}

/// Waits for as much of the body as the service shall see.
async fn take_body(x: &Exchange, wanted: &RequestBody) -> Result<(), LocalReply> {
    let Some(upload) = x.upload.clone() else { return Ok(()) };
    if x.upgrade.is_some() {
        return Ok(());
    }
    upload.keep(wanted.max_request_bytes as usize);
    match poll_fn(|cx| upload.poll_fill(cx)).await {
        Err(crate::body::Error::TooLarge(_)) if !wanted.allow_partial_message => Err(buffer::too_large(x)),
        _ => Ok(()),
    }
}

fn allow(config: &ExtAuthz, at: u16, x: &mut Exchange, verdict: Verdict) -> Flow {
    x.manager.stats.ext_authz_ok.inc();
    let changed = !verdict.headers.is_empty() || !verdict.remove.is_empty();
    for name in &verdict.remove {
        // The framing and the authority are not the service's to take away.
        if *name != http::header::HOST {
            x.parts.headers.remove(name);
        }
    }
    for change in &verdict.headers {
        change.apply(&mut x.parts.headers);
    }
    edit_query(x, &verdict);
    if let Some(metadata) = verdict.metadata {
        x.info.metadata.0.insert(name(METADATA), metadata);
    }
    if config.clear_route_cache && changed {
        handler::select_route(x);
    }
    if !verdict.response_headers.is_empty() {
        let mut headers = HeaderMap::new();
        for change in &verdict.response_headers {
            headers.append(change.name.clone(), change.value.clone());
        }
        x.data.push((at, Data::ExtAuthz(Box::new(headers))));
    }
    Flow::Continue
}

fn edit_query(x: &mut Exchange, verdict: &Verdict) {
    if verdict.query_set.is_empty() && verdict.query_remove.is_empty() {
        return;
    }
    let (path, query) = crate::http::route::split_query(x.target());
    let named = |pair: &str, key: &str| pair.split('=').next() == Some(key);
    let mut pairs: Vec<String> =
        query.strip_prefix('?').unwrap_or("").split('&').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    pairs.retain(|p| {
        !verdict.query_remove.iter().any(|k| named(p, k)) && !verdict.query_set.iter().any(|(k, _)| named(p, k))
    });
    pairs.extend(verdict.query_set.iter().map(|(k, v)| format!("{k}={v}")));
    let target = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
    crate::codec::set_path_and_query(&mut x.parts, &target);
}

fn denial(x: &mut Exchange, verdict: Verdict) -> LocalReply {
    if let Some(metadata) = verdict.metadata {
        x.info.metadata.0.insert(name(METADATA), metadata);
    }
    let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut reply = LocalReply::new(status, "ext_authz_denied", "authz.denied")
        .body(verdict.body)
        .flags(&[ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE]);
    for change in &verdict.headers {
        change.apply(reply.headers.get_or_insert_default());
    }
    reply
}

/// The service gave no verdict.
fn failed(config: &ExtAuthz, x: &mut Exchange, error: &CallError) -> Flow {
    let stats = &x.manager.stats;
    stats.ext_authz_error.inc();
    if *error == CallError::Timeout {
        stats.ext_authz_timeout.inc();
    }
    tracing::debug!(%error, "the authorization service gave no verdict");
    if config.failure_mode_allow {
        stats.ext_authz_failure_mode_allowed.inc();
        if config.failure_mode_allow_header_add {
            x.parts.headers.insert(X_ENVOY_AUTH_FAILURE_MODE_ALLOWED, HeaderValue::from_static("true"));
        }
        return Flow::Continue;
    }
    Flow::Answer(failure(config))
}

fn failure(config: &ExtAuthz) -> LocalReply {
    let status = StatusCode::from_u16(config.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
    LocalReply::new(status, "ext_authz_error", "authz.unavailable")
        .flags(&[ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE])
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    if let Some(Data::ExtAuthz(headers)) = super::take(x, at) {
        for (name, value) in headers.iter() {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
}
