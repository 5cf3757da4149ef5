//! The thread that writes log files.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    File(PathBuf),
    Stdout,
    Stderr,
}

/// Buffers that wait for the thread at most; the next one is dropped and counted.
pub const QUEUED_BUFFERS: usize = 256;

/// How long a line waits in a worker's buffer at most.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(20);

enum Job {
    Write(Target, Vec<u8>),
    /// Files are opened anew, after their rotation.
    Reopen,
    Flushed(SyncSender<()>),
}

/// A handle to the writing thread, which ends with the last handle.
#[derive(Clone)]
pub struct Writer {
    jobs: SyncSender<Job>,
}

impl Writer {
    /// Starts the thread.
    pub fn start() -> io::Result<Writer> {
        let (jobs, queue) = sync_channel(QUEUED_BUFFERS);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || run(&queue))?;
        Ok(Writer { jobs })
    }

    /// `false` when the queue is full and the bytes are dropped.
    pub fn write(&self, target: Target, bytes: Vec<u8>) -> bool {
        self.jobs.try_send(Job::Write(target, bytes)).is_ok()
    }

    /// Opens files anew at their next line (`POST /reopen_logs`, SIGUSR1).
    pub fn reopen(&self) {
        // A thread that has ended has no file open.
        let _ = self.jobs.try_send(Job::Reopen);
    }

    /// Waits, at most `limit`, until everything handed over so far is written.
    pub fn drain(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.jobs.try_send(Job::Flushed(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

fn run(queue: &Receiver<Job>) {
    let mut files: HashMap<PathBuf, File> = HashMap::new();
    while let Ok(job) = queue.recv() {
        match job {
            Job::Write(target, bytes) => {
                if let Err(error) = write(&mut files, &target, &bytes) {
                    tracing::warn!(?target, %error, "access log not written; free space or mend the path's permissions");
                }
            }
            Job::Reopen => files.clear(),
            // The asker may have stopped waiting.
            Job::Flushed(done) => drop(done.try_send(())),
        }
    }
}

fn write(files: &mut HashMap<PathBuf, File>, target: &Target, bytes: &[u8]) -> io::Result<()> {
    match target {
        Target::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Target::Stderr => io::stderr().write_all(bytes),
        Target::File(path) => {
            if !files.contains_key(path) {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                files.insert(path.clone(), file);
            }
            let Some(file) = files.get_mut(path) else { return Ok(()) };
            let result = file.write_all(bytes);
            if result.is_err() {
                files.remove(path);
            }
            result
        }
    }
}
