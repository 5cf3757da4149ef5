//! Child processes: found beside this program, logged to files, ended with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::client::Failure;

/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program of the demo.
pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

/// The program `name` beside this one.
pub fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::Failed(format!("cannot find this program: {e}")))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Failed(format!("{} is missing: build all programs with `cargo build --release`", path.display())))
}

impl Process {
    /// Starts a program with its output in `<dir>/<name>.log`.
    pub fn start(name: &str, program: &Path, args: &[String], dir: &Path) -> Result<Process, Failure> {
        let log = dir.join(format!("{name}.log"));
        let failed = |e: std::io::Error| Failure::Failed(format!("cannot start {name}: {e}"));
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            // Ctrl-C is for this program, which ends the others in order.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|p| i32::try_from(p).ok()) {
            // A process that has ended needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// SIGKILL: no chance to tidy up.
    pub async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGTERM, and SIGKILL when that takes too long.
    pub async fn stop(self) {
        self.terminate();
        self.ended().await;
    }

    /// Waits for the end that was asked for; SIGKILL when that takes too long.
    pub async fn ended(mut self) {
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Fails, with the end of its log, when the process has ended.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::Failed(format!("{} ended ({status}):\n{}", self.name, tail(&self.log)))),
            Err(e) => Err(Failure::Failed(format!("{}: {e}", self.name))),
        }
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
