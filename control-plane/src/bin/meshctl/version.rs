//! `meshctl version`.

use std::process::ExitCode;

use serde_json::json;
use sidemesh_proto::sidemesh::admin::v1alpha1::GetVersionRequest;

use crate::client::Failure;
use crate::context::Flags;
use crate::output::{Format, print, structured};

#[derive(clap::Args)]
pub struct Args {
    /// Of this program alone: ask no control plane.
    #[arg(long)]
    client: bool,
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

pub async fn run(flags: &Flags, args: Args) -> Result<ExitCode, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let theirs = if args.client { None } else { Some(ask(flags).await) };
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        let control_plane = theirs.as_ref().and_then(|t| t.as_ref().ok());
        structured(format, &json!({"client": own, "controlPlane": control_plane}))?;
    } else {
        print(&format!("meshctl {own}\n"))?;
        if let Some(Ok(version)) = &theirs {
            print(&format!("control plane {version}\n"))?;
        }
    }
    match theirs {
        Some(Err(failure)) => Err(failure),
        Some(Ok(_)) | None => Ok(ExitCode::SUCCESS),
    }
}

async fn ask(flags: &Flags) -> Result<String, Failure> {
    Ok(flags.clone().server()?.mesh().await?.get_version(GetVersionRequest {}).await?.into_inner().version)
}
