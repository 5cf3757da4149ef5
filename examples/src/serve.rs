//! One small HTTP server for all services.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// After a connection that could not be accepted.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A request as the services see it: bodies are not used.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
}

/// A status and a JSON body.
pub type Answer = (StatusCode, Value);

/// A service of the shop.
pub trait Service: Send + Sync + 'static {
    fn answer(&self, call: Call) -> impl Future<Output = Answer> + Send;
}

/// Serves until the process ends. Prints the address once it listens.
pub async fn serve(address: SocketAddr, name: &str, service: impl Service) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        std::io::Error::new(e.kind(), format!("cannot listen on {address}: {e}; choose another --listen"))
    })?;
    println!("{name} listens on {}", listener.local_addr()?);
    let service = Arc::new(service);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: wait for some to be closed.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let handler = service_fn(move |request: Request<Incoming>| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(respond(service.answer(call(&request)).await)) }
            });
            // A client that goes away in the middle is its own affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler).await;
        });
    }
}

fn call(request: &Request<Incoming>) -> Call {
    Call {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or("").to_owned(),
        headers: request.headers().clone(),
    }
}

fn respond((status, body): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// The answer to a path that a service does not have.
pub fn not_found(call: &Call) -> Answer {
    (StatusCode::NOT_FOUND, serde_json::json!({"error": format!("no {} {}", call.method, call.path)}))
}
