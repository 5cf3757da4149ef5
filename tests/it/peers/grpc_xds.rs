//! gRPC's own xDS client resolves and balances through our control plane, without any sidecar.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::{peer, ports, programs};

/// A backend without a sidecar.
fn backend(name: &str, port: u16) -> Value {
    json!({"apiVersion": "sidemesh.dev/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "spec": {
        "service": "greeter", "address": "127.0.0.1", "plaintext": true, "ports": [{"port": 8080, "endpointPort": port}]}})
}

#[test]
fn a_client_resolves_and_balances() {
    let Some(python) = peer::python("peers::grpc_xds", "grpc") else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let (first, second) = (ports::free().port(), ports::free().port());
    control_plane.apply(&[
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "greeter"}, "spec": {
            "selector": {"app": "greeter"}, "ports": [{"name": "grpc", "port": 80, "targetPort": 8080}]}}),
        backend("greeter-1", first),
        backend("greeter-2", second),
    ]);
    let bootstrap = json!({
        "xds_servers": [{"server_uri": control_plane.address.to_string(), "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"]}],
        "node": {"id": "client-1", "metadata": {"sidemesh": {"service": "client"}}},
    });
    let mut command = Command::new(python);
    command.arg(programs::repository_file("tests/peers/grpc_xds.py"));
    command.args(["xds:///greeter.default:80", &first.to_string(), &second.to_string()]);
    command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
    let mut say = client.stdin.take().expect("standard input");
    let mut hear = BufReader::new(client.stdout.take().expect("standard output")).lines();
    let mut call = |count: u32| -> Value {
        writeln!(say, "{count}").expect("it listens");
        let line = hear.next().expect("it answers").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    };

    let spread = call(40);
    assert_eq!(spread["failed"], 0, "{spread}");
    for port in [first, second] {
        assert!(spread["by_port"][port.to_string()].as_u64().is_some_and(|n| n >= 10), "both are called: {spread}");
    }
    control_plane.must(&["delete", "workload", "greeter-2", "--wait"]);
    let rest = sidemesh_tests::wait::until("calls go to the one that is left", || {
        let rest = call(20);
        if rest["by_port"][second.to_string()].is_null() { Ok(rest) } else { Err(rest.to_string()) }
    });
    assert_eq!((&rest["failed"], &rest["by_port"][first.to_string()]), (&json!(0), &json!(20)), "{rest}");
    drop(say);
    let status = client.wait().expect("it ends");
    assert!(status.success(), "{status}");
}
