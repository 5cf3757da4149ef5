//! The sidecar container, its bootstrap and its volumes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Options;

pub const NAME: &str = "sidemesh-proxy";
/// An application port P is served to the mesh at this plus P, while that is free.
const INBOUND_BASE: u16 = 20_000;
const ADMIN_PORT: u16 = 15_000;
const HEALTH_PORT: u16 = 15_021;
const OWN_PORTS: [u16; 2] = [ADMIN_PORT, HEALTH_PORT];
const STATE_DIR: &str = "/var/lib/sidemesh";
const TOKEN_DIR: &str = "/var/run/secrets/sidemesh";

/// What matters of the workload's pod.
pub struct Pod {
    service: String,
    service_account: String,
    version: String,
    /// Ports of the application, and where the sidecar listens for each.
    ports: Vec<(u16, u16)>,
}

impl Pod {
    /// Reads a pod template. The service is named by the label `app` or `app.kubernetes.io/name`, else by its owner.
    pub fn read(template: &Value, owner: &str) -> Result<Pod, String> {
        let labels = &template["metadata"]["labels"];
        let label = |key: &str| labels[key].as_str();
        let service = label("app").or_else(|| label("app.kubernetes.io/name")).unwrap_or(owner);
        if service.is_empty() {
            return Err("no label `app` and no metadata.name: the service cannot be named".to_owned());
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if service.len() > 63 || !service.chars().all(plain) || service.starts_with('-') || service.ends_with('-') {
            return Err(format!(
                "`{service}` cannot name a service (at most 63 of a-z, 0-9 and -): set the label `app`"
            ));
        }
        let spec = &template["spec"];
        let containers = spec["containers"].as_array().filter(|list| !list.is_empty());
        let containers = containers.ok_or("the pod template has no spec.containers")?;
        let mut ports = Vec::new();
        for port in containers.iter().filter_map(|c| c["ports"].as_array()).flatten() {
            let tcp = port["protocol"].as_str().is_none_or(|p| p == "TCP");
            match port["containerPort"].as_u64().and_then(|p| u16::try_from(p).ok()) {
                Some(number) if tcp && OWN_PORTS.contains(&number) => {
                    return Err(format!(
                        "containerPort {number} is one of the sidecar's own: let the application use another"
                    ));
                }
                Some(number) if tcp && number != 0 => ports.push(number),
                Some(number) if !tcp && number != 0 => {}
                _ => return Err(format!("containerPort {} is no port", port["containerPort"])),
            }
        }
        Ok(Pod {
            service: service.to_owned(),
            service_account: spec["serviceAccountName"].as_str().unwrap_or("default").to_owned(),
            version: label("version").or_else(|| label("app.kubernetes.io/version")).unwrap_or("").to_owned(),
            ports: inbound_ports(ports),
        })
    }
}

/// Each port once, with the one that the sidecar takes for it: `INBOUND_BASE` more, or the next that is free.
fn inbound_ports(mut ports: Vec<u16>) -> Vec<(u16, u16)> {
    let mut seen = BTreeSet::new();
    ports.retain(|port| seen.insert(*port));
    let mut taken = seen;
    taken.extend(OWN_PORTS);
    let mut pairs = Vec::new();
    for port in ports {
        let first = port.checked_add(INBOUND_BASE).unwrap_or(INBOUND_BASE);
        // There are more ports than a manifest can name.
        let free = (first..=u16::MAX).chain(1024..first).find(|p| !taken.contains(p)).unwrap_or(first);
        taken.insert(free);
        pairs.push((port, free));
    }
    pairs
}

/// The native sidecar.
pub fn container(pod: &Pod, options: &Options) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut ports = vec![json!({"name": "sidemesh-health", "containerPort": HEALTH_PORT, "protocol": "TCP"})];
    ports.extend(
        pod.ports
            .iter()
            .map(|(p, inbound)| json!({"name": format!("mesh-{p}"), "containerPort": inbound, "protocol": "TCP"})),
    );
    let probe = |seconds: u32, failures: u32| json!({"httpGet": {"path": "/ready", "port": HEALTH_PORT}, "periodSeconds": seconds, "failureThreshold": failures});
    json!({
        "name": NAME,
        "image": options.image,
        "restartPolicy": "Always",
        "args": [
            "--config-yaml", serde_json::to_string(&bootstrap(pod, options)).unwrap_or_default(),
            "--workers", options.workers.to_string(),
            "--mesh", "--state-dir", STATE_DIR, "--join-token-file", format!("{TOKEN_DIR}/token"),
        ],
        "env": [
            field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP"),
        ],
        "ports": ports,
        "startupProbe": probe(1, 60),
        "readinessProbe": probe(5, 3),
        "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65_532, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "sidemesh-state", "mountPath": STATE_DIR},
            {"name": "sidemesh-token", "mountPath": TOKEN_DIR, "readOnly": true},
        ],
    })
}

