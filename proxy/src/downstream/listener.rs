//! A listener on one worker: its sockets' accept loops, its chains, and what becomes of both when it changes.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::listener::{FilterChain, Listener as Config, ListenerFilter};
use sidemesh_config::value::Name;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Listeners;
use super::accept;
use super::chain::Chain;
use super::stats::{HttpInspectorStats, ListenerStats, ProxyProtocolStats, TlsInspectorStats, WorkerConnectionStats};
use crate::codec::{Drain, DrainHandle};
use crate::tcp::filter::RateLimit;
use crate::telemetry::stats::Scope;
use crate::telemetry::tls::TlsStats;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Pause after an error that a new attempt would meet again at once (no file descriptors, no memory).
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// One configuration of the listener with its chains.
pub(super) struct Version {
    pub(super) config: Arc<Config>,
    /// By the address of their configuration, which this version keeps.
    chains: HashMap<*const FilterChain, Rc<Chain>>,
    /// The rate limits among the listener filters, in their order: their buckets live as long as the version.
    limits: Vec<Rc<RateLimit>>,
    /// Of the PROXY protocol filters, in their order.
    proxy_protocol: Vec<Arc<ProxyProtocolStats>>,
}

impl Version {
    pub(super) fn chain(&self, config: &Arc<FilterChain>) -> Option<&Rc<Chain>> {
        self.chains.get(&Arc::as_ptr(config))
    }

    /// The listener's rate limits, in the order of its filters.
    pub(super) fn limits(&self) -> impl Iterator<Item = &Rc<RateLimit>> {
        self.limits.iter()
    }

    /// The counters of the PROXY protocol filters, in their order.
    pub(super) fn proxy_protocol(&self) -> impl Iterator<Item = &ProxyProtocolStats> {
        self.proxy_protocol.iter().map(|stats| &**stats)
    }

    pub(super) fn chains(&self) -> impl Iterator<Item = &Rc<Chain>> {
        self.chains.values()
    }
}

pub(super) struct Listener {
    pub(super) name: Name,
    pub(super) worker: Rc<Worker>,
    pub(super) stats: Arc<ListenerStats>,
    /// This worker's connections alone.
    pub(super) own_stats: Arc<WorkerConnectionStats>,
    tls_stats: OnceCell<Arc<TlsStats>>,
    pub(super) tls_inspector: Arc<TlsInspectorStats>,
    pub(super) http_inspector: Arc<HttpInspectorStats>,
    /// The others, for connections handed over by their original destination.
    pub(super) all: Weak<Listeners>,
    version: RefCell<Rc<Version>>,
    sockets: RefCell<Vec<Accepting>>,
    /// For connections that have no chain yet.
    unfinished: DrainHandle,
}

/// One accept loop; dropping it ends the loop after what the queue holds.
struct Accepting {
    address: SocketAddr,
    /// Tells sockets apart, whatever their descriptors.
    inode: u64,
    _stop: watch::Sender<()>,
}

impl Listener {
    pub(super) fn new(
        config: Arc<Config>,
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
        all: Weak<Listeners>,
    ) -> Rc<Self> {
        let version = Rc::new(version(config.clone(), None, worker, upstream));
        Rc::new(Listener {
            name: config.name.clone(),
            worker: worker.clone(),
            stats: worker.stats().shard(Scope::Listener(config.stat_prefix.clone())),
            own_stats: worker.stats().shard(Scope::ListenerWorker {
                address: config.stat_prefix.clone(),
                worker: Name::from(worker.index.to_string()),
            }),
            tls_stats: OnceCell::new(),
            tls_inspector: worker.stats().shard(Scope::Fixed("tls_inspector")),
            http_inspector: worker.stats().shard(Scope::Fixed("http_inspector")),
            all,
            version: RefCell::new(version),
            sockets: RefCell::default(),
            unfinished: DrainHandle::new(),
        })
    }

    /// Of a listener that terminates TLS: its handshakes.
    pub(super) fn tls_stats(&self) -> &TlsStats {
        let scope = || Scope::Listener(self.version().config.stat_prefix.clone());
        self.tls_stats.get_or_init(|| self.worker.stats().shard(scope()))
    }

    pub(super) fn version(&self) -> Rc<Version> {
        self.version.borrow().clone()
    }

    /// New connections use `config` from now on; returns the chains that are no longer used.
    pub(super) fn update(&self, config: Arc<Config>, upstream: &Rc<Upstream>) -> Vec<Rc<Chain>> {
        let old = self.version();
        let new = Rc::new(version(config, Some(&old), &self.worker, upstream));
        let dropped = old.chains().filter(|c| !new.chains().any(|n| Rc::ptr_eq(n, c))).cloned().collect();
        *self.version.borrow_mut() = new;
        dropped
    }

