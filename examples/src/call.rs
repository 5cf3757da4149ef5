//! Calls from one service to another, through whatever listens at the address.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::serve::Answer;

/// Headers that belong to the trace and are passed on.
const TRACE: [&str; 4] = ["traceparent", "tracestate", "x-request-id", "baggage"];

const TIMEOUT: Duration = Duration::from_secs(10);

/// `GET http://<address><path>`, addressed to `host`. Errors are text for the caller's answer.
pub async fn get(address: &str, host: &str, path: &str, incoming: &HeaderMap) -> Result<Answer, String> {
    match tokio::time::timeout(TIMEOUT, attempt(address, host, path, incoming)).await {
        Ok(result) => result.map_err(|e| format!("{host}{path}: {e}")),
        Err(_) => Err(format!("{host}{path}: no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn attempt(
    address: &str,
    host: &str,
    path: &str,
    incoming: &HeaderMap,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::get(path).header(http::header::HOST, host);
    for name in TRACE {
        if let Some(value) = incoming.get(name) {
            request = request.header(name, value);
        }
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    let value =
        serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    Ok((status, value))
}
