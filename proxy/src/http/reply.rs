//! Answers that the proxy makes itself: the one place where errors become statuses, texts, flags and details.
//!
//! Statuses, bodies and details are Envoy's. A gRPC request gets status 200 with `grpc-status`. The connection manager's
//! `local_reply_config` has the last word. Under our own control plane (it sends revisions) an answer that tells of an
//! error carries `x-sidemesh-error: <code>`.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use sidemesh_config::resource::http_connection_manager::{BodyFormat, BodyFormatKind, LocalReplyMapper};

use super::exchange::Exchange;
use super::headers;
use super::names::*;
use crate::body::Body;
use crate::telemetry::access_log::admits;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::{render, render_json};
use crate::upstream::{AttemptError, Overflow, PickError};

/// An answer before it is written.
#[derive(Debug, Clone)]
pub struct LocalReply {
    pub status: StatusCode,
    pub body: Cow<'static, str>,
    pub details: Cow<'static, str>,
    pub flags: &'static [ResponseFlags],
    /// Overrides the mapping from the status.
    pub grpc_status: Option<u32>,
    /// Ours: a stable code for programs.
    pub code: &'static str,
    pub headers: Option<Box<HeaderMap>>,
}

impl LocalReply {
    pub fn new(status: StatusCode, details: &'static str, code: &'static str) -> Self {
        LocalReply {
            status,
            body: Cow::Borrowed(""),
            details: Cow::Borrowed(details),
            flags: &[],
            grpc_status: None,
            code,
            headers: None,
        }
    }

