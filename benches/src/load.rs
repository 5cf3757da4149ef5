//! The side-by-side comparison: our proxy, nginx, HAProxy and Envoy, each on one core, in turn, on the same work in the same run.
//!
//! 1 KiB answers of an nginx over 64 kept connections, on HTTP/2 with 10 streams each; `wrk` and `h2load` ask as fast as they are
//! answered. What is printed are medians of the rounds: CPU time of the proxy per request, user and system together, and what is
//! resident at the end. Absolute times drift with the machine: compare within a run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_tests::process::Process;
use sidemesh_tests::{ports, proxy, wait};

use crate::peers::{Peer, Usage, on_path};

const CONNECTIONS: u32 = 64;
const STREAMS: u32 = 10;
/// Where proxies run, and where load and origin do.
const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A way from the load to the origin.
enum Way {
    Bootstrap(Peer),
    Nginx(PathBuf),
    Haproxy(PathBuf),
}

impl Way {
    fn name(&self) -> &str {
        match self {
            Way::Bootstrap(peer) => peer.name,
            Way::Nginx(_) => "nginx",
            Way::Haproxy(_) => "HAProxy",
        }
    }

    /// nginx 1.22 has no HTTP/2 towards the origin.
    fn speaks(&self, protocol: Protocol) -> bool {
        !matches!((self, protocol), (Way::Nginx(_), Protocol::Http2))
    }

