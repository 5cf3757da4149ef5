//! `meshctl` as a user types it: what it prints, and how it ends.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::process::run;
use sidemesh_tests::programs::program;
use sidemesh_tests::shop::{service, simple_service, weighted_route};

fn product_services() -> Vec<Value> {
    vec![
        simple_service("product"),
        service("product-v1", &json!({"app": "product", "version": "v1"})),
        service("product-v2", &json!({"app": "product", "version": "v2"})),
        weighted_route("product", &[("product-v1", 100), ("product-v2", 0)]),
    ]
}

#[test]
fn objects_are_applied_shown_compared_and_deleted() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let file = control_plane.file(&product_services());
    let dry = control_plane.must(&["apply", "-f", &file, "--dry-run"]);
    assert!(dry.contains("service/product created (dry run)"), "{dry}");
    let nothing = control_plane.meshctl(&["get", "all"]);
    assert_eq!((nothing.code, nothing.stderr.trim()), (0, "nothing found"), "{nothing:?}");

    let applied = control_plane.must(&["apply", "-f", &file]);
    assert!(applied.contains("httproute/product created"), "{applied}");
    let again = control_plane.must(&["apply", "-f", &file]);
    assert!(again.lines().all(|l| l.ends_with(" unchanged")), "{again}");
    assert_eq!(control_plane.meshctl(&["diff", "-f", &file]).code, 0);

    let changed = control_plane.file(&[weighted_route("product", &[("product-v1", 50), ("product-v2", 50)])]);
    let diff = control_plane.meshctl(&["diff", "-f", &changed]);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.lines().any(|l| l.starts_with('-') && l.contains("weight: 100")), "{}", diff.stdout);
    assert!(diff.stdout.lines().any(|l| l.starts_with('+') && l.contains("weight: 50")), "{}", diff.stdout);

    let names = control_plane.must(&["get", "svc", "-o", "name"]);
    assert_eq!(names.lines().count(), 3, "{names}");
    let one = control_plane.object("service", "product-v1");
    assert_eq!(one["spec"]["selector"]["version"], "v1", "{one}");
    let yaml = control_plane.must(&["get", "httproute/product", "-o", "yaml"]);
    assert!(yaml.contains("kind: HTTPRoute"), "{yaml}");
    let wide = control_plane.must(&["get", "httproutes", "-o", "wide"]);
    assert!(wide.starts_with("KIND") && wide.contains("REVISION"), "{wide}");

    let deleted = control_plane.must(&["delete", "service", "product-v2"]);
    assert_eq!(deleted.trim(), "service/product-v2 deleted");
    let missing = control_plane.meshctl(&["delete", "service", "product-v2"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    control_plane.must(&["delete", "service", "product-v2", "--ignore-not-found"]);
}

#[test]
fn an_unknown_field_is_refused_with_its_path() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let mut wrong = simple_service("product");
    wrong["spec"]["selectr"] = json!({"app": "product"});
    let output = control_plane.meshctl(&["apply", "-f", &control_plane.file(&[wrong])]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("spec.selectr"), "{}", output.stderr);
    assert!(output.stderr.contains("service/product"), "{}", output.stderr);
    assert_eq!(control_plane.meshctl(&["get", "service", "product"]).code, 1);
}

#[test]
fn traffic_is_shifted_undone_and_its_history_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&product_services());
    let shifted = control_plane.must(&["route", "shift", "product", "v2=20"]);
    assert!(shifted.contains("v1 80%, v2 20%"), "{shifted}");
    let weights = || {
        let route = control_plane.object("httproute", "product");
        let refs = route["spec"]["rules"][0]["backendRefs"].as_array().cloned().unwrap_or_default();
        refs.iter().map(|r| r["weight"].as_u64().unwrap_or(1)).collect::<Vec<u64>>()
    };
    assert_eq!(weights(), [80, 20]);
    control_plane.must(&["route", "split", "product", "v1=50", "v2=50"]);
    assert_eq!(weights(), [50, 50]);
    control_plane.must(&["route", "undo", "product"]);
    assert_eq!(weights(), [80, 20]);
    let history = control_plane.must(&["route", "history", "product"]);
    assert!(history.contains("meshctl route shift") && history.contains("product-v1=50 product-v2=50"), "{history}");
    let list = control_plane.must(&["route", "list"]);
    assert!(list.contains("product-v1=80 product-v2=20"), "{list}");

    for (args, words) in [
        (["route", "shift", "product", "v9=20"], "no version v9"),
        (["route", "shift", "product", "v2=120"], "at most 100"),
    ] {
        let output = control_plane.meshctl(&args);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    assert_eq!(weights(), [80, 20], "a refused change changes nothing");
}

