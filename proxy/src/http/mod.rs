//! The HTTP stage: one request loop for all protocols.
//!
//! A connection arrives as a byte stream with its [`ConnectionInfo`]; [`ConnectionManager::serve`] picks the codec and hands
//! every request to the same few steps, in the order of the modules below. `docs/life-of-a-request.md` tells the whole way.
//! Nothing here accepts connections, balances or opens upstream sockets, and nothing here is shared between workers but
//! the token buckets of rate limits.

mod exchange;
pub mod filter;
mod finish;
mod forward;
pub mod forwarded;
mod guard;
mod handler;
mod hash_policy;
pub mod headers;
mod mirror;
pub mod names;
pub mod normalize;
mod proxy_status;
mod query;
mod record;
pub mod reply;
mod request_id;
pub mod route;
#[cfg(test)]
mod sizes;
mod sources;
mod stats;
mod tally;
mod upgrade;
mod upload;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use sidemesh_config::matcher::PeerCertificate;
use sidemesh_config::resource::http_connection_manager::{CodecType, HttpConnectionManager, RouteSource, ServerHeader};
use sidemesh_config::resource::http_filter::HttpFilterKind;
use sidemesh_config::resource::http_filter::router::Router;
use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::route::RouteConfig;
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;

pub use exchange::Exchange;
pub use stats::{HttpStats, ListenerHttpStats};

use crate::codec::{Closed, Drain, Ending, Protocol, h1, h2};
use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::telemetry::http::{Http1Stats, Http2Stats};
use crate::telemetry::stats::Scope;
use crate::upstream::Upstream;
use crate::worker::Worker;
use filter::Chain;
use normalize::{HostRules, PathRules};
use sources::Sources;

/// One HTTP connection manager on one worker: its configuration, compiled.
pub struct ConnectionManager {
    pub config: Arc<HttpConnectionManager>,
    pub worker: Rc<Worker>,
    pub upstream: Rc<Upstream>,
    pub router: Router,
    pub stats: Arc<HttpStats>,
    pub listener_stats: Arc<stats::ListenerHttpStats>,
    pub http1_stats: Arc<Http1Stats>,
    pub http2_stats: Arc<Http2Stats>,
    pub chain: Rc<Chain>,
    /// Filter chains of upgrades that have one of their own, by upgrade type.
    pub upgrade_chains: Vec<(Name, Rc<Chain>)>,
    pub sources: Sources,
    path_rules: PathRules,
    host_rules: HostRules,
    server_name: HeaderValue,
    /// `date`, written once a second.
    date: headers::Kept,
    /// `x-envoy-expected-rq-timeout-ms`, which for most requests is the same.
    expected_timeout: headers::Kept,
    tallies: tally::Tallies,
    /// The route table by RDS that was in force last: what drains is served by it when nobody subscribes to it any more.
    last_table: RefCell<Option<Arc<RouteConfig>>>,
    h1: Rc<h1::server::Settings>,
    h2: h2::server::Settings,
    /// Whether anything reads request or response heads after the answer: access logs or spans.
    keeps_heads: bool,
}

/// One downstream connection, as the codecs know it.
pub struct Connection {
    pub manager: Rc<ConnectionManager>,
    pub info: Rc<ConnectionInfo>,
    pub peer_certificate: PeerCertificate,
    /// How it ended, once it has: for the record of the requests that end with it.
    pub ending: Rc<Cell<Option<Ending>>>,
}

impl ConnectionManager {
    /// Compiles the configuration for a worker. Once per worker and filter chain.
    pub fn new(
        config: Arc<HttpConnectionManager>,
        listener: Arc<Listener>,
        worker: Rc<Worker>,
        upstream: Rc<Upstream>,
    ) -> Rc<Self> {
        let router = config
            .filters
            .iter()
            .find_map(|f| match &f.kind {
                HttpFilterKind::Router(router) => Some(router.clone()),
                _ => None,
            })
            .unwrap_or_default();
        let prefix = config.stat_prefix.clone();
        let stats = worker.stats().shard(Scope::Http(prefix.clone()));
        let listener_stats =
            worker.stats().shard(Scope::ListenerHttp { address: listener.stat_prefix.clone(), prefix });
        let chain = Rc::new(Chain::compile(&config.filters, &worker, &upstream, &config.stat_prefix));
        let upgrade_chains = config
            .upgrades
            .iter()
            .filter_map(|u| {
                let filters = u.filters.as_ref()?;
                Some((u.config.kind.clone(), Rc::new(Chain::compile(filters, &worker, &upstream, &config.stat_prefix))))
            })
            .collect();
        let keeps_heads =
            !config.access_logs.is_empty() || config.tracing.is_some() || !router.upstream_logs.is_empty();
        let local_port = match listener.address {
            sidemesh_config::value::Address::Socket(a) => Some(a.port()),
            _ => None,
        };
        Rc::new(ConnectionManager {
            router,
            stats,
            listener_stats,
            http1_stats: worker.stats().shard(Scope::Fixed("http1")),
            http2_stats: worker.stats().shard(Scope::Fixed("http2")),
            chain,
            upgrade_chains,
            sources: Sources::default(),
            path_rules: PathRules::of(&config),
            host_rules: HostRules {
                strip_any_port: config.strip_any_host_port,
                strip_port: local_port.filter(|_| config.strip_matching_host_port),
                strip_trailing_dot: config.strip_trailing_host_dot,
            },
            server_name: HeaderValue::from_str(&config.server_name).unwrap_or(HeaderValue::from_static("sidemesh")),
            date: headers::Kept::default(),
            expected_timeout: headers::Kept::default(),
            tallies: tally::Tallies::default(),
            last_table: RefCell::new(match &config.routes {
                RouteSource::Rds { name, .. } => worker.config().route_config(name).cloned(),
                _ => None,
            }),
            h1: Rc::new(h1_settings(&config)),
            h2: h2_settings(&config),
            keeps_heads,
            config,
            worker,
            upstream,
        })
    }

