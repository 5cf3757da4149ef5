//! One attempt: a connection is found or made, the request goes over it, the host is charged with what comes back.
//!
//! In Envoy's order: whoever finds no free connection counts as pending until it has one (`max_pending_requests`), a connection is only
//! made within `max_connections` (but a pool without any may always make one), and a request takes its share of `max_requests` when it
//! meets its connection. Dropping the future gives all of it back.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, header};
use sidemesh_config::resource::route::Priority;
use sidemesh_config::resource::tls::UpstreamTransport;
use sidemesh_config::value::Name;

use super::breaker::{self, Overflow, Permit};
use super::cluster::Cluster;
use super::dial::{Dial, Dialled, Told};
use super::error::AttemptError;
use super::host::Host;
use super::info::{AttemptInfo, ConnectionFacts};
use super::outlier::Outcome;
use super::pool::{
    Client, ConnectionGuard, Dialling, Exchange, Handover, Http1Release, Key, Lease, Mode, Opened, Pool, SharedRelease,
};
use super::transport;
use crate::body::Body;
use crate::codec::{Protocol, SendOptions, h1, h2};
use crate::connection::ConnectionInfo;
use crate::io::Io;

/// How an attempt is made.
#[derive(Default)]
pub struct AttemptOptions<'a> {
    pub priority: Priority,
    pub send: SendOptions,
    /// Whom the request came from: for an upstream PROXY header.
    pub downstream: Option<&'a Downstream>,
    /// The protocol the request came by, for `use_downstream_protocol_config`.
    pub protocol: Option<Protocol>,
    /// The connection the request came by, for `connection_pool_per_downstream_connection`.
    pub connection: Option<&'a Rc<ConnectionInfo>>,
}

/// A downstream connection as an upstream PROXY protocol header tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downstream {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub tlvs: Vec<(u8, Bytes)>,
    pub sni: Option<Name>,
}

impl Cluster {
    /// Sends a request to `host`. Statuses, resets and failed connects are charged to the host here; timeouts are the caller's to tell
    /// ([`Cluster::on_timeout`]), as they end this future.
    pub async fn request(
        self: &Rc<Self>,
        host: &Rc<Host>,
        head: &Parts,
        body: Body,
        options: AttemptOptions<'_>,
        info: &AttemptInfo,
    ) -> Result<Response<Body>, AttemptError> {
        let owner = self.owner(host);
        let result = owner.attempt(host, head, body, options, info).await;
        owner.charge(host, head, &result, info);
        result
    }

    async fn attempt(
        self: &Rc<Self>,
        host: &Rc<Host>,
        head: &Parts,
        body: Body,
        options: AttemptOptions<'_>,
        info: &AttemptInfo,
    ) -> Result<Response<Body>, AttemptError> {
        let config = self.config();
        let name = self.server_name(head);
        let key = self.key(host, &options, name);
        let pool = self.host_pools(host).get(key.clone());
        let lease = match self.take(&pool) {
            Some(lease) => {
                self.preconnect(host, &pool, &key, 0);
                lease
            }
            // Boxed: dialling is large, and rare.
            None => Box::pin(self.lease(&pool, host, &key, &options, info)).await?,
        };
        let clock = &self.worker.local.clock;
        let permit =
            match breaker::claim(&self.breakers, &config.circuit_breakers, options.priority, Overflow::Requests) {
                Ok(permit) => permit,
                Err(overflow) => {
                    self.stats().upstream_rq_active_overflow.inc();
                    self.give_back(&pool, lease);
                    return Err(overflow.into());
                }
            };
        if self.settings.borrow().limits.requests.is_some_and(|max| lease.requests() + 1 == max) {
            self.stats().upstream_cx_max_requests.inc();
        }
        self.judge(host, Outcome::Connected);
        let exchange = Exchange::new(permit, host.clone(), self.clone());
        info.set_connection(lease.guard().facts());
        let now = clock.coarse();
        info.pool_ready.set(Some(now));
        info.sent_start.set(Some(now));
        let response = match lease {
            Lease::Http1(connection, guard) => {
                let limits = self.settings.borrow().limits;
                let release = Http1Release::new(pool, clock.clone(), limits, guard, exchange);
                connection.send(head, body, options.send, release).await
            }
            Lease::Http2(connection, guard) => {
                let limits = self.settings.borrow().limits;
                let release = SharedRelease::new(pool, clock.clone(), limits, guard, exchange);
                connection.send(head, body, options.send, Some(release)).await
            }
        };
        let response = response?;
        info.response_head.set(Some(clock.now()));
        Ok(response)
    }

