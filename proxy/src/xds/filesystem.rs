//! `path_config_source`: a file that holds one `DiscoveryResponse` as YAML, JSON or protobuf, read again when it is replaced.
//!
//! Replaced means moved into place (or written anew): the file's identity, size and change time are looked at every
//! [`POLL`], which also sees a symbolic link being switched, as a mounted ConfigMap does it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use sidemesh_proto::envoy::service::discovery::v3::DiscoveryResponse;
use sidemesh_proto::google::Any;
use sidemesh_proto::json;
use tokio::sync::mpsc;

use super::manager::Input;

/// How often a file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// A larger file is refused.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    pub(super) version: String,
    pub(super) resources: Vec<Any>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// Reads `path` now and whenever it changes, until the task is dropped.
pub(super) async fn watch(path: PathBuf, _watched_directory: Option<PathBuf>, inputs: mpsc::Sender<Input>, id: u64) {
    let mut last: Option<Result<Identity, String>> = None;
    loop {
        let now = identity(&path);
        if last.as_ref() != Some(&now) {
            let update = now.clone().and_then(|_| read(&path));
            if inputs.send(Input::File(id, update)).await.is_err() {
                return;
            }
            last = Some(now);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn identity(path: &Path) -> Result<Identity, String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if meta.len() > MAX_FILE_BYTES {
        return Err(format!("{}: larger than {MAX_FILE_BYTES} bytes", path.display()));
    }
    Ok(Identity {
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn read(path: &Path) -> Result<Update, String> {
    let at = |reason: String| format!("{}: {reason}", path.display());
    let bytes = std::fs::read(path).map_err(|e| at(e.to_string()))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let response = match extension {
        "pb" => DiscoveryResponse::decode(bytes.as_slice()).map_err(|e| at(e.to_string()))?,
        _ => {
            let text = std::str::from_utf8(&bytes).map_err(|e| at(e.to_string()))?;
            let value = if extension == "json" {
                serde_json::from_str(text).map_err(|e| at(e.to_string()))?
            } else {
                sidemesh_config::bootstrap::yaml(text).map_err(at)?
            };
            json::parse::<DiscoveryResponse>("envoy.service.discovery.v3.DiscoveryResponse", &value)
                .map_err(|e| at(e.to_string()))?
        }
    };
    Ok(Update { version: response.version_info, resources: response.resources })
}
