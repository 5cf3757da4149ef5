//! What the control plane promises: acknowledged writes last, silent sidecars go, `--wait` tells the truth.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use sidemesh_proto::sidemesh::registry::v1alpha1::registry_service_client::RegistryServiceClient;
use sidemesh_proto::sidemesh::registry::v1alpha1::{HeartbeatRequest, RegisterRequest, WorkloadPort};
use sidemesh_proto::type_url;
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::process::run;
use sidemesh_tests::programs::program;
use sidemesh_tests::shop::{Instance, service, simple_service, weighted_route};
use sidemesh_tests::wait;
use sidemesh_tests::xds_client::XdsClient;

#[test]
fn a_kill_at_any_moment_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut control_plane = ControlPlane::start(dir.path(), &[]);
    let mut acknowledged = Vec::new();
    // Moments within a write's few milliseconds, none like another.
    for (round, pause) in [0u64, 3, 7, 12, 20].into_iter().enumerate() {
        let (url, file) = (control_plane.url(), dir.path().join("writes.yaml"));
        let names: Vec<String> = (0..40).map(|i| format!("service-{round}-{i}")).collect();
        let documents: Vec<String> = names.iter().map(|n| simple_service(n).to_string()).collect();
        std::fs::write(&file, documents.join("\n---\n")).expect("a file");
        let writer = std::thread::spawn(move || {
            let mut command = Command::new(program("meshctl"));
            command.arg("apply").arg("-f").arg(file).args(["--server", &url]);
            run(command, Duration::from_secs(30))
        });
        let revision = control_plane.metric("sidemesh_control_plane_store_revision");
        wait::until_true("the first writes are in", || {
            control_plane.metric("sidemesh_control_plane_store_revision") > revision
        });
        std::thread::sleep(Duration::from_millis(pause));
        control_plane.restart();
        let said = writer.join().expect("the writer ends").stdout;
        acknowledged.extend(names.into_iter().filter(|n| said.contains(&format!("service/{n} created"))));
    }
    assert!(!acknowledged.is_empty(), "something was acknowledged");
    let kept = control_plane.must(&["get", "services", "-o", "name"]);
    let lost: Vec<&String> =
        acknowledged.iter().filter(|n| !kept.lines().any(|l| l == format!("service/{n}"))).collect();
    assert!(lost.is_empty(), "lost of {}: {lost:?}", acknowledged.len());
}

#[tokio::test]
async fn a_sidecar_that_goes_silent_is_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &["--lease-ttl", "1s"]);
    let mut registry = RegistryServiceClient::connect(control_plane.url()).await.expect("connects");
    let ports = vec![WorkloadPort { port: 8080, endpoint_port: 20_001, name: String::new() }];
    let request = |node: &str| RegisterRequest {
        node_id: node.to_owned(),
        service: "product".to_owned(),
        address: "127.0.0.1".to_owned(),
        ports: ports.clone(),
        ..RegisterRequest::default()
    };
    registry.register(request("silent-1")).await.expect("registered");
    let lease = registry.register(request("lively-1")).await.expect("registered").into_inner().lease_id;
    let names = || control_plane.must(&["get", "workloads", "-o", "name"]);
    assert_eq!(names().lines().count(), 2);
    let started = Instant::now();
    loop {
        registry.heartbeat(HeartbeatRequest { lease_id: lease.clone(), not_ready: false }).await.expect("still known");
        if names().trim() == "workload/lively-1" {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "still there: {}", names());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn a_shift_waits_for_the_proxies_and_tells_how_long_they_took() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[
        simple_service("order"),
        simple_service("product"),
        service("product-v1", &json!({"app": "product", "version": "v1"})),
        service("product-v2", &json!({"app": "product", "version": "v2"})),
        weighted_route("product", &[("product-v1", 100), ("product-v2", 0)]),
    ]);
    let order = Instance::new("order-1", "order", "v1", &["product"]);
    let _sidecar = order.start_sidecar(dir.path(), &control_plane);
    let output = control_plane.meshctl(&["route", "shift", "product", "v2=20", "--wait"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("1 of 1 proxy runs it (fastest "), "{}", output.stderr);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_proxys_own_words() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[
        simple_service("product"),
        service("product-v1", &json!({"app": "product", "version": "v1"})),
        service("product-v2", &json!({"app": "product", "version": "v2"})),
        weighted_route("product", &[("product-v1", 100), ("product-v2", 0)]),
    ]);
    control_plane.settle();
    let route = "outbound|80|product.default";
    let mut client = XdsClient::connect(
        control_plane.address,
        "stubborn-1",
        ("product.default:80", sidemesh_tests::ports::free()),
        type_url::ROUTE,
        &[route],
    )
    .await;
    let first = client.next("first").await;
    client.ack(&first).await;
    let shift = tokio::task::spawn_blocking(move || {
        let output = control_plane.meshctl(&["route", "shift", "product", "v2=20", "--wait"]);
        (control_plane, output)
    });
    let second = client.next("second").await;
    let words = "route product: I do not take weights today";
    client.nack(&second, &first.version_info, words).await;
    let (control_plane, output) = shift.await.expect("meshctl ends");
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("1 of 1 proxies refused it") && output.stderr.contains(words), "{}", output.stderr);
    assert!(output.stderr.contains("stubborn-1"), "{}", output.stderr);
    let status = control_plane.must(&["proxy", "status", "-o", "wide"]);
    assert!(status.contains("NACKED") && status.contains(words), "{status}");
}
