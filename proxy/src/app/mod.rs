//! The composition root: the only module that sees all the others. Nothing imports it.
//!
//! Start: arguments, bootstrap, worker threads, the control thread's parts (configuration manager, upstream control,
//! admin, exporters). End: see [`lifecycle`]. Exit codes: 0 served and ended in order, 1 could not start or go on, 2 the
//! configuration or a flag is wrong.

mod args;
mod bootstrap;
mod certificates;
mod channels;
mod gauges;
mod grpc;
mod http_post;
mod install;
mod lifecycle;
mod logs;
mod memory;
mod mesh;
mod spans;
mod text;
mod workers;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use sidemesh_config::value::Address;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::admin;
use crate::clock::Random;
use crate::codec::Local;
use crate::downstream::Sockets;
use crate::live::Live;
use crate::shutdown::Shutdown;
use crate::telemetry::access_log::{self, Writer};
use crate::telemetry::stats::{Registry, Scope};
use crate::telemetry::trace::export;
use crate::upstream;
use crate::worker::Shared;
use crate::xds;
use args::{Args, LogFormat, Mode};
use bootstrap::Loaded;

/// Why the process does not start or go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A flag or the bootstrap asks for what cannot be had: exit code 2.
    #[error("{0}")]
    Config(String),
    /// Something failed: exit code 1.
    #[error("{0}")]
    Start(String),
}

/// How long the collectors may take with the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidemesh-proxy: {error}");
            ExitCode::from(if matches!(error, Error::Config(_)) { 2 } else { 1 })
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let log_level = start_log(args)?;
    memory::avoid_huge_pages();
    let loaded = bootstrap::load(args)?;
    for hint in &loaded.bootstrap.hints {
        tracing::info!("{}: accepted and not acted on: {}", hint.path, hint.why);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Start(format!("no runtime: {e}")))?;
    let local = tokio::task::LocalSet::new();
    let ended = match args.mode {
        Mode::Validate => local.block_on(&runtime, async { validate(args, loaded) }),
        Mode::Serve => local.block_on(&runtime, serve(args, loaded, log_level)),
    };
    // A name that the system still looks up must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn start_log(args: &Args) -> Result<admin::LogLevel, Error> {
    let filter = EnvFilter::try_new(args.log_filter())
        .map_err(|e| Error::Config(format!("--log-level {}: {e}", args.log_level)))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match args.log_format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    started.map_err(|e| Error::Start(format!("logging: {e}")))?;
    Ok(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
}

fn setup(args: &Args, loaded: &mut Loaded, shared: &Shared) -> xds::Setup {
    xds::Setup {
        bootstrap: loaded.bootstrap.clone(),
        statics: std::mem::take(&mut loaded.statics),
        node: loaded.wire.clone(),
        connect: grpc::connector(shared.live.clone()),
        stats: shared.stats.clone(),
        shutdown: shared.shutdown.clone(),
        resources: Rc::default(),
        late_secrets: args.mesh,
        saved: None,
    }
}

/// The configuration of an earlier run.
fn saved(args: &Args, loaded: &Loaded) -> Result<Option<xds::Saved>, Error> {
    let saved = args.state_dir.as_ref().map(|dir| xds::Saved::open(dir, &loaded.bootstrap.node.id)).transpose();
    saved.map_err(|e| Error::Start(e.to_string()))
}

fn shared(loaded: &Loaded) -> Shared {
    let live = Arc::new(Live::default());
    let stats = Arc::new(Registry::new(loaded.bootstrap.stats.clone()));
    Shared::new(live, stats, Shutdown::default(), Arc::new(loaded.node.clone()))
}

/// A static resource that is wrong is a wrong bootstrap.
fn refused(args: &Args, error: &xds::StartError) -> Error {
    let file = args.config_path.as_ref().map_or("--config-yaml".to_owned(), |p| p.display().to_string());
    Error::Config(format!("{file}: {error}"))
}

fn validate(args: &Args, mut loaded: Loaded) -> Result<(), Error> {
    let shared = shared(&loaded);
    let setup = setup(args, &mut loaded, &shared);
    let manager = xds::Manager::new(setup, Box::new(install::Validator), Instant::now());
    manager.map_err(|e| refused(args, &e))?;
    println!("configuration OK");
    Ok(())
}

