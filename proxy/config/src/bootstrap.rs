//! The start-up file: Envoy's bootstrap (`bootstrap.v3.Bootstrap`) as YAML or JSON.
//!
//! Static listeners, clusters and secrets stay encoded here and go through the same decoding as those of xDS. Nothing is
//! read from disk: the caller passes the text.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Name as _};
use sidemesh_proto::envoy::config::accesslog::v3::{AccessLog as WireAccessLog, access_log as access_log_wire};
use sidemesh_proto::envoy::config::bootstrap::v3 as wire_bootstrap;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use sidemesh_proto::{json, type_url};

use crate::rejection::{Rejection, Within};
use crate::resource::access_log::{self, AccessLog};
use crate::resource::cluster::{BindConfig, bind_config};
use crate::support::{self, Hint};
use crate::value::{Address, ConfigOrigin, ConfigSource, GrpcSource, Locality, Name};
use crate::wire;

mod runtime;
mod stats;
#[cfg(test)]
mod tests;

pub use runtime::{RuntimeLayer, RuntimeOrigin};
pub use stats::{StatsConfig, StatsMatcher, Tag, TagValue};

/// The start-up file, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    pub node: Node,
    pub admin: Option<Admin>,
    pub static_resources: Vec<StaticResource>,
    pub dynamic: DynamicResources,
    /// Layers in order; a later one wins.
    pub runtime: Vec<RuntimeLayer>,
    pub cluster_manager: ClusterManager,
    pub stats: StatsConfig,
    /// Fields that were accepted and are not acted on.
    pub hints: Vec<Hint>,
}

/// Who this proxy is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// Empty when not given.
    pub id: Name,
    pub cluster: Name,
    pub locality: Locality,
    pub metadata: serde_json::Value,
    /// What discovery requests carry; the proxy adds its name, version and extensions.
    pub wire: core::Node,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub address: Address,
    pub access_logs: Vec<Arc<AccessLog>>,
}

/// A resource of the file, encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticResource {
    /// [`type_url::LISTENER`], [`type_url::CLUSTER`] or [`type_url::SECRET`].
    pub type_url: &'static str,
    /// May be empty for a listener.
    pub name: Name,
    pub bytes: Bytes,
    /// Where it stands in the file: `static_resources.listeners[0]`.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct DynamicResources {
    pub ads: Option<Arc<GrpcSource>>,
    pub listeners: Option<ConfigSource>,
    pub clusters: Option<ConfigSource>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterManager {
    /// The cluster that this proxy is an endpoint of, for zone-aware routing.
    pub local_cluster_name: Option<Name>,
    pub outlier_event_log: Option<PathBuf>,
    /// For clusters that do not say it themselves.
    pub bind: Option<BindConfig>,
}

/// Why a start-up file cannot be used: names the file, the field and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    #[error("{file}: {reason}")]
    Syntax { file: String, reason: String },
    #[error("{file}: {error}")]
    Json { file: String, error: json::JsonError },
    #[error("{file}: {rejection}")]
    Rejected { file: String, rejection: Rejection },
}

impl Bootstrap {
    /// Reads `text`: JSON when `file_name` ends in `.json`, else YAML (of which JSON is a part).
    pub fn parse(text: &str, file_name: &str) -> Result<Bootstrap, BootstrapError> {
        let file = || file_name.to_owned();
        let value = if file_name.ends_with(".json") {
            serde_json::from_str(text).map_err(|e| BootstrapError::Syntax { file: file(), reason: e.to_string() })?
        } else {
            yaml(text).map_err(|reason| BootstrapError::Syntax { file: file(), reason })?
        };
        if value.as_object().is_some_and(serde_json::Map::is_empty) {
            let reason = "it is empty: give at least `static_resources` or `dynamic_resources`".to_owned();
            return Err(BootstrapError::Syntax { file: file(), reason });
        }
        let bytes = json::to_bytes(&wire_bootstrap::Bootstrap::full_name(), &value)
            .map_err(|error| BootstrapError::Json { file: file(), error })?;
        // A large file's tree is many times its size.
        drop(value);
        Bootstrap::decode(&bytes).map_err(|rejection| BootstrapError::Rejected { file: file(), rejection })
    }

