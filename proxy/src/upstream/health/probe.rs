//! One check of one host, over a connection of its own that may be kept for the next.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use sidemesh_config::resource::cluster::{Cluster as Config, HealthCheck, HealthChecker, HttpHealthCheck};
use sidemesh_config::resource::core::{AppendAction, HeaderEdits, HeaderTarget};
use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::resource::tls::UpstreamTransport;
use sidemesh_config::value::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::machine::Found;
use crate::body::Body;
use crate::codec::{Local, Release, Scheme, SendOptions, h1, h2};
use crate::tls;
use crate::upstream::Registry;
use crate::upstream::dial::{Dial, Dialled, Told};
use crate::upstream::pool::Mode;
use crate::upstream::transport::{Settings, layers};

const SERVING: i32 = 1;
/// What of a response's body is read when nothing says otherwise.
const MAX_BODY: usize = 1024 * 1024;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct GrpcRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct GrpcResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What a host's checks are made with.
pub struct Probe {
    pub config: std::sync::Arc<Config>,
    pub check: std::sync::Arc<HealthCheck>,
    pub endpoint: std::sync::Arc<Endpoint>,
    pub address: Address,
    pub client: Option<Rc<tls::Client>>,
    pub local: Local,
    pub registry: std::sync::Arc<Registry>,
    pub settings: Rc<Settings>,
    pub kept: Rc<Kept>,
}

/// The connection between checks.
#[derive(Default)]
pub struct Kept {
    h1: RefCell<Option<h1::client::Connection>>,
    h2: RefCell<Option<h2::client::Connection>>,
}

impl Release<h1::client::Connection> for Kept {
    fn release(&self, connection: Option<h1::client::Connection>) {
        *self.h1.borrow_mut() = connection;
    }
}

impl Kept {
    fn clear(&self) {
        drop(self.h1.take());
        if let Some(connection) = self.h2.take() {
            connection.retire();
        }
    }
}

impl Probe {
    /// Checks, within the time limit.
    pub async fn run(&self) -> Found {
        let found = match self.local.timers.timeout(self.check.timeout, self.check()).await {
            Ok(found) => found,
            Err(_) => Found::Timeout,
        };
        if !self.check.reuse_connection || matches!(found, Found::Network | Found::Timeout) {
            self.kept.clear();
        }
        found
    }

    async fn check(&self) -> Found {
        match &self.check.checker {
            HealthChecker::Tcp { send, receive } => self.tcp(send, receive).await,
            HealthChecker::Http(http) => self.http(http).await,
            HealthChecker::Grpc { service, authority, metadata } => self.grpc(service, authority, metadata).await,
        }
    }

    async fn dial(&self, mode: Option<Mode>) -> Option<Dialled> {
        let transport = self.config.transport_for(&self.endpoint);
        let (_, inner) = layers(transport);
        let at = self.endpoint.checked_at.as_deref();
        let elsewhere = at.and_then(|at| at.address.as_ref());
        let address = match (&self.address, at.and_then(|at| at.port).or(self.check.alt_port)) {
            (_, None) if elsewhere.is_none() => self.address.clone(),
            (Address::Socket(address), port) => {
                let mut address = match elsewhere {
                    Some(Address::Socket(other)) => *other,
                    _ => *address,
                };
                if let Some(port) = port {
                    address.set_port(port);
                }
                Address::Socket(address)
            }
            (other, _) => other.clone(),
        };
        let dial = Dial {
            address: &address,
            fallbacks: &[],
            bind: self.config.bind.as_ref(),
            default_bind: self.registry.bind.as_ref(),
            keepalive: None,
            transport,
            client: matches!(inner, UpstreamTransport::Tls(_)).then(|| self.client.clone()).flatten(),
            tls_stats: None,
            server_name: None,
            san: None,
            hostname: &self.endpoint.hostname,
            mode,
            told: Told::default(),
            timeout: self.check.timeout,
        };
        dial.connect(&self.local.timers).await.ok()
    }

    async fn tcp(&self, send: &[u8], receive: &[Vec<u8>]) -> Found {
        let Some(mut dialled) = self.dial(None).await else { return Found::Network };
        if !send.is_empty() && dialled.io.write_all(send).await.is_err() {
            return Found::Network;
        }
        let mut seen = Vec::new();
        let mut chunk = [0u8; 4096];
        while !contains_in_order(&seen, receive) {
            match dialled.io.read(&mut chunk).await {
                Ok(n) if n > 0 && seen.len() < MAX_BODY => seen.extend_from_slice(&chunk[..n]),
                _ => return Found::Network,
            }
        }
        Found::Healthy { degraded: false }
    }