    /// Accepts on these sockets and on no others.
    pub(super) fn listen(self: &Rc<Self>, sockets: Vec<std::net::TcpListener>) -> io::Result<()> {
        let mut accepting = Vec::with_capacity(sockets.len());
        for socket in sockets {
            let address = socket.local_addr()?;
            let inode = nix::sys::stat::fstat(&socket)?.st_ino;
            let held = self.sockets.borrow_mut().extract_if(.., |a| a.inode == inode).next();
            if let Some(held) = held {
                // The same socket under another descriptor: its loop goes on.
                accepting.push(held);
                continue;
            }
            let socket = TcpListener::from_std(socket)?;
            let (stop, stopped) = watch::channel(());
            tokio::task::spawn_local(accept_loop(self.clone(), socket, stopped));
            accepting.push(Accepting { address, inode, _stop: stop });
        }
        *self.sockets.borrow_mut() = accepting;
        Ok(())
    }

    /// Accepts no more.
    pub(super) fn stop_accepting(&self) {
        self.sockets.borrow_mut().clear();
    }

    /// Connections that the listener filters are still looking at have little time left.
    pub(super) fn close_unfinished(&self) {
        self.unfinished.close_idle();
    }

    pub(super) fn unfinished(&self) -> Drain {
        self.unfinished.subscribe()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.borrow().iter().map(|a| a.address).collect()
    }

    pub(super) fn connections(&self) -> usize {
        self.version().chains().map(|c| c.connections()).sum()
    }

    fn take(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let config = self.version().config.clone();
        let limit = self
            .worker
            .config()
            .runtime
            .number(&format!("envoy.resource_limits.listener.{}.connection_limit", config.name));
        if limit.is_some_and(|limit| {
            self.stats.downstream_cx_active.get() as f64 >= self.worker.share_of(limit as u64) as f64
        }) {
            self.stats.downstream_cx_overflow.inc();
            return;
        }
        if let Err(error) = set_options(&stream, &config) {
            tracing::debug!(listener = %self.name, %error, "socket options of an accepted connection were not set");
        }
        accept::begin(self, stream, peer);
    }
}

fn set_options(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(keepalive) = &config.keepalive {
        let mut options = socket2::TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            options = options.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            options = options.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            options = options.with_retries(probes);
        }
        socket2::SockRef::from(stream).set_tcp_keepalive(&options)?;
    }
    Ok(())
}

/// Accepts until told to stop, then takes what the queue still holds: its clients believe that they are connected.
async fn accept_loop(listener: Rc<Listener>, socket: TcpListener, mut stopped: watch::Receiver<()>) {
    let mut in_a_row = 0;
    loop {
        let most = listener.version().config.max_connections_per_accept;
        if most.is_some_and(|most| in_a_row >= most) {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                in_a_row += 1;
                listener.take(stream, peer);
            }
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(listener = %listener.name, %error, "cannot accept; trying again in {EXHAUSTED_PAUSE:?}");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            // The client went away before it was accepted.
            Err(error) => tracing::debug!(listener = %listener.name, %error, "accept failed"),
        }
    }
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    while let std::task::Poll::Ready(Ok((stream, peer))) = socket.poll_accept(&mut cx) {
        listener.take(stream, peer);
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Sets up what is new and keeps the chains that are equal, if nothing else of the listener changed.
fn version(config: Arc<Config>, old: Option<&Version>, worker: &Rc<Worker>, upstream: &Rc<Upstream>) -> Version {
    let old = old.filter(|old| old.config.differs_in_chains_alone(&config));
    let mut chains = HashMap::new();
    for chain in config.chains.iter().chain(&config.default_chain) {
        let kept = old.and_then(|old| old.chains().find(|c| Arc::ptr_eq(&c.config, chain) || *c.config == **chain));
        let instance = kept.cloned().unwrap_or_else(|| Chain::new(chain, &config, worker, upstream));
        chains.insert(Arc::as_ptr(chain), instance);
    }
    let limits = match old {
        Some(old) => old.limits.clone(),
        None => rate_limits(&config, worker),
    };
    let proxy_protocol = proxy_protocol_stats(&config, worker);
    Version { config, chains, limits, proxy_protocol }
}

fn rate_limits(config: &Config, worker: &Rc<Worker>) -> Vec<Rc<RateLimit>> {
    let limit = |filter: &ListenerFilter| match filter {
        ListenerFilter::LocalRateLimit(config) => {
            Some(Rc::new(RateLimit::new(config, "listener_local_ratelimit", worker)))
        }
        _ => None,
    };
    config.listener_filters.iter().filter_map(limit).collect()
}

fn proxy_protocol_stats(config: &Config, worker: &Worker) -> Vec<Arc<ProxyProtocolStats>> {
    let stats = |filter: &ListenerFilter| match filter {
        ListenerFilter::ProxyProtocol(config) => {
            let scope = match &config.stat_prefix {
                None => Scope::Fixed("proxy_proto"),
                Some(prefix) => Scope::Filter(Name::from(format!("proxy_proto.{prefix}"))),
            };
            Some(worker.stats().shard(scope))
        }
        _ => None,
    };
    config.listener_filters.iter().filter_map(stats).collect()
}
