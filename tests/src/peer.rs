//! Programs from outside: found, or the test says that it did not run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::programs::repository_file;

/// Ends the test when a program is missing: it says so and passes, or fails when `SIDEMESH_REQUIRE_ALL=1`.
pub fn not_run(test: &str, program: &str, cure: &str) {
    let text = format!("NOT RUN: {test}: {program} is missing; install it with {cure}");
    assert!(std::env::var_os("SIDEMESH_REQUIRE_ALL").is_none_or(|v| v != "1"), "{text}");
    // Past the capture of the test's output: a test that did not run must be seen.
    let mut stderr = std::io::stderr();
    let _best_effort = std::io::Write::write_all(&mut stderr, format!("{text}\n").as_bytes());
}

const REQUIREMENTS: &str =
    "`python3 -m venv V && V/bin/pip install -r tests/requirements.txt`, and set SIDEMESH_PYTHON=V/bin/python";

/// The Prometheus server.
pub fn prometheus(test: &str) -> Option<Command> {
    let found = Command::new("prometheus").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        not_run(test, "prometheus", "`apt-get install prometheus`");
    }
    found.then(|| Command::new("prometheus"))
}

/// A Python that has `module`: `$SIDEMESH_PYTHON`, else `python3`.
pub fn python(test: &str, module: &str) -> Option<PathBuf> {
    let python = std::env::var_os("SIDEMESH_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if found.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    not_run(test, &format!("the Python module {module}"), REQUIREMENTS);
    None
}

/// The real Envoy.
pub fn envoy(test: &str) -> Option<PathBuf> {
    let python = python(test, "envoy")?;
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new(python).args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if path.is_file() {
        return Some(path);
    }
    not_run(test, "envoy", REQUIREMENTS);
    None
}

/// A management server made of go-control-plane's module, built from `tests/peers/go-control-plane` once per test run.
pub fn go_control_plane(test: &str) -> Option<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if !Command::new("go").arg("version").output().is_ok_and(|o| o.status.success()) {
        not_run(test, "go", "a Go toolchain from https://go.dev/dl, with access to a module proxy for the first build");
        return None;
    }
    let build = || {
        let own = std::env::current_exe().expect("this program has a path");
        // target/<profile>/deps/it-<hash>
        let path = own.ancestors().nth(3).expect("tests run from target/<profile>/deps").join("peers/go-control-plane");
        let mut command = Command::new("go");
        command.args(["build", "-o"]).arg(&path).arg(".").current_dir(repository_file("tests/peers/go-control-plane"));
        let output = command.output().expect("go runs");
        assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
        path
    };
    Some(BUILT.get_or_init(build).clone())
}

/// `http://ADDRESS`
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
