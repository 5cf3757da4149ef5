//! A worker with its control half, and scripted origins.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use sidemesh_config::snapshot::{ClusterEntry, Snapshot};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::config;
use crate::body::Body;
use crate::codec::{Drain, Handler, Local, RequestMeta, h1, h2};
use crate::live::Live;
use crate::shutdown::Shutdown;
use crate::telemetry::{access_log, stats, trace};
use crate::upstream::{
    AttemptError, AttemptInfo, AttemptOptions, Cluster, Control, Host, PickContext, Registry, Upstream,
};
use crate::worker::{Node, Shared, Worker};

/// Runs a test inside a `LocalSet` of a current-thread runtime.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(std::time::Duration::from_secs(20), test).await.expect("the test ends");
    });
}

pub struct World {
    pub registry: Arc<Registry>,
    pub control: Rc<Control>,
    pub upstream: Rc<Upstream>,
    pub stats: Arc<stats::Registry>,
    snapshot: RefCell<Snapshot>,
}

impl World {
    pub fn new() -> World {
        let stats = Arc::new(stats::Registry::default());
        let shared =
            Shared::new(Arc::new(Live::default()), stats.clone(), Shutdown::default(), Arc::new(Node::default()));
        let log = access_log::Logger::new(access_log::Writer::start().expect("a writer"), Arc::default());
        let worker = Worker::new(0, 1, shared, log, trace::export::queue().0);
        let registry = Registry::new(1, stats.clone(), Default::default());
        let control = Control::new(registry.clone(), Local::new(crate::clock::Random::seeded(1)));
        let upstream = Upstream::new(worker, registry.clone());
        World { registry, control, upstream, stats, snapshot: RefCell::default() }
    }

    /// Puts a cluster of the origins into force, with `more` of its configuration.
    pub fn cluster(&self, name: &str, origins: &[&Origin], mut more: Value) -> Rc<Cluster> {
        let endpoints: Vec<_> = origins
            .iter()
            .map(|o| json!({ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": o.port } } } }))
            .collect();
        more["name"] = name.into();
        more["load_assignment"] = json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] });
        self.apply(&more)
    }

    pub fn apply(&self, cluster: &Value) -> Rc<Cluster> {
        let cluster = Arc::new(config(cluster));
        let name = cluster.name.clone();
        let entry = Arc::new(ClusterEntry { cluster, endpoints: None });
        let mut snapshot = self.snapshot.borrow_mut();
        snapshot.generation += 1;
        snapshot.clusters.insert(name.clone(), entry);
        self.control.reconcile(&snapshot);
        self.upstream.cluster(&snapshot, &name).expect("the cluster is known")
    }

    /// One of the cluster's counters or gauges.
    pub fn stat(&self, cluster: &str, metric: &str) -> i64 {
        let name = format!("cluster.{cluster}.{metric}");
        let found = self.stats.read().into_iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("no {name}"));
        match found.value {
            stats::Value::Counter(n) => n as i64,
            stats::Value::Gauge(n) => n,
            stats::Value::Text(_) => 0,
            stats::Value::Histogram(h) => h.count() as i64,
        }
    }
}

/// One request to a host the balancer chooses.
pub async fn get(cluster: &Rc<Cluster>) -> Result<Response<Body>, AttemptError> {
    let host = cluster.pick(&PickContext::default()).expect("a host");
    get_from(cluster, &host, &AttemptInfo::default()).await
}

pub async fn get_from(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    info: &AttemptInfo,
) -> Result<Response<Body>, AttemptError> {
    let (head, ()) = Request::get("/").header("host", "test").body(()).expect("a request").into_parts();
    cluster.request(host, &head, Body::empty(), AttemptOptions::default(), info).await
}

/// The same, to the end of the body.
pub async fn fetch(cluster: &Rc<Cluster>) -> Result<(StatusCode, Bytes), AttemptError> {
    let response = get(cluster).await?;
    let status = response.status();
    Ok((status, response.into_body().collect(1 << 20).await.expect("a body")))
}

/// What an origin answers with.
#[derive(Clone)]
pub struct Script {
    pub status: Cell<u16>,
    pub delay_ms: Cell<u64>,
    pub name: String,
    pub requests: Cell<usize>,
    pub connections: Cell<usize>,
    /// Connection of each request, in order.
    pub log: RefCell<Vec<usize>>,
}

struct Answer {
    script: Rc<Script>,
    connection: usize,
}

impl Handler for Answer {
    async fn handle(&self, request: Request<Body>, _meta: RequestMeta) -> Response<Body> {
        self.script.requests.set(self.script.requests.get() + 1);
        self.script.log.borrow_mut().push(self.connection);
        drop(request);
        tokio::time::sleep(std::time::Duration::from_millis(self.script.delay_ms.get())).await;
        let mut response = Response::new(Body::from(self.script.name.clone()));
        *response.status_mut() = StatusCode::from_u16(self.script.status.get()).expect("a status");
        response
    }
}

/// A server on the loopback, over this crate's own server codecs.
pub struct Origin {
    pub port: u16,
    pub script: Rc<Script>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub async fn start(name: &str, http2: bool) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let script = Rc::new(Script {
            status: Cell::new(200),
            delay_ms: Cell::new(0),
            name: name.to_owned(),
            requests: Cell::new(0),
            connections: Cell::new(0),
            log: RefCell::default(),
        });
        let shared = script.clone();
        let task = tokio::task::spawn_local(async move {
            let local = Local::new(crate::clock::Random::seeded(2));
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.set(shared.connections.get() + 1);
                let answer = Answer { script: shared.clone(), connection: shared.connections.get() };
                let local = local.clone();
                tokio::task::spawn_local(async move {
                    if http2 {
                        h2::server::serve(stream.into(), Default::default(), local, &answer, Drain::never()).await;
                    } else {
                        h1::server::serve(stream.into(), Default::default(), local, &answer, Drain::never()).await;
                    }
                });
            }
        });
        Origin { port, script, task }
    }
}

/// A port that nobody listens on.
pub async fn dead() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a port").port()
}
