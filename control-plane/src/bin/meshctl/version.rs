//! `meshctl version`.

use std::process::ExitCode;

use serde_json::json;
use sidemesh_proto::sidemesh::admin::v1alpha1::GetVersionRequest;

use crate::client::{Failure, Server};
use crate::output::{Format, print, structured};

#[derive(clap::Args)]
pub struct Args {
    /// Of this program alone: ask no control plane.
    #[arg(long)]
    client: bool,
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let theirs = if args.client { None } else { Some(ask(server).await) };
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        let control_plane = theirs.as_ref().and_then(|t| t.as_ref().ok());
        structured(format, &json!({"client": own, "controlPlane": control_plane}))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("meshctl {own}\n"))?;
    match theirs {
        Some(Ok(version)) => print(&format!("control plane {version}\n"))?,
        Some(Err(failure)) => eprintln!("control plane: {failure}"),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(server: &Server) -> Result<String, Failure> {
    Ok(server.mesh().await?.get_version(GetVersionRequest {}).await?.into_inner().version)
}
