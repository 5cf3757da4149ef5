//! A filter chain on one worker: what it was set up with, the connections that run on it, and their drain.
//!
//! A chain lives as long as its configuration stays the same by value: an update of its listener that does not touch it keeps
//! it with its connections. A chain that is no longer configured is drained and holds its last connections.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use sidemesh_config::resource::listener::{FilterChain, Listener};
use sidemesh_config::resource::network_filter::NetworkFilter;
use sidemesh_config::resource::tls::DownstreamTransport;
use sidemesh_config::value::DataSource;
use slab::Slab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::codec::{Drain, DrainHandle};
use crate::connection::ConnectionInfo;
use crate::http::ConnectionManager;
use crate::io::{Io, Socket};
use crate::tcp::filter::Denied;
use crate::tcp::{self, Forward};
use crate::telemetry::stream_info::StreamInfo;
use crate::tls;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// A connection's task may hold so much: every idle connection pays for it.
const MAX_TASK_BYTES: usize = 1536;

/// What serves a connection in the end.
enum Terminal {
    Http(Rc<ConnectionManager>),
    Tcp(Forward),
    Echo,
    DirectResponse(Bytes),
    /// Only filters: a connection is held until its peer ends it.
    None,
}

pub(super) struct Chain {
    pub(super) config: Arc<FilterChain>,
    filters: Vec<tcp::filter::Filter>,
    terminal: Terminal,
    worker: Rc<Worker>,
    drain: DrainHandle,
    /// As of a snapshot's generation.
    tls: RefCell<Option<(u64, tls::Server)>>,
    /// The connections' tasks, to be ended when the drain time is over.
    connections: RefCell<Slab<Option<AbortHandle>>>,
}

/// A connection's place in its chain.
struct Place {
    chain: Rc<Chain>,
    key: usize,
}

pin_project_lite::pin_project! {
    /// A connection's task. (An async block around another future would keep room for it twice.)
    struct Placed<F> {
        #[pin]
        task: F,
        _place: Place,
    }
}

impl<F: Future<Output = ()>> Future for Placed<F> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.chain.connections.borrow_mut().try_remove(self.key);
    }
}

impl Chain {
    pub(super) fn new(
        config: &Arc<FilterChain>,
        listener: &Arc<Listener>,
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
    ) -> Rc<Self> {
        let filters = config.filters.iter().filter_map(|f| tcp::filter::build(f, worker)).collect();
        let terminal = match config.filters.last() {
            Some(NetworkFilter::Http(hcm)) => {
                let manager = ConnectionManager::new(hcm.clone(), listener.clone(), worker.clone(), upstream.clone());
                Terminal::Http(manager)
            }
            Some(NetworkFilter::Tcp(tcp)) => Terminal::Tcp(Forward::new(tcp.clone(), worker.clone(), upstream.clone())),
            Some(NetworkFilter::Echo) => Terminal::Echo,
            Some(NetworkFilter::DirectResponse(source)) => Terminal::DirectResponse(content(source)),
            _ => Terminal::None,
        };
        Rc::new(Chain {
            config: config.clone(),
            filters,
            terminal,
            worker: worker.clone(),
            drain: DrainHandle::new(),
            tls: RefCell::default(),
            connections: RefCell::default(),
        })
    }

    /// The TLS side, when the chain terminates TLS; an error while its certificates are not there.
    pub(super) fn tls(&self) -> Option<Result<tls::Server, tls::Error>> {
        let DownstreamTransport::Tls(context) = &self.config.transport else { return None };
        let snapshot = self.worker.config();
        let mut made = self.tls.borrow_mut();
        if let Some((generation, server)) = &*made
            && *generation == snapshot.generation
        {
            return Some(Ok(server.clone()));
        }
        let server = tls::Server::new(context, &snapshot.secrets);
        if let Ok(server) = &server {
            *made = Some((snapshot.generation, server.clone()));
        }
        Some(server)
    }

    fn enter(self: &Rc<Self>) -> Place {
        Place { chain: self.clone(), key: self.connections.borrow_mut().insert(None) }
    }

    /// The connection as its terminal filter is best served.
    pub(super) fn socket(&self, stream: TcpStream) -> io::Result<Socket> {
        Socket::adopt(stream, matches!(self.terminal, Terminal::Http(_)))
    }

