//! `meshctl diff -f FILE`: the stored objects against what `apply` would store.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use similar::TextDiff;

use crate::apply;
use crate::client::{Failure, Server};
use crate::documents::{self, Document};
use crate::get;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// File or directory of documents; `-` reads standard input. May be repeated.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
}

/// As with kubectl, 1 means that there is a difference, and more that it is not known.
const FAILED: u8 = 2;

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    match differences(server, args).await {
        Ok(false) => Ok(ExitCode::SUCCESS),
        Ok(true) => Ok(ExitCode::FAILURE),
        Err(failure) => {
            eprintln!("meshctl: {failure}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Prints them; were there any?
async fn differences(server: &Server, args: Args) -> Result<bool, Failure> {
    let mut client = server.resources().await?;
    let mut differs = false;
    for document in documents::read(&args.filename)? {
        let before = stored(server, &document).await?;
        let answer = apply::one(&mut client, &server.namespace, &document, true, "diff").await?;
        let after = match &answer.object {
            Some(object) => yaml(get::value(object)?)?,
            None => String::new(),
        };
        if before != after {
            differs = true;
            let title = document.title();
            let diff = TextDiff::from_lines(&before, &after);
            print(&diff.unified_diff().header(&format!("stored/{title}"), &format!("new/{title}")).to_string())?;
        }
    }
    Ok(differs)
}

async fn stored(server: &Server, document: &Document) -> Result<String, Failure> {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let namespace = document.value["metadata"]["namespace"].as_str().unwrap_or(&server.namespace).to_owned();
    let there = Server { namespace, ..server.clone() };
    match get::one(&there, &text(&document.value["kind"]), &text(&document.value["metadata"]["name"])).await {
        Ok(object) => yaml(get::value(&object)?),
        Err(Failure::NotFound(_)) => Ok(String::new()),
        Err(failure) => Err(failure),
    }
}

/// What a user writes of an object: without status and the fields that the control plane sets.
fn yaml(mut value: Value) -> Result<String, Failure> {
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["resourceVersion", "generation", "uid", "creationTimestamp"] {
                meta.remove(field);
            }
        }
    }
    crate::output::yaml(&value)
}
