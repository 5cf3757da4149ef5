//! The worker threads: starting them, telling them what to listen on, ending them.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sidemesh_config::resource::listener::Listener;
use sidemesh_config::value::Name;
use tokio::sync::mpsc;

use super::args::InputOutput;
use super::{Error, memory};
use crate::downstream::Listeners;
use crate::io::{self, Ring};
use crate::telemetry::access_log::{Logger, RecordSender, Writer};
use crate::telemetry::stats::Scope;
use crate::telemetry::trace::export::SpanSender;
use crate::upstream::{self, Upstream};
use crate::worker::{Shared, Worker};

/// What a worker is told. The queue is not bounded: one command per change of a listener, and none may be lost.
#[derive(Debug)]
enum Command {
    Put { config: Arc<Listener>, sockets: Vec<std::net::TcpListener> },
    Remove { name: Name },
    Drain { inbound_only: bool, close_idle: bool },
    Stop,
}

/// What every worker is started with.
#[derive(Clone)]
pub struct Equipment {
    pub shared: Shared,
    pub upstream: Arc<upstream::Registry>,
    pub writer: Writer,
    pub records: RecordSender,
    pub spans: SpanSender,
    pub drain_time: Duration,
    pub io: InputOutput,
}

/// The control thread's handle to all workers.
pub struct Workers {
    queues: Vec<mpsc::UnboundedSender<Command>>,
    threads: RefCell<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub fn start(count: usize, equipment: &Equipment) -> Result<Self, Error> {
        let mut workers = Workers { queues: Vec::new(), threads: RefCell::default() };
        for index in 0..count {
            let (queue, commands) = mpsc::unbounded_channel();
            let equipment = equipment.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(index, count, equipment, commands))
                .map_err(|error| Error::Start(format!("cannot start worker thread {index}: {error}")))?;
            workers.queues.push(queue);
            workers.threads.borrow_mut().push(thread);
        }
        Ok(workers)
    }

    /// A listener to accept on, each worker on its own sockets.
    pub fn put(&self, config: &Arc<Listener>, sockets: Vec<Vec<std::net::TcpListener>>) {
        for (queue, sockets) in self.queues.iter().zip(sockets) {
            self.tell(queue, Command::Put { config: config.clone(), sockets });
        }
    }

    pub fn remove(&self, name: &Name) {
        self.queues.iter().for_each(|q| self.tell(q, Command::Remove { name: name.clone() }));
    }

    pub fn drain(&self, inbound_only: bool, close_idle: bool) {
        self.queues.iter().for_each(|q| self.tell(q, Command::Drain { inbound_only, close_idle }));
    }

    /// Ends the threads and waits for them.
    pub fn stop(&self) {
        self.queues.iter().for_each(|q| self.tell(q, Command::Stop));
        for thread in self.threads.take() {
            if thread.join().is_err() {
                tracing::error!("a worker thread has panicked");
            }
        }
    }

    fn tell(&self, queue: &mpsc::UnboundedSender<Command>, command: Command) {
        if queue.send(command).is_err() {
            tracing::error!("a worker thread is gone: it does not take part any more");
        }
    }
}

fn run(index: usize, count: usize, equipment: Equipment, commands: mpsc::UnboundedReceiver<Command>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "worker {index}: no runtime"),
    };
    if equipment.io == InputOutput::Auto
        && let Err(error) = Ring::install()
    {
        tracing::info!(%error, "worker {index}: no io_uring, each read and write is a system call");
    }
    if let Err(error) = runtime.block_on(io::drive(serve(index, count, equipment, commands))) {
        tracing::error!(%error, "worker {index}: its event loop does not start");
    }
}

async fn serve(index: usize, count: usize, equipment: Equipment, mut commands: mpsc::UnboundedReceiver<Command>) {
    let Equipment { shared, upstream, writer, records, spans, drain_time, io: _ } = equipment;
    let log = Logger::with_services(writer, shared.stats.shard(Scope::Fixed("access_log")), records);
    let worker = Worker::new(index, count, shared, log.clone(), spans);
    let housekeeping = tokio::task::spawn_local(memory::keep(worker.local.buffers.clone()));
    let upstream = Upstream::new(worker.clone(), upstream);
    let listeners = Listeners::new(worker, upstream, drain_time);
    let flusher = tokio::task::spawn_local({
        let log = log.clone();
        async move { log.keep_flushing().await }
    });
    while let Some(command) = commands.recv().await {
        match command {
            Command::Put { config, sockets } => listeners.put(config, sockets),
            Command::Remove { name } => listeners.remove(&name),
            Command::Drain { inbound_only, close_idle } => listeners.drain(inbound_only, close_idle),
            Command::Stop => break,
        }
    }
    flusher.abort();
    housekeeping.abort();
    log.flush();
}