    /// Validates an encoded `bootstrap.v3.Bootstrap`.
    pub fn decode(bytes: &[u8]) -> Result<Bootstrap, Rejection> {
        let hints = support::check(&wire_bootstrap::Bootstrap::full_name(), bytes)?;
        let wire = wire_bootstrap::Bootstrap::decode(bytes).map_err(|e| Rejection::malformed("", e.to_string()))?;
        let bootstrap = Bootstrap {
            node: node(wire.node.unwrap_or_default()),
            admin: wire.admin.map(|a| admin(&a).within("admin")).transpose()?.flatten(),
            static_resources: wire.static_resources.map(static_resources).transpose()?.unwrap_or_default(),
            dynamic: wire
                .dynamic_resources
                .map(|d| dynamic_resources(&d).within("dynamic_resources"))
                .transpose()?
                .unwrap_or_default(),
            runtime: runtime::layers(wire.layered_runtime.unwrap_or_default()).within("layered_runtime")?,
            cluster_manager: wire
                .cluster_manager
                .map(cluster_manager)
                .transpose()
                .within("cluster_manager")?
                .unwrap_or_default(),
            stats: wire.stats_config.map(|s| stats::parse(&s).within("stats_config")).transpose()?.unwrap_or_default(),
            hints,
        };
        bootstrap.check_clusters()?;
        Ok(bootstrap)
    }

    /// Takes the static resources out: they are needed once. Their types and names stay.
    pub fn take_static(&mut self) -> Vec<StaticResource> {
        let stub = |r: &StaticResource| StaticResource {
            type_url: r.type_url,
            name: r.name.clone(),
            bytes: Bytes::new(),
            path: String::new(),
        };
        let stubs = self.static_resources.iter().map(stub).collect();
        std::mem::replace(&mut self.static_resources, stubs)
    }

    /// The names of static resources of one type.
    pub fn static_names(&self, type_url: &str) -> impl Iterator<Item = &Name> {
        self.static_resources.iter().filter(move |r| r.type_url == type_url).map(|r| &r.name)
    }

    /// Every cluster that the start-up itself needs must be in the file.
    fn check_clusters(&self) -> Result<(), Rejection> {
        let known = |name: &Name| self.static_names(type_url::CLUSTER).any(|n| n == name);
        let unknown = |path: String, name: &Name| {
            Err(Rejection::invalid(path, format!("cluster `{name}` is not in static_resources.clusters")))
        };
        for (path, source) in self.streams() {
            for (index, service) in source.services.iter().enumerate() {
                if !known(&service.cluster) {
                    return unknown(format!("{path}.grpc_services[{index}].envoy_grpc.cluster_name"), &service.cluster);
                }
            }
        }
        match &self.cluster_manager.local_cluster_name {
            Some(name) if !known(name) => unknown("cluster_manager.local_cluster_name".to_owned(), name),
            _ => Ok(()),
        }
    }

    /// The management servers that the file names, with the paths of their sources.
    fn streams(&self) -> Vec<(String, &GrpcSource)> {
        let mut streams = Vec::new();
        if let Some(ads) = &self.dynamic.ads {
            streams.push(("dynamic_resources.ads_config".to_owned(), ads.as_ref()));
        }
        let layers = self.runtime.iter().enumerate().filter_map(|(i, layer)| match &layer.origin {
            RuntimeOrigin::Discovered { source, .. } => {
                Some((format!("layered_runtime.layers[{i}].rtds_layer.rtds_config"), source))
            }
            _ => None,
        });
        let sources = [("lds_config", &self.dynamic.listeners), ("cds_config", &self.dynamic.clusters)]
            .into_iter()
            .filter_map(|(field, source)| Some((format!("dynamic_resources.{field}"), source.as_ref()?)));
        for (path, source) in sources.chain(layers) {
            if let ConfigOrigin::Grpc(grpc) = &source.origin {
                streams.push((format!("{path}.api_config_source"), grpc.as_ref()));
            }
        }
        streams
    }
}

/// YAML as JSON. An empty file is an empty bootstrap, which the checks then judge.
pub fn yaml(text: &str) -> Result<serde_json::Value, String> {
    match serde_yaml_ng::from_str(text).map_err(|e| e.to_string())? {
        serde_json::Value::Null => Ok(serde_json::Value::Object(Default::default())),
        value @ serde_json::Value::Object(_) => Ok(value),
        _ => Err("expected a bootstrap: a mapping of fields such as `static_resources`".to_owned()),
    }
}

fn node(wire: core::Node) -> Node {
    Node {
        id: Name::from(wire.id.as_str()),
        cluster: Name::from(wire.cluster.as_str()),
        locality: wire.locality.as_ref().map(wire::locality).unwrap_or_default(),
        metadata: wire.metadata.as_ref().map(wire::struct_to_json).unwrap_or_default(),
        wire,
    }
}

