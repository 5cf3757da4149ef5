//! Health in parts, and metrics: plain HTTP on a port of its own (`/healthz`, `/ready`, `/metrics`).

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::server::context::Context;
use crate::server::registry::Registry;

/// A client must have sent its request's head within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Scrapers and probes; more at once than this wait.
const MAX_CONNECTIONS: usize = 64;

/// One part of the control plane.
pub struct Part {
    pub name: &'static str,
    pub state: String,
    /// What is wrong and what to do; `None`: well.
    pub problem: Option<String>,
}

pub fn parts(context: &Context) -> Vec<Part> {
    let stopping = *context.stopping.borrow();
    let now = SystemTime::now();
    let root_ends = context.ca.roots().iter().map(|r| r.not_after).min();
    let translated = context.mesh().model.revision;
    vec![
        Part {
            name: "store",
            state: format!("revision {}", context.store.revision()),
            problem: context.store.list("MeshConfig/").err().map(|e| e.to_string()),
        },
        Part {
            name: "ca",
            state: format!("trust domain {}", context.ca.trust_domain()),
            problem: root_ends.filter(|end| *end <= now).map(|_| "the root certificate expired: rotate it".to_owned()),
        },
        Part { name: "translate", state: format!("revision {translated}"), problem: None },
        Part {
            name: "process",
            state: "running".to_owned(),
            problem: stopping.then(|| "stopping: it was asked to".to_owned()),
        },
    ]
}

/// Serves until the process stops.
pub async fn serve(listener: TcpListener, context: Context, registry: Registry) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("metrics listener: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (context, registry) = (context.clone(), registry.clone());
        // One short exchange; the header timeout and the slot bound it.
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &context, &registry);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(e) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("metrics connection: {e}");
            }
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, context: &Context, registry: &Registry) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, metrics(context, registry)),
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/ready" => {
            let parts = parts(context);
            let ready = parts.iter().all(|p| p.problem.is_none());
            let lines: String = parts
                .iter()
                .map(|p| match &p.problem {
                    None => format!("[+] {}: {}\n", p.name, p.state),
                    Some(problem) => format!("[-] {}: {problem}\n", p.name),
                })
                .collect();
            text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
        }
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /ready and /healthz\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Prometheus text format 0.0.4.
fn metrics(context: &Context, registry: &Registry) -> String {
    let c = &context.counters;
    let model = &context.mesh().model;
    let mut out = String::with_capacity(2048);
    let counters = [
        ("xds_pushes_total", "Responses sent to proxies.", c.pushes.load(Ordering::Relaxed)),
        ("xds_acks_total", "Responses that proxies accepted.", c.acks.load(Ordering::Relaxed)),
        ("xds_nacks_total", "Responses that proxies refused.", c.nacks.load(Ordering::Relaxed)),
        ("xds_streams_total", "ADS streams opened.", c.streams.load(Ordering::Relaxed)),
        ("writes_total", "Objects written or deleted by users and sidecars.", c.writes.load(Ordering::Relaxed)),
        ("writes_failed_total", "Writes that were refused or failed.", c.writes_failed.load(Ordering::Relaxed)),
        ("certificates_signed_total", "Certificates signed.", context.ca.signed()),
        ("tokens_refused_total", "Join and renewal tokens refused.", c.tokens_refused.load(Ordering::Relaxed)),
        ("leases_expired_total", "Workloads removed because silent.", c.leases_expired.load(Ordering::Relaxed)),
    ];
    for (name, help, value) in counters {
        metric(&mut out, name, help, "counter", value);
    }
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let started = context.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let gauges = [
        ("connected_proxies", "Proxies with an open ADS stream.", count(context.fleet.connected())),
        ("store_revision", "Revision of the last write.", context.store.revision()),
        ("translated_revision", "Revision that proxies are served.", model.revision),
        ("services", "Services in the store.", count(model.services.len())),
        ("routes", "HTTPRoutes, GRPCRoutes and TCPRoutes in the store.", count(model.routes.len())),
        ("workloads", "Workloads in the store.", count(model.workloads.len())),
        ("leases", "Workloads kept alive by heartbeats.", count(registry.live())),
        ("start_time_seconds", "Unix time of the start.", started),
    ];
    for (name, help, value) in gauges {
        metric(&mut out, name, help, "gauge", value);
    }
    out
}

fn metric(out: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let name = format!("sidemesh_control_plane_{name}");
    // Writing to a String cannot fail.
    let _ok = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

/// Takes the port, or says which one and why not.
pub async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| {
        let cure = match e.kind() {
            std::io::ErrorKind::AddrInUse => "another process has it: stop that one, or choose another port",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            _ => "choose an address of this machine",
        };
        format!("{flag} {address}: {e}: {cure}")
    })
}