#[test]
fn a_route_of_calls_is_shifted_like_any_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let mut objects = product_services();
    objects.last_mut().expect("a route")["kind"] = json!("GRPCRoute");
    control_plane.apply(&objects);
    control_plane.must(&["route", "shift", "product", "v2=20"]);
    let route = control_plane.object("grpcroute", "product");
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][1]["weight"], 20, "{route}");
    let list = control_plane.must(&["route", "list"]);
    assert!(list.contains("GRPCRoute") && !list.contains("HTTPRoute"), "{list}");
    control_plane.must(&["route", "undo", "product"]);
    assert_eq!(control_plane.object("gr", "product")["spec"]["rules"][0]["backendRefs"][1]["weight"], 0);
}

#[test]
fn several_objects_and_what_is_wrong_with_documents() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let file = control_plane.file(&product_services());
    let applied: Value =
        serde_json::from_str(&control_plane.must(&["apply", "-f", &file, "-o", "json"])).expect("JSON");
    assert_eq!((applied["kind"].as_str(), applied["items"].as_array().map(Vec::len)), (Some("List"), Some(4)));
    let two = control_plane.must(&["get", "svc", "product-v1", "product-v2", "-o", "name"]);
    assert_eq!(two, "service/product-v1\nservice/product-v2\n");
    let kinds = control_plane.must(&["get", "svc,httproutes", "-o", "name"]);
    assert_eq!(kinds.lines().count(), 4, "{kinds}");
    let deleted = control_plane.must(&["delete", "svc/product-v1", "hr/product"]);
    assert_eq!(deleted, "service/product-v1 deleted\nhttproute/product deleted\n");

    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let twice = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\nspec: {ports: []}\n";
    for (file, words) in [
        (write("empty.yaml", "---\n"), "empty.yaml: no documents there"),
        (write("twice.yaml", twice), "duplicate entry with key \"spec\""),
        (
            write("large.yaml", &format!("kind: Service\nmetadata: {{name: '{}'}}", "x".repeat(4_000_000))),
            "bytes; an object",
        ),
    ] {
        let output = control_plane.meshctl(&["apply", "-f", &file]);
        assert_eq!(output.code, 2, "{words}: {}", output.stderr.len());
        assert!(output.stderr.contains(words), "`{words}` is missing");
    }
    let broken = write("broken.yaml", "a: [");
    let diff = control_plane.meshctl(&["diff", "-f", &broken]);
    assert_eq!(diff.code, 2, "not known is not the same as different: {diff:?}");
}

#[test]
fn without_a_control_plane_it_says_so() {
    let mut command = Command::new(program("meshctl"));
    command.args(["get", "services", "--server", &format!("http://{}", sidemesh_tests::ports::free())]);
    let output = run(command, Duration::from_secs(20));
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("no control plane at") && output.stderr.contains("--server"), "{}", output.stderr);
}

#[test]
fn the_health_of_the_mesh_is_checked() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let well = control_plane.meshctl(&["check"]);
    assert_eq!(well.code, 0, "{well:?}");
    control_plane.apply(&[simple_service("product"), weighted_route("product", &[("product-v7", 1)])]);
    // A route's status follows the route in a moment.
    let ill = sidemesh_tests::wait::until("the check fails", || {
        let output = control_plane.meshctl(&["check"]);
        if output.code == 1 { Ok(output) } else { Err(output.stdout) }
    });
    assert!(ill.stdout.contains("FAIL route default/product"), "{}", ill.stdout);
}

#[test]
fn shells_complete_its_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(program("meshctl"));
        command.args(["completion", shell]);
        let output = run(command, Duration::from_secs(20));
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("meshctl") && output.stdout.contains("shift"), "{shell}");
    }
}
