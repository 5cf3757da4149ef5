//! Memory and time against the size of the configuration: static clusters of ten endpoints in a file, and one cluster whose endpoints
//! come over EDS. Makes the plots of `docs/`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_tests::{ports, proxy};

use super::{resources, update};
use crate::peers::Peer;
use crate::svg::{Plot, Series};

/// Endpoints of each cluster.
const ENDPOINTS: u32 = 10;

/// What a configuration of one size costs.
#[derive(Debug, Clone, Copy)]
struct Point {
    clusters: u32,
    /// Resident memory when it has come to rest, in MiB.
    resident: f64,
    ready_after: Duration,
}

/// Measures every size up to the most for each proxy, prints the figures, and writes the plots into `docs`.
pub fn plot(peers: &[Peer], most: (u32, u32), docs: &Path) -> Result<(), String> {
    let (mut resident, mut ready, mut applied) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers {
        let name = || peer.name.to_owned();
        let points = sizes(10, most.0).map(|n| run(peer, n)).collect::<Result<Vec<_>, _>>()?;
        for p in &points {
            println!(
                "{}: {} clusters: {:.1} MiB, ready after {:.0} ms",
                peer.name,
                p.clusters,
                p.resident,
                millis(p.ready_after)
            );
        }
        let of = |value: fn(&Point) -> f64| points.iter().map(|p| (f64::from(p.clusters), value(p))).collect();
        resident.push(Series { name: name(), points: of(|p| p.resident) });
        ready.push(Series { name: name(), points: of(|p| millis(p.ready_after)) });
        let mut points = Vec::new();
        for n in sizes(100, most.1) {
            let outcome = update::run(peer, n)?;
            let one_percent = outcome.updates.iter().find(|u| u.what == update::ONE_PERCENT).ok_or("no such update")?;
            println!("{}: {n} endpoints: {:.1} ms until applied", peer.name, millis(one_percent.applied));
            points.push((f64::from(n), millis(one_percent.applied)));
        }
        applied.push(Series { name: name(), points });
    }
    let plots = [
        (
            "scale-memory.svg",
            Plot { title: "Resident memory", x: "clusters of 10 endpoints", y: "MiB", series: resident },
        ),
        (
            "scale-start.svg",
            Plot { title: "Start to ready, from a file", x: "clusters of 10 endpoints", y: "ms", series: ready },
        ),
        (
            "scale-update.svg",
            Plot { title: "EDS update of 1 % until applied", x: "endpoints of the cluster", y: "ms", series: applied },
        ),
    ];
    for (file, plot) in plots {
        let path = docs.join(file);
        std::fs::write(&path, plot.render()).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Powers of ten.
fn sizes(first: u32, most: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(first), |n| n.checked_mul(10)).take_while(move |n| *n <= most)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Starts the proxy with `clusters` clusters and looks at it once it has come to rest.
fn run(peer: &Peer, clusters: u32) -> Result<Point, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let listener = proxy::http_listener("entry", ports::free(), &proxy::all_to(&resources::name(0)), &json!({}));
    let all: Vec<Value> = (0..clusters).map(cluster).collect();
    let running = peer.start(dir.path(), &proxy::fixed(&[listener], &all));
    // Start-up code and freed memory are given back within three seconds.
    std::thread::sleep(Duration::from_millis(4500));
    Ok(Point { clusters, resident: running.resident_kib() as f64 / 1024.0, ready_after: running.ready_after })
}

fn cluster(i: u32) -> Value {
    let hosts: Vec<_> = resources::addresses(i * ENDPOINTS, ENDPOINTS).collect();
    proxy::cluster(&resources::name(i), &hosts)
}
