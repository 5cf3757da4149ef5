//! The load: what is sent, and how long the answers took.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LOAD_CORE, Scenario, pinned, program};

const CONNECTIONS: u32 = 64;
const STREAMS: u32 = 10;
/// Connections and requests per second of the latency run.
const PACED_CONNECTIONS: u32 = 50;
const PACED_RATE: u32 = 4000;
/// What a TCP sender writes and a sink reads at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Programs that make the load.
pub struct Tools {
    pub nginx: PathBuf,
    wrk: PathBuf,
    h2load: PathBuf,
    oha: Option<PathBuf>,
}

/// Microseconds, from when a request was due.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Tools {
    pub fn find() -> Result<Tools, String> {
        let need = |name: &str, package: &str| {
            program(name).ok_or_else(|| format!("{name} is missing; install it with `apt-get install {package}`"))
        };
        let oha = program("oha");
        if oha.is_none() {
            println!("NOT RUN: latency: oha is missing; install it with `cargo install oha --locked`");
        }
        Ok(Tools {
            nginx: need("nginx", "nginx")?,
            wrk: need("wrk", "wrk")?,
            h2load: need("h2load", "nghttp2-client")?,
            oha,
        })
    }

    /// As much as is answered in so many seconds: requests, or MiB.
    pub fn load(&self, scenario: Scenario, entry: SocketAddr, seconds: u32) -> Result<f64, String> {
        let mut command = match scenario {
            Scenario::Http1 | Scenario::Pair => Command::new(&self.wrk),
            Scenario::Http2 => Command::new(&self.h2load),
            Scenario::Tcp => Command::new(std::env::current_exe().map_err(|e| e.to_string())?),
        };
        match scenario {
            Scenario::Http1 | Scenario::Pair => {
                command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")])
            }
            Scenario::Http2 => {
                command.args(["-t1".into(), format!("-c{CONNECTIONS}"), format!("-m{STREAMS}"), format!("-D{seconds}")])
            }
            Scenario::Tcp => command.args(["stream", &entry.to_string(), &seconds.to_string()]),
        };
        if scenario != Scenario::Tcp {
            command.arg(format!("http://{entry}/"));
        }
        let output = pinned(LOAD_CORE, &command).output().map_err(|e| format!("{}: {e}", scenario.name()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let word_before = |mark: &str| text.split(mark).next()?.split_whitespace().next_back()?.parse::<f64>().ok();
        let (done, failed) = match scenario {
            Scenario::Http1 | Scenario::Pair => (word_before(" requests in "), text.contains("Non-2xx")),
            Scenario::Http2 => (word_before(" succeeded,"), !text.contains(" 0 failed,")),
            Scenario::Tcp => (word_before(" MiB"), !output.status.success()),
        };
        match done.filter(|done| *done > 0.0 && !failed) {
            Some(done) => Ok(done),
            None => Err(format!("{}: no good answers:\n{text}", scenario.name())),
        }
    }

    /// The latency at a fixed rate; `None`: not of this scenario, or nothing here to measure it.
    pub fn latency(&self, scenario: Scenario, entry: SocketAddr, seconds: u32) -> Result<Option<Latency>, String> {
        let (Some(oha), false) = (&self.oha, scenario == Scenario::Tcp) else { return Ok(None) };
        let mut command = Command::new(oha);
        command.args(["--no-tui", "--output-format", "json", "--latency-correction", "-w"]);
        command.args(["-z".into(), format!("{seconds}s"), "-c".into(), PACED_CONNECTIONS.to_string()]);
        command.args(["-q", &PACED_RATE.to_string()]);
        if scenario == Scenario::Http2 {
            command.arg("--http2");
        }
        command.arg(format!("http://{entry}/"));
        let output = pinned(LOAD_CORE, &command).output().map_err(|e| format!("{}: {e}", oha.display()))?;
        let answer: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("oha's answer: {e}"))?;
        let micros = |key: &str| answer["latencyPercentiles"][key].as_f64().map(|seconds| seconds * 1e6);
        match (micros("p50"), micros("p99")) {
            (Some(p50), Some(p99)) => Ok(Some(Latency { p50, p99 })),
            _ => Err(format!("oha gives no percentiles: {answer}")),
        }
    }
}

/// Sends to `to` as fast as it is read; prints how many MiB were sent.
pub fn stream(to: SocketAddr, seconds: u32) -> Result<(), String> {
    let send = || -> std::io::Result<u64> {
        let (mut socket, chunk) = (TcpStream::connect(to)?, vec![0; CHUNK_BYTES]);
        let end = Instant::now() + Duration::from_secs(seconds.into());
        let mut sent = 0;
        while Instant::now() < end {
            socket.write_all(&chunk)?;
            sent += 1;
        }
        Ok(sent)
    };
    println!("{} MiB", send().map_err(|e| format!("{to}: {e}"))?);
    Ok(())
}

/// Reads whatever is sent to `at`, for ever.
pub fn sink(at: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(at).map_err(|e| format!("{at}: {e}"))?;
    for socket in listener.incoming() {
        let mut socket = socket.map_err(|e| e.to_string())?;
        std::thread::spawn(move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            while socket.read(&mut chunk).is_ok_and(|n| n > 0) {}
        });
    }
    Ok(())
}
