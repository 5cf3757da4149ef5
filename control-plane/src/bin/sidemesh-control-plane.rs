//! `sidemesh-control-plane`: arguments, logging, signals, exit code.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use sidemesh_control_plane::run::{Config, RunError, run};
use tokio::signal::unix::{SignalKind, signal};

/// The control plane of Sidemesh: keeps the mesh's objects, serves xDS to every proxy, signs certificates.
#[derive(Debug, Parser)]
#[command(name = "sidemesh-control-plane", version, max_term_width = 100)]
struct Args {
    /// Where the store and the certificate authority live; made when absent, mode 0700.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/sidemesh")]
    data_dir: PathBuf,
    /// gRPC: xDS (ADS), identity, registry, admin, health, reflection.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010")]
    listen: SocketAddr,
    /// HTTP: /metrics, /ready, /healthz.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
    metrics_listen: SocketAddr,
    /// SPIFFE trust domain; fixed at the first start.
    #[arg(long, value_name = "NAME", default_value = "mesh.local")]
    trust_domain: String,
    /// Lifetime of workload certificates; they are renewed at half of it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    leaf_ttl: Duration,
    /// A registered sidecar that is silent for longer is removed.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    lease_ttl: Duration,
    /// Serve gRPC over TLS with a certificate of the mesh, and ask for credentials (registry) and, from everybody, for
    /// the token in <data-dir>/admin.token (admin API).
    #[arg(long)]
    tls: bool,
    /// One more name or address that clients reach it by, for its TLS certificate. May be repeated.
    #[arg(long = "tls-name", value_name = "NAME", requires = "tls")]
    tls_names: Vec<String>,
    /// Allow --listen on an address that other machines reach, without --tls.
    #[arg(long)]
    allow_plaintext: bool,
    /// JWK set of a Kubernetes API server: service-account tokens that it signed are taken for join tokens.
    #[arg(long, value_name = "FILE")]
    kubernetes_keys: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or per module as `info,h2=warn`.
    #[arg(long, value_name = "FILTER", default_value = "info,h2=warn", env = "SIDEMESH_LOG")]
    log: String,
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = gateway_api::Duration::from_str(text).map_err(|_| "write for example 30s, 10m or 24h".to_owned())?;
    Ok(Duration::new(parsed.as_secs(), parsed.subsec_nanos()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(e) = log(&args) {
        eprintln!("sidemesh-control-plane: --log {}: {e}", args.log);
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(start(args)),
        Err(e) => Err(RunError::Failed(format!("no runtime: {e}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sidemesh-control-plane: {e}");
            ExitCode::from(if matches!(e, RunError::Usage(_)) { 2 } else { 1 })
        }
    }
}

async fn start(args: Args) -> Result<(), RunError> {
    let no_signal = |e: std::io::Error| RunError::Failed(format!("signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let config = Config {
        data_dir: args.data_dir,
        listen: args.listen,
        metrics_listen: args.metrics_listen,
        trust_domain: args.trust_domain,
        leaf_ttl: args.leaf_ttl,
        lease_ttl: args.lease_ttl,
        tls: args.tls,
        tls_names: args.tls_names,
        allow_plaintext: args.allow_plaintext,
        kubernetes_keys: args.kubernetes_keys,
    };
    run(config, stop, || {}).await
}

fn log(args: &Args) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).map_err(|e| e.to_string())?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let installed = match args.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    installed.map_err(|e| e.to_string())
}
