//! `meshctl up`: the demo mesh on this machine: control plane, shop services, a sidecar beside each, all on loopback.
//!
//! Every part is a real process started from the programs beside this one; everything they write is kept in one
//! directory. A guided tour shows what the mesh does and checks each claim it prints; `--once` ends after the tour, with
//! exit code 1 when a claim did not hold. Nothing here is special to the demo: it uses the same API, files and flags as a
//! user would.

mod admin;
mod layout;
mod load;
mod process;
mod tour;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::client::Failure;
use world::World;

#[derive(clap::Args)]
pub struct Args {
    /// End after the tour; exit code 1 when a claim did not hold.
    #[arg(long)]
    once: bool,
    /// Leave the tour out: start the mesh and stay.
    #[arg(long, conflicts_with = "once")]
    no_tour: bool,
    /// Where state and logs are kept. Default: a new temporary directory, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Lifetime of certificates in seconds; short, so that the tour can show a renewal.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(6..=86_400))]
    leaf_ttl: u64,
    /// Address of an OpenTelemetry collector (gRPC, `127.0.0.1:4317`) that gets the spans.
    #[arg(long)]
    otlp: Option<std::net::SocketAddr>,
}

/// What shells report of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut world = World::create(&args)?;
    let result = tokio::select! {
        result = drive(&mut world, &args) => result,
        // What was to be shown once was not shown.
        () = interrupted() => Ok(if args.once { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS }),
    };
    if result.is_err() {
        eprintln!("logs: {}", world.keep_dir().display());
    }
    world.stop().await;
    result
}

async fn drive(world: &mut World, args: &Args) -> Result<ExitCode, Failure> {
    world.start().await?;
    if !args.no_tour {
        tour::run(world).await?;
    }
    if args.once {
        return Ok(ExitCode::SUCCESS);
    }
    world.print_addresses();
    let load = load::Load::start(world.order_address());
    world.watch().await?;
    drop(load);
    Ok(ExitCode::SUCCESS)
}

/// Ends at Ctrl-C or SIGTERM.
async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
