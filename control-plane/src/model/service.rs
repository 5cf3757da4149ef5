//! Services and EndpointSlices (Kubernetes' own types), reduced to what the mesh uses.
//!
//! Fields of Service that matter only to kube-proxy or to cloud load balancers (nodePort, externalIPs, loadBalancer…,
//! traffic policies) are accepted without effect, since every Service in a cluster has them; `sessionAffinity` and
//! `ExternalName`, which promise behaviour to clients in the mesh, are refused by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::kind::Name;
use super::strict::{Errors, FieldError, decode};

/// The label that says which Service an EndpointSlice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 to the application (from sidecar to sidecar always HTTP/2).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2, too; calls last as long as their callers say.
    Grpc,
    Tcp,
}

impl Protocol {
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    pub target: TargetPort,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: Name,
    /// `None`: headless, or not assigned.
    pub cluster_ip: Option<IpAddr>,
    /// TCP ports only: UDP and SCTP pass by the mesh.
    pub ports: Vec<ServicePort>,
    pub selector: BTreeMap<String, String>,
    pub publish_not_ready: bool,
}

impl Service {
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    pub service: Name,
    /// Port name ("" for the only one) to number.
    pub ports: BTreeMap<String, u16>,
    pub endpoints: Vec<SliceEndpoint>,
}

pub fn namespace(body: &Value) -> Result<(), Vec<FieldError>> {
    decode::<core::Namespace>(body).map(|_| ())
}

pub fn service(name: &Name, body: &Value) -> Result<Service, Vec<FieldError>> {
    let raw: core::Service = decode(body)?;
    let mut errors = Errors::default();
    let spec = raw.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        errors.push("spec.type", "ExternalName is not supported: use ClusterIP with an EndpointSlice of its own");
    }
    if spec.session_affinity.as_deref().is_some_and(|a| a != "None") {
        errors.push(
            "spec.sessionAffinity",
            "not supported: use a TrafficPolicy with loadBalancing.algorithm RingHash and hashOn sourceAddress",
        );
    }
    let cluster_ip = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => None,
        Some(ip) => errors.ip("spec.clusterIP", ip),
    };
    let mut ports: Vec<ServicePort> = Vec::new();
    let given = spec.ports.unwrap_or_default();
    if given.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        errors.push("spec.ports", "empty: give at least one port");
    }
    for (i, port) in given.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if let Some(port) = service_port(&path, port, &mut errors) {
            if ports.iter().any(|p| p.port == port.port) {
                errors.push(format!("{path}.port"), format!("{} is there twice: give each port once", port.port));
            }
            if let Some(name) = &port.name
                && ports.iter().any(|p| p.name.as_ref() == Some(name))
            {
                errors
                    .push(format!("{path}.name"), format!("`{name}` is there twice: give each port a name of its own"));
            }
            ports.push(port);
        }
    }
    if ports.len() > 1 {
        for (i, port) in ports.iter().enumerate() {
            if port.name.is_none() {
                errors.push(format!("spec.ports[{i}].name"), "missing: each of several ports needs a name");
            }
        }
    }
    errors.finish(Service {
        name: name.clone(),
        cluster_ip,
        ports,
        selector: spec.selector.unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    })
}

fn service_port(path: &str, raw: &core::ServicePort, errors: &mut Errors) -> Option<ServicePort> {
    let port = errors.port(format!("{path}.port"), raw.port.into());
    if let Some(name) = &raw.name {
        errors.label(format!("{path}.name"), name);
    }
    let target = match &raw.target_port {
        None => TargetPort::Number(port),
        Some(IntOrString::Int(number)) => {
            TargetPort::Number(errors.port(format!("{path}.targetPort"), i64::from(*number)))
        }
        Some(IntOrString::String(name)) => {
            errors.label(format!("{path}.targetPort"), name);
            TargetPort::Name(name.clone())
        }
    };
    match raw.protocol.as_deref() {
        None | Some("TCP") => {}
        Some("UDP" | "SCTP") => return None,
        Some(other) => {
            errors.push(format!("{path}.protocol"), format!("`{other}` is not known: use TCP, UDP or SCTP"));
            return None;
        }
    }
    let protocol = protocol(raw.app_protocol.as_deref(), raw.name.as_deref());
    Some(ServicePort { name: raw.name.clone(), port, target, protocol })
}

/// `appProtocol` decides; else the port name's first part, as Istio reads it; else HTTP.
fn protocol(app_protocol: Option<&str>, name: Option<&str>) -> Protocol {
    let by_name = name.and_then(|n| n.split('-').next());
    match app_protocol.or(by_name).map(str::to_ascii_lowercase).as_deref() {
        Some("grpc" | "grpc-web") => Protocol::Grpc,
        Some("http2" | "h2c" | "kubernetes.io/h2c") => Protocol::Http2,
        Some("tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" | "postgres" | "kubernetes.io/wss") => Protocol::Tcp,
        // A protocol that is named but not known is bytes; a name without a meaning is a name.
        Some(other)
            if app_protocol.is_some() && !matches!(other, "http" | "http1" | "http/1.1" | "kubernetes.io/ws") =>
        {
            Protocol::Tcp
        }
        _ => Protocol::Http,
    }
}

pub fn slice(name: &Name, body: &Value) -> Result<Slice, Vec<FieldError>> {
    let raw: discovery::EndpointSlice = decode(body)?;
    let mut errors = Errors::default();
    if !matches!(raw.address_type.as_str(), "IPv4" | "IPv6") {
        errors.push("addressType", format!("`{}` is not supported: use IPv4 or IPv6", raw.address_type));
    }
    let labels = raw.metadata.labels.unwrap_or_default();
    let service = labels.get(SERVICE_NAME_LABEL).cloned().unwrap_or_default();
    if service.is_empty() {
        errors.push(format!("metadata.labels.{SERVICE_NAME_LABEL}"), "missing: name the Service that it belongs to");
    }
    let mut ports = BTreeMap::new();
    for (i, port) in raw.ports.unwrap_or_default().iter().enumerate() {
        if matches!(port.protocol.as_deref(), Some("UDP" | "SCTP")) {
            continue;
        }
        if let Some(number) = port.port {
            let number = errors.port(format!("ports[{i}].port"), number.into());
            ports.insert(port.name.clone().unwrap_or_default(), number);
        }
    }
    let mut endpoints = Vec::new();
    for (i, endpoint) in raw.endpoints.iter().enumerate() {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false);
        for (j, address) in endpoint.addresses.iter().enumerate() {
            if let Some(address) = errors.ip(format!("endpoints[{i}].addresses[{j}]"), address) {
                endpoints.push(SliceEndpoint { address, ready });
            }
        }
    }
    errors.finish(Slice { service: Name::new(name.namespace.clone(), service), ports, endpoints })
}