    /// How long a connection may be without requests.
    pub fn idle_timeout(&self) -> Option<Duration> {
        idle_timeout(&self.config)
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Rc<Self>, mut io: Io, info: Rc<ConnectionInfo>, drain: Drain) {
        let stats = self.stats.clone();
        let opened = self.worker.local.clock.now();
        count_open(&stats, info.is_tls());
        let protocol = match self.protocol(&mut io, &info, &drain).await {
            Ok(protocol) => protocol,
            Err(closed) => return count_closed(&stats, None, info.is_tls(), &closed),
        };
        count_protocol(&stats, protocol);
        let peer_certificate = match info.tls.as_deref() {
            Some(peer) if peer.validated() => PeerCertificate::Validated,
            Some(peer) if peer.presented() => PeerCertificate::Presented,
            _ => PeerCertificate::Absent,
        };
        let tls = info.is_tls();
        let local = self.worker.local.clone();
        let (h1, h2) = (self.h1.clone(), self.h2);
        let clock = local.clock.clone();
        let connection = Connection { manager: self, info, peer_certificate, ending: Rc::default() };
        let closed = match protocol {
            Protocol::Http2 => h2::server::serve(io, h2, local, &connection, drain).await,
            Protocol::Http10 | Protocol::Http11 => h1::server::serve(io, h1, local, &connection, drain).await,
        };
        count_closed(&stats, Some(protocol), tls, &closed);
        stats.downstream_cx_length_ms.record_duration(clock.now().saturating_duration_since(opened));
    }

    /// Which codec the connection speaks: as configured, as ALPN settled, or as its first bytes say.
    async fn protocol(&self, io: &mut Io, info: &ConnectionInfo, drain: &Drain) -> Result<Protocol, Closed> {
        match self.config.codec {
            CodecType::Http1 => return Ok(Protocol::Http11),
            CodecType::Http2 => return Ok(Protocol::Http2),
            CodecType::Auto => {}
        }
        match io.alpn() {
            Some(b"h2") => return Ok(Protocol::Http2),
            Some(_) => return Ok(Protocol::Http11),
            None => {}
        }
        if let Some(alpn) = info.alpn.as_deref() {
            return Ok(if alpn == "h2" || alpn == "h2c" { Protocol::Http2 } else { Protocol::Http11 });
        }
        let limits = upgrade::Patience {
            idle: idle_timeout(&self.config),
            head: self.config.request_headers_timeout,
            duration: self.config.common.max_connection_duration,
        };
        upgrade::sniff(io, &self.worker.local, limits, drain).await
    }

    /// The route table for a request; `None` when it has not arrived.
    fn table(&self, snapshot: &Snapshot, headers: &http::HeaderMap) -> Option<Arc<RouteConfig>> {
        let found = route::table(&self.config.routes, snapshot, headers).cloned();
        if !matches!(self.config.routes, RouteSource::Rds { .. }) {
            return found;
        }
        let mut last = self.last_table.borrow_mut();
        match (&found, &*last) {
            (None, _) => return last.clone(),
            (Some(found), Some(last)) if Arc::ptr_eq(found, last) => {}
            _ => *last = found.clone(),
        }
        found
    }

    fn suppresses(&self) -> bool {
        self.router.suppress_envoy_headers
    }

    fn overwrites_server(&self) -> ServerHeader {
        self.config.server_header
    }
}

pub(crate) fn count_open(stats: &HttpStats, tls: bool) {
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    if tls {
        stats.downstream_cx_ssl_total.inc();
        stats.downstream_cx_ssl_active.inc();
    }
}

pub(crate) fn count_protocol(stats: &HttpStats, protocol: Protocol) {
    match protocol {
        Protocol::Http2 => {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
        }
        _ => {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
        }
    }
}

