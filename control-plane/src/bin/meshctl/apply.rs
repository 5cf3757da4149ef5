//! `meshctl apply -f FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidemesh_proto::sidemesh::admin::v1alpha1::apply_response::Outcome;
use sidemesh_proto::sidemesh::admin::v1alpha1::{ApplyRequest, ApplyResponse};

use crate::client::{Failure, Resources, Server, actor};
use crate::documents::{self, Document};
use crate::get;
use crate::output::{Format, print, structured};
use crate::wait;

/// More than the store takes; said here, where the file is known.
const MAX_DOCUMENT: usize = 3_000_000;

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
    let documents = documents::read(&args.filename)?;
    let mut client = server.resources().await?;
    let mut revision = 0;
    let mut objects = Vec::new();
    let (mut refused, mut failed) = (Vec::new(), false);
    for document in &documents {
        match one(&mut client, &server.namespace, document, args.dry_run, "apply").await {
            Ok(answer) => {
                revision = revision.max(answer.revision);
                objects.extend(report(document, &answer, args.output, args.dry_run)?);
            }
            Err(failure) => {
                failed |= !matches!(failure, Failure::Refused(_) | Failure::Usage(_));
                refused.push(format!("{} ({}): {failure}", document.title(), document.origin));
            }
        }
    }
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        match objects.as_slice() {
            [one] if documents.len() == 1 => structured(format, one)?,
            [] => {}
            many => structured(format, &json!({"apiVersion": "v1", "kind": "List", "items": many}))?,
        }
    }
    if !refused.is_empty() {
        let all = refused.join("\n");
        return Err(if failed { Failure::Failed(all) } else { Failure::Refused(all) });
    }
    if args.dry_run { Ok(ExitCode::SUCCESS) } else { wait::after(server, revision, &args.wait).await }
}

/// Applies one document, over a connection that may be used for many.
pub async fn one(
    client: &mut Resources,
    namespace: &str,
    document: &Document,
    dry_run: bool,
    command: &str,
) -> Result<ApplyResponse, Failure> {
    let text = document.text();
    if text.len() > MAX_DOCUMENT {
        return Err(Failure::Refused(format!("{} bytes; an object has at most {MAX_DOCUMENT}", text.len())));
    }
    let request = ApplyRequest {
        document: text,
        dry_run,
        default_namespace: namespace.to_owned(),
        actor: actor(command),
        ..ApplyRequest::default()
    };
    Ok(client.apply(request).await?.into_inner())
}

/// Says what became of a document; gives the object back where the output is the objects themselves.
fn report(
    document: &Document,
    answer: &ApplyResponse,
    format: Option<Format>,
    dry_run: bool,
) -> Result<Option<Value>, Failure> {
    for warning in &answer.warnings {
        eprintln!("warning: {}: {}: {}", document.title(), warning.path, warning.message);
    }
    match format {
        Some(Format::Json | Format::Yaml) => return answer.object.as_ref().map(get::value).transpose(),
        Some(Format::Name) => {
            print(&format!("{}\n", document.title()))?;
            return Ok(None);
        }
        Some(Format::Wide) | None => {}
    }
    let outcome = match answer.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    let suffix = if dry_run { " (dry run)" } else { "" };
    print(&format!("{} {outcome}{suffix}\n", document.title()))?;
    Ok(None)
}
