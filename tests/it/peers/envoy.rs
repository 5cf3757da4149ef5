//! The real Envoy takes the place of one sidecar: configured by our control plane, mTLS to and from our sidecars.

use std::process::Command;

use serde_json::json;
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::peer;
use sidemesh_tests::process::Process;
use sidemesh_tests::proxy;
use sidemesh_tests::shop::{Instance, TARGET_PORT, simple_service, wait_for_200};
use sidemesh_tests::{http, wait};

#[test]
fn takes_the_place_of_a_sidecar() {
    let Some(envoy) = peer::envoy("peers::envoy") else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&["order", "product", "user"].map(simple_service));
    let user = Instance::new("user-1", "user", "v1", &[]);
    let product = Instance::new("product-1", "product", "v1", &["user"]);
    let order = Instance::new("order-1", "order", "v1", &["user", "product"]);
    let _apps = [&user, &product, &order].map(|i| i.start_app(dir.path()));
    let user_sidecar = user.start_sidecar(dir.path(), &control_plane);
    let _order_sidecar = order.start_sidecar(dir.path(), &control_plane);

    // Envoy makes no certificate request and registers nowhere: it brings a token, and an object stands for it.
    let mut bootstrap = product.bootstrap(control_plane.address);
    bootstrap["node"]["metadata"]["sidemesh"]["joinToken"] = json!(control_plane.token("product"));
    let mut command = Command::new(envoy);
    command.arg("-c").arg(proxy::write(dir.path(), "envoy", &bootstrap));
    command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
    let mut process = Process::start("envoy", command, dir.path());
    let admin = bootstrap["admin"]["address"]["socket_address"]["port_value"].as_u64().expect("a port");
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(admin).expect("a port")));
    wait::until("Envoy has its listeners", || {
        process.assert_running();
        let listeners = http::get(admin, "/listeners").map_err(|e| e.to_string())?.text();
        let both = listeners.contains("inbound|") && listeners.contains("outbound|80|user.default");
        if both { Ok(()) } else { Err(format!("{listeners}\n{}", process.log())) }
    });
    control_plane.apply(&[
        json!({"apiVersion": "sidemesh.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "product-1"}, "spec": {
        "service": "product", "version": "v1", "address": "127.0.0.1",
        "ports": [{"port": TARGET_PORT, "endpointPort": product.inbound.port()}]}}),
    ]);

    let through = wait_for_200(order.towards("product"), "/products/teapot");
    assert_eq!(through.json()["instance"], "product-1", "our sidecar calls Envoy's");
    let back = wait_for_200(product.towards("user"), "/users/ada");
    assert_eq!(back.json()["name"], "ada", "Envoy calls our sidecar");
    let whole = wait_for_200(order.app, "/orders/ada/teapot");
    assert_eq!(whole.json()["product"]["instance"], "product-1", "a whole order");

    let handshakes = http::must_get(admin, "/stats?filter=listener.*ssl.handshake").text();
    let accepted: u64 = handshakes.lines().filter_map(|l| l.rsplit_once(": ")?.1.parse::<u64>().ok()).sum();
    assert!(accepted > 0, "Envoy took calls over TLS: {handshakes}");
    assert!(user_sidecar.stat("listener.", ".ssl.handshake") > 0, "and so did the sidecar that it called");
    let refused = http::get(product.inbound, "/products/teapot");
    assert!(refused.is_err(), "plain text gets nowhere: {refused:?}");
    let status = control_plane.must(&["proxy", "status", "product-1", "-o", "json"]);
    assert!(!status.contains("NACKED"), "{status}");
    let listed: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert!(listed["proxies"][0]["userAgent"].as_str().is_some_and(|a| a.starts_with("envoy")), "{status}");
}
