//! `meshctl completion SHELL`.

use std::process::ExitCode;

use clap::CommandFactory;

#[derive(clap::Args)]
pub struct Args {
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "meshctl", &mut std::io::stdout());
    ExitCode::SUCCESS
}
