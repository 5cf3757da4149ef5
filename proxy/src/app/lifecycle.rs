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
use crate::shutdown::{Drains, Phase, Shutdown, Which};
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
    /// Set once no listener, or no inbound one, is to be opened any more.
    pub(super) closed: Rc<Cell<Option<Which>>>,
    pub(super) writer: Writer,
    pub(super) drain_time: Duration,
    pub(super) member: Option<Member>,
}

/// Follows the process to its end.
pub(super) async fn run(mut process: Process) -> Result<(), Error> {
    let shutdown = process.shared.shutdown.clone();
    tokio::task::spawn_local(watch_signals(shutdown.clone())?);
    tokio::task::spawn_local(reopen_logs(on(SignalKind::user_defined1())?, process.writer.clone()));
    let (mut phases, mut drains) = (shutdown.subscribe(), shutdown.drains());
    let mut drained = Drains::default();
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
            _ => {
                let asked = *drains.borrow_and_update();
                process.drain(drained, asked);
                drained = asked;
            }
        }
        // The senders live in `shutdown`.
        tokio::select! {
            _ = phases.changed() => {}
            _ = drains.changed() => {}
        }
    }
    process.end();
    Ok(())
}

/// The rest of a graceful drain.
async fn drain_later(shutdown: Shutdown, which: Which, after: Duration) {
    tokio::time::sleep(after).await;
    shutdown.drain_listeners(which);
}

impl Process {
    fn close(&self, which: Which) {
        self.closed.set(Some(which));
        self.sockets.borrow_mut().clear(which == Which::Inbound);
    }

    /// What `/drain_listeners` asks for, and has not asked for `before`.
    fn drain(&self, before: Drains, asked: Drains) {
        if let Some(which) = asked.closed.filter(|_| asked.closed != before.closed) {
            tracing::info!(?which, "draining: listeners are closed");
            self.close(which);
            self.workers.drain(which == Which::Inbound, false);
        }
        match asked.goodbye {
            Some(goodbye) if before.goodbye.is_none() && goodbye.then_close => {
                tracing::info!(which = ?goodbye.which, "draining: listeners are closed in {:?}", self.drain_time);
                let later = drain_later(self.shared.shutdown.clone(), goodbye.which, self.drain_time);
                tokio::task::spawn_local(later);
            }
            _ => {}
        }
    }

    async fn stop(&mut self) {
        if let Some(member) = self.member.take()
            && tokio::time::timeout(LEAVE_LIMIT, member.leave()).await.is_err()
        {
            tracing::warn!("the registry did not answer within {LEAVE_LIMIT:?}; the lease will run out");
        }
        self.close(Which::All);
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
        self.close(Which::All);
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
