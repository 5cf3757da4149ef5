//! The README's first command.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use sidemesh_tests::process::run;
use sidemesh_tests::programs::program;

/// Processes whose command line mentions `text`.
fn processes(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text)).collect()
}

#[test]
fn the_tour_holds_every_claim_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut command = Command::new(program("meshctl"));
    command.args(["up", "--once", "--leaf-ttl", "8", "--dir"]).arg(dir.path());
    let output = run(command, Duration::from_secs(120));
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    for step in 1..=6 {
        assert!(output.stdout.contains(&format!("\n{step}. ")), "step {step} is missing:\n{}", output.stdout);
    }
    let left = processes(&dir.path().display().to_string());
    assert!(left.is_empty(), "processes left behind: {left:#?}");
}

#[test]
fn without_its_sibling_programs_it_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let alone = dir.path().join("meshctl");
    std::fs::copy(program("meshctl"), &alone).expect("a copy");
    let mut command = Command::new(&alone);
    command.args(["up", "--once", "--dir"]).arg(dir.path().join("state")).process_group(0);
    let output = run(command, Duration::from_secs(20));
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("sidemesh-control-plane is missing"), "{}", output.stderr);
    assert!(output.stderr.contains("cargo build --release"), "{}", output.stderr);
}
