use std::path::PathBuf;

use super::*;

fn options() -> Options {
    Options {
        image: "sidemesh/proxy:test".to_owned(),
        control_plane: ("control-plane.test".to_owned(), 15010),
        workers: 1,
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/bin/meshctl/inject/golden").join(name)
}

fn injected(yaml: &str) -> String {
    let mut documents = Vec::new();
    documents::parse("test", yaml, &mut documents).expect("documents");
    let parts: Vec<String> =
        documents.into_iter().map(|d| yaml(&inject(d.value, &options()).expect("inject")).expect("yaml")).collect();
    parts.join("---\n")
}

/// `UPDATE_GOLDEN=1` writes the expected file anew.
#[track_caller]
fn check(name: &str) {
    let input = std::fs::read_to_string(golden(&format!("{name}.in.yaml"))).expect("input");
    let output = injected(&input);
    let expected = golden(&format!("{name}.out.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, &output).expect("write golden");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(output, std::fs::read_to_string(&expected).expect("golden"), "{name} at {version}");
}

#[test]
fn a_deployment_gets_the_sidecar() {
    check("deployment");
}

#[test]
fn a_cron_job_and_its_service() {
    check("cronjob");
}

#[test]
fn injecting_twice_is_injecting_once() {
    let input = std::fs::read_to_string(golden("deployment.in.yaml")).expect("input");
    let once = injected(&input);
    assert_eq!(injected(&once), once);
}

#[test]
fn opting_out_changes_nothing() {
    let value = serde_json::json!({"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {
        "metadata": {"annotations": {"sidemesh.dev/inject": "false"}}, "spec": {"containers": []}}}});
    assert_eq!(inject(value.clone(), &options()), Ok(value));
}

/// A Deployment with this pod spec.
fn deployment(spec: serde_json::Value) -> Value {
    serde_json::json!({"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": spec}}})
}

#[test]
fn what_cannot_be_injected_is_said_with_the_reason() {
    let ports = |ports: serde_json::Value| serde_json::json!({"containers": [{"name": "a", "ports": ports}]});
    for (spec, words) in [
        (serde_json::json!({}), "no spec.containers"),
        (serde_json::json!({"containers": []}), "no spec.containers"),
        (ports(serde_json::json!([{"containerPort": 0}])), "containerPort 0 is no port"),
        (ports(serde_json::json!([{"containerPort": 99_999}])), "containerPort 99999 is no port"),
        (ports(serde_json::json!([{"containerPort": 15_021}])), "the sidecar's own"),
    ] {
        let error = inject(deployment(spec), &options()).expect_err("must fail");
        assert!(error.contains(words), "{error}");
    }
    let mut unnamed = deployment(ports(serde_json::json!([])));
    unnamed["metadata"]["name"] = serde_json::json!("My_App");
    assert!(inject(unnamed, &options()).expect_err("must fail").contains("set the label `app`"));
}

#[test]
fn pods_on_the_hosts_network_pass_unchanged() {
    let value = deployment(serde_json::json!({"hostNetwork": true, "containers": [{"name": "a"}]}));
    assert_eq!(inject(value.clone(), &options()), Ok(value));
}

#[test]
fn a_generated_name_names_the_service() {
    let value = serde_json::json!({"kind": "Pod", "metadata": {"generateName": "report-"}, "spec": {"containers": [{"name": "a"}]}});
    assert!(inject(value, &options()).expect("injected").to_string().contains("\\\"service\\\":\\\"report\\\""));
}