/// The sidecar's bootstrap; Kubernetes puts in what only it knows: `$(POD_NAME)`, `$(POD_NAMESPACE)`, `$(POD_IP)`.
fn bootstrap(pod: &Pod, options: &Options) -> Value {
    let address = |host: &str, port: u64| json!({"socket_address": {"address": host, "port_value": port}});
    let (host, port) = &options.control_plane;
    let inbound: Vec<Value> = pod
        .ports
        .iter()
        .map(|(p, inbound)| json!({"listen": format!("$(POD_IP):{inbound}"), "app": format!("127.0.0.1:{p}"), "port": p}))
        .collect();
    let http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "node": {"id": "$(POD_NAME)", "cluster": pod.service, "metadata": {"sidemesh": {
            "namespace": "$(POD_NAMESPACE)", "service": pod.service, "serviceAccount": pod.service_account,
            "version": pod.version, "inbound": inbound,
        }}},
        "admin": {"address": address("127.0.0.1", u64::from(ADMIN_PORT))},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "listeners": [health_listener()],
            "clusters": [{
                "name": "control-plane", "type": "STRICT_DNS", "connect_timeout": "5s",
                "typed_extension_protocol_options": {http2: {"@type": format!("type.googleapis.com/{http2}"), "explicit_http_config": {"http2_protocol_options": {}}}},
                "load_assignment": {"cluster_name": "control-plane", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, u64::from(*port))}}]}]},
            }],
        },
    })
}

/// What the kubelet's probes ask: answered by the proxy once it is live, failing while it drains.
fn health_listener() -> Value {
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    json!({
        "name": "health", "address": {"socket_address": {"address": "0.0.0.0", "port_value": HEALTH_PORT}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": typed("network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "health", "route_config": {"name": "health", "virtual_hosts": []},
                "http_filters": [
                    {"name": "envoy.filters.http.health_check", "typed_config": {
                        "@type": typed("http.health_check.v3.HealthCheck"), "pass_through_mode": false,
                        "headers": [{"name": ":path", "string_match": {"exact": "/ready"}}]}},
                    {"name": "envoy.filters.http.router", "typed_config": {"@type": typed("http.router.v3.Router")}},
                ],
            },
        }]}],
    })
}

/// The volumes that the sidecar mounts: a token for the control plane, and memory for its certificate.
pub fn volumes() -> [Value; 2] {
    [
        json!({"name": "sidemesh-state", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "sidemesh-token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "sidemesh", "expirationSeconds": 3600, "path": "token"}}]}}),
    ]
}

#[cfg(test)]
mod tests {
    use super::inbound_ports;

    #[test]
    fn every_port_gets_one_of_its_own() {
        assert_eq!(inbound_ports(vec![8080, 8080]), [(8080, 28_080)]);
        assert_eq!(inbound_ports(vec![8080, 28_080]), [(8080, 28_081), (28_080, 48_080)], "not the application's");
        assert_eq!(inbound_ports(vec![45_535, 45_536, 65_535]), [(45_535, 1024), (45_536, 20_000), (65_535, 20_001)]);
    }
}
