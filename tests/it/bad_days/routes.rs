//! Routes that lead nowhere.

use serde_json::{Value, json};
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::shop::{Instance, SERVICE_PORT, simple_service, wait_for_200, weighted_route};
use sidemesh_tests::{http, wait};

fn condition(route: &Value, name: &str) -> Value {
    let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == name).unwrap_or_default()
}

/// Gateway API: accepted, `ResolvedRefs` false with the reason, and 500 for the share of the missing backend.
#[test]
fn a_route_to_a_service_that_does_not_exist_is_told_and_answers_500() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order"), simple_service("user")]);
    let user = Instance::new("user-1", "user", "v1", &[]);
    let order = Instance::new("order-1", "order", "v1", &["user"]);
    let _app = user.start_app(dir.path());
    let _user_sidecar = user.start_sidecar(dir.path(), &control_plane);
    let _order_sidecar = order.start_sidecar(dir.path(), &control_plane);
    wait_for_200(order.towards("user"), "/users/ada");

    let said =
        control_plane.meshctl(&["apply", "-f", &control_plane.file(&[weighted_route("user", &[("nobody", 1)])])]);
    assert_eq!(said.code, 0, "{said:?}");
    let route = wait::until("the status is written", || {
        let route = control_plane.object("httproute", "user");
        if condition(&route, "ResolvedRefs").is_null() { Err(route.to_string()) } else { Ok(route) }
    });
    assert_eq!(condition(&route, "Accepted")["status"], "True", "{route}");
    let refs = condition(&route, "ResolvedRefs");
    assert_eq!((refs["status"].as_str(), refs["reason"].as_str()), (Some("False"), Some("BackendNotFound")), "{route}");
    assert!(refs["message"].as_str().is_some_and(|m| m.contains("nobody")), "{refs}");
    let list = control_plane.must(&["route", "list"]);
    assert!(list.contains("BackendNotFound"), "{list}");

    let answer = wait::until("the route is in force", || {
        let answer = http::get(order.towards("user"), "/users/ada").map_err(|e| e.to_string())?;
        if answer.status == 200 { Err(answer.text()) } else { Ok(answer) }
    });
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(answer.header("x-sidemesh-error"), Some("backend_not_found"), "{answer:?}");
    assert!(answer.text().contains("nobody"), "{}", answer.text());

    control_plane.must(&["delete", "httproute", "user"]);
    wait_for_200(order.towards("user"), "/users/ada");
}

/// A service with no instance: 503, and the sidecar says which.
#[test]
fn a_service_without_instances_answers_503_with_the_reason() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order"), simple_service("user")]);
    let order = Instance::new("order-1", "order", "v1", &["user"]);
    let _sidecar = order.start_sidecar(dir.path(), &control_plane);
    let answer =
        wait::until("the listener answers", || http::get(order.towards("user"), "/").map_err(|e| e.to_string()));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("no healthy upstream"), "{answer:?}");
}

#[test]
fn a_route_that_is_wrong_is_refused_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let mut route = weighted_route("user", &[("user", 1)]);
    route["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "RegularExpression", "value": "(["}}]);
    route["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(u32::from(SERVICE_PORT) + 70_000);
    let output = control_plane.meshctl(&["apply", "-f", &control_plane.file(&[route])]);
    assert_eq!(output.code, 2, "{output:?}");
    for path in ["spec.rules[0].matches[0].path.value", "spec.rules[0].backendRefs[0].port"] {
        assert!(output.stderr.contains(path), "`{path}` is missing in: {}", output.stderr);
    }
    assert_eq!(control_plane.meshctl(&["get", "httproute", "user"]).code, 1);
}
