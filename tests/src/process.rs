//! Child processes with a log, ended when the test ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait;

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
    has_children: bool,
}

impl Process {
    /// Starts it with standard output and error in `<dir>/<name>.log`, which is appended to.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Process {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("log file");
        let err = out.try_clone().expect("log file");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Process { name: name.to_owned(), child, log, ended: None, has_children: false }
    }

    /// It ends others when it is asked to end: dropping it asks first.
    pub fn with_children(mut self) -> Process {
        self.has_children = true;
        self
    }

    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        // It may have ended already.
        let _gone = nix::sys::signal::kill(pid, signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if self.poll().is_none() {
            let _ended_just_now = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// The exit status once it has ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} runs on after {limit:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the log contains `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        wait::until(&format!("`{text}` in the log of {}", self.name), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.poll() {
            panic!("{} ended ({status}):\n{}", self.name, self.log());
        }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.child.id()).expect("status of a child")
    }
}

/// Resident memory of a process, in KiB; `None`: it has ended.
pub fn resident_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_children && self.poll().is_none() {
            end(&mut self.child);
        }
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- log of {} ---\n{tail}\n---", self.name);
        }
    }
}

/// Asks a program to end, so that it can end its own children; kills it when that takes too long.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let _gone = nix::sys::signal::kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ended_just_now = child.kill();
    let _status = child.wait();
}

/// What a program that ran to its end said.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end; fails when that takes longer than `limit`.
#[track_caller]
pub fn run(mut command: Command, limit: Duration) -> Output {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = |name: &str| dir.path().join(name);
    let open = |name: &str| File::create(file(name)).expect("output file");
    let mut child =
        command.stdin(Stdio::null()).stdout(open("out")).stderr(open("err")).spawn().expect("the program starts");
    let read = |name: &str| String::from_utf8_lossy(&std::fs::read(file(name)).unwrap_or_default()).into_owned();
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Output { code: status.code().unwrap_or(-1), stdout: read("out"), stderr: read("err") };
        }
        if Instant::now() > deadline {
            end(&mut child);
            panic!("{command:?} runs on after {limit:?}:\n{}{}", read("out"), read("err"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
