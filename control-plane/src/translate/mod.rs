//! From the model to xDS. Pure: the same model and node give the same bytes.
//!
//! What does not depend on the node (clusters, endpoints, route tables of each service port) is made once per model in
//! `Mesh`; `for_node` picks from it what a workload may reach and adds the listeners that are its own.

mod action;
mod cluster;
mod cors;
pub mod defaults;
mod endpoint;
mod listener;
pub mod node;
mod retry;
mod route;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use sidemesh_proto::{google, type_url};
use xxhash_rust::xxh64::xxh64;

pub use action::ERROR_HEADER;
pub use cluster::outbound_name;
pub use node::{Flavor, Node};
pub use tls::{SECRET_CERTIFICATE, SECRET_ROOTS};

use crate::model::route::Route;
use crate::model::service::{Protocol, Service, ServicePort};
use crate::model::workload::may_reach;
use crate::model::{Model, Name};

/// What translation needs besides the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub trust_domain: String,
}

impl Settings {
    pub fn spiffe_id(&self, namespace: &str, service_account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain)
    }
}

/// One resource as it goes over the wire, and a hash of what it says.
#[derive(Debug, Clone)]
pub struct Resource {
    pub body: Arc<google::Any>,
    pub hash: u64,
}

impl Resource {
    pub fn new(body: google::Any) -> Resource {
        let hash = xxh64(&body.value, 0);
        Resource { body: Arc::new(body), hash }
    }
}

/// Resources of one node: type URL -> name -> resource.
pub type Resources = BTreeMap<&'static str, BTreeMap<String, Resource>>;

/// The types that we serve, in the order in which a client needs them: make before break.
pub const TYPES: [&str; 5] =
    [type_url::CLUSTER, type_url::ENDPOINT, type_url::LISTENER, type_url::ROUTE, type_url::SECRET];

/// One port of one service, in every dialect.
struct Port {
    protocol: Protocol,
    cluster_ip: Option<SocketAddr>,
    clusters: [Resource; 3],
    endpoints: Resource,
    /// By consumer namespace; "" for all others.
    ways: BTreeMap<String, Way>,
}

impl Port {
    fn way(&self, consumer: &str) -> Option<&Way> {
        self.ways.get(consumer).or_else(|| self.ways.get(""))
    }
}

/// How requests or connections to a port go on.
enum Way {
    Http { sidecar: Resource, grpc: Resource, backends: BTreeSet<(Name, u16)> },
    Tcp(route::Split),
}

/// All that is the same for many nodes.
pub struct Mesh {
    pub model: Arc<Model>,
    settings: Settings,
    ports: BTreeMap<(Name, u16), Port>,
}

impl Mesh {
    pub fn new(model: Arc<Model>, settings: Settings) -> Mesh {
        let mut ports = BTreeMap::new();
        let routes = route::by_parent(&model);
        for service in model.services.values() {
            let routes = routes.get(&service.name).map(Vec::as_slice).unwrap_or_default();
            for port in &service.ports {
                ports.insert((service.name.clone(), port.port), shared(&model, &settings, service, port, routes));
            }
        }
        Mesh { model, settings, ports }
    }

    /// Everything that `node` should have.
    pub fn for_node(&self, node: &Node) -> Resources {
        let mut resources: Resources = TYPES.iter().map(|t| (*t, BTreeMap::new())).collect();
        if node.flavor == Flavor::Grpc {
            self.grpc(node, &mut resources);
        } else {
            self.outbound(node, &mut resources);
            self.inbound(node, &mut resources);
            if let Some(tracing) = &self.model.mesh.tracing {
                let collector = cluster::collector(listener::COLLECTOR, tracing.otlp);
                put(&mut resources, type_url::CLUSTER, listener::COLLECTOR, resource(&collector));
            }
        }
        resources
    }

    /// Where the node's application finds each service.
    pub fn outbound_addresses(&self, node: &Node) -> BTreeMap<(Name, u16), SocketAddr> {
        if node.outbound_given {
            return node.outbound.clone();
        }
        let reachable = self.ports.iter().filter(|((name, _), _)| self.may_reach(node, name));
        reachable.filter_map(|(key, port)| port.cluster_ip.map(|address| (key.clone(), address))).collect()
    }

    fn outbound(&self, node: &Node, resources: &mut Resources) {
        let mesh = &self.model.mesh;
        for ((service, port), address) in self.outbound_addresses(node) {
            let name = outbound_name(&service, port);
            let found = self.ports.get(&(service.clone(), port));
            let refusal = self.refusal(node, &service, port, found);
            if let Some(Way::Tcp(split)) = found.and_then(|p| p.way(&node.namespace)) {
                // Bytes have no way to say why not: the connection is refused.
                if refusal.is_none() && !split.clusters.is_empty() {
                    let listener = listener::outbound_tcp(node, mesh, &name, address, &split.clusters);
                    put(resources, type_url::LISTENER, &name, resource(&listener));
                    self.clusters(node, &split.backends, resources);
                }
                continue;
            }
            let listener = listener::outbound(node, mesh, &name, address);
            put(resources, type_url::LISTENER, &name, resource(&listener));
            match (refusal, found) {
                (Some(refusal), _) => {
                    put(resources, type_url::ROUTE, &name, resource(&route::refusal(&name, &refusal)));
                }
                (None, Some(found)) => self.table(node, &name, found, resources),
                (None, None) => {}
            }
        }
    }

