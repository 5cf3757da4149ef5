//! `meshctl apply -f FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use sidemesh_proto::sidemesh::admin::v1alpha1::apply_response::Outcome;
use sidemesh_proto::sidemesh::admin::v1alpha1::{ApplyRequest, ApplyResponse};

use crate::client::{Failure, Server, actor};
use crate::documents::{self, Document};
use crate::output::{Format, print, structured};
use crate::wait;

#[derive(clap::Args)]
pub struct Args {
    /// File or directory of YAML or JSON documents; `-` reads standard input. May be repeated.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    /// Check and show what would happen, change nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    wait: wait::WaitArgs,
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    let mut revision = 0;
    let mut refused = Vec::new();
    for document in documents::read(&args.filename)? {
        match one(server, &document, args.dry_run, "apply").await {
            Ok(answer) => {
                revision = revision.max(answer.revision);
                report(&document, &answer, args.output, args.dry_run)?;
            }
            Err(failure @ Failure::Unreachable { .. }) => return Err(failure),
            Err(failure) => refused.push(format!("{} ({}): {failure}", document.title(), document.origin)),
        }
    }
    if !refused.is_empty() {
        return Err(Failure::Refused(refused.join("\n")));
    }
    if args.dry_run { Ok(ExitCode::SUCCESS) } else { wait::after(server, revision, &args.wait).await }
}

/// Applies one document.
pub async fn one(server: &Server, document: &Document, dry_run: bool, command: &str) -> Result<ApplyResponse, Failure> {
    let request = ApplyRequest {
        document: document.text(),
        dry_run,
        default_namespace: server.namespace.clone(),
        actor: actor(command),
        ..ApplyRequest::default()
    };
    Ok(server.resources().await?.apply(request).await?.into_inner())
}

fn report(document: &Document, answer: &ApplyResponse, format: Option<Format>, dry_run: bool) -> Result<(), Failure> {
    for warning in &answer.warnings {
        eprintln!("warning: {}: {}: {}", document.title(), warning.path, warning.message);
    }
    if let Some(format @ (Format::Json | Format::Yaml)) = format {
        let json = answer.object.as_ref().map_or("null", |o| o.json.as_str());
        let value = serde_json::from_str(json).map_err(|e| Failure::Failed(e.to_string()))?;
        return structured(format, &value);
    }
    if format == Some(Format::Name) {
        return print(&format!("{}\n", document.title()));
    }
    let outcome = match answer.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    let suffix = if dry_run { " (dry run)" } else { "" };
    print(&format!("{} {outcome}{suffix}\n", document.title()))
}
