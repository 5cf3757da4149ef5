//! `meshctl`: the mesh from the command line, with kubectl's verbs and habits.
//!
//! One file per command. Commands talk to the control plane's admin API and know nothing of its store. Results go to
//! standard output, everything else to standard error. Exit codes: 0 done; 1 it failed, or `diff` found differences;
//! 2 the command line or a document is wrong, or `diff` failed; 3 `--wait` ended without every proxy's acknowledgement.

mod apply;
mod check;
mod client;
mod completion;
mod context;
mod delete;
mod dial;
mod diff;
mod documents;
mod get;
mod inject;
mod output;
mod proxy;
mod route;
mod token;
mod up;
mod version;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Failure;

/// Control a Sidemesh service mesh.
#[derive(Parser)]
#[command(name = "meshctl", version, disable_help_subcommand = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    flags: context::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole mesh on this machine: control plane, demo shop, sidecars.
    Up(up::Args),
    /// Create or change objects.
    Apply(apply::Args),
    /// Show objects.
    Get(get::Args),
    /// Delete objects.
    Delete(delete::Args),
    /// Show what `apply` would change. Exit code 1 when there is something.
    Diff(diff::Args),
    /// Look at and move traffic between versions of a service.
    Route(route::Args),
    /// Look at the proxies.
    Proxy(proxy::Args),
    /// Make join tokens.
    Token(token::Args),
    /// Check the health of the mesh.
    Check(check::Args),
    /// Add the sidecar to a Kubernetes manifest.
    Inject(inject::Args),
    /// Control planes by name: where they are, and with what credentials.
    Context(context::Args),
    /// Print the versions of this program and of the control plane.
    Version(version::Args),
    /// Print a shell completion script.
    Completion(completion::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meshctl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("meshctl: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let server = || cli.flags.clone().server();
    match cli.command {
        Command::Up(args) => up::run(args).await,
        Command::Apply(args) => apply::run(&server()?, args).await,
        Command::Get(args) => get::run(&server()?, args).await,
        Command::Delete(args) => delete::run(&server()?, args).await,
        Command::Diff(args) => diff::run(&server()?, args).await,
        Command::Route(args) => route::run(&server()?, args).await,
        Command::Proxy(args) => proxy::run(&server()?, args).await,
        Command::Token(args) => token::run(&server()?, args).await,
        Command::Check(args) => check::run(&server()?, args).await,
        Command::Inject(args) => inject::run(args),
        Command::Context(args) => context::run(cli.flags, args),
        Command::Version(args) => version::run(&cli.flags, args).await,
        Command::Completion(args) => Ok(completion::run(&args)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
