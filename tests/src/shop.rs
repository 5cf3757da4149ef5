//! A small mesh of demo services: a control plane, applications, a sidecar beside each.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::control_plane::ControlPlane;
use crate::process::Process;
use crate::programs::program;
use crate::proxy::{self, Proxy};
use crate::{http, ports, wait};

/// The port of every service, and the port of every application as Services name it.
pub const SERVICE_PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;

/// One instance of a service: where its application is, where its sidecar listens.
#[derive(Debug, Clone)]
pub struct Instance {
    pub node: String,
    pub service: String,
    pub version: String,
    pub app: SocketAddr,
    pub inbound: SocketAddr,
    /// Services it calls, and where its sidecar listens for them.
    pub outbound: Vec<(String, SocketAddr)>,
}

impl Instance {
    pub fn new(node: &str, service: &str, version: &str, calls: &[&str]) -> Instance {
        Instance {
            node: node.to_owned(),
            service: service.to_owned(),
            version: version.to_owned(),
            app: ports::free(),
            inbound: ports::free(),
            outbound: calls.iter().map(|c| ((*c).to_owned(), ports::free())).collect(),
        }
    }

    /// Where its sidecar listens for `service`.
    #[track_caller]
    pub fn towards(&self, service: &str) -> SocketAddr {
        let found = self.outbound.iter().find(|(name, _)| name == service);
        found.unwrap_or_else(|| panic!("{} does not call {service}", self.node)).1
    }

    /// Starts the application.
    pub fn start_app(&self, dir: &Path) -> Process {
        let mut command = Command::new(program("sidemesh-shop"));
        command.args(["--listen", &self.app.to_string(), &self.service]);
        match self.service.as_str() {
            "product" => {
                command.args(["--version", &self.version, "--instance", &self.node]);
            }
            "order" => {
                for (service, at) in &self.outbound {
                    command.arg(format!("--{service}")).arg(at.to_string());
                }
            }
            _ => {}
        }
        let process = Process::start(&format!("{}-app", self.node), command, dir);
        let at = self.app;
        wait::until_true("the application listens", || std::net::TcpStream::connect(at).is_ok());
        process
    }

    /// The bootstrap of its sidecar.
    pub fn bootstrap(&self, control_plane: SocketAddr) -> Value {
        let outbound: Map<String, Value> = self
            .outbound
            .iter()
            .map(|(service, at)| (format!("{service}.default:{SERVICE_PORT}"), json!(at.to_string())))
            .collect();
        let metadata = json!({"sidemesh": {
            "namespace": "default", "service": self.service, "serviceAccount": self.service, "version": self.version,
            "inbound": [{"listen": self.inbound.to_string(), "app": self.app.to_string(), "port": TARGET_PORT}],
            "outbound": outbound,
        }});
        proxy::from_ads(&self.node, control_plane, metadata, true)
    }

    /// Starts its sidecar with a fresh identity, and waits for nothing.
    pub fn spawn_sidecar(&self, dir: &Path, control_plane: &ControlPlane) -> Proxy {
        let token = dir.join(format!("{}.token", self.node));
        std::fs::write(&token, control_plane.token(&self.service)).expect("token file");
        let state = dir.join(format!("{}-state", self.node));
        let text = |path: &Path| path.display().to_string();
        Proxy::spawn(
            dir,
            &self.bootstrap(control_plane.address),
            &["--mesh", "--state-dir", &text(&state), "--join-token-file", &text(&token), "--drain-time-s", "2"],
        )
    }

    /// Starts its sidecar and waits until it is ready.
    #[track_caller]
    pub fn start_sidecar(&self, dir: &Path, control_plane: &ControlPlane) -> Proxy {
        let mut proxy = self.spawn_sidecar(dir, control_plane);
        proxy.wait_ready();
        proxy
    }
}

/// A Service of the shop.
pub fn service(name: &str, selector: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "selector": selector, "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": TARGET_PORT}]}})
}

/// A Service with the instances of the same name behind it.
pub fn simple_service(name: &str) -> Value {
    service(name, &json!({"app": name}))
}

/// An HTTPRoute of the same name as its Service: weights by version.
pub fn weighted_route(name: &str, weights: &[(&str, u32)]) -> Value {
    let backends: Vec<Value> =
        weights.iter().map(|(to, weight)| json!({"name": to, "port": SERVICE_PORT, "weight": weight})).collect();
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name}, "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": SERVICE_PORT}],
        "rules": [{"backendRefs": backends}]}})
}

/// Asks until the answer is 200.
#[track_caller]
pub fn wait_for_200(at: SocketAddr, path: &str) -> http::Response {
    wait::until(&format!("http://{at}{path} answers 200"), || match http::get(at, path) {
        Ok(answer) if answer.status == 200 => Ok(answer),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
        Err(e) => Err(e.to_string()),
    })
}