    pub(super) fn give_back(&self, pool: &Rc<Pool>, lease: Lease) {
        match lease {
            Lease::Http1(connection, guard) => {
                let limits = self.settings.borrow().limits;
                pool.give(connection, guard, self.worker.local.clock.coarse(), &limits);
            }
            Lease::Http2(..) => pool.wake_one(),
        }
    }

    fn key(&self, host: &Host, options: &AttemptOptions<'_>, server_name: Option<Name>) -> Key {
        let config = self.config();
        let proxied = matches!(config.transport_for(host.endpoint()), UpstreamTransport::ProxyProtocol { .. });
        let told = options.downstream.filter(|_| proxied).map(|c| (c.remote, c.local));
        let client = options.connection.filter(|_| config.pool_per_downstream).map(Client::new);
        Key { priority: options.priority, mode: transport::mode(&config, options.protocol), server_name, told, client }
    }

    /// The server name that `auto_sni` takes from the request: its host, without port, unless that is an address.
    fn server_name(&self, head: &Parts) -> Option<Name> {
        let config = self.config();
        if !config.protocol.auto_sni && !config.protocol.auto_san_validation {
            return None;
        }
        let name = config.protocol.override_auto_sni_header.as_ref().and_then(|name| head.headers.get(name));
        let value = name.or_else(|| head.headers.get(header::HOST))?.to_str().ok()?;
        let authority: http::uri::Authority = value.parse().ok()?;
        let host = authority.host();
        let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        (!is_address).then(|| Name::from(host))
    }

    /// A connection for one request: a free one, or a new one, or the next that comes free.
    async fn lease(
        self: &Rc<Self>,
        pool: &Rc<Pool>,
        host: &Rc<Host>,
        key: &Key,
        options: &AttemptOptions<'_>,
        info: &AttemptInfo,
    ) -> Result<Lease, AttemptError> {
        let _pending = self.stand_in_line(key.priority)?;
        let _counted = pool.count_pending();
        let mut first = true;
        loop {
            if let Some(lease) = self.take(pool) {
                return Ok(lease);
            }
            if let Some(permit) = self.may_dial(pool, host, key.priority) {
                if std::mem::take(&mut first) {
                    // This request's own connection is the first of those that are wanted.
                    self.preconnect(host, pool, key, 1);
                }
                if let Some(lease) = self.dial_into(pool, host, key, options, info, permit).await? {
                    return Ok(lease);
                }
                continue;
            }
            let Some(turn) = pool.wait() else {
                self.stats().upstream_rq_pending_overflow.inc();
                return Err(Overflow::Pending.into());
            };
            match turn.comes().await {
                Handover::Connection(idle) => return Ok(Lease::Http1(idle.connection, idle.guard)),
                Handover::Failed(error) => return Err(error),
                Handover::Look => {}
            }
        }
    }

    /// Counts who has no connection yet, as far as `max_pending_requests` lets it wait.
    fn stand_in_line(self: &Rc<Self>, priority: Priority) -> Result<Pending, AttemptError> {
        match breaker::claim(&self.breakers, &self.config().circuit_breakers, priority, Overflow::Pending) {
            Ok(permit) => Ok(Pending::new(permit, self.clone())),
            Err(overflow) => {
                self.stats().upstream_rq_pending_overflow.inc();
                Err(overflow.into())
            }
        }
    }

    fn take(&self, pool: &Rc<Pool>) -> Option<Lease> {
        let settings = self.settings.borrow();
        let clock = &self.worker.local.clock;
        if pool.mode.get() != Mode::Http1
            && let Some(lease) = pool.take_shared(settings.max_streams, &settings.limits, clock)
        {
            return Some(lease);
        }
        let idle = pool.take_idle(clock.coarse(), &settings.limits)?;
        Some(Lease::Http1(idle.connection, idle.guard))
    }

