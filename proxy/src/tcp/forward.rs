//! The TCP proxy (`tcp_proxy.v3.TcpProxy`): choose a cluster, connect with retries, copy both ways, log at the end.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use sidemesh_config::resource::route::SubsetMatch;
use sidemesh_config::resource::tcp_proxy::TcpProxy;
use sidemesh_config::value::{Address, Backoff, Name};
use tokio::io::AsyncWriteExt;

use super::copy::{self, Copied, End, Tools};
use super::filter::{self, Denied, Heard, Passed};
use super::stats::TcpStats;
use super::tunnel;
use crate::clock::Timers;
use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::live::Current;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::telemetry::stream_info::{LogContext, Moment, StreamInfo};
use crate::upstream::{AttemptError, ConnectionGuard, Host, TcpConnected, TcpContext, TcpError, Upstream, hash};
use crate::worker::Worker;

/// The longest wait between connect attempts when `backoff_options` gives none.
const NO_BACKOFF: Duration = Duration::ZERO;

/// A TCP proxy filter of one chain on one worker.
pub struct Forward {
    config: Arc<TcpProxy>,
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
    stats: Arc<TcpStats>,
}

/// One session's way through the filter.
struct Session<'a> {
    forward: &'a Forward,
    connection: &'a Rc<ConnectionInfo>,
    info: StreamInfo,
    copied: Rc<Copied>,
}

impl Forward {
    pub fn new(config: Arc<TcpProxy>, worker: Rc<Worker>, upstream: Rc<Upstream>) -> Self {
        let stats = worker.stats().shard(Scope::Tcp(config.stat_prefix.clone()));
        Forward { config, worker, upstream, stats }
    }

    /// Counts a connection of the chain, also one that a filter refuses.
    pub fn count(&self) {
        self.stats.downstream_cx_total.inc();
    }

    /// Serves one connection to its end; what is known of it is for the listener's log, too.
    pub async fn serve(&self, mut io: Io, connection: &Rc<ConnectionInfo>, passed: &Passed) -> Box<StreamInfo> {
        let clock = &self.worker.local.clock;
        let info = StreamInfo::new(connection.clone(), None, clock.now(), clock.system());
        let mut session = Session { forward: self, connection, info, copied: Rc::default() };
        if self.config.flush_log_on_start {
            session.log(Moment::Start);
        }
        let snapshot = self.worker.config();
        match session.connect(&snapshot, passed).await {
            Some(connected) => match &passed.denied {
                None => session.copy(&mut io, connected).await,
                Some(denied) => session.refuse(&mut io, connected, denied).await,
            },
            // Under TLS the client is told of the end; elsewhere a reset tells it that what it sent was not read.
            None if io.is_tls() => drop(io.shutdown().await),
            None => {}
        }
        session.finish();
        Box::new(session.info)
    }

    /// `None`: the connection has lasted as long as it may, which is counted.
    async fn within_duration<T>(&self, start: Instant, work: impl Future<Output = T>) -> Option<T> {
        let (config, local) = (&self.config, &self.worker.local);
        let Some(limit) = config.max_downstream_connection_duration else { return Some(work.await) };
        let share = local.random.fraction() * config.duration_jitter_percent / 100.0;
        let lasted = local.clock.now().saturating_duration_since(start);
        let left = (limit + limit.mul_f64(share)).saturating_sub(lasted);
        let done = local.timers.timeout(left, work).await.ok();
        if done.is_none() {
            self.stats.max_downstream_connection_duration.inc();
        }
        done
    }
}

