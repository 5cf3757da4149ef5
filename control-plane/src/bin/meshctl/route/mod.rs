//! `meshctl route …`: traffic between versions of a service, in one safe command.
//!
//! Versions of a service are services of their own named `SERVICE-VERSION`; the route whose parent is the service
//! gives each a weight. These commands edit that object and apply it like any other; nothing is kept beside it.

mod edit;
mod history;
mod show;
mod weights;

use std::process::ExitCode;

use crate::client::{Failure, Server};
use crate::output::Format;
use crate::wait;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Routes with their parents, backends and state.
    List {
        /// In all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// One service's route.
    Get {
        service: String,
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Give one version a share, in percent; the others share the rest as they did.
    Shift {
        service: String,
        /// `VERSION=PERCENT`
        #[arg(value_parser = weights::parse_share)]
        share: (String, u32),
        #[command(flatten)]
        change: Change,
    },
    /// Set the share of every version, in percent; together 100.
    Split {
        service: String,
        /// `VERSION=PERCENT` for each version
        #[arg(required = true, value_parser = weights::parse_share)]
        shares: Vec<(String, u32)>,
        #[command(flatten)]
        change: Change,
    },
    /// Go back to the route as it was before the last change.
    Undo {
        service: String,
        /// Back to this revision instead (see `history`).
        #[arg(long)]
        to: Option<u64>,
        #[command(flatten)]
        change: Change,
    },
    /// The last versions of a route: when, who, what.
    History {
        service: String,
        /// How many at most.
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
}

#[derive(clap::Args)]
struct Change {
    /// Show the change, make none.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: wait::WaitArgs,
}

/// The routes of all namespaces, of every kind.
pub async fn all(server: &Server) -> Result<Vec<serde_json::Value>, Failure> {
    edit::routes(server, "").await
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List { all_namespaces, output } => show::list(server, all_namespaces, output).await,
        Command::Get { service, output } => show::get(server, &service, output).await,
        Command::Shift { service, share, change } => {
            edit::change(server, &service, "route shift", &change, |old| weights::shift(old, &share)).await
        }
        Command::Split { service, shares, change } => {
            edit::change(server, &service, "route split", &change, |old| weights::split(old, &shares)).await
        }
        Command::Undo { service, to, change } => history::undo(server, &service, to, &change).await,
        Command::History { service, limit } => history::show(server, &service, limit).await,
    }
}