    /// Puts it between `entry` and `origin`.
    fn start(&self, dir: &Path, protocol: Protocol, entry: SocketAddr, origin: SocketAddr) -> Process {
        let write = |name: &str, text: String| -> PathBuf {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a configuration file");
            path
        };
        let command = match self {
            Way::Bootstrap(peer) => {
                let cluster = match protocol {
                    Protocol::Http1 => proxy::cluster("origin", &[origin]),
                    Protocol::Http2 => proxy::http2_cluster("origin", origin),
                };
                let listener = proxy::http_listener("entry", entry, &proxy::all_to("origin"), &json!({}));
                peer.command(&write("load.json", proxy::fixed(&[listener], &[unlimited(cluster)]).to_string()))
            }
            Way::Nginx(program) => {
                let text = format!(
                    "worker_processes 1; daemon off; pid {0}/pid; error_log {0}/err; events {{ worker_connections 4096; }}
                     http {{ access_log off; keepalive_requests 1000000000;
                     upstream o {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}
                     server {{ listen {entry}; location / {{ proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://o; }} }} }}",
                    dir.display()
                );
                let mut command = Command::new(program);
                command.arg("-c").arg(write("proxy.conf", text));
                command
            }
            Way::Haproxy(program) => {
                let proto = if protocol == Protocol::Http2 { " proto h2" } else { "" };
                let text = format!(
                    "global\n  nbthread 1\n  maxconn 4000\n  tune.h2.max-concurrent-streams 1000\ndefaults\n  mode http\n  http-reuse always\n  \
                     timeout connect 5s\n  timeout client 60s\n  timeout server 60s\nfrontend f\n  bind {entry}{proto}\n  default_backend b\n\
                     backend b\n  server o {origin}{proto}\n"
                );
                let mut command = Command::new(program);
                command.arg("-db").arg("-f").arg(write("haproxy.cfg", text));
                command
            }
        };
        let process = Process::start(self.name(), pinned(PROXY_CORE, &command), dir);
        wait::until_true("the proxy listens", || std::net::TcpStream::connect(entry).is_ok());
        process
    }
}

/// Runs the comparison and prints the table.
pub fn run(peers: Vec<Peer>, rounds: u32, seconds: u32) -> Result<(), String> {
    let mut ways: Vec<Way> = peers.into_iter().map(Way::Bootstrap).collect();
    for (name, package, way) in
        [("nginx", "nginx", Way::Nginx as fn(_) -> _), ("haproxy", "haproxy", Way::Haproxy as fn(_) -> _)]
    {
        match program(name) {
            Some(found) => ways.push(way(found)),
            None => println!("NOT RUN: {name} is missing; install it with `apt-get install {package}`"),
        }
    }
    let missing = |name: &str, package: &str| format!("{name} is missing; install it with `apt-get install {package}`");
    let nginx = program("nginx").ok_or_else(|| missing("nginx, the origin", "nginx"))?;
    let loads = [
        (Protocol::Http1, program("wrk").ok_or_else(|| missing("wrk", "wrk"))?),
        (Protocol::Http2, program("h2load").ok_or_else(|| missing("h2load", "nghttp2-client"))?),
    ];
    println!("{:<10} {:<10} {:>16} {:>14} {:>14}", "protocol", "proxy", "CPU µs/request", "requests/s", "resident MiB");
    for (protocol, load) in loads {
        let mut figures: Vec<Vec<Figure>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (way, figures) in ways.iter().zip(&mut figures).filter(|(way, _)| way.speaks(protocol)) {
                figures.push(measure(way, protocol, &nginx, &load, seconds)?);
            }
        }
        for (way, figures) in ways.iter().zip(figures).filter(|(_, figures)| !figures.is_empty()) {
            let median = |of: fn(&Figure) -> f64| {
                let mut all: Vec<f64> = figures.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            let (cpu, rate, resident) = (median(|f| f.cpu), median(|f| f.rate), median(|f| f.resident));
            let protocol = if protocol == Protocol::Http1 { "HTTP/1.1" } else { "HTTP/2" };
            println!("{protocol:<10} {:<10} {cpu:>16.1} {rate:>14.0} {resident:>14.1}", way.name());
        }
    }
    Ok(())
}

struct Figure {
    /// Microseconds per request.
    cpu: f64,
    rate: f64,
    /// MiB
    resident: f64,
}

fn measure(way: &Way, protocol: Protocol, nginx: &Path, load: &Path, seconds: u32) -> Result<Figure, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (entry, origin) = (ports::free(), ports::free());
    let _origin = start_origin(nginx, dir.path(), protocol, origin);
    let process = way.start(dir.path(), protocol, entry, origin);
    requests(load, protocol, entry, 1)?;
    let usage = Usage::of(process.id());
    let before = usage.cpu();
    let done = requests(load, protocol, entry, seconds)?;
    let cpu: Duration = usage.cpu() - before;
    Ok(Figure {
        cpu: cpu.as_secs_f64() * 1e6 / done,
        rate: done / f64::from(seconds),
        resident: usage.resident_kib() as f64 / 1024.0,
    })
}

fn start_origin(nginx: &Path, dir: &Path, protocol: Protocol, at: SocketAddr) -> Process {
    let http2 = if protocol == Protocol::Http2 { " http2" } else { "" };
    let text = format!(
        "worker_processes 1; daemon off; pid {0}/origin.pid; error_log {0}/origin.err; events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 1000000000; http2_max_concurrent_streams 1000;
         server {{ listen {at}{http2}; location / {{ return 200 '{1}'; }} }} }}",
        dir.display(),
        "x".repeat(1024)
    );
    let path = dir.join("origin.conf");
    std::fs::write(&path, text).expect("a configuration file");
    let mut command = Command::new(nginx);
    command.arg("-c").arg(path);
    let process = Process::start("origin", pinned(LOAD_CORE, &command), dir);
    wait::until_true("the origin listens", || std::net::TcpStream::connect(at).is_ok());
    process
}

/// As many requests as are answered in so many seconds; how many they were.
fn requests(load: &Path, protocol: Protocol, entry: SocketAddr, seconds: u32) -> Result<f64, String> {
    let mut command = Command::new(load);
    command.args(["-t1", &format!("-c{CONNECTIONS}")]);
    match protocol {
        Protocol::Http1 => command.arg(format!("-d{seconds}s")),
        Protocol::Http2 => command.args([format!("-m{STREAMS}"), format!("-D{seconds}")]),
    };
    command.arg(format!("http://{entry}/"));
    let output = pinned(LOAD_CORE, &command).output().map_err(|e| format!("{}: {e}", load.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word_before = |mark: &str| text.split(mark).next()?.split_whitespace().next_back()?.parse::<f64>().ok();
    let (done, failed) = match protocol {
        Protocol::Http1 => (word_before(" requests in "), text.contains("Non-2xx")),
        Protocol::Http2 => (word_before(" succeeded,"), !text.contains(" 0 failed,")),
    };
    match done.filter(|done| *done > 0.0 && !failed) {
        Some(done) => Ok(done),
        None => Err(format!("{} found no good answers:\n{text}", load.display())),
    }
}

/// The default limits of circuit breakers would decide what is measured.
fn unlimited(mut cluster: Value) -> Value {
    let much = 100_000;
    cluster["circuit_breakers"] =
        json!({"thresholds": [{"max_connections": much, "max_pending_requests": much, "max_requests": much}]});
    cluster
}

fn pinned(core: &str, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", core]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// On PATH, or where Debian keeps servers.
fn program(name: &str) -> Option<PathBuf> {
    on_path(name).or_else(|| Some(PathBuf::from("/usr/sbin").join(name)).filter(|file| file.is_file()))
}
