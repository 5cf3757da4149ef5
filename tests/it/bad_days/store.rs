//! The control plane's store: damaged, or on a disk that is full. A clear error, and the file as it was.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sidemesh_tests::control_plane::{self, ControlPlane};
use sidemesh_tests::ports;
use sidemesh_tests::process::{Output, run};
use sidemesh_tests::programs::program;
use sidemesh_tests::shop::simple_service;

/// A control plane that has written and stopped; the directory and its store.
fn with_store() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("product"), simple_service("order")]);
    control_plane.process.signal(Signal::SIGTERM);
    assert_eq!(control_plane.process.wait(Duration::from_secs(10)).code(), Some(0));
    let store = control_plane.data_dir().join("store.redb");
    (dir, store)
}

fn start(dir: &tempfile::TempDir) -> Output {
    let command = control_plane::command(&dir.path().join("control-plane"), ports::free(), ports::free());
    run(command, Duration::from_secs(20))
}

#[track_caller]
fn refuses_damage(damage: impl Fn(&mut Vec<u8>)) {
    let (dir, store) = with_store();
    let mut bytes = std::fs::read(&store).expect("the store");
    damage(&mut bytes);
    std::fs::write(&store, &bytes).expect("the store");
    let output = start(&dir);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("store.redb"), "{}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert!(std::fs::read(&store).expect("the store") == bytes, "the damaged file was changed");
}

#[test]
fn that_is_no_store_is_left_alone() {
    refuses_damage(|bytes| bytes[..4096].fill(0x5a));
}

#[test]
fn that_is_cut_short_is_left_alone() {
    refuses_damage(|bytes| bytes.truncate(bytes.len() / 3));
}

#[test]
fn with_a_page_overwritten_is_left_alone() {
    refuses_damage(|bytes| {
        for page in bytes.chunks_mut(4096).skip(1) {
            page.fill(0xff);
        }
    });
}

#[test]
fn that_another_process_has_is_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let _first = ControlPlane::start(dir.path(), &[]);
    let output = start(&dir);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("already open in another process"), "{}", output.stderr);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).expect("permissions");
    let output = run(control_plane::command(&file.join("data"), ports::free(), ports::free()), Duration::from_secs(20));
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("--data-dir") && output.stderr.contains("may write"), "{}", output.stderr);
}

/// A full disk, as a limit on the size of files: writes fail past it.
#[test]
fn on_a_full_disk_fails_the_write_and_keeps_what_was_written() {
    let (dir, store) = with_store();
    let size_kib = std::fs::metadata(&store).expect("the store").len() / 1024 + 64;
    let (listen, metrics) = (ports::free(), ports::free());
    let mut limited = Command::new("bash");
    // A write past the limit is an error for the program, not a signal.
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {size_kib}; exec \"$@\""), "bash"]);
    limited.arg(program("sidemesh-control-plane")).arg("--data-dir").arg(dir.path().join("control-plane"));
    limited.args(["--listen", &listen.to_string(), "--metrics-listen", &metrics.to_string()]);
    let mut process = sidemesh_tests::process::Process::start("limited", limited, dir.path());
    process.wait_for_log("control plane is up");
    let meshctl = |args: &[&str]| {
        let mut command = Command::new(program("meshctl"));
        command.args(args).env("SIDEMESH_SERVER", format!("http://{listen}"));
        run(command, Duration::from_secs(30))
    };
    let mut refusal = None;
    for round in 0..40 {
        let mut big = simple_service(&format!("big-{round}"));
        big["metadata"]["annotations"] = json!({"note": "x".repeat(200_000)});
        let file = dir.path().join("big.yaml");
        std::fs::write(&file, big.to_string()).expect("a file");
        let output = meshctl(&["apply", "-f", &file.display().to_string()]);
        if output.code != 0 {
            refusal = Some((round, output));
            break;
        }
    }
    let (round, refusal) = refusal.expect("a write fails when the disk is full");
    for word in ["no space left", "free some space"] {
        assert!(refusal.stderr.contains(word), "`{word}` is missing in: {}", refusal.stderr);
    }
    process.assert_running();
    let names = meshctl(&["get", "services", "-o", "name"]);
    assert!(names.stdout.contains("service/product\n"), "it still answers: {names:?}");
    process.kill();

    // With space again, everything that was acknowledged is there, and nothing else.
    let control_plane = ControlPlane::start(dir.path(), &[]);
    let kept = control_plane.must(&["get", "services", "-o", "name"]);
    assert_eq!(kept.lines().count(), 2 + round, "{kept}");
}