    pub fn body(mut self, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn flags(mut self, flags: &'static [ResponseFlags]) -> Self {
        self.flags = flags;
        self
    }

    pub fn details(mut self, details: String) -> Self {
        self.details = Cow::Owned(details);
        self
    }

    pub fn grpc(mut self, status: u32) -> Self {
        self.grpc_status = Some(status);
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().append(name, value);
        self
    }

    // What may go wrong, in the order of a request's way.

    pub fn bad_request(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, details, "request.malformed")
            .flags(&[ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR])
    }

    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "route_not_found", "route.none").flags(&[ResponseFlags::NO_ROUTE_FOUND])
    }

    /// An `original_ip_detection` extension demands an address.
    pub fn client_unknown(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        Self::new(status, "rejecting_because_detection_failed", "request.client_unknown")
    }

    pub fn upgrade_refused() -> Self {
        Self::new(StatusCode::FORBIDDEN, "upgrade_failed", "upgrade.not_allowed")
    }

    pub fn no_cluster(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self::new(status, "cluster_not_found", "cluster.unknown").flags(&[ResponseFlags::NO_CLUSTER_FOUND])
    }

    pub fn no_host(error: &PickError) -> Self {
        let reply = |details, code| Self::new(StatusCode::SERVICE_UNAVAILABLE, details, code);
        let yes = HeaderValue::from_static("true");
        match error {
            PickError::Dropped { unconditional: true } => reply("unconditional_drop_overload", "upstream.dropped")
                .body("unconditional drop overload")
                .flags(&[ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD])
                .header(X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD, yes),
            PickError::Dropped { unconditional: false } => reply("drop_overload", "upstream.dropped")
                .body("drop overload")
                .flags(&[ResponseFlags::DROP_OVERLOAD])
                .header(X_ENVOY_DROP_OVERLOAD, yes),
            PickError::NoHealthyHost | PickError::NoDestination | PickError::NoSessionHost { .. } => {
                let status = match error {
                    PickError::NoSessionHost { status } => StatusCode::from_u16(*status).ok(),
                    _ => None,
                };
                Self::new(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "no_healthy_upstream", "upstream.no_host")
                    .body("no healthy upstream")
                    .flags(&[ResponseFlags::NO_HEALTHY_UPSTREAM])
            }
        }
    }

    /// The route's timeout, or the per-try timeout of the last attempt.
    pub fn upstream_timeout(per_try: bool) -> Self {
        let (details, code) = match per_try {
            true => ("upstream_per_try_timeout", "timeout.per_try"),
            false => ("response_timeout", "timeout.route"),
        };
        Self::new(StatusCode::GATEWAY_TIMEOUT, details, code)
            .body("upstream request timeout")
            .flags(&[ResponseFlags::UPSTREAM_REQUEST_TIMEOUT])
    }

    pub fn per_try_idle_timeout() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_per_try_idle_timeout", "timeout.per_try_idle")
            .body("upstream request timeout")
            .flags(&[ResponseFlags::UPSTREAM_REQUEST_TIMEOUT])
    }

    pub fn stream_idle(status: StatusCode) -> Self {
        Self::new(status, "stream_idle_timeout", "timeout.stream_idle")
            .body("stream timeout")
            .flags(&[ResponseFlags::STREAM_IDLE_TIMEOUT])
    }

    pub fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_overall_timeout", "timeout.request").body("request timeout")
    }

    pub fn max_duration(status: StatusCode) -> Self {
        Self::new(status, "max_duration_timeout", "timeout.max_duration").body("downstream duration timeout").grpc(4)
    }

    /// `x-envoy-upstream-stream-duration-ms`, or the cluster's `max_stream_duration`.
    pub fn upstream_max_duration() -> Self {
        let details = "upstream_max_stream_duration_reached";
        Self::new(StatusCode::GATEWAY_TIMEOUT, details, "timeout.upstream_max_duration")
            .body("upstream max stream duration reached")
            .flags(&[ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED])
    }

    /// An attempt that brought no response head.
    pub fn upstream_failure(error: &AttemptError, retried: bool) -> Self {
        let reason = error.reason();
        let mut body = String::from("upstream connect error or disconnect/reset before headers. ");
        if retried {
            body.push_str("retried and the latest ");
        }
        body.push_str("reset reason: ");
        body.push_str(reason);
        // The transport's own words are for the log: they may tell of keys and names inside.
        let detail = error.detail();
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        if let Some(text) = &detail {
            details.push('|');
            details.push_str(text);
        }
        details.push('}');
        // One word for log fields, as the details are documented.
        let details = details.replace(' ', "_");
        let (status, flags, code): (_, &'static [ResponseFlags], _) = match error.flag() {
            "UO" => (StatusCode::SERVICE_UNAVAILABLE, &[ResponseFlags::UPSTREAM_OVERFLOW], "upstream.overflow"),
            "UF" => {
                (StatusCode::SERVICE_UNAVAILABLE, &[ResponseFlags::UPSTREAM_CONNECTION_FAILURE], "upstream.connect")
            }
            "UR" => (StatusCode::SERVICE_UNAVAILABLE, &[ResponseFlags::UPSTREAM_REMOTE_RESET], "upstream.reset"),
            "UPE" => (StatusCode::BAD_GATEWAY, &[ResponseFlags::UPSTREAM_PROTOCOL_ERROR], "upstream.protocol"),
            "LR" => (StatusCode::SERVICE_UNAVAILABLE, &[ResponseFlags::LOCAL_RESET], "upstream.local_reset"),
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                &[ResponseFlags::UPSTREAM_CONNECTION_TERMINATION],
                "upstream.terminated",
            ),
        };
        let mut reply = Self::new(status, "", code).body(body).flags(flags).details(details);
        if let AttemptError::Overflow(overflow) = error {
            reply = reply.header(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
            reply.code = overflow_code(overflow);
        }
        reply
    }
}

fn overflow_code(overflow: &Overflow) -> &'static str {
    match overflow {
        Overflow::Connections => "upstream.overflow.connections",
        Overflow::Pending => "upstream.overflow.pending",
        Overflow::Requests => "upstream.overflow.requests",
        Overflow::Retries => "upstream.overflow.retries",
    }
}

/// The type of an answer's body.
pub enum BodyType {
    /// A format of `local_reply_config` made the body: the last word.
    Given(HeaderValue),
    /// Where nothing else says what it is.
    Text,
    /// As the headers say, or there is no body.
    Settled,
}

