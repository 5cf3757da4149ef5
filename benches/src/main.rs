//! `sidemesh-bench`: what the proxy costs.
#![forbid(unsafe_code)]

mod ads;
mod figures;
mod flat;
mod load;
mod micro;
mod peers;
mod svg;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections of each kind when a profile is recorded.
const TRAINING_HANDSHAKES: u32 = 500;

/// What the proxy costs.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The proxy to measure; by default the one beside this program.
    #[arg(long, global = true)]
    proxy: Option<PathBuf>,
    /// Envoy, to measure beside it; by default the one on PATH.
    #[arg(long, global = true)]
    envoy: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Instructions of single operations, compared with the committed baseline.
    Micro {
        #[arg(long, default_value = "benches/baseline.txt")]
        baseline: PathBuf,
        /// Only those whose names contain this.
        #[arg(long)]
        only: Option<String>,
        /// Writes the baseline instead of comparing with it.
        #[arg(long)]
        update: bool,
    },
    /// Runs one of the micro benchmarks; what `micro` counts.
    #[command(hide = true)]
    Case { name: String, operations: u32 },
    /// Instructions per request with 10 and with 10,000 routes, clusters and endpoints.
    Flat,
    /// The comparison with nginx, HAProxy and Envoy: CPU and latency, HTTP/1.1, HTTP/2, a pair with mutual TLS, TCP.
    Load {
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        #[arg(long, default_value_t = 5)]
        seconds: u32,
    },
    /// Work of every kind, not measured: what `pgo/renew` records.
    #[command(hide = true)]
    Train {
        #[arg(long, default_value_t = 4)]
        seconds: u32,
    },
    /// Sends as fast as it is read; what `load` measures TCP with.
    #[command(hide = true)]
    Stream { to: SocketAddr, seconds: u32 },
    /// Reads what `stream` sends.
    #[command(hide = true)]
    Sink { at: SocketAddr },
    /// An EDS update: time until it is applied, and the slowest request meanwhile.
    Update {
        #[arg(long, default_value_t = 100_000)]
        endpoints: u32,
    },
    /// From the start to ready, with clusters, endpoints and routes over ADS.
    Start {
        #[arg(long, default_value_t = 1000)]
        clusters: u32,
    },
    /// Memory and time against the size of the configuration, plotted.
    Scale {
        /// Clusters at most.
        #[arg(long, default_value_t = 10_000)]
        clusters: u32,
        /// Endpoints of one cluster at most.
        #[arg(long, default_value_t = 100_000)]
        endpoints: u32,
        /// Where the plots go.
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
    },
    /// New connections with mutual TLS per CPU second, full and resumed.
    Handshakes {
        #[arg(long, default_value_t = 2000)]
        connections: u32,
    },
    /// Resident memory at rest, and per idle connection, plain and TLS.
    Idle {
        #[arg(long, default_value_t = 1000)]
        connections: u32,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidemesh-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    match &args.command {
        Command::Micro { baseline, only, update } => return micro::run(baseline, only.as_deref(), *update),
        Command::Case { name, operations } => return micro::run_case(name, *operations),
        Command::Stream { to, seconds } => return load::stream(*to, *seconds),
        Command::Sink { at } => return load::sink(*at),
        _ => {}
    }
    if let Command::Flat = args.command {
        return flat::run(&peers::find_ours(args.proxy)?);
    }
    if let Command::Train { seconds } = args.command {
        let ours = peers::find_ours(args.proxy)?;
        micro::run_all();
        figures::tls::run(&ours, TRAINING_HANDSHAKES)?;
        return load::once(ours, seconds);
    }
    let peers: Vec<_> =
        [Some(peers::find_ours(args.proxy)?), peers::find_envoy(args.envoy)].into_iter().flatten().collect();
    match args.command {
        Command::Load { rounds, seconds } => load::run(peers, rounds, seconds)?,
        Command::Update { endpoints } => peers.iter().try_for_each(|peer| update(peer, endpoints))?,
        Command::Start { clusters } => {
            for peer in &peers {
                let (ready, cpu) = figures::start::run(peer, clusters)?;
                println!("{}: ready after {:.0} ms, {:.0} ms of CPU", peer.name, millis(ready), millis(cpu));
            }
        }
        Command::Scale { clusters, endpoints, docs } => figures::scale::plot(&peers, (clusters, endpoints), &docs)?,
        Command::Handshakes { connections } => {
            for peer in &peers {
                let done = figures::tls::run(peer, connections)?;
                println!(
                    "{}: {:.0} full and {:.0} resumed connections per CPU second",
                    peer.name, done.full, done.resumed
                );
            }
        }
        Command::Idle { connections } => {
            for peer in &peers {
                let done = figures::idle::run(peer, connections)?;
                let (plain, tls) = (done.per_connection, done.per_tls_connection);
                println!(
                    "{}: {:.1} MiB, {plain:.1} KiB per connection, {tls:.1} KiB with TLS",
                    peer.name,
                    done.idle as f64 / 1024.0
                );
            }
        }
        // Done above.
        _ => {}
    }
    Ok(())
}

fn update(peer: &peers::Peer, endpoints: u32) -> Result<(), String> {
    let outcome = figures::update::run(peer, endpoints)?;
    println!("{}, {endpoints} endpoints: {:.2} KiB each", peer.name, outcome.kib_per_endpoint);
    for done in outcome.updates {
        println!(
            "  {:<34} applied after {:>4.0} ms ({:.0} ms of CPU); slowest request {:.1} ms to the cluster, {:.1} to another; before {:.1} and {:.1}",
            done.what,
            millis(done.applied),
            millis(done.cpu),
            millis(done.slowest.0),
            millis(done.slowest.1),
            millis(done.before.0),
            millis(done.before.1),
        );
    }
    Ok(())
}

fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
