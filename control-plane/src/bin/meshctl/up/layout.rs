//! Who is in the demo mesh: services, instances, addresses, objects, bootstrap files.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::client::Failure;

/// The port of every service of the shop, as the mesh names it.
pub const SERVICE_PORT: u16 = 80;
/// The port of every application, as its Service's `targetPort` names it.
pub const TARGET_PORT: u16 = 8080;

/// One instance of a service: an application and its sidecar.
pub struct Instance {
    pub node: &'static str,
    pub service: &'static str,
    pub version: &'static str,
    pub app: SocketAddr,
    pub inbound: SocketAddr,
    pub admin: SocketAddr,
    /// Services it calls, and where its sidecar listens for them.
    pub outbound: Vec<(&'static str, SocketAddr)>,
}

/// All addresses of the demo.
pub struct Layout {
    pub control_plane: SocketAddr,
    pub metrics: SocketAddr,
    pub instances: Vec<Instance>,
}

/// node, service, version, what it calls
const INSTANCES: [(&str, &str, &str, &[&str]); 5] = [
    ("user-1", "user", "v1", &[]),
    ("product-v1-1", "product", "v1", &[]),
    ("product-v1-2", "product", "v1", &[]),
    ("product-v2-1", "product", "v2", &[]),
    ("order-1", "order", "v1", &["user", "product"]),
];

impl Layout {
    /// Draws free ports for everybody.
    pub fn draw() -> Result<Layout, Failure> {
        let mut ports = Ports::default();
        let mut instances = Vec::new();
        for (node, service, version, calls) in INSTANCES {
            let outbound = calls.iter().map(|c| Ok((*c, ports.draw()?))).collect::<Result<_, Failure>>()?;
            let (app, inbound, admin) = (ports.draw()?, ports.draw()?, ports.draw()?);
            instances.push(Instance { node, service, version, app, inbound, admin, outbound });
        }
        Ok(Layout { control_plane: ports.draw()?, metrics: ports.draw()?, instances })
    }

    pub fn instance(&self, node: &str) -> Result<&Instance, Failure> {
        self.instances.iter().find(|i| i.node == node).ok_or_else(|| Failure::NotFound(format!("instance {node}")))
    }
}

/// Ports stay taken until all are drawn, so that none is drawn twice.
#[derive(Default)]
struct Ports(Vec<TcpListener>);

impl Ports {
    fn draw(&mut self) -> Result<SocketAddr, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.map_err(|e| Failure::Failed(format!("no free port on loopback: {e}")))?;
        let address = listener.local_addr().map_err(|e| Failure::Failed(e.to_string()))?;
        self.0.push(listener);
        Ok(address)
    }
}

/// The objects of the shop, as `meshctl apply` takes them.
pub fn objects() -> Vec<Value> {
    let service = |name: &str, selector: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "selector": selector, "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": TARGET_PORT}]}})
    };
    let backend = |name: &str, weight: u32| json!({"name": name, "port": SERVICE_PORT, "weight": weight});
    vec![
        service("user", json!({"app": "user"})),
        service("order", json!({"app": "order"})),
        service("product", json!({"app": "product"})),
        service("product-v1", json!({"app": "product", "version": "v1"})),
        service("product-v2", json!({"app": "product", "version": "v2"})),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "product"}, "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "product", "port": SERVICE_PORT}],
            "rules": [{"backendRefs": [backend("product-v1", 100), backend("product-v2", 0)]}]}}),
    ]
}

/// The bootstrap of an instance's sidecar.
pub fn bootstrap(instance: &Instance, control_plane: SocketAddr) -> Value {
    let address = |a: SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
    let http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let outbound: serde_json::Map<String, Value> = instance
        .outbound
        .iter()
        .map(|(service, at)| (format!("{service}.default:{SERVICE_PORT}"), json!(at.to_string())))
        .collect();
    json!({
        "node": {"id": instance.node, "cluster": instance.service, "metadata": {"sidemesh": {
            "namespace": "default", "service": instance.service, "serviceAccount": instance.service, "version": instance.version,
            "inbound": [{"listen": instance.inbound.to_string(), "app": instance.app.to_string(), "port": TARGET_PORT}],
            "outbound": outbound,
        }}},
        "admin": {"address": address(instance.admin)},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [{
            "name": "control-plane", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {http2: {"@type": format!("type.googleapis.com/{http2}"), "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "control-plane", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(control_plane)}}]}]},
        }]},
    })
}

/// Has every sidecar send the spans of every request to a collector.
pub fn tracing(collector: SocketAddr) -> Value {
    json!({"apiVersion": "sidemesh.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"},
        "spec": {"tracing": {"otlpEndpoint": collector.to_string(), "samplingPercent": 100}}})
}

/// A configuration for Prometheus, with the labels that the dashboard in `deploy/grafana` asks for.
pub fn scrape_config(layout: &Layout) -> Value {
    let sidecar = |i: &Instance| json!({"targets": [i.admin.to_string()], "labels": {"service": i.service, "version": i.version, "node": i.node}});
    let sidecars: Vec<Value> = layout.instances.iter().map(sidecar).collect();
    json!({"global": {"scrape_interval": "2s"}, "scrape_configs": [
        {"job_name": "sidecars", "metrics_path": "/stats/prometheus", "static_configs": sidecars},
        {"job_name": "control-plane", "static_configs": [{"targets": [layout.metrics.to_string()]}]},
    ]})
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_address_is_drawn_once() {
        let layout = Layout::draw().expect("ports");
        let mut all = vec![layout.control_plane, layout.metrics];
        for i in &layout.instances {
            all.extend([i.app, i.inbound, i.admin]);
            all.extend(i.outbound.iter().map(|(_, a)| *a));
        }
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
