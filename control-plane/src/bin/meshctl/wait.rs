//! `--wait`: until every proxy that a write concerns has acknowledged it.

use std::process::ExitCode;
use std::time::Duration;

use sidemesh_proto::sidemesh::admin::v1alpha1::type_status::State;
use sidemesh_proto::sidemesh::admin::v1alpha1::{WatchAcksRequest, WatchAcksResponse};

use crate::client::{Failure, Server};
use crate::output::millis;

#[derive(clap::Args)]
pub struct WaitArgs {
    /// Wait until every proxy that is concerned runs the change; fail with its own words when one refuses it.
    #[arg(long)]
    pub wait: bool,
    /// Seconds that `--wait` waits at most.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

/// Waits when asked to.
pub async fn after(server: &Server, revision: u64, args: &WaitArgs) -> Result<ExitCode, Failure> {
    if args.wait {
        let last = follow(server, revision, Duration::from_secs(args.timeout)).await?;
        eprintln!("{}", summary(&last));
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows a revision to its end. Fails when a proxy refuses it or the time is over.
pub async fn follow(server: &Server, revision: u64, timeout: Duration) -> Result<WatchAcksResponse, Failure> {
    let timeout = sidemesh_proto::google::Duration { seconds: timeout.as_secs() as i64, nanos: 0 };
    let request = WatchAcksRequest { revision, timeout: Some(timeout) };
    let mut stream = server.proxies().await?.watch_acks(request).await?.into_inner();
    let mut last = None;
    while let Some(update) = stream.message().await? {
        let done = update.done || update.timed_out;
        last = Some(update);
        if done {
            break;
        }
    }
    let last = last.ok_or_else(|| Failure::Failed("the control plane ended the watch without a word".to_owned()))?;
    if last.nacked > 0 {
        return Err(Failure::NotAcknowledged(refusals(&last)));
    }
    if last.timed_out {
        return Err(Failure::NotAcknowledged(format!("{}\n{}", summary(&last), missing(&last))));
    }
    Ok(last)
}

/// `revision 12: 4 of 4 proxies run it (fastest 2.1 ms, median 3.0 ms, slowest 5.9 ms)`.
pub fn summary(acks: &WatchAcksResponse) -> String {
    let spread = if acks.acked == 0 {
        String::new()
    } else {
        let (fastest, median, slowest) =
            (millis(acks.fastest.as_ref()), millis(acks.median.as_ref()), millis(acks.slowest.as_ref()));
        format!(" (fastest {fastest}, median {median}, slowest {slowest})")
    };
    let plural = if acks.total == 1 { "proxy runs" } else { "proxies run" };
    format!("revision {}: {} of {} {plural} it{spread}", acks.revision, acks.acked, acks.total)
}

fn refusals(acks: &WatchAcksResponse) -> String {
    let refused = acks.proxies.iter().filter(|p| p.state() == State::Nacked);
    let lines: Vec<String> = refused.map(|p| format!("  {}: {}: {}", p.node_id, p.type_url, p.nack_error)).collect();
    format!("revision {}: {} of {} proxies refused it\n{}", acks.revision, acks.nacked, acks.total, lines.join("\n"))
}

fn missing(acks: &WatchAcksResponse) -> String {
    let silent = acks.proxies.iter().filter(|p| !matches!(p.state(), State::Acked | State::Nacked));
    let names: Vec<&str> = silent.map(|p| p.node_id.as_str()).collect();
    format!("no answer in time from: {}", names.join(", "))
}
