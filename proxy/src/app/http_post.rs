//! One POST to a cluster of this proxy, for the control thread: collectors that speak OTLP over HTTP.
//!
//! HTTP/1.1 over a connection made for it, to an endpoint chosen at random; TLS as the cluster says. A batch of spans goes out
//! every few seconds: there is no pool.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use sidemesh_config::resource::http_connection_manager::HttpService;
use tokio::task::JoinSet;

use super::grpc::{dial, plan};
use crate::live::Live;

const AGENT: &str = concat!("sidemesh-proxy/", env!("CARGO_PKG_VERSION"));
/// The largest answer that is read; nothing in it matters.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Posts `body`; anything but a 2xx is an error.
pub(super) async fn post(
    live: &Live,
    service: &HttpService,
    content_type: &'static str,
    body: Bytes,
) -> Result<(), String> {
    let exchange = exchange(live, service, content_type, body);
    match tokio::time::timeout(service.timeout, exchange).await {
        Ok(done) => done,
        Err(_) => Err(format!("no answer within {:?}", service.timeout)),
    }
}

async fn exchange(live: &Live, service: &HttpService, content_type: &'static str, body: Bytes) -> Result<(), String> {
    let uri: Uri = service.uri.parse().map_err(|e| format!("`{}`: {e}", service.uri))?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let host = uri.authority().map_or(&*service.cluster, |a| a.as_str());
    let mut request =
        Request::post(path).header(HOST, host).header(CONTENT_TYPE, content_type).header(USER_AGENT, AGENT);
    for (name, value) in &service.headers {
        request = request.header(name, &**value);
    }
    let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
    let plan = plan(live, &service.cluster, &[b"http/1.1"]).map_err(|e| e.to_string())?;
    let stream = dial(plan).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    // The connection ends with this set.
    let mut driver = JoinSet::new();
    driver.spawn_local(connection);
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let _ = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    if status.is_success() { Ok(()) } else { Err(format!("HTTP status {status}")) }
}