    fn refusal(&self, node: &Node, service: &Name, port: u16, found: Option<&Port>) -> Option<route::Refusal> {
        let refuse = |status, code, reason| Some(route::Refusal { status, code, reason });
        if !self.may_reach(node, service) {
            let reason = format!("{service} is not in the egress list of {}", node.id);
            return refuse(403, "egress_denied", reason);
        }
        match (self.model.services.contains_key(service), found) {
            (false, _) => refuse(503, "service_not_found", format!("service {service} does not exist")),
            (true, None) => refuse(503, "service_not_found", format!("service {service} has no port {port}")),
            (true, Some(_)) => None,
        }
    }

    /// The route table of one port, and the clusters behind it.
    fn table(&self, node: &Node, name: &str, found: &Port, resources: &mut Resources) {
        let Some(Way::Http { sidecar, grpc, backends }) = found.way(&node.namespace) else { return };
        let table = if node.flavor == Flavor::Grpc { grpc } else { sidecar };
        put(resources, type_url::ROUTE, name, table.clone());
        self.clusters(node, backends, resources);
    }

    fn clusters(&self, node: &Node, backends: &BTreeSet<(Name, u16)>, resources: &mut Resources) {
        for key in backends {
            let Some(port) = self.ports.get(key) else { continue };
            let name = outbound_name(&key.0, key.1);
            put(resources, type_url::CLUSTER, &name, port.clusters[index(node.flavor)].clone());
            put(resources, type_url::ENDPOINT, &name, port.endpoints.clone());
        }
    }

    fn inbound(&self, node: &Node, resources: &mut Resources) {
        let workload = self.model.workloads.get(&Name::new(node.namespace.clone(), node.id.clone()));
        for inbound in &node.inbound {
            let name = format!("inbound|{}", inbound.port);
            let protocol = self.model.protocol_of(&node.namespace, workload.map(|w| &**w), &node.service, inbound.port);
            let listener = listener::inbound(node, &self.settings, &self.model.mesh, &name, inbound.listen, protocol);
            put(resources, type_url::LISTENER, &name, resource(&listener));
            let app = cluster::inbound(&name, inbound.app, protocol);
            put(resources, type_url::CLUSTER, &name, resource(&app));
        }
    }

    fn grpc(&self, node: &Node, resources: &mut Resources) {
        for ((service, port), found) in &self.ports {
            if found.protocol == Protocol::Tcp || !self.may_reach(node, service) {
                continue;
            }
            let target = format!("{service}:{port}");
            let name = outbound_name(service, *port);
            put(resources, type_url::LISTENER, &target, resource(&listener::api(&target, &name)));
            self.table(node, &name, found, resources);
        }
    }

    /// The narrowest list decides: the node's own, its Workload's, the mesh's.
    fn may_reach(&self, node: &Node, service: &Name) -> bool {
        let workload = self.model.workloads.get(&Name::new(node.namespace.clone(), node.id.clone()));
        let lists = [Some(&node.egress), workload.map(|w| &w.egress)];
        let own: Vec<&Vec<String>> = lists.into_iter().flatten().filter(|list| !list.is_empty()).collect();
        if own.is_empty() {
            return may_reach(&self.model.mesh.egress, &node.namespace, service);
        }
        own.iter().all(|list| may_reach(list, &node.namespace, service))
    }
}

fn resource<T: prost::Name>(message: &T) -> Resource {
    Resource::new(wire::any(message))
}

fn index(flavor: Flavor) -> usize {
    match flavor {
        Flavor::Sidecar => 0,
        Flavor::SidecarSds => 1,
        Flavor::Grpc => 2,
    }
}

fn put(resources: &mut Resources, type_url: &'static str, name: &str, resource: Resource) {
    resources.entry(type_url).or_default().insert(name.to_owned(), resource);
}

/// `all` are the routes that name the service as a parent.
fn shared(model: &Model, settings: &Settings, service: &Service, port: &ServicePort, all: &[&Route]) -> Port {
    let mut endpoints = model.endpoints(service, port);
    let backend_tls = model.backend_tls_for(&service.name, port.name.as_deref());
    if backend_tls.is_some_and(|policy| policy.authorities(&model.config_maps).is_err()) {
        // Nobody to trust: better no answer than one from anybody.
        endpoints.retain(|e| e.mesh);
    }
    let name = outbound_name(&service.name, port.port);
    let clusters = [Flavor::Sidecar, Flavor::SidecarSds, Flavor::Grpc]
        .map(|flavor| resource(&cluster::outbound(model, settings, flavor, service, port, &endpoints)));
    let mut ways = BTreeMap::new();
    let consumers = route::consumers(all, &service.name);
    for consumer in consumers.into_iter().chain([""]) {
        let routes = route::routes_for(model, all, &service.name, port.port, consumer);
        let way = if port.protocol == Protocol::Tcp {
            Way::Tcp(route::split(model, &service.name, port.port, &routes))
        } else {
            let sidecar = route::table(model, Flavor::Sidecar, service, port.port, &routes);
            let grpc = route::table(model, Flavor::Grpc, service, port.port, &routes);
            let (backends, sidecar) = (sidecar.backends, resource(&sidecar.config));
            Way::Http { sidecar, grpc: resource(&grpc.config), backends }
        };
        ways.insert(consumer.to_owned(), way);
    }
    Port {
        protocol: port.protocol,
        cluster_ip: service.cluster_ip.map(|ip| SocketAddr::new(ip, port.port)),
        clusters,
        endpoints: endpoint::resource(&name, &endpoints),
        ways,
    }
}