    /// Leave to make one more connection. A pool without any always has it, so that nobody starves.
    pub(super) fn may_dial(&self, pool: &Pool, host: &Host, priority: Priority) -> Option<Permit> {
        if pool.mode.get() != Mode::Http1 && pool.is_dialling() {
            return None;
        }
        let limits = &self.config().circuit_breakers;
        let per_host = limits.per_host_max_connections.map_or(u64::MAX, u64::from);
        if host.state().claimed_connections() < per_host {
            match breaker::claim(&self.breakers, limits, priority, Overflow::Connections) {
                Ok(permit) => return Some(permit),
                Err(_) => self.stats().upstream_cx_overflow.inc(),
            }
        } else {
            self.stats().upstream_cx_overflow.inc();
        }
        (pool.live() == 0).then(|| breaker::claim_always(&self.breakers, priority, Overflow::Connections))
    }

    /// Makes a connection for the pool. `None`: it is shared, and in the pool.
    pub(super) async fn dial_into(
        self: &Rc<Self>,
        pool: &Rc<Pool>,
        host: &Rc<Host>,
        key: &Key,
        options: &AttemptOptions<'_>,
        info: &AttemptInfo,
        permit: Permit,
    ) -> Result<Option<Lease>, AttemptError> {
        let shared = pool.mode.get() != Mode::Http1;
        let dialling = Dialling::new(pool, host.clone(), shared);
        let dialled = self.dial(host, key.server_name.as_ref(), Some(pool.mode.get()), options.downstream, info).await;
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                if shared {
                    // They were waiting for this very connection.
                    pool.tell_all(|| Handover::Failed(error.clone()));
                }
                return Err(error);
            }
        };
        let is_h2 = match pool.mode.get() {
            Mode::Http1 => false,
            Mode::Http2 => true,
            Mode::Auto => dialled.io.alpn() == Some(b"h2"),
        };
        if pool.mode.get() == Mode::Auto {
            pool.mode.set(if is_h2 { Mode::Http2 } else { Mode::Http1 });
        }
        let protocol = if is_h2 { Protocol::Http2 } else { Protocol::Http11 };
        let facts = self.facts(&dialled, Some(protocol));
        let (at, settings) = (self.worker.local.clock.coarse(), self.settings.borrow().clone());
        let opened = Opened { permit, host: host.clone(), cluster: self.clone(), facts, at };
        let guard = ConnectionGuard::new(opened, Some(pool));
        let local = self.worker.local.clone();
        if !is_h2 {
            dialling.succeeded();
            return Ok(Some(Lease::Http1(h1::client::Connection::new(dialled.io, settings.h1.clone(), local), guard)));
        }
        let counted = self.http2_stats();
        let observer: h2::client::Observer = Box::new(move |events| counted.record(events));
        let connection = match h2::client::connect(dialled.io, settings.h2, local, Some(observer)).await {
            Ok(connection) => connection,
            Err(error) => {
                self.stats().upstream_cx_protocol_error.inc();
                return Err(error.into());
            }
        };
        let guard = Rc::new(guard);
        pool.add_shared(connection.clone(), guard.clone());
        dialling.succeeded();
        Ok(Some(Lease::Http2(connection, guard)))
    }

    fn facts(&self, dialled: &Dialled, protocol: Option<Protocol>) -> Rc<ConnectionFacts> {
        Rc::new(ConnectionFacts {
            id: self.worker.next_connection_id(),
            local: dialled.io.local_addr(),
            peer: dialled.io.peer_addr(),
            protocol,
            tls: dialled.tls.clone(),
        })
    }

    async fn dial(
        &self,
        host: &Rc<Host>,
        server_name: Option<&Name>,
        mode: Option<Mode>,
        downstream: Option<&Downstream>,
        info: &AttemptInfo,
    ) -> Result<Dialled, AttemptError> {
        let config = self.config();
        let clock = &self.worker.local.clock;
        let transport = config.transport_for(host.endpoint());
        let (_, inner) = transport::layers(transport);
        let dial = Dial {
            address: host.address(),
            fallbacks: &host.endpoint().additional_addresses,
            bind: config.bind.as_ref(),
            default_bind: self.registry.bind.as_ref(),
            keepalive: config.tcp_keepalive.as_ref(),
            transport,
            client: match inner {
                UpstreamTransport::Tls(tls) => self.tls_client(tls),
                _ => None,
            },
            tls_stats: matches!(inner, UpstreamTransport::Tls(_)).then(|| self.tls_stats()),
            server_name: server_name.filter(|_| config.protocol.auto_sni).map(|n| &**n),
            san: server_name.filter(|_| config.protocol.auto_san_validation).map(|n| &**n),
            hostname: host.hostname(),
            mode,
            told: Told {
                addresses: downstream.map(|c| (c.remote, c.local)),
                tlvs: downstream.map_or(&[], |c| &c.tlvs),
            },
            timeout: config.connect_timeout,
        };
        let start = clock.now();
        info.connect_start.set(Some(start));
        self.shared.note_traffic();
        let result = dial.connect(&self.worker.local.timers).await;
        let end = clock.now();
        match &result {
            Ok(_) => {
                info.connect_end.set(Some(end));
                self.stats().upstream_cx_connect_ms.record_duration(end.saturating_duration_since(start));
            }
            Err(error) => {
                self.count_undialled(host, mode, error);
                if let Some(text) = error.detail() {
                    info.set_failure(text.into());
                }
            }
        }
        result
    }

    /// Counts a connection that could not be made.
    fn count_undialled(&self, host: &Host, mode: Option<Mode>, error: &AttemptError) {
        host.counters().cx_total.inc();
        host.counters().cx_connect_fail.inc();
        let stats = self.stats();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_connect_fail.inc();
        match mode {
            Some(Mode::Http1) => stats.upstream_cx_http1_total.inc(),
            Some(Mode::Http2) => stats.upstream_cx_http2_total.inc(),
            Some(Mode::Auto) | None => {}
        }
        match error {
            AttemptError::ConnectTimeout => {
                stats.upstream_cx_connect_timeout.inc();
                stats.upstream_cx_destroy_local.inc();
            }
            AttemptError::Bind(_) => {
                stats.bind_errors.inc();
                stats.upstream_cx_destroy_local.inc();
            }
            _ => stats.upstream_cx_destroy_remote.inc(),
        }
    }

    /// Connects to `host` for a TCP session.
    pub async fn connect_tcp(
        self: &Rc<Self>,
        host: &Rc<Host>,
        priority: Priority,
        downstream: Option<&Downstream>,
        info: &AttemptInfo,
    ) -> Result<TcpUpstream, AttemptError> {
        let owner = self.owner(host);
        let limits = &owner.config().circuit_breakers;
        let permit = breaker::claim(&owner.breakers, limits, priority, Overflow::Connections).inspect_err(|_| {
            owner.stats().upstream_cx_overflow.inc();
        })?;
        let pending = owner.stand_in_line(priority)?;
        let dialled = match owner.dial(host, None, None, downstream, info).await {
            Ok(dialled) => dialled,
            Err(error) => {
                owner.stats().upstream_rq_pending_failure_eject.inc();
                owner.judge(host, Outcome::Failed);
                return Err(error);
            }
        };
        drop(pending);
        owner.judge(host, Outcome::Success);
        let facts = owner.facts(&dialled, None);
        info.set_connection(&facts);
        let at = owner.worker.local.clock.coarse();
        let opened = Opened { permit, host: host.clone(), cluster: owner.clone(), facts, at };
        let failure = owner.host_pools(host).failure.clone();
        // Sessions are counted as requests, but `max_requests` is not for them.
        let counted = breaker::claim_always(&owner.breakers, priority, Overflow::Requests);
        let session = Exchange::new(counted, host.clone(), owner.clone());
        Ok(TcpUpstream { io: dialled.io, guard: Some(ConnectionGuard::of_session(opened, session, failure)) })
    }
}

/// A connection to a host for a TCP session. The guard lives as long as the session; a stream of a pooled connection has none.
pub struct TcpUpstream {
    pub io: Io,
    pub guard: Option<ConnectionGuard>,
}

/// Counts a request that waits for a connection.
struct Pending {
    _permit: Permit,
    cluster: Rc<Cluster>,
}

impl Pending {
    fn new(permit: Permit, cluster: Rc<Cluster>) -> Self {
        cluster.stats().upstream_rq_pending_total.inc();
        cluster.stats().upstream_rq_pending_active.inc();
        Pending { _permit: permit, cluster }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cluster.stats().upstream_rq_pending_active.dec();
    }
}
