//! The process's steps after its start: signals, draining, the end.
//!
//! SIGTERM and SIGINT: leave the mesh's registry, stop accepting, tell connections to go away (`connection: close`, GOAWAY), close
//! idle ones, and end with the last, within the drain time. A second signal ends at once. SIGUSR1 reopens log files.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;
use super::mesh::Member;
use super::workers::Workers;
use crate::downstream::Sockets;
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::access_log::Writer;
use crate::worker::Shared;

/// How long leaving the registry may hold up the drain.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// How long the last log lines may take.
const LOG_LIMIT: Duration = Duration::from_secs(2);

/// What is there to be ended.
pub(super) struct Process {
    pub(super) shared: Shared,
    pub(super) workers: Rc<Workers>,
    pub(super) sockets: Rc<RefCell<Sockets>>,
    /// Set once no listener is to be opened any more.
    pub(super) closed: Rc<Cell<bool>>,
    pub(super) writer: Writer,
    pub(super) drain_time: Duration,
    pub(super) member: Option<Member>,
}

/// Follows the process to its end.
pub(super) async fn run(mut process: Process) -> Result<(), Error> {
    let shutdown = process.shared.shutdown.clone();
    tokio::task::spawn_local(watch_signals(shutdown.clone())?);
    tokio::task::spawn_local(reopen_logs(on(SignalKind::user_defined1())?, process.writer.clone()));
    let mut phases = shutdown.subscribe();
    let (mut draining, mut graceful) = (false, false);
    loop {
        let phase = *phases.borrow_and_update();
        match phase {
            Phase::Exit => break,
            Phase::Stopping => {
                tokio::select! {
                    () = process.stop() => shutdown.quit(),
                    // The second signal.
                    _ = phases.wait_for(|phase| *phase == Phase::Exit) => {}
                }
                break;
            }
            Phase::Draining if !draining => {
                draining = true;
                tracing::info!("draining: listeners are closed");
                process.close();
                process.workers.drain(false, graceful);
            }
            Phase::Graceful if !graceful => {
                graceful = true;
                tracing::info!("draining: listeners are closed in {:?}", process.drain_time);
                tokio::task::spawn_local(drain_later(shutdown.clone(), process.drain_time));
            }
            _ => {}
        }
        // The sender lives in `shutdown`.
        let _ = phases.changed().await;
    }
    process.end();
    Ok(())
}

/// The rest of a graceful drain.
async fn drain_later(shutdown: Shutdown, after: Duration) {
    tokio::time::sleep(after).await;
    shutdown.drain_listeners();
}

impl Process {
    fn close(&self) {
        self.closed.set(true);
        self.sockets.borrow_mut().clear();
    }

    async fn stop(&mut self) {
        if let Some(member) = self.member.take()
            && tokio::time::timeout(LEAVE_LIMIT, member.leave()).await.is_err()
        {
            tracing::warn!("the registry did not answer within {LEAVE_LIMIT:?}; the lease will run out");
        }
        self.close();
        self.workers.drain(false, true);
        let open = self.shared.shutdown.connections();
        tracing::info!(connections = open, "stopping: waiting for the last connection, at most {:?}", self.drain_time);
        if tokio::time::timeout(self.drain_time, self.shared.shutdown.all_closed()).await.is_err() {
            tracing::warn!(
                connections = self.shared.shutdown.connections(),
                "the drain time is over: connections are cut"
            );
        }
    }

    fn end(self) {
        self.close();
        self.workers.stop();
        self.writer.drain(LOG_LIMIT);
        tracing::info!("exiting");
    }
}

fn on(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|e| Error::Start(format!("cannot handle signals: {e}")))
}

fn watch_signals(shutdown: Shutdown) -> Result<impl Future<Output = ()>, Error> {
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.phase() >= Phase::Stopping {
                tracing::info!("second signal: exiting at once");
                shutdown.quit();
            } else {
                shutdown.stop();
            }
        }
    })
}

async fn reopen_logs(mut signal: Signal, writer: Writer) {
    while signal.recv().await.is_some() {
        writer.reopen();
    }
}
