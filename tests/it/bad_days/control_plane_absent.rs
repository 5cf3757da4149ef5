//! No control plane at the start: the proxy stays up and says why; it serves what an earlier run was sent, or is not ready; it recovers.

use std::path::PathBuf;

use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::process::Process;
use sidemesh_tests::proxy::Proxy;
use sidemesh_tests::shop::{Instance, simple_service, wait_for_200};
use sidemesh_tests::{http, wait};
use tempfile::TempDir;

/// `user` runs with its sidecar; `order`'s is yet to be started.
struct Mesh {
    dir: TempDir,
    control_plane: ControlPlane,
    order: Instance,
    /// File with a join token for `order`.
    token: PathBuf,
    _user: (Process, Proxy),
}

impl Mesh {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let control_plane = ControlPlane::start(dir.path(), &[]);
        control_plane.apply(&[simple_service("order"), simple_service("user")]);
        let user = Instance::new("user-1", "user", "v1", &[]);
        let order = Instance::new("order-1", "order", "v1", &["user"]);
        let user = (user.start_app(dir.path()), user.start_sidecar(dir.path(), &control_plane));
        let token = dir.path().join("order.token");
        std::fs::write(&token, control_plane.token("order")).expect("token file");
        Mesh { dir, control_plane, order, token, _user: user }
    }
}

#[test]
fn the_proxy_stays_says_why_and_recovers() {
    let Mesh { dir, mut control_plane, order, token, _user } = Mesh::start();
    let (token, state) = (token.display().to_string(), dir.path().join("order-state").display().to_string());
    control_plane.process.kill();

    let flags = ["--mesh", "--state-dir", &state, "--join-token-file", &token];
    let mut sidecar = Proxy::spawn(dir.path(), &order.bootstrap(control_plane.address), &flags);
    sidecar.process.wait_for_log("control-plane");
    sidecar.process.wait_for_log("onnection refused");
    let ready = sidecar.admin("/ready");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(http::get(order.towards("user"), "/").is_err(), "no listener without configuration");
    sidecar.process.assert_running();

    control_plane.restart();
    sidecar.wait_ready();
    let answer = wait_for_200(order.towards("user"), "/users/ada");
    assert_eq!(answer.json()["name"], "ada");
}

#[test]
fn a_restart_meanwhile_serves_the_last_good_configuration() {
    let Mesh { dir, mut control_plane, order, token, _user } = Mesh::start();
    let state = dir.path().join("order-state");
    let (token, state_dir) = (token.display().to_string(), state.display().to_string());
    let flags = ["--mesh", "--state-dir", &state_dir, "--join-token-file", &token];
    let bootstrap = order.bootstrap(control_plane.address);
    let mut sidecar = Proxy::spawn(dir.path(), &bootstrap, &flags);
    sidecar.wait_ready();
    wait_for_200(order.towards("user"), "/users/ada");
    wait::until_true("the configuration is saved", || state.join("configuration.pb").is_file());
    // Endpoints may have come after the first write.
    std::thread::sleep(std::time::Duration::from_millis(1_500));

    control_plane.process.kill();
    drop(sidecar);
    let mut sidecar = Proxy::spawn(dir.path(), &bootstrap, &flags);
    sidecar.wait_ready();
    let answer = wait_for_200(order.towards("user"), "/users/ada");
    assert_eq!(answer.json()["name"], "ada", "as before, with the certificate of before");
    assert_eq!(sidecar.stat("control_plane.serving_saved_configuration", ""), 1, "and it says so");

    control_plane.restart();
    wait::until("the control plane's word counts again", || {
        match sidecar.stat("control_plane.serving_saved_configuration", "") {
            0 => Ok(()),
            other => Err(format!("{other}: {}", sidecar.process.log())),
        }
    });
    wait_for_200(order.towards("user"), "/users/ada");
}