    /// Runs the connection `task` in its place: a task of its own, so that the end of the drain time can end it.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let place = self.enter();
        let key = place.key;
        let task = Placed { task, _place: place };
        debug_assert!(size_of_val(&task) <= MAX_TASK_BYTES, "a connection's task has grown to {}", size_of_val(&task));
        let handle = tokio::task::spawn_local(task);
        if let Some(slot) = self.connections.borrow_mut().get_mut(key) {
            *slot = Some(handle.abort_handle());
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// From now on connections are told to go away.
    pub(super) fn start_drain(&self) {
        self.drain.start();
    }

    /// Closes the connections that have nothing in flight.
    pub(super) fn close_idle(&self) {
        self.drain.close_idle();
    }

    /// For connections whose handshake is not over.
    pub(super) fn unfinished(&self) -> Drain {
        self.drain.subscribe()
    }

    /// Ends every connection.
    pub(super) fn abort(&self) {
        let tasks: Vec<_> = self.connections.borrow_mut().iter_mut().filter_map(|(_, task)| task.take()).collect();
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Runs the filters over a connection that is ready (TLS is done). What is returned is what the connection's log says of it, where
    /// that is more than where it came from.
    pub(super) async fn serve(&self, io: Io, connection: Rc<ConnectionInfo>) -> Option<Box<StreamInfo>> {
        if let Terminal::Tcp(forward) = &self.terminal {
            forward.count();
        }
        let passed = match tcp::filter::run(&self.filters, &connection, &self.worker) {
            Ok(passed) => passed,
            Err(denied) => {
                tracing::debug!(connection = connection.id, details = %denied.details, "connection closed by a network filter");
                if let Some(delay) = denied.delay {
                    self.worker.local.timers.after(delay).await;
                }
                return None;
            }
        };
        if let Some(denied) = &passed.denied
            && !matches!(self.terminal, Terminal::Tcp(_))
        {
            return Some(Box::pin(self.refuse(io, connection, denied)).await);
        }
        match &self.terminal {
            Terminal::Http(manager) => manager.clone().serve(io, connection, self.drain.subscribe()).await,
            // Boxed, so that an idle HTTP connection does not pay for their state.
            Terminal::Tcp(forward) => return Some(Box::pin(forward.serve(io, &connection, &passed)).await),
            Terminal::Echo => Box::pin(echo(io)).await,
            Terminal::DirectResponse(content) => Box::pin(respond(io, content)).await,
            Terminal::None => Box::pin(hold(io)).await,
        }
        None
    }

    /// A filter has refused the client, which hears of it with its first bytes.
    async fn refuse(&self, mut io: Io, connection: Rc<ConnectionInfo>, denied: &Denied) -> Box<StreamInfo> {
        let (start, start_time) = (connection.start, connection.start_time);
        let mut info = Box::new(StreamInfo::new(connection, None, start, start_time));
        let idle = match &self.terminal {
            Terminal::Http(manager) => manager.idle_timeout(),
            _ => None,
        };
        let heard = tcp::filter::first_bytes(&mut io, None, &self.worker.local.timers, idle).await;
        let Some(bytes) = heard.up else { return info };
        info.request_body_bytes = bytes;
        if let Some(delay) = denied.delay {
            self.worker.local.timers.after(delay).await;
        }
        info.termination_details = Some(denied.details.clone().into());
        info
    }
}

async fn respond(mut io: Io, content: &Bytes) {
    // A client that has gone away misses nothing.
    if io.write_all(content).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

/// Reads and forgets until the peer ends the connection.
async fn hold(mut io: Io) {
    let mut ignored = [0; 1024];
    while matches!(io.read(&mut ignored).await, Ok(n) if n > 0) {}
}

async fn echo(io: Io) {
    let (mut read, mut write) = tokio::io::split(io);
    // Whatever ends the copying ends the connection.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// The bytes of a direct response; a file is read when the chain is set up.
fn content(source: &DataSource) -> Bytes {
    match source {
        DataSource::Inline(bytes) => bytes.clone(),
        DataSource::File { path, .. } => match std::fs::read(path) {
            Ok(bytes) => bytes.into(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "direct_response: the file cannot be read; the response is empty");
                Bytes::new()
            }
        },
        DataSource::EnvironmentVariable(name) => std::env::var(&**name).unwrap_or_default().into(),
    }
}
