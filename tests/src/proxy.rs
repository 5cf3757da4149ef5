//! `sidemesh-proxy` with a bootstrap file written by the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::http::{self, Response};
use crate::process::Process;
use crate::programs::program;
use crate::{ports, wait};

/// A running proxy.
pub struct Proxy {
    pub process: Process,
    pub admin: SocketAddr,
}

impl Proxy {
    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(dir: &Path, bootstrap: &Value) -> Proxy {
        let mut proxy = Proxy::spawn(dir, bootstrap, &[]);
        proxy.wait_ready();
        proxy
    }

    /// Starts it with further flags and waits for nothing.
    pub fn spawn(dir: &Path, bootstrap: &Value, flags: &[&str]) -> Proxy {
        let admin = bootstrap["admin"]["address"]["socket_address"]["port_value"].as_u64().expect("an admin port");
        let name = bootstrap["node"]["id"].as_str().expect("a node id");
        let path = write(dir, name, bootstrap);
        let mut command = command(&path);
        command.args(flags);
        let process = Process::start(name, command, dir);
        Proxy { process, admin: SocketAddr::from(([127, 0, 0, 1], u16::try_from(admin).expect("a port"))) }
    }

    #[track_caller]
    pub fn wait_ready(&mut self) {
        let admin = self.admin;
        wait::until("the proxy is ready", || {
            self.process.assert_running();
            match http::get(admin, "/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                Err(e) => Err(e.to_string()),
            }
        });
    }

    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        http::must_get(self.admin, path)
    }

    /// The sum of all statistics whose names start and end so.
    #[track_caller]
    pub fn stat(&self, prefix: &str, suffix: &str) -> i64 {
        let text = self.admin("/stats").text();
        let value = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            (name.starts_with(prefix) && name.ends_with(suffix)).then(|| value.parse::<i64>().ok()).flatten()
        };
        text.lines().filter_map(value).sum()
    }
}

/// `sidemesh-proxy -c PATH`, with one worker.
pub fn command(bootstrap: &Path) -> Command {
    let mut command = Command::new(program("sidemesh-proxy"));
    command.arg("-c").arg(bootstrap).args(["--workers", "1"]);
    command
}

/// Writes a bootstrap file; JSON is YAML.
pub fn write(dir: &Path, name: &str, bootstrap: &Value) -> PathBuf {
    let path = dir.join(format!("{name}.yaml"));
    std::fs::write(&path, bootstrap.to_string()).expect("bootstrap file");
    path
}

pub fn address(a: SocketAddr) -> Value {
    json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}})
}

/// `type.googleapis.com/...`
pub fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{name}"));
    fields
}

/// A bootstrap with static resources and an admin address of its own.
pub fn fixed(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "node": {"id": "proxy", "cluster": "test"},
        "admin": {"address": address(ports::free())},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// A bootstrap whose listeners and clusters come from an ADS server.
pub fn from_ads(node: &str, server: SocketAddr, metadata: Value, delta: bool) -> Value {
    json!({
        "node": {"id": node, "cluster": "test", "metadata": metadata},
        "admin": {"address": address(ports::free())},
        "dynamic_resources": {
            "ads_config": {"api_type": if delta { "DELTA_GRPC" } else { "GRPC" }, "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [http2_cluster("control-plane", server)]},
    })
}

/// A listener with an HTTP connection manager; `manager` adds to it or overrides.
pub fn http_listener(name: &str, at: SocketAddr, routes: &Value, manager: &Value) -> Value {
    let mut config = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": name,
            "route_config": {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "envoy.filters.http.router",
                "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({}))}],
        }),
    );
    if let (Some(config), Some(more)) = (config.as_object_mut(), manager.as_object()) {
        config.extend(more.clone());
    }
    json!({"name": name, "address": address(at), "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}]}]})
}

/// Routes that send everything to one cluster.
pub fn all_to(cluster: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}])
}

/// A route that answers everything by itself.
pub fn always(status: u16, body: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "direct_response": {"status": status, "body": {"inline_string": body}}}])
}

pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|a| json!({"endpoint": {"address": address(*a)}})).collect();
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}})
}

pub fn http2_cluster(name: &str, endpoint: SocketAddr) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut cluster = cluster(name, &[endpoint]);
    let http2 = json!({"explicit_http_config": {"http2_protocol_options": {}}});
    cluster["typed_extension_protocol_options"] = json!({options: typed(options, http2)});
    cluster
}

/// A listener whose connections go to one cluster as they are.
pub fn tcp_listener(name: &str, at: SocketAddr, cluster: &str) -> Value {
    let config = json!({"stat_prefix": name, "cluster": cluster});
    let config = typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", config);
    let filter = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config});
    json!({"name": name, "address": address(at), "filter_chains": [{"filters": [filter]}]})
}
