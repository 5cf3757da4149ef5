//! A port that somebody else has.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::json;
use sidemesh_tests::control_plane::{self, ControlPlane};
use sidemesh_tests::http;
use sidemesh_tests::process::run;
use sidemesh_tests::proxy::{self, address, always, fixed, http_listener};
use sidemesh_tests::shop::{Instance, simple_service};
use sidemesh_tests::{ports, wait};

fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(ports::free()).expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[track_caller]
fn proxy_refuses(bootstrap: &serde_json::Value, words: &[&str]) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let output = run(proxy::command(&proxy::write(dir.path(), "proxy", bootstrap)), Duration::from_secs(20));
    assert_eq!(output.code, 2, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}{}", output.stderr, output.stdout);
    }
}

#[test]
fn of_a_static_listener() {
    let (_holder, at) = taken();
    let listener = http_listener("ingress", at, &always(200, "ok"), &json!({}));
    proxy_refuses(&fixed(&[listener], &[]), &["static_resources.listeners[0]", &at.to_string(), "in use"]);
}

#[test]
fn of_the_admin_interface() {
    let (_holder, at) = taken();
    let mut bootstrap = fixed(&[], &[]);
    bootstrap["admin"]["address"] = address(at);
    proxy_refuses(&bootstrap, &["admin", &at.to_string(), "in use"]);
}

#[test]
fn of_the_control_plane() {
    for flag in ["--listen", "--metrics-listen"] {
        let (_holder, at) = taken();
        let dir = tempfile::tempdir().expect("temporary directory");
        let addresses = if flag == "--listen" { (at, ports::free()) } else { (ports::free(), at) };
        let output = run(control_plane::command(dir.path(), addresses.0, addresses.1), Duration::from_secs(20));
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(&format!("{flag} {at}")), "{}", output.stderr);
        assert!(output.stderr.contains("choose another port"), "{}", output.stderr);
    }
}

#[test]
fn of_a_listener_over_xds_is_a_refusal_that_meshctl_shows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order"), simple_service("product"), simple_service("user")]);
    let order = Instance::new("order-1", "order", "v1", &["product", "user"]);
    let holder = TcpListener::bind(order.towards("product")).expect("a free port");
    let sidecar = order.spawn_sidecar(dir.path(), &control_plane);
    let status = wait::until("the refusal is known", || {
        let status = control_plane.must(&["proxy", "status", "-o", "wide"]);
        if status.contains("NACKED") { Ok(status) } else { Err(status + &sidecar.process.log()) }
    });
    for word in ["outbound|80|product.default", &order.towards("product").to_string(), "in use"] {
        assert!(status.contains(word), "`{word}` is missing in: {status}");
    }
    // The other listener of the same update works.
    wait::until_true("the other listener answers", || http::get(order.towards("user"), "/").is_ok());
    drop(holder);
}
