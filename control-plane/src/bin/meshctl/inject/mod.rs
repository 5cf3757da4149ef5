//! `meshctl inject -f FILE`: the sidecar written into Kubernetes workloads.
//!
//! Pure text to text: no cluster is asked. Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs get
//! a native sidecar (an init container with `restartPolicy: Always`, Kubernetes 1.29); everything else passes unchanged.
//! Injecting twice gives the same as injecting once. `sidemesh.dev/inject: "false"` on the pod template opts out; pods on
//! the host's network are left out with a word, since their ports are the machine's. Comments are not kept: manifests
//! pass as data.

mod sidecar;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::Failure;
use crate::documents;
use crate::output::{print, yaml};
use sidecar::Pod;

#[derive(clap::Args)]
pub struct Args {
    /// Kubernetes manifest; `-` reads standard input. May be repeated.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Image of the sidecar.
    #[arg(long, default_value = concat!("sidemesh/proxy:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Where the sidecars find the control plane, `host:port`.
    #[arg(long, default_value = "sidemesh-control-plane.sidemesh-system.svc:15010", value_parser = host_port)]
    control_plane: (String, u16),
    /// Worker threads of the sidecar.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
}

fn host_port(text: &str) -> Result<(String, u16), String> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok().filter(|p| *p != 0)?)));
    match parsed {
        Some((host, port)) if !host.is_empty() && !host.contains([':', '/']) => Ok((host.to_owned(), port)),
        _ => Err("write it as HOST:PORT".to_owned()),
    }
}

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut out = String::new();
    for (index, document) in documents::read(&args.filename)?.into_iter().enumerate() {
        let title = document.title();
        if on_host_network(&document.value) {
            eprintln!("{title}: not injected: hostNetwork, its ports are the machine's");
        }
        let value = inject(document.value, &args.options)
            .map_err(|e| Failure::Usage(format!("{} ({title}): {e}", document.origin)))?;
        if index > 0 {
            out += "---\n";
        }
        out += &yaml(&value)?;
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// The document with the sidecar in its pod template, when it has one.
pub fn inject(mut document: Value, options: &Options) -> Result<Value, String> {
    let Some(path) = template_path(document["kind"].as_str().unwrap_or("")) else { return Ok(document) };
    let metadata = &document["metadata"];
    let owner = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or("");
    let owner = owner.trim_end_matches('-').to_owned();
    if on_host_network(&document) {
        return Ok(document);
    }
    let template = document.pointer_mut(path).ok_or_else(|| format!("no pod template at {path}"))?;
    if template["metadata"]["annotations"]["sidemesh.dev/inject"] == "false" {
        return Ok(document);
    }
    let pod = Pod::read(template, &owner)?;
    mark(template);
    let spec = template.get_mut("spec").and_then(Value::as_object_mut).ok_or("the pod template has no spec")?;
    replace_named(spec, "initContainers", sidecar::container(&pod, options), true)?;
    for volume in sidecar::volumes() {
        replace_named(spec, "volumes", volume, false)?;
    }
    Ok(document)
}

fn on_host_network(document: &Value) -> bool {
    let path = template_path(document["kind"].as_str().unwrap_or(""));
    path.and_then(|path| document.pointer(path)).is_some_and(|template| template["spec"]["hostNetwork"] == true)
}

/// Where a kind keeps its pod template.
fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn mark(template: &mut Value) {
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    for (map, key, value) in [
        ("labels", "sidemesh.dev/meshed", "true"),
        ("annotations", "sidemesh.dev/injected-version", env!("CARGO_PKG_VERSION")),
    ] {
        if !template["metadata"][map].is_object() {
            template["metadata"][map] = json!({});
        }
        template["metadata"][map][key] = json!(value);
    }
}

/// Puts `entry` into the list `key`, in the place of an entry of the same name if there is one.
fn replace_named(
    spec: &mut serde_json::Map<String, Value>,
    key: &str,
    entry: Value,
    first: bool,
) -> Result<(), String> {
    let list = spec.entry(key).or_insert_with(|| json!([]));
    let list = list.as_array_mut().ok_or_else(|| format!("spec.{key} is not a list"))?;
    match list.iter().position(|e| e["name"] == entry["name"]) {
        Some(at) => list[at] = entry,
        None if first => list.insert(0, entry),
        None => list.push(entry),
    }
    Ok(())
}