    /// The host header: the endpoint's own, else the configured, else the cluster's name.
    fn authority(&self, configured: &str) -> HeaderValue {
        let own = self.endpoint.checked_at.as_deref().map_or("", |at| &at.hostname);
        let name = [own, configured].into_iter().find(|n| !n.is_empty()).unwrap_or(&self.config.name);
        HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("health-check"))
    }

    async fn http(&self, http: &HttpHealthCheck) -> Found {
        let body = Bytes::copy_from_slice(&http.send);
        let Some(mut head) = head(http.method.clone(), &http.path, self.authority(&http.host)) else {
            return Found::Network;
        };
        apply(&mut head, &http.headers);
        let response = match self.send(&head, Body::full(body), http.http2).await {
            Some(response) => response,
            None => return Found::Network,
        };
        let verdict = judge(http, &response);
        let unhealthy = Found::Unhealthy { excluded: false, status: response.status().as_u16() };
        let limit = if http.response_buffer_size > 0 { http.response_buffer_size as usize } else { MAX_BODY };
        let Ok(body) = response.into_body().collect(limit.max(1)).await else {
            // A body that is longer than what is looked at does not make a host unhealthy; its connection is not kept.
            self.kept.clear();
            return if http.receive.is_empty() { verdict } else { unhealthy };
        };
        match verdict {
            Found::Healthy { .. } if !contains_in_order(&body, &http.receive) => unhealthy,
            verdict => verdict,
        }
    }

    async fn grpc(&self, service: &str, authority: &str, metadata: &HeaderEdits) -> Found {
        use prost::Message;
        let Some(mut head) = head(Method::POST, "/grpc.health.v1.Health/Check", self.authority(authority)) else {
            return Found::Network;
        };
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Ok(timeout) = HeaderValue::try_from(format!("{}m", self.check.timeout.as_millis())) {
            head.headers.insert("grpc-timeout", timeout);
        }
        apply(&mut head, metadata);
        let message = GrpcRequest { service: service.to_owned() }.encode_to_vec();
        let mut frame = vec![0u8];
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(&message);
        let Some(response) = self.send(&head, Body::full(frame), true).await else { return Found::Network };
        let unhealthy = Found::Unhealthy { excluded: false, status: 0 };
        if response.status() != 200 {
            return unhealthy;
        }
        let mut status = grpc_status(response.headers());
        let mut body = response.into_body();
        let mut data = Vec::new();
        while let Some(frame) = body.next().await {
            let Ok(frame) = frame else { return Found::Network };
            if let Some(trailers) = frame.trailers_ref() {
                status = status.or_else(|| grpc_status(trailers));
            } else if let Some(bytes) = frame.data_ref() {
                if data.len() + bytes.len() > MAX_BODY {
                    return unhealthy;
                }
                data.extend_from_slice(bytes);
            }
        }
        let message = data.get(5..).and_then(|m| GrpcResponse::decode(m).ok());
        match (status, message) {
            (Some(0), Some(message)) if message.status == SERVING => Found::Healthy { degraded: false },
            _ => unhealthy,
        }
    }

    async fn send(&self, head: &Parts, body: Body, http2: bool) -> Option<Response<Body>> {
        let transport = self.config.transport_for(&self.endpoint);
        let scheme =
            if matches!(layers(transport).1, UpstreamTransport::Tls(_)) { Scheme::Https } else { Scheme::Http };
        let options = SendOptions { scheme, ..SendOptions::default() };
        if http2 {
            let kept = self.kept.h2.borrow().clone().filter(|c| c.is_usable());
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    let io = self.dial(Some(Mode::Http2)).await?.io;
                    h2::client::connect(io, self.settings.h2, self.local.clone(), None).await.ok()?
                }
            };
            *self.kept.h2.borrow_mut() = Some(connection.clone());
            return connection.send(head, body, options, None).await.ok();
        }
        let kept = self.kept.h1.take().filter(|_| self.check.reuse_connection);
        let connection = match kept.and_then(|mut c| c.is_reusable().then_some(c)) {
            Some(connection) => connection,
            None => {
                let io = self.dial(Some(Mode::Http1)).await?.io;
                h1::client::Connection::new(io, self.settings.h1.clone(), self.local.clone())
            }
        };
        connection.send(head, body, options, self.kept.clone()).await.ok()
    }
}

fn head(method: Method, path: &str, authority: HeaderValue) -> Option<Parts> {
    let (mut head, ()) = Request::builder().method(method).uri(path).body(()).ok()?.into_parts();
    head.headers.insert(header::HOST, authority);
    head.headers.insert(header::USER_AGENT, HeaderValue::from_static("Envoy/HC"));
    Some(head)
}

/// Adds and removes headers. Values with operators have no request to take them from and are left out.
fn apply(head: &mut Parts, edits: &HeaderEdits) {
    for name in &edits.remove {
        head.headers.remove(name);
    }
    for edit in &edits.add {
        let name: &HeaderName = match &edit.target {
            HeaderTarget::Header(name) => name,
            HeaderTarget::Authority => &header::HOST,
            _ => continue,
        };
        let Some(value) = edit.value.as_static().and_then(|v| HeaderValue::from_str(v).ok()) else { continue };
        let present = head.headers.contains_key(name);
        match edit.action {
            AppendAction::AppendIfExistsOrAdd => {
                head.headers.append(name, value);
            }
            AppendAction::AddIfAbsent if present => {}
            AppendAction::OverwriteIfExists if !present => {}
            _ => {
                head.headers.insert(name, value);
            }
        }
    }
}

fn judge(http: &HttpHealthCheck, response: &Response<Body>) -> Found {
    let status = response.status().as_u16();
    let headers = response.headers();
    let has = |name: &str| headers.contains_key(name);
    if !super::is_expected(http, status) {
        return if http.retriable_statuses.iter().any(|r| r.contains(&status)) {
            Found::Retriable { status }
        } else {
            Found::Unhealthy { excluded: has("x-envoy-immediate-health-check-fail"), status }
        };
    }
    if let Some(wanted) = &http.service_name {
        let name =
            headers.get("x-envoy-upstream-healthchecked-cluster").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !wanted.is_match(name) {
            return Found::Unhealthy { excluded: false, status };
        }
    }
    if has("x-envoy-immediate-health-check-fail") {
        return Found::Unhealthy { excluded: true, status };
    }
    Found::Healthy { degraded: has("x-envoy-degraded") }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether `data` holds all of `patterns`, one after the other.
fn contains_in_order(data: &[u8], patterns: &[Vec<u8>]) -> bool {
    let mut rest = data;
    for pattern in patterns {
        match memchr::memmem::find(rest, pattern) {
            Some(at) => rest = &rest[at + pattern.len()..],
            None => return false,
        }
    }
    true
}