/// Serves until the process is to end.
async fn serve(args: &Args, mut loaded: Loaded, log_level: admin::LogLevel) -> Result<(), Error> {
    let started = Instant::now();
    let shared = shared(&loaded);
    let count = args.workers();
    let writer = Writer::start().map_err(|e| Error::Start(format!("cannot start the access log thread: {e}")))?;
    let (spans, span_queue) = export::queue();
    let (records, record_queue) = access_log::queue();
    let ends = [span_queue.end(), record_queue.end()];
    let clusters = upstream::Registry::new(count, shared.stats.clone(), surroundings(&loaded, &writer));
    let control = upstream::Control::new(clusters.clone(), Local::new(Random::from_entropy()));
    let equipment = workers::Equipment {
        shared: shared.clone(),
        upstream: clusters.clone(),
        writer: writer.clone(),
        records,
        spans,
        drain_time: args.drain_time(),
        io: args.io,
    };
    let workers = Rc::new(workers::Workers::start(count, &equipment)?);
    drop(equipment);
    let sockets = Rc::new(RefCell::new(Sockets::new(count)));
    let closed = Rc::new(Cell::new(None));
    let stats: Arc<xds::ListenerManagerStats> = shared.stats.shard(Scope::Fixed("listener_manager"));
    stats.workers_started.set(1);
    stats.workers_pinned.set(0);
    let certificates = Rc::new(RefCell::new(certificates::Certificates::new(shared.stats.clone())));
    let installer = install::Installer {
        shared: shared.clone(),
        sockets: sockets.clone(),
        workers: workers.clone(),
        upstream: control.clone(),
        stats,
        closed: closed.clone(),
        certificates: certificates.clone(),
    };
    let setup = xds::Setup { saved: saved(args, &loaded)?, ..setup(args, &mut loaded, &shared) };
    let (bootstrap, resources, connect) = (setup.bootstrap.clone(), setup.resources.clone(), setup.connect.clone());
    let manager = xds::Manager::new(setup, Box::new(installer), Instant::now()).map_err(|e| refused(args, &e))?;
    shared.live.take_demands(manager.demands());
    let handle = admin::Handle {
        shared: shared.clone(),
        upstream: clusters,
        resources,
        bootstrap: bootstrap.clone(),
        bootstrap_text: loaded.text,
        started,
        workers: count,
        options: args.options(),
        access_log: writer.clone(),
        log_level,
        modify_runtime: Box::new(manager.runtime_changes()),
        refresh: Box::new(move || control.gauge()),
    };
    start_admin(handle)?;
    gauges::start(&shared, started, count, certificates);
    let spans = spans::start(span_queue, &shared, &bootstrap, connect.clone());
    let logs = logs::start(record_queue, &shared, loaded.wire, connect.clone());
    let member = mesh::start(args, &bootstrap, &shared, &manager, &connect)?;
    tokio::task::spawn_local(manager.run());
    let process =
        lifecycle::Process { shared, workers, sockets, closed, writer, drain_time: args.drain_time(), member };
    lifecycle::run(process).await?;
    // The workers are gone: what is left in the queues goes out, each within its time.
    ends.iter().for_each(|end| end.notify_one());
    if tokio::time::timeout(LAST_SPANS, async { tokio::join!(spans, logs) }).await.is_err() {
        tracing::warn!("the last spans or log records were not taken within {LAST_SPANS:?}");
    }
    Ok(())
}

/// What the clusters know of the process around them.
fn surroundings(loaded: &Loaded, writer: &Writer) -> upstream::Surroundings {
    let manager = &loaded.bootstrap.cluster_manager;
    let local = manager.local_cluster_name.clone();
    upstream::Surroundings {
        bind: manager.bind.clone(),
        local: local.map(|cluster| upstream::LocalZone { cluster, locality: loaded.node.locality.clone() }),
        outlier_log: manager.outlier_event_log.clone().map(|path| upstream::EventLog::new(writer.clone(), path)),
    }
}

fn start_admin(handle: admin::Handle) -> Result<(), Error> {
    let Some(admin) = &handle.bootstrap.admin else { return Ok(()) };
    let Address::Socket(address) = &admin.address else {
        return Err(Error::Config(format!(
            "admin.address: not supported: `{}`: give an IP address and port",
            admin.address
        )));
    };
    let listener = std::net::TcpListener::bind(address).and_then(|l| {
        l.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(l)
    });
    let listener = listener.map_err(|error| {
        Error::Config(format!(
            "admin.address: cannot bind {address}: {error}; another process may listen there: choose another port"
        ))
    })?;
    tokio::task::spawn_local(admin::serve(listener, Rc::new(handle)));
    Ok(())
}