pub(crate) fn count_closed(stats: &HttpStats, protocol: Option<Protocol>, tls: bool, closed: &Closed) {
    stats.downstream_cx_active.dec();
    stats.downstream_cx_destroy.inc();
    if tls {
        stats.downstream_cx_ssl_active.dec();
    }
    match protocol {
        None => {}
        Some(Protocol::Http2) => stats.downstream_cx_http2_active.dec(),
        Some(_) => stats.downstream_cx_http1_active.dec(),
    }
    match closed {
        Closed::ByPeer => stats.downstream_cx_destroy_remote.inc(),
        Closed::ByPeerInRequest => {
            stats.downstream_cx_destroy_remote.inc();
            stats.downstream_cx_destroy_active_rq.inc();
            stats.downstream_cx_destroy_remote_active_rq.inc();
        }
        Closed::Rejected | Closed::Protocol { .. } => {
            stats.downstream_cx_destroy_local.inc();
            // Floods are counted apart: see `http2.*`.
            if !matches!(closed, Closed::Protocol { reason: h2::Reason::ENHANCE_YOUR_CALM, .. }) {
                stats.downstream_cx_protocol_error.inc();
            }
            if let Closed::Protocol { in_request: true, .. } = closed {
                stats.downstream_cx_destroy_active_rq.inc();
                stats.downstream_cx_destroy_local_active_rq.inc();
            }
        }
        Closed::Timeout(which) => {
            stats.downstream_cx_destroy_local.inc();
            if which.contains("idle") {
                stats.downstream_cx_idle_timeout.inc();
            } else if which.contains("duration") {
                stats.downstream_cx_max_duration_reached.inc();
            }
        }
        Closed::Drained => {
            stats.downstream_cx_destroy_local.inc();
            stats.downstream_cx_drain_close.inc();
        }
        Closed::AfterResponse | Closed::Aborted(_) | Closed::Io(_) => stats.downstream_cx_destroy_local.inc(),
    }
}

/// The idle timeout of a connection between requests: one hour unless set.
fn idle_timeout(config: &HttpConnectionManager) -> Option<Duration> {
    config.common.idle_timeout.unwrap_or(Some(Duration::from_secs(3600)))
}

/// How long a client may take nothing of its response.
fn flush_timeout(config: &HttpConnectionManager) -> Option<Duration> {
    match config.stream_flush_timeout {
        Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
        None => config.stream_idle_timeout,
    }
}

fn h1_settings(config: &HttpConnectionManager) -> h1::server::Settings {
    let http1 = &config.http1;
    h1::server::Settings {
        limits: h1::Limits {
            head_bytes: config.max_request_headers_kb as usize * 1024,
            headers: config.common.max_headers_count.unwrap_or(100) as usize,
            trailers: http1.enable_trailers,
        },
        accept_http_10: http1.accept_http_10,
        default_host_for_http_10: http1.default_host_for_http_10.as_ref().and_then(|h| HeaderValue::from_str(h).ok()),
        allow_absolute_url: http1.allow_absolute_url,
        allow_chunked_length: http1.allow_chunked_length,
        allow_custom_methods: http1.allow_custom_methods,
        header_case: http1.header_case,
        proxy_100_continue: config.proxy_100_continue,
        idle_timeout: idle_timeout(config),
        request_headers_timeout: config.request_headers_timeout,
        request_timeout: config.request_timeout,
        stream_idle_timeout: config.stream_idle_timeout,
        flush_timeout: flush_timeout(config),
        max_connection_duration: config.common.max_connection_duration,
        drain_timeout: config.drain_timeout,
        safe_max_connection_duration: config.http1_safe_max_connection_duration,
        max_requests_per_connection: config.common.max_requests_per_connection.map(u64::from),
        delayed_close_timeout: config.delayed_close_timeout.unwrap_or(Duration::ZERO),
    }
}

fn h2_settings(config: &HttpConnectionManager) -> h2::server::Settings {
    let http2 = &config.http2;
    h2::server::Settings {
        http2: h2::Settings {
            max_concurrent_streams: http2.max_concurrent_streams,
            initial_stream_window: http2.initial_stream_window_size,
            initial_connection_window: http2.initial_connection_window_size,
            hpack_table_size: http2.hpack_table_size,
            allow_connect: http2.allow_connect,
            max_head_bytes: config.max_request_headers_kb.saturating_mul(1024),
            max_headers: config.common.max_headers_count.unwrap_or(100) as usize,
            floods: http2.floods,
            keepalive: http2.keepalive.and_then(|k| {
                Some(h2::Keepalive {
                    interval: k.interval?,
                    timeout: k.timeout,
                    jitter_percent: k.interval_jitter_percent,
                })
            }),
            stream_errors: http2.stream_error_on_invalid_message.unwrap_or(false),
            ..h2::Settings::default()
        },
        idle_timeout: idle_timeout(config),
        max_connection_duration: config.common.max_connection_duration,
        max_requests_per_connection: config.common.max_requests_per_connection.map(u64::from),
        drain_timeout: config.drain_timeout,
        delayed_close_timeout: config.delayed_close_timeout.unwrap_or(Duration::ZERO),
        proxy_100_continue: config.proxy_100_continue,
        flush_timeout: flush_timeout(config),
    }
}
