//! An EDS update of 100,000 endpoints: how long until the proxy has applied it, and what requests feel of it meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sidemesh_proto::type_url;
use sidemesh_tests::origin::Origin;
use sidemesh_tests::{http, ports, proxy};

use super::resources::{addresses, assignment, eds_cluster, listener};
use crate::ads::Server;
use crate::peers::Peer;

/// How long an update may take to be acknowledged.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two requests of a probe.
const PACE: Duration = Duration::from_micros(300);

/// The update that plots show.
pub const ONE_PERCENT: &str = "1 % replaced";

/// What the updates did.
pub struct Outcome {
    pub updates: Vec<Update>,
    /// Resident memory that an endpoint adds, in KiB.
    pub kib_per_endpoint: f64,
}

/// What one update did.
pub struct Update {
    pub what: &'static str,
    pub applied: Duration,
    pub cpu: Duration,
    /// The slowest request: to the cluster that changed, and to another.
    pub slowest: (Duration, Duration),
    /// The slowest of the second before.
    pub before: (Duration, Duration),
}

/// Sends the updates to a proxy.
pub fn run(peer: &Peer, endpoints: u32) -> Result<Outcome, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (server, origin) = (Server::start(), Origin::saying("ok"));
    let entry = ports::free();
    server.put(type_url::CLUSTER, [eds_cluster("big"), eds_cluster("other")]);
    let to = |prefix: &str, cluster: &str| json!({"match": {"prefix": prefix}, "route": {"cluster": cluster}});
    server.put(type_url::LISTENER, [listener(entry, &json!([to("/big", "big"), to("/other", "other")]))]);
    let other = assignment("other", [origin.address]);
    let big = |(first, count): (u32, u32)| assignment("big", addresses(first, count));
    let eds = |big| server.put(type_url::ENDPOINT, [big, other.clone()]);
    eds(big((0, 1)));
    let bootstrap = proxy::from_ads("update", server.address, json!({}), false);
    let running = peer.start(dir.path(), &bootstrap);
    let probes = (Probe::start(entry, "/big"), Probe::start(entry, "/other"));
    std::thread::sleep(Duration::from_secs(1));
    let empty = running.resident_kib();
    let mut updates = Vec::new();
    let mut kib_per_endpoint = None;
    let one_percent = (endpoints / 100).max(1);
    let changes = [
        ("all are new", (1, endpoints)),
        ("the same endpoints and one more", (1, endpoints + 1)),
        (ONE_PERCENT, (1 + one_percent, endpoints)),
        ("all replaced", (1 << 21, endpoints)),
    ];
    for (what, hosts) in changes {
        let (_, _) = (probes.0.slowest(), probes.1.slowest());
        std::thread::sleep(Duration::from_secs(1));
        let before = (probes.0.slowest(), probes.1.slowest());
        let cpu = running.cpu();
        let message = big(hosts);
        let begin = Instant::now();
        let version = eds(message);
        let at = server.acknowledged(type_url::ENDPOINT, version, LIMIT)?;
        let applied = at - begin;
        std::thread::sleep(Duration::from_millis(700));
        let slowest = (probes.0.slowest(), probes.1.slowest());
        updates.push(Update { what, applied, cpu: running.cpu() - cpu, slowest, before });
        if kib_per_endpoint.is_none() {
            std::thread::sleep(Duration::from_secs(2));
            kib_per_endpoint = Some(running.resident_kib().saturating_sub(empty) as f64 / f64::from(endpoints));
        }
    }
    Ok(Outcome { updates, kib_per_endpoint: kib_per_endpoint.unwrap_or_default() })
}

/// Requests at a steady pace, one after the other; remembers the slowest.
struct Probe {
    slowest: Arc<std::sync::Mutex<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Probe {
    fn start(entry: SocketAddr, path: &str) -> Probe {
        let (slowest, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (shared, stopped): (Arc<std::sync::Mutex<Duration>>, _) = (Arc::clone(&slowest), stop.clone());
        let head = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        std::thread::spawn(move || {
            let mut connection = http::Connection::open(entry).expect("the proxy accepts");
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                if connection.send(&head).is_err() || connection.receive().is_err() {
                    return;
                }
                let took = begin.elapsed();
                let mut slowest = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *slowest = took.max(*slowest);
                drop(slowest);
                std::thread::sleep(PACE);
            }
        });
        Probe { slowest, stop }
    }

    /// The slowest since this was last asked.
    fn slowest(&self) -> Duration {
        std::mem::take(&mut *self.slowest.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
