//! The TCP proxy (`tcp_proxy.v3.TcpProxy`): choose a cluster, connect with retries, copy both ways, log at the end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::route::SubsetMatch;
use sidemesh_config::resource::tcp_proxy::TcpProxy;
use sidemesh_config::value::{Address, Backoff, Name};
use tokio::io::AsyncWriteExt;

use super::copy::{self, Copied, End, Tools};
use super::filter::Passed;
use super::stats::TcpStats;
use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::live::Current;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::telemetry::stream_info::{LogContext, StreamInfo};
use crate::upstream::{Host, TcpConnected, TcpContext, TcpError, Upstream, hash};
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
    copied: Copied,
}

impl Forward {
    pub fn new(config: Arc<TcpProxy>, worker: Rc<Worker>, upstream: Rc<Upstream>) -> Self {
        let stats = worker.stats().shard(Scope::Tcp(config.stat_prefix.clone()));
        Forward { config, worker, upstream, stats }
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, mut io: Io, connection: &Rc<ConnectionInfo>, passed: &Passed) {
        self.stats.downstream_cx_total.inc();
        let clock = &self.worker.local.clock;
        let info = StreamInfo::new(connection.clone(), None, clock.now(), clock.system());
        let mut session = Session { forward: self, connection, info, copied: Copied::default() };
        let snapshot = self.worker.config();
        match session.connect(&snapshot, passed).await {
            Some(connected) => session.copy(&mut io, connected).await,
            // An orderly end: the client learns at once that nobody is there.
            None => drop(io.shutdown().await),
        }
        session.finish(&snapshot);
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
                    merged(config.metadata_match.as_ref(), entry.metadata_match.as_ref()),
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
        let context = TcpContext { hash, metadata_match: subset.as_deref(), connection: self.connection };
        for attempt in 1..=forward.config.max_connect_attempts {
            self.info.upstream.attempts = attempt;
            match forward.upstream.tcp_connect(snapshot, &cluster, context).await {
                Ok(connected) => {
                    self.connected(&connected);
                    return Some(connected);
                }
                Err(TcpError::Attempt { error, host }) => {
                    self.chosen(&host);
                    self.info.upstream.failure = Some(error.to_string().into());
                    self.info.flags = error.response_flag();
                    self.backoff(attempt).await;
                }
                Err(error) => {
                    if matches!(error, TcpError::NoCluster) {
                        self.no_route();
                    }
                    self.info.flags = error.flags();
                    return None;
                }
            }
        }
        self.info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        None
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
        let upstream = &mut self.info.upstream;
        upstream.failure = None;
        if let Some(facts) = connected.info.connection() {
            upstream.remote = facts.peer.or(upstream.host);
            upstream.local = facts.local;
            upstream.connection_id = facts.id;
            upstream.tls = facts.tls.clone();
        }
        self.info.flags = ResponseFlags::default();
        self.info.timing.upstream_connect_start = connected.info.connect_start.get();
        self.info.timing.upstream_connect_end = connected.info.connect_end.get();
        if self.forward.config.flush_log_on_connected {
            self.log(&self.forward.worker.config());
        }
    }

    async fn copy(&mut self, io: &mut Io, mut connected: TcpConnected) {
        let config = &self.forward.config;
        let local = &self.forward.worker.local;
        let tools = Tools { buffers: &local.buffers, timers: &local.timers, clock: &local.clock };
        let pair = copy::pair(io, &mut connected.upstream.io, config.idle_timeout, tools, &self.copied);
        let copying = async {
            tokio::select! {
                biased;
                end = pair => end,
                never = self.log_at_intervals() => match never {},
            }
        };
        let end = match config.max_downstream_connection_duration {
            None => Ok(copying.await),
            Some(limit) => {
                let left = limit.saturating_sub(local.clock.now().saturating_duration_since(self.connection.start));
                local.timers.timeout(left, copying).await
            }
        };
        let stats = &self.forward.stats;
        match end {
            Ok(End::Complete) => {}
            Ok(End::Idle) => stats.idle_timeout.inc(),
            Ok(End::DownstreamReset) => self.info.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION),
            Ok(End::UpstreamReset) => {
                self.info.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION);
                // The client must notice that what it got may not be all.
                io.reset_on_close();
            }
            Err(_) => {
                stats.max_downstream_connection_duration.inc();
                self.info.flags.insert(ResponseFlags::DURATION_TIMEOUT);
            }
        }
        let (up, down) = (self.copied.up.get(), self.copied.down.get());
        connected.upstream.guard.bytes(down, up);
    }

    /// Writes the session's log line every `access_log_flush_interval` while it lasts.
    async fn log_at_intervals(&self) -> std::convert::Infallible {
        let Some(every) = self.forward.config.access_log_flush_interval else { return std::future::pending().await };
        loop {
            self.forward.worker.local.timers.after(every).await;
            self.log(&self.forward.worker.config());
        }
    }

    fn finish(&mut self, snapshot: &Current) {
        let (up, down) = (self.copied.up.get(), self.copied.down.get());
        let stats = &self.forward.stats;
        stats.downstream_cx_rx_bytes_total.add(up);
        stats.downstream_cx_tx_bytes_total.add(down);
        self.info.request_body_bytes = up;
        self.info.response_body_bytes = down;
        self.info.upstream.bytes_sent = up;
        self.info.upstream.bytes_received = down;
        self.log(snapshot);
    }

    fn log(&self, snapshot: &Current) {
        let worker = &self.forward.worker;
        let logs = &self.forward.config.access_logs;
        if !logs.is_empty() {
            let context = LogContext::of(&self.info, worker.local.clock.now());
            worker.log.log(logs, &context, &snapshot.runtime, worker.local.random.next_u64());
        }
    }
}

/// The weight entry's keys win over the filter's.
fn merged(filter: Option<&Arc<SubsetMatch>>, entry: Option<&Arc<SubsetMatch>>) -> Option<Arc<SubsetMatch>> {
    match (filter, entry) {
        (Some(filter), Some(entry)) => {
            let mut all = entry.0.clone();
            all.extend(filter.0.iter().filter(|(k, _)| !entry.0.iter().any(|(e, _)| e == k)).cloned());
            all.sort_by(|a, b| a.0.cmp(&b.0));
            Some(Arc::new(SubsetMatch(all)))
        }
        (filter, entry) => entry.or(filter).cloned(),
    }
}
