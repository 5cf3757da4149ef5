//! `meshctl token create`.

use std::process::ExitCode;

use sidemesh_proto::sidemesh::admin::v1alpha1::CreateTokenRequest;

use crate::client::{Failure, Server};
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a join token: good once, for one identity.
    Create {
        /// The workload's service account.
        #[arg(long)]
        service_account: String,
        /// How long it may be used: `30m`, `24h`.
        #[arg(long, default_value = "1h", value_parser = duration)]
        ttl: std::time::Duration,
    },
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    let Command::Create { service_account, ttl } = args.command;
    let ttl = sidemesh_proto::google::Duration { seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX), nanos: 0 };
    let request = CreateTokenRequest { namespace: server.namespace.clone(), service_account, ttl: Some(ttl) };
    let answer = server.mesh().await?.create_token(request).await?.into_inner();
    eprintln!("for {}, good once", answer.spiffe_id);
    print(&format!("{}\n", answer.token))?;
    Ok(ExitCode::SUCCESS)
}

/// `90s`, `30m`, `24h`, `7d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is no duration; write it like 90s, 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(std::time::Duration::from_secs).ok_or_else(wrong)
}
