//! A start-up file that cannot be used: exit code 2, and an error that names file, field and cure.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sidemesh_tests::process::{Output, run};
use sidemesh_tests::proxy::{self, always, fixed, http_listener};

fn start(path: &Path) -> Output {
    run(proxy::command(path), Duration::from_secs(20))
}

#[track_caller]
fn check(text: &str, words: &[&str]) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("bootstrap.yaml");
    std::fs::write(&path, text).expect("a file");
    let output = start(&path);
    assert_eq!(output.code, 2, "{output:?}");
    for word in [&["bootstrap.yaml"], words].concat() {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn missing() {
    let output = start(Path::new("/nowhere/bootstrap.yaml"));
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("/nowhere/bootstrap.yaml"), "{}", output.stderr);
    assert!(output.stderr.contains("No such file"), "{}", output.stderr);
}

#[test]
fn malformed() {
    check("node: {id: a", &[]);
    check("- a\n- b\n", &[]);
    check("", &[]);
}

#[test]
fn with_an_unknown_field() {
    check("node: {id: a}\nadminn: {}\n", &["adminn"]);
    let listener = http_listener(
        "ingress",
        "127.0.0.1:1".parse().expect("address"),
        &always(200, "ok"),
        &json!({"stat_prefx": "a"}),
    );
    check(&fixed(&[listener], &[]).to_string(), &["static_resources.listeners[0]", "stat_prefx"]);
}

#[test]
fn with_a_value_of_the_wrong_kind() {
    check(
        "node: {id: a}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: many}}}\n",
        &["admin.address.socket_address.port_value"],
    );
}

#[test]
fn with_something_that_is_not_implemented() {
    let mut bootstrap = fixed(&[], &[]);
    bootstrap["overload_manager"] = json!({"refresh_interval": "1s"});
    check(&bootstrap.to_string(), &["overload_manager"]);
}
