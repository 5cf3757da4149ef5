//! Finds the descriptors that the crate `envoy-types` ships.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

const DESCRIPTORS: &str = "src/generated/types.bin";

pub(crate) fn descriptor_set() -> Result<FileDescriptorSet, Box<dyn Error>> {
    let path = source_folder()?.join(DESCRIPTORS);
    println!("cargo::rerun-if-changed={}", path.display());
    let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(FileDescriptorSet::decode(bytes.as_slice()).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// Asks cargo where the sources of `envoy-types` are, without the network unless cargo cannot answer otherwise.
fn source_folder() -> Result<PathBuf, Box<dyn Error>> {
    let offline = metadata(&["--offline"]);
    let json = match offline {
        Ok(json) => json,
        Err(_) => metadata(&[])?,
    };
    let packages = json["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|p| p["name"] == "envoy-types")
        .and_then(|p| p["manifest_path"].as_str())
        .ok_or("cargo metadata lists no package envoy-types")?;
    Ok(Path::new(manifest).parent().ok_or("envoy-types has no folder")?.to_owned())
}

fn metadata(extra: &[&str]) -> Result<serde_json::Value, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = env::var("TARGET")?;
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--filter-platform", &target, "--manifest-path"])
        .arg(manifest)
        .args(extra)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