/// No address means no admin server, as in Envoy.
fn admin(wire: &wire_bootstrap::Admin) -> Result<Option<Admin>, Rejection> {
    let Some(address) = &wire.address else { return Ok(None) };
    let address = wire::address(address, "address")?;
    if let Address::Dns { host, .. } = &address {
        return Err(Rejection::invalid("address.socket_address.address", format!("`{host}` is no IP address")));
    }
    let mut access_logs = access_log::parse_all(&wire.access_log, "access_log")?;
    if !wire.access_log_path.is_empty() {
        access_logs.push(Arc::new(file_log(&wire.access_log_path).within("access_log_path")?));
    }
    Ok(Some(Admin { address, access_logs }))
}

/// The deprecated `access_log_path`: a file log in the default format.
fn file_log(path: &str) -> Result<AccessLog, Rejection> {
    let file = FileAccessLog { path: path.to_owned(), access_log_format: None };
    access_log::parse(&WireAccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log_wire::ConfigType::TypedConfig(sidemesh_proto::pack(&file))),
        ..Default::default()
    })
}

fn static_resources(wire: wire_bootstrap::bootstrap::StaticResources) -> Result<Vec<StaticResource>, Rejection> {
    let mut all = Vec::with_capacity(wire.listeners.len() + wire.clusters.len() + wire.secrets.len());
    let mut seen = Seen::new();
    for (i, listener) in wire.listeners.iter().enumerate() {
        let path = format!("static_resources.listeners[{i}]");
        push(&mut all, &mut seen, type_url::LISTENER, &listener.name, listener, path)?;
    }
    seen.clear();
    for (i, cluster) in wire.clusters.iter().enumerate() {
        let path = format!("static_resources.clusters[{i}]");
        push(&mut all, &mut seen, type_url::CLUSTER, &cluster.name, cluster, path)?;
    }
    seen.clear();
    for (i, secret) in wire.secrets.iter().enumerate() {
        push(&mut all, &mut seen, type_url::SECRET, &secret.name, secret, format!("static_resources.secrets[{i}]"))?;
    }
    Ok(all)
}

/// The names of one kind, and where they stand.
type Seen = HashMap<Name, String>;

fn push(
    all: &mut Vec<StaticResource>,
    seen: &mut Seen,
    type_url: &'static str,
    name: &str,
    message: &impl Message,
    path: String,
) -> Result<(), Rejection> {
    if name.is_empty() && type_url != type_url::LISTENER {
        return Err(Rejection::invalid(format!("{path}.name"), "must not be empty"));
    }
    let name = Name::from(name);
    if !name.is_empty()
        && let Some(other) = seen.insert(name.clone(), path.clone())
    {
        return Err(Rejection::invalid(format!("{path}.name"), format!("`{name}` is also the name of {other}")));
    }
    all.push(StaticResource { type_url, name, bytes: message.encode_to_vec().into(), path });
    Ok(())
}

fn dynamic_resources(wire: &wire_bootstrap::bootstrap::DynamicResources) -> Result<DynamicResources, Rejection> {
    let ads = wire.ads_config.as_ref().map(|a| wire::grpc_source(a, "ads_config")).transpose()?;
    let source = |config: &Option<core::ConfigSource>, field: &str| {
        let source = config.as_ref().map(|c| wire::config_source(c, field)).transpose()?;
        match &source {
            Some(ConfigSource { origin: ConfigOrigin::Ads, .. }) if ads.is_none() => {
                Err(Rejection::invalid(field, "names ADS, but ads_config is not given"))
            }
            Some(ConfigSource { origin: ConfigOrigin::Own, .. }) => {
                Err(Rejection::invalid(field, "`self` has no meaning in a bootstrap"))
            }
            _ => Ok(source),
        }
    };
    Ok(DynamicResources {
        listeners: source(&wire.lds_config, "lds_config")?,
        clusters: source(&wire.cds_config, "cds_config")?,
        ads: ads.map(Arc::new),
    })
}

fn cluster_manager(wire: wire_bootstrap::ClusterManager) -> Result<ClusterManager, Rejection> {
    let bind = wire.upstream_bind_config.as_ref().map(bind_config).transpose().within("upstream_bind_config")?;
    let outlier = wire.outlier_detection.unwrap_or_default();
    Ok(ClusterManager {
        bind,
        local_cluster_name: wire::optional_name(&wire.local_cluster_name),
        outlier_event_log: wire::optional_name(&outlier.event_log_path).map(|path| PathBuf::from(&*path)),
    })
}
