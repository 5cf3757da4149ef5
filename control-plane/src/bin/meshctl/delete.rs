//! `meshctl delete -f FILE` and `meshctl delete KIND NAME...`.

use std::path::PathBuf;
use std::process::ExitCode;

use sidemesh_proto::sidemesh::admin::v1alpha1::{DeleteRequest, ObjectRef};

use crate::client::{Failure, Server, actor};
use crate::documents;
use crate::output::print;
use crate::wait;

#[derive(clap::Args)]
pub struct Args {
    /// KIND NAME..., or KIND/NAME...
    #[arg(required_unless_present = "filename", conflicts_with = "filename")]
    target: Vec<String>,
    /// Delete the objects that these files name.
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    /// Objects that do not exist are no error.
    #[arg(long)]
    ignore_not_found: bool,
    /// Show what would be deleted, change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: wait::WaitArgs,
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    let references = references(server, &args)?;
    let mut client = server.resources().await?;
    let mut revision = 0;
    for reference in references {
        let title = format!("{}/{}", reference.kind.to_lowercase(), reference.name);
        let request = DeleteRequest {
            r#ref: Some(reference),
            dry_run: args.dry_run,
            actor: actor("delete"),
            expected_revision: 0,
        };
        match client.delete(request).await.map_err(Failure::from) {
            Ok(answer) => {
                let answer = answer.into_inner();
                revision = revision.max(answer.revision);
                let known = answer.object.and_then(|o| o.r#ref);
                let title = known.map_or(title, |r| format!("{}/{}", r.kind.to_lowercase(), r.name));
                print(&format!("{title} deleted{}\n", if args.dry_run { " (dry run)" } else { "" }))?;
            }
            Err(Failure::NotFound(_)) if args.ignore_not_found => {}
            Err(failure) => return Err(failure),
        }
    }
    if args.dry_run || revision == 0 { Ok(ExitCode::SUCCESS) } else { wait::after(server, revision, &args.wait).await }
}

fn references(server: &Server, args: &Args) -> Result<Vec<ObjectRef>, Failure> {
    if !args.filename.is_empty() {
        let text = |v: &serde_json::Value| v.as_str().unwrap_or("").to_owned();
        let documents = documents::read(&args.filename)?;
        return Ok(documents
            .iter()
            .rev()
            .map(|d| ObjectRef {
                api_version: text(&d.value["apiVersion"]),
                kind: text(&d.value["kind"]),
                namespace: d.value["metadata"]["namespace"].as_str().unwrap_or(&server.namespace).to_owned(),
                name: text(&d.value["metadata"]["name"]),
            })
            .collect());
    }
    let make = |kind: &str, name: &str| ObjectRef {
        api_version: String::new(),
        kind: kind.to_owned(),
        namespace: server.namespace.clone(),
        name: name.to_owned(),
    };
    match args.target.as_slice() {
        all if all.iter().any(|t| t.contains('/')) => {
            let split = |t: &String| match t.split_once('/') {
                Some((kind, name)) => Ok(make(kind, name)),
                None => Err(Failure::Usage(format!("{t}: write every object as KIND/NAME, or KIND NAME..."))),
            };
            all.iter().map(split).collect()
        }
        [one] => Err(Failure::Usage(format!("delete {one}: name the objects, as in `meshctl delete {one} NAME`"))),
        [kind, names @ ..] => Ok(names.iter().map(|n| make(kind, n)).collect()),
        [] => Err(Failure::Usage("nothing to delete".to_owned())),
    }
}
