//! Workload (one instance of a service, registered by its sidecar or written by hand) and MeshConfig.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kind::Name;
use super::strict::{Errors, FieldError, decode};

/// Marks Workloads that a lease keeps alive; the value is the lease id.
pub const LEASE_ANNOTATION: &str = "sidemesh.dev/lease";

#[derive(Debug, Deserialize)]
struct Envelope<T> {
    #[allow(dead_code)]
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: T,
    #[allow(dead_code)]
    status: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The service that it is an instance of, in its own namespace.
    pub service: String,
    /// Default: the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub address: String,
    pub ports: Vec<WorkloadPort>,
    /// Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// No sidecar in front of it: peers speak plain text. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<bool>,
    /// Services that it may reach: "name", "name.namespace", "*.namespace", "*".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// As the application names it: a Service's targetPort.
    pub port: i64,
    /// Where its sidecar listens for it. Default: `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub port: u16,
    pub endpoint_port: u16,
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub name: Name,
    pub service: String,
    pub service_account: String,
    pub version: Option<String>,
    /// With `app` and `version` filled in.
    pub labels: BTreeMap<String, String>,
    pub address: IpAddr,
    pub ports: Vec<Port>,
    pub ready: bool,
    pub plaintext: bool,
    pub egress: Vec<String>,
    /// The lease that keeps it, if any.
    pub lease: Option<String>,
}

pub fn workload(name: &Name, body: &Value) -> Result<Workload, Vec<FieldError>> {
    let raw: Envelope<WorkloadSpec> = decode(body)?;
    let mut errors = Errors::default();
    let spec = raw.spec;
    errors.label("spec.service", &spec.service);
    let service_account = spec.service_account.clone().unwrap_or_else(|| spec.service.clone());
    errors.subdomain("spec.serviceAccount", &service_account);
    let address = errors.ip("spec.address", &spec.address);
    if address.is_some_and(|a| a.is_unspecified()) {
        errors.push(
            "spec.address",
            format!("{} is no address to connect to: give the one that peers reach", spec.address),
        );
    }
    let mut ports = Vec::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if let Some(name) = &port.name {
            errors.label(format!("{path}.name"), name);
        }
        let number = errors.port(format!("{path}.port"), port.port);
        let endpoint_port = match port.endpoint_port {
            Some(given) => errors.port(format!("{path}.endpointPort"), given),
            None => number,
        };
        ports.push(Port { port: number, endpoint_port, name: port.name.clone() });
    }
    if ports.is_empty() {
        errors.push("spec.ports", "empty: give at least one port");
    }
    egress("spec.egress", &spec.egress, &mut errors);
    let mut labels = raw.metadata.labels.unwrap_or_default();
    labels.entry("app".into()).or_insert_with(|| spec.service.clone());
    if let Some(version) = &spec.version {
        labels.entry("version".into()).or_insert_with(|| version.clone());
    }
    let version = spec.version.or_else(|| labels.get("version").cloned());
    let lease = raw.metadata.annotations.and_then(|a| a.get(LEASE_ANNOTATION).cloned());
    errors.finish(Workload {
        name: name.clone(),
        service: spec.service,
        service_account,
        version,
        labels,
        address: address.unwrap_or(IpAddr::from([0, 0, 0, 0])),
        ports,
        ready: spec.ready.unwrap_or(true),
        plaintext: spec.plaintext.unwrap_or(false),
        egress: spec.egress,
        lease,
    })
}

fn egress(path: &str, list: &[String], errors: &mut Errors) {
    for (i, entry) in list.iter().enumerate() {
        let (name, namespace) = entry.split_once('.').unwrap_or((entry, "*"));
        for part in [name, namespace].into_iter().filter(|part| *part != "*") {
            errors.label(format!("{path}[{i}]"), part);
        }
    }
}

/// May somebody in `namespace` with this list reach `service`?
pub fn may_reach(egress: &[String], namespace: &str, service: &Name) -> bool {
    egress.is_empty()
        || egress.iter().any(|entry| match entry.split_once('.') {
            None if entry == "*" => true,
            None => *entry == service.name && namespace == service.namespace,
            Some(("*", ns)) => ns == service.namespace,
            Some((name, ns)) => name == service.name && ns == service.namespace,
        })
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfigSpec {
    egress: Vec<String>,
    tracing: Option<TracingSpec>,
    access_log: Option<AccessLogSpec>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TracingSpec {
    otlp_endpoint: String,
    sampling_percent: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessLogSpec {
    path: String,
    format: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    pub otlp: SocketAddr,
    pub sampling_percent: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub path: String,
    /// `None`: Envoy's default format.
    pub format: Option<String>,
}

/// Settings of the whole mesh; the one object of its kind is called `default`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshConfig {
    /// For workloads that have no list of their own.
    pub egress: Vec<String>,
    pub tracing: Option<Tracing>,
    pub access_log: Option<AccessLog>,
}

pub fn mesh_config(name: &Name, body: &Value) -> Result<MeshConfig, Vec<FieldError>> {
    let raw: Envelope<MeshConfigSpec> = decode(body)?;
    let mut errors = Errors::default();
    if name.name != "default" {
        errors.push("metadata.name", format!("`{}`: there is one MeshConfig, call it `default`", name.name));
    }
    egress("spec.egress", &raw.spec.egress, &mut errors);
    for (i, entry) in raw.spec.egress.iter().enumerate().filter(|(_, e)| *e != "*" && !e.contains('.')) {
        errors.push(format!("spec.egress[{i}]"), format!("`{entry}` has no namespace: write {entry}.default"));
    }
    let tracing = raw.spec.tracing.and_then(|spec| {
        let percent = spec.sampling_percent.unwrap_or(1.0);
        if !(0.0..=100.0).contains(&percent) {
            errors.push("spec.tracing.samplingPercent", format!("{percent} is out of range: use 0 to 100"));
        }
        let otlp = spec.otlp_endpoint.parse().ok();
        if otlp.is_none() {
            let message = format!("`{}` is not IP:port, e.g. 127.0.0.1:4317 (OTLP over gRPC)", spec.otlp_endpoint);
            errors.push("spec.tracing.otlpEndpoint", message);
        }
        otlp.map(|otlp| Tracing { otlp, sampling_percent: percent })
    });
    let access_log = raw.spec.access_log.map(|spec| AccessLog { path: spec.path, format: spec.format });
    if access_log.as_ref().is_some_and(|log| log.path.is_empty()) {
        errors.push("spec.accessLog.path", "empty: write a file name, or /dev/stdout");
    }
    errors.finish(MeshConfig { egress: raw.spec.egress, tracing, access_log })
}