impl BodyType {
    /// Says it in the headers.
    pub fn tell(self, headers: &mut HeaderMap) {
        match self {
            BodyType::Given(value) => drop(headers.insert(CONTENT_TYPE, value)),
            BodyType::Text => drop(headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"))),
            BodyType::Settled => {}
        }
    }
}

/// Writes the answer down; the record says what happened. What the body is, is told when the headers have been edited.
pub fn render_reply(x: &mut Exchange, reply: LocalReply) -> (Response<Body>, BodyType) {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = reply.status;
    if let Some(headers) = reply.headers {
        *response.headers_mut() = *headers;
    }
    x.info.details = reply.details;
    for flag in reply.flags {
        x.info.flags.insert(*flag);
    }
    x.info.error_code = (!reply.code.is_empty()).then_some(reply.code);
    x.info.status = reply.status.as_u16();
    if x.manager.router.suppress_envoy_headers {
        response.headers_mut().remove(X_ENVOY_OVERLOADED);
    }
    if x.config.revision.is_some() && !reply.code.is_empty() {
        response.headers_mut().insert(X_SIDEMESH_ERROR, HeaderValue::from_static(reply.code));
    }
    let (content_type, given) = map(x, &mut response, reply.body);
    let body = std::mem::take(&mut x.local_body);
    if x.is_grpc() && !x.grpc_web {
        make_grpc(&mut response, x.info.status, reply.grpc_status, &body);
        x.info.status = response.status().as_u16();
        x.local_body = body;
        return (response, BodyType::Settled);
    }
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let bytes = match &body {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
        };
        *response.body_mut() = Body::full(bytes);
    }
    let content_type = match (body.is_empty(), given) {
        (true, _) => BodyType::Settled,
        // Plain text is what a body is where nothing else is said, also of a format.
        (false, true) if content_type != "text/plain" => BodyType::Given(content_type),
        (false, _) => BodyType::Text,
    };
    x.local_body = body;
    (response, content_type)
}

fn make_grpc(response: &mut Response<Body>, status: u16, given: Option<u32>, body: &str) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(given.unwrap_or_else(|| crate::grpc::from_http(status))));
    if !body.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode_message(body))
    {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// `grpc-message` holds printable ASCII, the rest (and `%`) percent-encoded.
pub fn percent_encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'%' | 0..=0x1f | 0x7f..=0xff => out.push_str(&format!("%{b:02X}")),
            _ => out.push(char::from(b)),
        }
    }
    out
}

/// Applies `local_reply_config`; leaves the text in `x.local_body` and returns its type, and whether a format gives it: that goes before
/// what the answer says of itself.
fn map(x: &mut Exchange, response: &mut Response<Body>, body: Cow<'static, str>) -> (HeaderValue, bool) {
    x.local_body = body;
    let text = HeaderValue::from_static("text/plain");
    let Some(config) = x.manager.config.local_reply.clone() else { return (text, false) };
    let mapper = config.mappers.iter().find(|m| admits(&m.filter, &x.log_context(), &x.config.runtime, x.random));
    if let Some(mapper) = mapper {
        apply_mapper(x, response, mapper);
    }
    let format = mapper.and_then(|m| m.body_format.as_ref()).or(config.body_format.as_ref());
    match format {
        Some(format) => {
            let line = !x.is_grpc();
            (apply_format(x, format, line), true)
        }
        None => (text, false),
    }
}

fn apply_mapper(x: &mut Exchange, response: &mut Response<Body>, mapper: &LocalReplyMapper) {
    if let Some(body) = mapper.body.as_ref().and_then(|source| x.manager.sources.text(source)) {
        x.local_body = Cow::Owned(body);
    }
    let mut changes = headers::Changes::new();
    headers::evaluate(&mapper.headers.add, response.headers(), &x.log_context(), &mut changes);
    headers::apply(changes, response.headers_mut());
    // The headers were told of the status that the mapper found.
    if let Some(status) = mapper.status.and_then(|s| StatusCode::from_u16(s).ok()) {
        *response.status_mut() = status;
        x.info.status = status.as_u16();
    }
}

/// Formats the body; returns its content type. `line`: JSON ends with a line break.
pub fn apply_format(x: &mut Exchange, format: &BodyFormat, line: bool) -> HeaderValue {
    let mut out = String::new();
    let absent = if format.omit_empty { "" } else { "-" };
    let default = match &format.kind {
        BodyFormatKind::Text(f) => {
            render(f, &x.log_context(), absent, &mut out);
            HeaderValue::from_static("text/plain")
        }
        BodyFormatKind::Json(f) => {
            render_json(f, &x.log_context(), format.omit_empty, &mut out);
            if line {
                out.push('\n');
            }
            HeaderValue::from_static("application/json")
        }
    };
    x.local_body = Cow::Owned(out);
    format.content_type.as_ref().and_then(|t| HeaderValue::from_str(t).ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode_message("50% é\n"), "50%25 %C3%A9%0A");
    }
}