impl Session<'_> {
    /// The cluster for this session, with what its weight entry asks of the hosts.
    fn choose(&self, passed: &Passed) -> Option<(Name, Option<Arc<SubsetMatch>>)> {
        let config = &self.forward.config;
        if let Some(cluster) = &passed.cluster {
            return Some((cluster.clone(), config.metadata_match.clone()));
        }
        let mut at = self.forward.worker.local.random.below(config.total_weight.max(1));
        for entry in &config.clusters {
            let weight = u64::from(entry.weight);
            if at < weight {
                return Some((
                    entry.name.clone(),
                    SubsetMatch::merged(config.metadata_match.as_ref(), entry.metadata_match.as_ref()),
                ));
            }
            at -= weight;
        }
        None
    }

    async fn connect(&mut self, snapshot: &Current, passed: &Passed) -> Option<TcpConnected> {
        let Some((cluster, subset)) = self.choose(passed) else {
            self.no_route();
            return None;
        };
        self.info.cluster = Some(cluster.clone());
        let forward = self.forward;
        let hash = forward.config.hash_source_ip.then(|| hash::of(self.connection.remote.ip().to_string().as_bytes()));
        let context = TcpContext {
            hash,
            metadata_match: subset.as_deref(),
            connection: self.connection,
            proxy_tlvs: &forward.config.proxy_tlvs,
        };
        let tunnel =
            forward.config.tunneling.as_ref().map(|t| tunnel::head(t, &self.info, forward.worker.local.clock.now()));
        for attempt in 1..=forward.config.max_connect_attempts {
            match self.attempt(snapshot, &cluster, context, tunnel.as_ref()).await {
                Ok(connected) => {
                    self.info.upstream.attempts = attempt;
                    self.connected(&connected);
                    return Some(connected);
                }
                // No host was asked, and asking again now would not help.
                Err(TcpError::Attempt { error: error @ AttemptError::Overflow(_), .. }) => {
                    self.info.flags = error.response_flag();
                    return None;
                }
                Err(failed @ (TcpError::Attempt { .. } | TcpError::Refused { .. })) => {
                    self.info.upstream.attempts = attempt;
                    self.failed(&failed);
                    self.backoff(attempt).await;
                }
                Err(error) => {
                    if matches!(error, TcpError::NoCluster) {
                        self.no_route();
                        self.info.cluster = None;
                    }
                    self.info.flags = error.flags();
                    return None;
                }
            }
        }
        if let Some(cluster) = forward.upstream.cluster(snapshot, &cluster) {
            cluster.stats().upstream_cx_connect_attempts_exceeded.inc();
        }
        self.info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        None
    }

    async fn attempt(
        &self,
        snapshot: &Current,
        cluster: &str,
        context: TcpContext<'_>,
        tunnel: Option<&Parts>,
    ) -> Result<TcpConnected, TcpError> {
        let upstream = &self.forward.upstream;
        let Some(head) = tunnel else { return upstream.tcp_connect(snapshot, cluster, context).await };
        // Boxed: an HTTP attempt is large, and tunnels are rare.
        let opening = Box::pin(upstream.tunnel_connect(snapshot, cluster, context, head));
        match self.forward.config.idle_timeout {
            None => opening.await,
            Some(limit) => match self.forward.worker.local.timers.timeout(limit, opening).await {
                Ok(done) => done,
                Err(_) => Err(TcpError::NoAnswer),
            },
        }
    }

    fn failed(&mut self, error: &TcpError) {
        self.info.flags = error.flags();
        match error {
            TcpError::Attempt { error, host } => {
                self.chosen(host);
                self.info.timing.upstream_begin.get_or_insert(self.info.start);
                self.info.upstream.attempted.push((host.endpoint().clone(), 0));
                self.info.local_close = Some("tcp_initializion_failure:0");
                let text = error.detail().map_or_else(|| error.to_string(), str::to_owned);
                self.info.upstream.failure = Some(text.into());
            }
            TcpError::Refused { host, status } => {
                self.chosen(host);
                self.info.upstream.failure = Some(format!("tunnel_response:{}", status.as_u16()).into());
            }
            TcpError::NoCluster | TcpError::NoAnswer | TcpError::Pick(_) => {}
        }
    }

    async fn backoff(&self, attempt: u32) {
        let Some(Backoff { base, max }) = self.forward.config.backoff else { return };
        if attempt >= self.forward.config.max_connect_attempts {
            return;
        }
        let local = &self.forward.worker.local;
        let ceiling = base.saturating_mul(1 << (attempt - 1).min(16)).min(max).max(NO_BACKOFF);
        let wait = Duration::from_millis(local.random.below(ceiling.as_millis() as u64 + 1));
        local.timers.after(wait).await;
    }

    fn no_route(&mut self) {
        self.forward.stats.downstream_cx_no_route.inc();
        self.info.flags = ResponseFlags::NO_ROUTE_FOUND;
    }

    fn chosen(&mut self, host: &Host) {
        self.info.upstream.endpoint = Some(host.endpoint().clone());
        if let Address::Socket(address) = host.address() {
            self.info.upstream.host = Some(*address);
        }
    }

    fn connected(&mut self, connected: &TcpConnected) {
        self.chosen(&connected.host);
        self.info.local_close = None;
        let upstream = &mut self.info.upstream;
        upstream.failure = None;
        if let Some(facts) = connected.info.connection() {
            upstream.remote = facts.peer.or(upstream.host);
            upstream.local = facts.local;
            upstream.connection_id = facts.id;
            upstream.tls = facts.tls.clone();
            upstream.attempted.extend(upstream.endpoint.clone().map(|e| (e, facts.id)));
        }
        self.info.flags = ResponseFlags::default();
        self.info.timing.upstream_connect_start = connected.info.connect_start.get();
        self.info.timing.upstream_begin = self.info.timing.upstream_connect_start;
        self.info.timing.upstream_pool_ready = connected.info.connect_end.get();
        self.info.timing.upstream_connect_end = connected.info.connect_end.get();
        if self.forward.config.flush_log_on_connected {
            self.log(Moment::UpstreamConnected);
        }
    }

    /// A filter has refused the client, which hears of it with its first bytes.
    async fn refuse(&mut self, io: &mut Io, mut connected: TcpConnected, denied: &Denied) {
        let timers = &self.forward.worker.local.timers;
        let (guard, host) = (connected.upstream.guard.as_ref(), &mut connected.upstream.io);
        let heard = async {
            tokio::select! {
                biased;
                heard = filter::first_bytes(io, Some(host), timers, self.forward.config.idle_timeout) => heard,
                () = told_to_close(guard) => Heard::default(),
            }
        };
        let Some(heard) = self.forward.within_duration(self.connection.start, heard).await else {
            self.info.flags.insert(ResponseFlags::DURATION_TIMEOUT);
            return;
        };
        self.copied.down.set(heard.down);
        if heard.idle {
            self.forward.stats.idle_timeout.inc();
        }
        let Some(up) = heard.up else { return };
        self.copied.up.set(up);
        if let Some(delay) = denied.delay {
            self.forward.worker.local.timers.after(delay).await;
        }
        self.info.termination_details = Some(denied.details.clone().into());
    }

    async fn copy(&mut self, io: &mut Io, mut connected: TcpConnected) {
        let forward = self.forward;
        let (config, local) = (&forward.config, &forward.worker.local);
        let tools = Tools { buffers: &local.buffers, pipes: &local.pipes, timers: &local.timers, clock: &local.clock };
        let copied = self.copied.clone();
        let start = self.connection.start;
        let guard = connected.upstream.guard.as_ref();
        let pair = copy::pair(io, &mut connected.upstream.io, config.idle_timeout, tools, &copied);
        let copying = async {
            let mut pair = std::pin::pin!(pair);
            let mut told = std::pin::pin!(told_to_close(guard));
            loop {
                tokio::select! {
                    biased;
                    end = &mut pair => return end,
                    () = &mut told => return End::Complete,
                    () = flush_interval(config.access_log_flush_interval, &local.timers) => self.log(Moment::Periodic),
                }
            }
        };
        let end = forward.within_duration(start, copying).await;
        let stats = &self.forward.stats;
        match end {
            Some(End::Complete) if self.copied.host_last.get() => {
                connected.upstream.guard.iter().for_each(ConnectionGuard::closed_by_peer);
            }
            // A client that resets has ended the session, as Envoy counts it.
            Some(End::Complete | End::DownstreamReset) => {}
            Some(End::Idle) => stats.idle_timeout.inc(),
            Some(End::UpstreamReset) => {
                connected.upstream.guard.iter().for_each(ConnectionGuard::closed_by_peer);
                self.info.flags.insert(ResponseFlags::UPSTREAM_REMOTE_RESET);
                // The client must notice that what it got may not be all.
                io.reset_on_close();
            }
            None => self.info.flags.insert(ResponseFlags::DURATION_TIMEOUT),
        }
        let (up, down) = (self.copied.up.get(), self.copied.down.get());
        if let Some(guard) = &connected.upstream.guard {
            guard.bytes(down, up);
        }
    }

    fn finish(&mut self) {
        let (up, down) = (self.copied.up.get(), self.copied.down.get());
        let stats = &self.forward.stats;
        stats.downstream_cx_rx_bytes_total.add(up);
        stats.downstream_cx_tx_bytes_total.add(down);
        self.passed();
        self.log(Moment::End);
    }

    /// Writes the session's log line, with what has passed so far.
    fn log(&mut self, moment: Moment) {
        let worker = &self.forward.worker;
        let logs = &self.forward.config.access_logs;
        if logs.is_empty() {
            return;
        }
        self.passed();
        self.info.moment = moment;
        let context = LogContext::of(&self.info, worker.local.clock.now());
        worker.log.log(logs, &context, &worker.config().runtime, worker.local.random.next_u64());
    }

    /// Takes down what has passed so far.
    fn passed(&mut self) {
        let (up, down) = (self.copied.up.get(), self.copied.down.get());
        (self.info.request_body_bytes, self.info.upstream.bytes_sent) = (up, up);
        (self.info.response_body_bytes, self.info.upstream.bytes_received) = (down, down);
    }
}

/// Completes when the host's connections are to be closed; never for a session that has no connection of its own.
async fn told_to_close(guard: Option<&ConnectionGuard>) {
    match guard {
        Some(guard) => guard.told_to_close().await,
        None => std::future::pending().await,
    }
}

/// Never completes without an interval.
async fn flush_interval(every: Option<Duration>, timers: &Timers) {
    match every {
        Some(every) => timers.after(every).await,
        None => std::future::pending().await,
    }
}
