//! Reads the start-up file, merges what the command line adds, and says who this proxy is.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sidemesh_config::bootstrap::{Bootstrap, StaticResource, yaml};
use sidemesh_proto::envoy::config::core::v3::{BuildVersion, Node as WireNode, node};
use sidemesh_proto::envoy::r#type::v3::SemanticVersion;

use super::Error;
use super::args::Args;
use crate::admin::Packed;
use crate::worker::Node;

/// The bootstrap and the text it came from.
pub struct Loaded {
    pub bootstrap: Arc<Bootstrap>,
    pub statics: Vec<StaticResource>,
    pub text: Packed,
    pub node: Node,
    /// As management servers see it.
    pub wire: WireNode,
}

/// Reads and validates.
pub fn load(args: &Args) -> Result<Loaded, Error> {
    let (name, text) = text(args)?;
    let mut bootstrap = Bootstrap::parse(&text, &name).map_err(|e| Error::Config(e.to_string()))?;
    let statics = bootstrap.take_static();
    let (node, wire) = identify(&bootstrap, args);
    let dynamic = &bootstrap.dynamic;
    let asks = dynamic.ads.is_some() || dynamic.clusters.is_some() || dynamic.listeners.is_some();
    if asks && (node.id.is_empty() || node.cluster.is_empty()) {
        return Err(Error::Config(format!(
            "{name}: node: `id` and `cluster` are required with dynamic_resources: set them there or by --service-node and --service-cluster"
        )));
    }
    Ok(Loaded { bootstrap: Arc::new(bootstrap), statics, text: Packed::new(&text), node, wire })
}

/// The file's name and text, with `--config-yaml` merged over it.
fn text(args: &Args) -> Result<(String, String), Error> {
    let file = args.config_path.as_deref().map(read).transpose()?;
    match (file, &args.config_yaml) {
        (None, None) => Err(Error::Config("no configuration: give -c FILE or --config-yaml TEXT".to_owned())),
        (Some(file), None) => Ok(file),
        (None, Some(text)) => Ok(("--config-yaml".to_owned(), text.clone())),
        (Some((name, text)), Some(over)) => {
            let mut base = yaml(&text).map_err(|e| Error::Config(format!("{name}: {e}")))?;
            merge(&mut base, yaml(over).map_err(|e| Error::Config(format!("--config-yaml: {e}")))?);
            Ok((name, base.to_string()))
        }
    }
}

fn read(path: &Path) -> Result<(String, String), Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| Error::Config(format!("{name}: {e}")))?;
    Ok((name, text))
}

/// As protobuf merges messages: objects by field, lists end to end, the rest replaced.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (Value::Array(base), Value::Array(over)) => base.extend(over),
        (base, over) => *base = over,
    }
}

fn identify(bootstrap: &Bootstrap, args: &Args) -> (Node, WireNode) {
    let mut wire = bootstrap.node.wire.clone();
    let mut locality = bootstrap.node.locality.clone();
    if let Some(id) = &args.service_node {
        wire.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        wire.cluster.clone_from(cluster);
    }
    if let Some(zone) = &args.service_zone {
        wire.locality.get_or_insert_default().zone.clone_from(zone);
        locality.zone = zone.as_str().into();
    }
    wire.user_agent_name = "sidemesh".to_owned();
    wire.user_agent_version_type = Some(node::UserAgentVersionType::UserAgentBuildVersion(version()));
    wire.client_features = vec!["xds.config.resource-in-sotw".to_owned()];
    let node = Node { id: wire.id.as_str().into(), cluster: wire.cluster.as_str().into(), locality };
    (node, wire)
}

fn version() -> BuildVersion {
    let mut parts = env!("CARGO_PKG_VERSION").split(['.', '-']).map(|p| p.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version = SemanticVersion { major_number: next(), minor_number: next(), patch: next() };
    BuildVersion { version: Some(version), metadata: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_given_on_the_command_line_is_merged_over_the_file() {
        let mut base = serde_json::json!({"node": {"id": "a", "cluster": "c"}, "list": [1]});
        merge(&mut base, serde_json::json!({"node": {"id": "b"}, "list": [2], "admin": {}}));
        assert_eq!(base, serde_json::json!({"node": {"id": "b", "cluster": "c"}, "list": [1, 2], "admin": {}}));
    }
}
