//! The side-by-side comparison: our proxy, nginx, HAProxy and Envoy, each on one core, in turn, on the same work in the same run.
//!
//! 1 KiB answers of an nginx over 64 kept connections, on HTTP/2 with 10 streams each, asked for as fast as they are answered;
//! for TCP one connection that sends as fast as it is read. What is printed are medians of the rounds: CPU time of the proxy (of
//! both, in a pair) per request or MiB, user and system together, the latency at a fixed rate, and what is resident at the
//! end. Absolute times drift with the machine: compare within a run.

mod ask;
mod way;

use std::path::{Path, PathBuf};
use std::process::Command;

use sidemesh_tests::ports;

pub use ask::{sink, stream};

use crate::figures::tls::Pki;
use crate::peers::{Peer, Usage, on_path};
use ask::{Latency, Tools};
use way::{Way, start_origin};

/// Where proxies run, and where load and origin do.
const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Http1,
    Http2,
    /// HTTP/1.1 into a proxy, mutual TLS and HTTP/2 to another, HTTP/1.1 out of it.
    Pair,
    Tcp,
}

impl Scenario {
    const ALL: [Scenario; 4] = [Scenario::Http1, Scenario::Http2, Scenario::Pair, Scenario::Tcp];

    fn name(self) -> &'static str {
        match self {
            Scenario::Http1 => "HTTP/1.1",
            Scenario::Http2 => "HTTP/2",
            Scenario::Pair => "pair",
            Scenario::Tcp => "TCP",
        }
    }
}

/// Runs the comparison and prints the table.
pub fn run(peers: Vec<Peer>, rounds: u32, seconds: u32) -> Result<(), String> {
    let mut ways: Vec<Way> = peers.into_iter().map(Way::Bootstrap).collect();
    for (name, way) in [("nginx", Way::Nginx as fn(_) -> _), ("haproxy", Way::Haproxy as fn(_) -> _)] {
        match program(name) {
            Some(found) => ways.push(way(found)),
            None => println!("NOT RUN: {name} is missing; install it with `apt-get install {name}`"),
        }
    }
    let tools = Tools::find()?;
    println!(
        "{:<10} {:<10} {:>20} {:>16} {:>14} {:>8} {:>8}",
        "scenario", "proxy", "CPU µs/request, /MiB", "requests, MiB /s", "resident MiB", "p50 µs", "p99 µs"
    );
    for scenario in Scenario::ALL {
        let mut figures: Vec<Vec<Figure>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (way, figures) in ways.iter().zip(&mut figures).filter(|(way, _)| way.takes(scenario)) {
                figures.push(measure(way, scenario, &tools, seconds)?);
            }
        }
        for (way, figures) in ways.iter().zip(figures).filter(|(_, figures)| !figures.is_empty()) {
            print(scenario, way.name(), &figures);
        }
    }
    Ok(())
}

/// Every scenario once, through one proxy: work to record a profile of (`pgo/renew`).
pub fn once(peer: Peer, seconds: u32) -> Result<(), String> {
    let (way, tools) = (Way::Bootstrap(peer), Tools::find()?);
    Scenario::ALL.into_iter().try_for_each(|scenario| measure(&way, scenario, &tools, seconds).map(drop))
}

fn print(scenario: Scenario, way: &str, figures: &[Figure]) {
    let median = |of: &dyn Fn(&Figure) -> Option<f64>| {
        let mut all: Vec<f64> = figures.iter().filter_map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    let shown = |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |v| format!("{v:.digits$}"));
    println!(
        "{:<10} {way:<10} {:>20} {:>16} {:>14} {:>8} {:>8}",
        scenario.name(),
        shown(median(&|f| Some(f.cpu)), 1),
        shown(median(&|f| Some(f.rate)), 0),
        shown(median(&|f| Some(f.resident)), 1),
        shown(median(&|f| Some(f.latency?.p50)), 0),
        shown(median(&|f| Some(f.latency?.p99)), 0),
    );
}

struct Figure {
    /// Microseconds per request, or per MiB.
    cpu: f64,
    /// Requests or MiB per second.
    rate: f64,
    /// MiB
    resident: f64,
    latency: Option<Latency>,
}

fn measure(way: &Way, scenario: Scenario, tools: &Tools, seconds: u32) -> Result<Figure, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (entry, origin, pki) = (ports::free(), ports::free(), Pki::new());
    let _origin = start_origin(&tools.nginx, dir.path(), scenario, origin)?;
    let processes = way.start(dir.path(), scenario, &pki, entry, origin);
    tools.load(scenario, entry, 1)?;
    let usages: Vec<Usage> = processes.iter().map(|p| Usage::of(p.id())).collect();
    let cpu = || usages.iter().map(|u| u.cpu().as_secs_f64()).sum::<f64>();
    let before = cpu();
    let done = tools.load(scenario, entry, seconds)?;
    Ok(Figure {
        cpu: (cpu() - before) * 1e6 / done,
        rate: done / f64::from(seconds),
        latency: tools.latency(scenario, entry, seconds)?,
        resident: usages.iter().map(|u| u.resident_kib() as f64).sum::<f64>() / 1024.0,
    })
}

fn pinned(core: &str, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", core]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// On PATH, or where Debian keeps servers.
fn program(name: &str) -> Option<PathBuf> {
    on_path(name).or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|file| file.is_file()))
}
