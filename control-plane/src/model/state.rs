//! Everything that the mesh is made of at one revision, and what follows from it: who serves, who may reach whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::backend_tls::{BackendTls, ConfigMap};
use super::grant::Grant;
use super::kind::{Key, Kind, Name};
use super::policy::{Policy, Target};
use super::route::Route;
use super::service::{Protocol, Service, ServicePort, Slice, TargetPort};
use super::strict::FieldError;
use super::workload::{MeshConfig, Workload};
use super::{backend_tls, grant, grpc_route, http_route, policy, service, tcp_route, workload};

/// A checked object.
#[derive(Debug, Clone)]
pub enum Typed {
    Namespace,
    Service(Arc<Service>),
    Slice(Arc<Slice>),
    Route(Arc<Route>),
    Grant(Arc<Grant>),
    ConfigMap(Arc<ConfigMap>),
    BackendTls(Arc<BackendTls>),
    Policy(Arc<Policy>),
    Workload(Arc<Workload>),
    MeshConfig(Arc<MeshConfig>),
}

/// Checks the spec of an object of any kind.
pub fn typed(key: &Key, body: &Value) -> Result<Typed, Vec<FieldError>> {
    let name = &key.name;
    Ok(match key.kind {
        Kind::Namespace => service::namespace(body).map(|()| Typed::Namespace)?,
        Kind::Service => Typed::Service(Arc::new(service::service(name, body)?)),
        Kind::EndpointSlice => Typed::Slice(Arc::new(service::slice(name, body)?)),
        Kind::HttpRoute => Typed::Route(Arc::new(http_route::route(name, body)?)),
        Kind::GrpcRoute => Typed::Route(Arc::new(grpc_route::route(name, body)?)),
        Kind::TcpRoute => Typed::Route(Arc::new(tcp_route::route(name, body)?)),
        Kind::ReferenceGrant => Typed::Grant(Arc::new(grant::grant(name, body)?)),
        Kind::ConfigMap => Typed::ConfigMap(Arc::new(backend_tls::config_map(body)?)),
        Kind::BackendTlsPolicy => Typed::BackendTls(Arc::new(backend_tls::policy(name, body)?)),
        Kind::TrafficPolicy => Typed::Policy(Arc::new(policy::policy(name, body)?)),
        Kind::Workload => Typed::Workload(Arc::new(workload::workload(name, body)?)),
        Kind::MeshConfig => Typed::MeshConfig(Arc::new(workload::mesh_config(name, body)?)),
    })
}

/// The state of the mesh. Cheap to clone: the objects are shared.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub revision: u64,
    pub namespaces: BTreeSet<String>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub slices: BTreeMap<Name, Arc<Slice>>,
    pub routes: BTreeMap<Key, Arc<Route>>,
    pub grants: BTreeMap<Name, Arc<Grant>>,
    pub config_maps: BTreeMap<Name, Arc<ConfigMap>>,
    pub backend_tls: BTreeMap<Name, Arc<BackendTls>>,
    pub policies: BTreeMap<Name, Arc<Policy>>,
    pub workloads: BTreeMap<Name, Arc<Workload>>,
    pub mesh: Arc<MeshConfig>,
}

/// One address that serves a service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// False: peers speak plain text to it.
    pub mesh: bool,
    pub namespace: String,
    pub service_account: String,
    pub workload: Option<String>,
    pub version: Option<String>,
}

impl Model {
    /// Puts, replaces or (`None`) removes one object.
    pub fn apply(&mut self, key: &Key, body: Option<&Value>) -> Result<(), Vec<FieldError>> {
        let name = key.name.clone();
        let Some(body) = body else {
            match key.kind {
                Kind::Namespace => drop(self.namespaces.remove(&name.name)),
                Kind::Service => drop(self.services.remove(&name)),
                Kind::EndpointSlice => drop(self.slices.remove(&name)),
                Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => drop(self.routes.remove(key)),
                Kind::ReferenceGrant => drop(self.grants.remove(&name)),
                Kind::ConfigMap => drop(self.config_maps.remove(&name)),
                Kind::BackendTlsPolicy => drop(self.backend_tls.remove(&name)),
                Kind::TrafficPolicy => drop(self.policies.remove(&name)),
                Kind::Workload => drop(self.workloads.remove(&name)),
                Kind::MeshConfig => self.mesh = Arc::default(),
            }
            return Ok(());
        };
        match typed(key, body)? {
            Typed::Namespace => drop(self.namespaces.insert(name.name)),
            Typed::Service(v) => drop(self.services.insert(name, v)),
            Typed::Slice(v) => drop(self.slices.insert(name, v)),
            Typed::Route(v) => drop(self.routes.insert(key.clone(), v)),
            Typed::Grant(v) => drop(self.grants.insert(name, v)),
            Typed::ConfigMap(v) => drop(self.config_maps.insert(name, v)),
            Typed::BackendTls(v) => drop(self.backend_tls.insert(name, v)),
            Typed::Policy(v) => drop(self.policies.insert(name, v)),
            Typed::Workload(v) => drop(self.workloads.insert(name, v)),
            Typed::MeshConfig(v) => self.mesh = v,
        }
        Ok(())
    }

