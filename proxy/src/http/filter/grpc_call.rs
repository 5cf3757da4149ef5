//! One unary gRPC call through a cluster of this proxy (gRPC over HTTP/2), as filters that ask a service make it; and the plain HTTP
//! request that others ask by.

use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Response};
use prost::Message;
use sidemesh_config::format;
use sidemesh_config::resource::route::Priority;
use sidemesh_config::value::GrpcService;

use super::Exchange;
use crate::body::{Body, Error};
use crate::codec::{Protocol, Scheme, SendOptions, set_path_and_query};
use crate::http::names::*;
use crate::upstream::{AttemptInfo, AttemptOptions, Cluster, PickContext};

/// The largest answer of a service.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why a service gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the cluster `{0}` of the service does not exist")]
    NoCluster(String),
    #[error("the service did not answer in time")]
    Timeout,
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    #[error("the service answered HTTP status {0}")]
    Http(u16),
    #[error("the service answered gRPC status {0}")]
    Status(u32),
    #[error("the service's answer is malformed")]
    Malformed,
}

/// Calls `path` (`/package.Service/Method`).
pub async fn call<Q: Message, A: Message + Default>(
    x: &Exchange,
    service: &GrpcService,
    path: &'static str,
    request: &Q,
    timeout: Duration,
) -> Result<A, CallError> {
    let mut frame = BytesMut::with_capacity(request.encoded_len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).map_err(|_| CallError::Malformed)?);
    request.encode(&mut frame).map_err(|_| CallError::Malformed)?;
    let mut head = head(Method::POST, path)?;
    let authority = service.authority.as_deref().unwrap_or(&service.cluster);
    head.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| CallError::Malformed)?);
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let millis = timeout.as_millis().min(99_999_999);
    if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
        head.headers.insert(GRPC_TIMEOUT, value);
    }
    head.headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    head.headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderValue::from(timeout.as_millis() as u64));
    for (name, text) in &service.initial_metadata {
        // A text with operators is read anew for each call: few have any, and what is no format stands as it is.
        let value = match text.contains('%').then(|| format::parse(text)) {
            Some(Ok(format)) => HeaderValue::try_from(x.format(&format)),
            _ => HeaderValue::try_from(&**text),
        };
        if let Ok(value) = value {
            head.headers.append(name.clone(), value);
        }
    }
    let cluster = cluster(x, &service.cluster)?;
    let answer = send(x, &cluster, head, Body::full(frame.freeze()), timeout).await?;
    decode(answer)
}

/// A collected answer.
pub struct Collected {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// A request head without headers.
pub fn head(method: Method, path: &str) -> Result<http::request::Parts, CallError> {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    if !set_path_and_query(&mut head, path) {
        return Err(CallError::Malformed);
    }
    Ok(head)
}

pub fn cluster(x: &Exchange, name: &str) -> Result<Rc<Cluster>, CallError> {
    x.manager.upstream.cluster(&x.config, name).ok_or_else(|| CallError::NoCluster(name.to_owned()))
}

/// One attempt at any host, its answer collected.
pub async fn send(
    x: &Exchange,
    cluster: &Rc<Cluster>,
    head: http::request::Parts,
    body: Body,
    timeout: Duration,
) -> Result<Collected, CallError> {
    let unreachable = |e: String| CallError::Unreachable(e);
    let started = x.now();
    let host = cluster.pick(&PickContext::default()).map_err(|e| {
        cluster.charge_own(503, None);
        unreachable(e.to_string())
    })?;
    let info = AttemptInfo::default();
    let exchange = async {
        let options = AttemptOptions {
            priority: Priority::Default,
            send: SendOptions { informational: None, upgrade: None, scheme: Scheme::Http },
            downstream: None,
            protocol: Some(Protocol::Http2),
            connection: None,
        };
        let response = cluster.request(&host, &head, body, options, &info).await.map_err(|e| {
            cluster.charge_own(503, None);
            unreachable(e.to_string())
        })?;
        cluster.charge_own(response.status().as_u16(), Some(x.now().saturating_duration_since(started)));
        collect(response).await.map_err(|e| unreachable(e.to_string()))
    };
    let Ok(result) = x.manager.worker.local.timers.timeout(timeout, exchange).await else {
        cluster.stats().upstream_rq_timeout.inc();
        cluster.charge_own(504, None);
        cluster.on_timeout(&host, info.connection().and_then(|c| c.protocol));
        return Err(CallError::Timeout);
    };
    result
}

async fn collect(response: Response<Body>) -> Result<Collected, Error> {
    let (parts, mut body) = response.into_parts();
    let mut all = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.next().await {
        match frame?.into_data() {
            Ok(data) if all.len() + data.len() > MAX_ANSWER_BYTES => {
                return Err(Error::TooLarge("4 MiB of a service's answer"));
            }
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok(Collected { status: parts.status.as_u16(), headers: parts.headers, body: all.freeze(), trailers })
}

fn decode<A: Message + Default>(answer: Collected) -> Result<A, CallError> {
    if answer.status != 200 {
        return Err(CallError::Http(answer.status));
    }
    let status = answer.trailers.get(GRPC_STATUS).or_else(|| answer.headers.get(GRPC_STATUS));
    let status: u32 = status.and_then(|s| s.to_str().ok()?.parse().ok()).unwrap_or(2);
    if status != 0 {
        return Err(CallError::Status(status));
    }
    let (Some(prefix), Some(message)) = (answer.body.get(..5), answer.body.get(5..)) else {
        return Err(CallError::Malformed);
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if prefix[0] != 0 || message.len() != length {
        return Err(CallError::Malformed);
    }
    A::decode(message).map_err(|_| CallError::Malformed)
}
