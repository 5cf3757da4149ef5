//! Who asks: the node of an xDS stream, and what its metadata says about the workload behind it.
//!
//! Our keys live in one struct, `metadata.sidemesh`; `docs/operations.md` lists them. A key that is not known, or has
//! the wrong shape, is an error that ends the stream: a proxy must not run with half of what its owner meant.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Map, Value};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::google;

use crate::model::strict;
use crate::model::{FieldError, Name};

/// Which dialect of xDS the node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// Has its certificate already, under the well-known names.
    Sidecar,
    /// Gets its certificate over SDS (a foreign Envoy that brought a join token).
    SidecarSds,
    /// gRPC's own xDS client: API listeners, no TLS.
    Grpc,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: String,
    pub namespace: String,
    pub service: String,
    pub service_account: String,
    pub version: String,
    pub user_agent: String,
    pub flavor: Flavor,
    /// Service and port to the address where the application finds it.
    pub outbound: BTreeMap<(Name, u16), SocketAddr>,
    /// True when the metadata has `outbound`: then listeners exist for these alone.
    pub outbound_given: bool,
    pub inbound: Vec<Inbound>,
    pub egress: Vec<String>,
    pub access_log: Option<String>,
    pub join_token: Option<String>,
}

/// One port of the application, and the mTLS listener in front of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Inbound {
    pub listen: SocketAddr,
    pub app: SocketAddr,
    /// The port's number as Services name it in `targetPort`.
    pub port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: Option<String>,
    service: Option<String>,
    service_account: Option<String>,
    version: Option<String>,
    outbound: Option<BTreeMap<String, SocketAddr>>,
    inbound: Vec<Inbound>,
    join_token: Option<String>,
    egress: Vec<String>,
    access_log: Option<String>,
    /// The registration carries them; here they are only known.
    #[allow(dead_code)]
    labels: BTreeMap<String, String>,
}

/// Reads the node of a stream's first request.
pub fn parse(node: &core::Node) -> Result<Node, Vec<FieldError>> {
    let mut errors = strict::Errors::default();
    if node.id.is_empty() {
        errors.push("node.id", "empty: give every proxy an id of its own");
    }
    let ours = node.metadata.as_ref().and_then(|m| m.fields.get("sidemesh")).map(json_of);
    let prefix = |e: FieldError| FieldError { path: format!("node.metadata.sidemesh.{}", e.path), ..e };
    let metadata: Metadata = match ours {
        None => Metadata::default(),
        Some(ours) => {
            strict::decode(&ours).map_err(|list| list.into_iter().map(prefix).collect::<Vec<FieldError>>())?
        }
    };
    let namespace = metadata.namespace.filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
    let service = metadata.service.unwrap_or_else(|| node.cluster.clone());
    let outbound_given = metadata.outbound.is_some();
    let mut outbound = BTreeMap::new();
    for (text, address) in metadata.outbound.unwrap_or_default() {
        match service_port(&text, &namespace) {
            Some(target) => drop(outbound.insert(target, address)),
            None => errors.push(
                format!("node.metadata.sidemesh.outbound.{text}"),
                "write <service>.<namespace>:<port>, e.g. product.default:8080",
            ),
        }
    }
    let user_agent = match &node.user_agent_version_type {
        Some(core::node::UserAgentVersionType::UserAgentVersion(v)) if !v.is_empty() => {
            format!("{}/{v}", node.user_agent_name)
        }
        Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(v) => format!("{}/{}.{}.{}", node.user_agent_name, v.major_number, v.minor_number, v.patch),
            None => node.user_agent_name.clone(),
        },
        _ => node.user_agent_name.clone(),
    };
    let grpc = node.user_agent_name.starts_with("gRPC");
    let flavor = match (grpc, &metadata.join_token) {
        (true, _) => Flavor::Grpc,
        (false, Some(_)) => Flavor::SidecarSds,
        (false, None) => Flavor::Sidecar,
    };
    let service_account = metadata.service_account.unwrap_or_else(|| service.clone());
    errors.finish(Node {
        id: node.id.clone(),
        namespace,
        service,
        service_account,
        version: metadata.version.unwrap_or_default(),
        user_agent,
        flavor,
        outbound,
        outbound_given,
        inbound: metadata.inbound,
        egress: metadata.egress,
        access_log: metadata.access_log,
        join_token: metadata.join_token,
    })
}

/// `product.default:8080`; without a namespace, the node's own.
fn service_port(text: &str, namespace: &str) -> Option<(Name, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|p| *p != 0)?;
    let (name, namespace) = host.split_once('.').unwrap_or((host, namespace));
    let plain = |part: &str| !part.is_empty() && !part.contains('.');
    (plain(name) && plain(namespace)).then(|| (Name::new(namespace, name), port))
}

fn json_of(value: &google::Value) -> Value {
    use google::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::StringValue(s)) => Value::String(s.clone()),
        // Struct knows doubles only; ports are whole numbers.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => Value::from(*n as i64),
        Some(Kind::NumberValue(n)) => Value::from(*n),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json_of).collect()),
        Some(Kind::StructValue(object)) => {
            Value::Object(object.fields.iter().map(|(k, v)| (k.clone(), json_of(v))).collect::<Map<_, _>>())
        }
    }
}