    /// The workloads that belong to a service: by its selector, or by their own word when it has none.
    pub fn members<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Workload>> {
        in_namespace(&self.workloads, &service.name.namespace).filter(move |w| {
            if service.selector.is_empty() {
                w.service == service.name.name
            } else {
                service.selector.iter().all(|(k, v)| w.labels.get(k) == Some(v))
            }
        })
    }

    /// Ready endpoints of one port, in a stable order, each address once. Workloads know more than slices about the
    /// same address, so they come first.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<Endpoint> {
        let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for workload in self.members(service) {
            let Some(number) = workload_port(workload, &port.target) else { continue };
            let address = SocketAddr::new(workload.address, number);
            known.insert(address);
            if workload.ready || service.publish_not_ready {
                found.insert(address, endpoint_of(workload, address));
            }
        }
        let port_name = port.name.as_deref().unwrap_or("");
        let slices = in_namespace(&self.slices, &service.name.namespace);
        for slice in slices.filter(|s| s.service == service.name) {
            let Some(number) = slice.ports.get(port_name).copied() else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
                let address = SocketAddr::new(endpoint.address, number);
                if known.insert(address) {
                    found.insert(address, plain_endpoint(service, address));
                }
            }
        }
        found.into_values().collect()
    }

    /// What one port of a workload speaks: as the first service that targets it says.
    pub fn protocol_of(&self, namespace: &str, workload: Option<&Workload>, service: &str, port: u16) -> Protocol {
        for candidate in in_namespace(&self.services, namespace) {
            let member = match workload {
                Some(w) => self.members(candidate).any(|m| m.name == w.name),
                None => candidate.name.name == service,
            };
            let port_name =
                workload.and_then(|w| w.ports.iter().find(|p| p.port == port)).and_then(|p| p.name.as_ref());
            let targets = |p: &&ServicePort| match &p.target {
                TargetPort::Number(number) => *number == port,
                TargetPort::Name(name) => port_name == Some(name),
            };
            if let Some(found) = candidate.ports.iter().find(targets).filter(|_| member) {
                return found.protocol;
            }
        }
        Protocol::Http
    }

    /// The policy for a target: the oldest wins, then the first by name.
    pub fn policy_for(&self, target: &Target) -> Option<&Arc<Policy>> {
        self.policies.values().filter(|p| p.target == *target).min_by_key(|p| (&p.created, &p.name))
    }

    /// How endpoints of a port that have no sidecar are reached over TLS: the policy for the port itself goes before one
    /// for the Service; then the oldest wins, then the first by name.
    pub fn backend_tls_for(&self, service: &Name, port_name: Option<&str>) -> Option<&Arc<BackendTls>> {
        let policies = in_namespace(&self.backend_tls, &service.namespace);
        let named = policies.filter_map(|policy| {
            let targets = policy.targets.iter().filter(|t| t.service == *service);
            let mut targets = targets.filter(|t| t.port_name.is_none() || t.port_name.as_deref() == port_name);
            let first = targets.next()?;
            let whole = first.port_name.is_none() && targets.all(|t| t.port_name.is_none());
            Some((whole, policy))
        });
        named.min_by_key(|(whole, policy)| (*whole, &policy.created, &policy.name)).map(|(_, policy)| policy)
    }

    /// The service account identities that may answer for a service. A service that nobody serves yet is expected
    /// under its own name.
    pub fn identities(&self, service: &Service) -> BTreeSet<(String, String)> {
        let members = self.members(service).filter(|w| !w.plaintext);
        let mut found: BTreeSet<_> = members.map(|w| (w.name.namespace.clone(), w.service_account.clone())).collect();
        if found.is_empty() {
            found.insert((service.name.namespace.clone(), service.name.name.clone()));
        }
        found
    }
}

/// The objects of one namespace: names sort by namespace first.
fn in_namespace<'a, 'n, T>(
    all: &'a BTreeMap<Name, T>,
    namespace: &'n str,
) -> impl Iterator<Item = &'a T> + use<'a, 'n, T> {
    let from = all.range(Name::new(namespace, "")..);
    from.take_while(move |(name, _)| name.namespace == namespace).map(|(_, object)| object)
}

fn workload_port(workload: &Workload, target: &TargetPort) -> Option<u16> {
    let port = workload.ports.iter().find(|p| match target {
        TargetPort::Number(number) => p.port == *number,
        TargetPort::Name(name) => p.name.as_ref() == Some(name),
    })?;
    Some(port.endpoint_port)
}

fn endpoint_of(workload: &Workload, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        mesh: !workload.plaintext,
        namespace: workload.name.namespace.clone(),
        service_account: workload.service_account.clone(),
        workload: Some(workload.name.name.clone()),
        version: workload.version.clone(),
    }
}

fn plain_endpoint(service: &Service, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        mesh: false,
        namespace: service.name.namespace.clone(),
        service_account: service.name.name.clone(),
        workload: None,
        version: None,
    }
}
