//! `sidemesh-control-plane` with a directory of its own, and `meshctl` talking to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Output, Process, run};
use crate::programs::program;
use crate::{http, ports, wait};

/// A running control plane.
pub struct ControlPlane {
    pub process: Process,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    dir: PathBuf,
    flags: Vec<String>,
}

impl ControlPlane {
    /// Starts it with its data in `<dir>/control-plane`, and waits until it is ready.
    #[track_caller]
    pub fn start(dir: &Path, flags: &[&str]) -> ControlPlane {
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let (address, metrics) = (ports::free(), ports::free());
        let process = spawn(dir, address, metrics, &flags);
        let mut started = ControlPlane { process, address, metrics, dir: dir.to_owned(), flags };
        started.wait_ready();
        started
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let metrics = self.metrics;
        wait::until("the control plane is ready", || {
            self.process.assert_running();
            match http::get(metrics, "/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(e) => Err(e.to_string()),
            }
        });
    }

    /// Starts it again after an end, on the same addresses and data.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.dir, self.address, self.metrics, &self.flags);
        self.wait_ready();
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("control-plane")
    }

    /// Runs `meshctl` against it.
    #[track_caller]
    pub fn meshctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("meshctl"));
        command.args(args).env("SIDEMESH_SERVER", self.url());
        run(command, Duration::from_secs(60))
    }

    /// Runs `meshctl`, which must succeed.
    #[track_caller]
    pub fn must(&self, args: &[&str]) -> String {
        let output = self.meshctl(args);
        assert_eq!(output.code, 0, "meshctl {}: {}{}", args.join(" "), output.stdout, output.stderr);
        output.stdout
    }

    /// `meshctl apply` of documents written down here.
    #[track_caller]
    pub fn apply(&self, documents: &[Value]) -> String {
        self.must(&["apply", "-f", &self.file(documents)])
    }

    /// A file with these documents.
    pub fn file(&self, documents: &[Value]) -> String {
        let file = tempfile::Builder::new().prefix("objects").suffix(".yaml").tempfile_in(&self.dir);
        let (_, path) = file.and_then(|f| f.keep().map_err(|e| e.error)).expect("a file");
        let text: Vec<String> = documents.iter().map(Value::to_string).collect();
        std::fs::write(&path, text.join("\n---\n")).expect("a file");
        path.display().to_string()
    }

    /// Waits until proxies are served everything that was written.
    #[track_caller]
    pub fn settle(&self) {
        let revision = |which: &str| self.metric(&format!("sidemesh_control_plane_{which}_revision"));
        wait::until_true("every write is translated", || revision("translated") == revision("store"));
    }

    /// A fresh join token.
    #[track_caller]
    pub fn token(&self, service_account: &str) -> String {
        self.must(&["token", "create", "--service-account", service_account]).trim().to_owned()
    }

    /// An object as JSON.
    #[track_caller]
    pub fn object(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.must(&["get", kind, name, "-o", "json"])).expect("JSON")
    }

    /// A figure of its `/metrics`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let text = http::must_get(self.metrics, "/metrics").text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|v| v.trim().parse().ok()).unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }
}

/// The command line, for tests that look at how it ends.
pub fn command(data_dir: &Path, address: SocketAddr, metrics: SocketAddr) -> Command {
    let mut command = Command::new(program("sidemesh-control-plane"));
    command.arg("--data-dir").arg(data_dir);
    command.args(["--listen", &address.to_string(), "--metrics-listen", &metrics.to_string()]);
    command
}

fn spawn(dir: &Path, address: SocketAddr, metrics: SocketAddr, flags: &Vec<String>) -> Process {
    let mut command = command(&dir.join("control-plane"), address, metrics);
    command.args(flags);
    Process::start("control-plane", command, dir)
}
