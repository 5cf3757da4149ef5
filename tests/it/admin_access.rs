//! Who may use the admin API, and how `meshctl` gets there: TLS, the token, contexts.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::process::{Output, run};
use sidemesh_tests::programs::program;
use sidemesh_tests::proxy::Proxy;
use sidemesh_tests::shop::{Instance, simple_service};

/// `meshctl` with a configuration of its own.
fn meshctl(control_plane: &ControlPlane, args: &[&str]) -> Output {
    let mut command = Command::new(program("meshctl"));
    command.args(args).env("SIDEMESH_CONFIG", control_plane.data_dir().join("contexts.yaml"));
    run(command, Duration::from_secs(30))
}

fn path(control_plane: &ControlPlane, file: &str) -> String {
    control_plane.data_dir().join(file).display().to_string()
}

#[test]
fn over_tls_the_token_opens_the_api_and_nothing_else_does() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &["--tls", "--tls-name", "mesh.example"]);
    let https = format!("https://{}", control_plane.address);
    let (root, token) = (path(&control_plane, "ca/root.pem"), path(&control_plane, "admin.token"));
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = meshctl(&control_plane, args);
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        assert!(output.stderr.contains(words), "{args:?}: `{words}` is missing in: {}", output.stderr);
    };
    refused(&["get", "svc", "--server", &https], 2, "https needs --ca-file");
    refused(&["get", "svc", "--server", &https, "--ca-file", &root], 1, "--token-file");
    refused(&["get", "svc", "--server", &control_plane.url(), "--token-file", &token], 1, "https where it has --tls");
    refused(&["get", "svc", "--server", &https, "--ca-file", &token], 2, "no certificate in it");
    let other = root_of_another_mesh();
    let other_file = control_plane.data_dir().join("other.pem");
    std::fs::write(&other_file, other).expect("a file");
    refused(&["get", "svc", "--server", &https, "--ca-file", &other_file.display().to_string()], 1, "TLS:");

    let set = ["context", "set", "mesh", "--server", &https, "--ca-file", &root, "--token-file", &token, "-n", "shop"];
    assert_eq!(meshctl(&control_plane, &set).code, 0);
    refused(&["get", "svc", "--context", "other"], 2, "meshctl context list");
    assert_eq!(meshctl(&control_plane, &["context", "use", "mesh"]).code, 0);
    let applied = meshctl(&control_plane, &["apply", "-f", &control_plane.file(&[simple_service("product")])]);
    assert_eq!((applied.code, applied.stdout.trim()), (0, "service/product created"), "{applied:?}");
    let object = meshctl(&control_plane, &["get", "svc", "product", "-o", "json"]);
    let object: Value = serde_json::from_str(&object.stdout).expect("JSON");
    assert_eq!(object["metadata"]["namespace"], "shop", "the context's");
    let contexts = meshctl(&control_plane, &["context", "list"]).stdout;
    assert!(contexts.lines().any(|l| l.starts_with('*') && l.contains(&https)), "{contexts}");
}

/// A root certificate of somebody else.
fn root_of_another_mesh() -> String {
    let dir = tempfile::tempdir().expect("temporary directory");
    let other = ControlPlane::start(dir.path(), &[]);
    std::fs::read_to_string(other.data_dir().join("ca/root.pem")).expect("a root")
}

#[test]
fn a_sidecar_joins_over_tls() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &["--tls"]);
    let (root, token) = (path(&control_plane, "ca/root.pem"), path(&control_plane, "admin.token"));
    let https = format!("https://{}", control_plane.address);
    let admin = |args: &[&str]| {
        let flags = ["--server", &https, "--ca-file", &root, "--token-file", &token];
        let output = meshctl(&control_plane, &[args, &flags].concat());
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout
    };
    admin(&["apply", "-f", &control_plane.file(&[simple_service("user")])]);
    let user = Instance::new("user-1", "user", "v1", &[]);
    let mut bootstrap = user.bootstrap(control_plane.address);
    let tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    bootstrap["static_resources"]["clusters"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("type.googleapis.com/{tls}"), "sni": "sidemesh-control-plane",
            "common_tls_context": {"validation_context": {
                "trusted_ca": {"filename": root},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "sidemesh-control-plane"}}]}}}});
    let join = dir.path().join("join");
    std::fs::write(&join, admin(&["token", "create", "--service-account", "user"])).expect("token file");
    let flags = ["--mesh", "--join-token-file", &join.display().to_string()];
    let mut sidecar = Proxy::spawn(dir.path(), &bootstrap, &flags);
    sidecar.wait_ready();
    let registered = || admin(&["get", "workloads", "-o", "name"]).contains("workload/user-1");
    sidemesh_tests::wait::until_true("the workload is registered with its identity", registered);
}

#[test]
fn on_loopback_other_users_need_the_token() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.must(&["get", "all"]);
    // Only root can become somebody else.
    if !dir_is_roots(dir.path()) {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    command.arg(program("meshctl")).args(["get", "all", "--server", &control_plane.url()]).env("HOME", "/nonexistent");
    let output = run(command, Duration::from_secs(30));
    if output.stderr.starts_with("setpriv:") {
        println!("NOT RUN: {} may not be run by other users", program("meshctl").display());
        return;
    }
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("admin.token"), "{output:?}");
}

fn dir_is_roots(dir: &std::path::Path) -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir).expect("metadata")) == 0
}
