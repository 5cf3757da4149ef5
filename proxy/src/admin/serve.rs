//! The HTTP server of the admin interface.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sidemesh_config::value::Name;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::Handle;
use super::route::{self, Answer};
use crate::codec::{Closed, Protocol};
use crate::downstream::{ListenerStats, WorkerConnectionStats};
use crate::http::{HttpStats, ListenerHttpStats, count_closed, count_open, count_protocol};
use crate::telemetry::stats::{Registry, Scope};

/// Connections at a time; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// A client that does not finish its request head in this time is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until dropped. Runs inside the control thread's `LocalSet`.
pub async fn serve(listener: TcpListener, handle: Rc<Handle>) {
    let stats = Rc::new(Stats::new(&handle.shared.stats));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin: connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handle = handle.clone();
        let open = Open::new(stats.clone());
        spawn_local(async move {
            let counted = open.stats.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let handle = handle.clone();
                let answer = counted.count(|| respond(route::answer(&handle, &request)));
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // A client that goes away in the middle is its own affair.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop((slot, open));
        });
    }
}

/// The admin interface's own traffic, counted like that of a listener and a connection manager, both called `admin`.
struct Stats {
    listener: Arc<ListenerStats>,
    thread: Arc<WorkerConnectionStats>,
    http: Arc<HttpStats>,
    answers: Arc<ListenerHttpStats>,
}

impl Stats {
    fn new(registry: &Registry) -> Self {
        let admin = || Name::from("admin");
        Stats {
            listener: registry.shard(Scope::Listener(admin())),
            thread: registry.shard(Scope::Filter(Name::from("listener.admin.main_thread"))),
            http: registry.shard(Scope::Http(admin())),
            answers: registry.shard(Scope::ListenerHttp { address: admin(), prefix: admin() }),
        }
    }

    /// Counts a request and its answer. The request that reads the figures is among them, its answer is not.
    fn count(&self, answer: impl FnOnce() -> Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        self.http.downstream_rq_total.inc();
        self.http.downstream_rq_http1_total.inc();
        self.http.downstream_rq_active.inc();
        let answer = answer();
        self.http.downstream_rq_active.dec();
        let status = answer.status().as_u16();
        self.http.downstream_rq.record(status);
        self.answers.downstream_rq.record(status);
        answer
    }
}

/// One open connection.
struct Open {
    stats: Rc<Stats>,
    since: Instant,
}

impl Open {
    fn new(stats: Rc<Stats>) -> Self {
        stats.listener.downstream_cx_total.inc();
        stats.listener.downstream_cx_active.inc();
        stats.thread.downstream_cx_total.inc();
        stats.thread.downstream_cx_active.inc();
        count_open(&stats.http, false);
        count_protocol(&stats.http, Protocol::Http11);
        Open { stats, since: Instant::now() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (stats, lasted) = (&self.stats, self.since.elapsed());
        stats.listener.downstream_cx_active.dec();
        stats.listener.downstream_cx_destroy.inc();
        stats.listener.downstream_cx_length_ms.record_duration(lasted);
        stats.thread.downstream_cx_active.dec();
        count_closed(&stats.http, Some(Protocol::Http11), false, &Closed::ByPeer);
        stats.http.downstream_cx_length_ms.record_duration(lasted);
    }
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
