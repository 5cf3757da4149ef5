//! The workspace's programs, built once per test run.
//!
//! `cargo test` builds the tests alone; a fresh clone has no programs yet. So the first test that asks for one runs
//! `cargo build` with the same profile and the same features, which costs nothing when all is fresh. With
//! `SIDEMESH_PROGRAMS=DIR` the programs are taken from there, and nothing is built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of a program of this workspace: `sidemesh-proxy`, `sidemesh-control-plane`, `meshctl`, `sidemesh-shop`.
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| match std::env::var_os("SIDEMESH_PROGRAMS") {
        Some(given) => PathBuf::from(given),
        None => build(),
    });
    let path = directory.join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

fn build() -> PathBuf {
    // target/<profile>/deps/it-<hash>
    let own = std::env::current_exe().expect("this program has a path");
    let directory = own.ancestors().nth(2).expect("tests run from target/<profile>/deps").to_owned();
    let target = directory.parent().expect("target/<profile>");
    let profile = directory.file_name().and_then(|n| n.to_str()).expect("profile");
    let mut cargo = Command::new(env!("CARGO"));
    // `--test it` asks for nothing new, but makes cargo choose the same features as `cargo test` did.
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--test", "it"]);
    cargo.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
    cargo.arg("--target-dir").arg(target).current_dir(workspace());
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "the programs do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    directory
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace")
}

/// A file of the repository.
pub fn repository_file(path: &str) -> PathBuf {
    workspace().join(path)
}
