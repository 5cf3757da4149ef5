//! One accepted connection: listener filters, choice of the chain, TLS, and on to the chain's filters.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use sidemesh_config::resource::listener::{ConnectionView, FilterChain, ListenerFilter, ProxyProtocolFilter};
use sidemesh_config::value::{Metadata, Name};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::chain::Chain;
use super::counted::{Accepted, Counted};
use super::detect::{self, Detected};
use super::listener::{Listener, Version};
use super::log::{Unserved, log_connection, log_served};
use super::original_dst::original_destination;
use super::proxy_protocol::{self, Parsed};
use super::stats::ProxyProtocolStats;
use crate::connection::ConnectionInfo;
use crate::io::{Io, Socket};
use crate::telemetry::stats::Counter;

/// A connection is handed from listener to listener at most so often.
const MAX_HAND_OVERS: usize = 4;

/// What the listener filters found out.
struct Inspected {
    stream: TcpStream,
    /// Bytes read early, to be read again.
    early: BytesMut,
    remote: SocketAddr,
    local: SocketAddr,
    restored: bool,
    transport: &'static str,
    not_tls: Option<&'static str>,
    server_name: Option<Name>,
    alpn: Vec<Name>,
    metadata: Metadata,
    tlvs: Vec<(u8, bytes::Bytes)>,
}

/// Why a connection ends before its chain runs.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client went away")]
    Closed,
    #[error("reading failed: {0}")]
    Broken(std::io::ErrorKind),
    #[error("listener filters: {0}")]
    Filter(&'static str),
    #[error("the listener filters did not see enough within listener_filters_timeout")]
    Slow,
    #[error("rate limited")]
    Limited,
    #[error("the listener is draining")]
    Draining,
}

/// Takes a connection on. Without listener filters its chain is chosen at once.
pub(super) fn begin(listener: &Rc<Listener>, stream: TcpStream, peer: SocketAddr) {
    // A connection that is gone already has no address.
    let Ok(local) = stream.local_addr() else { return };
    let ends = Ends { peer: canonical(peer), local: canonical(local) };
    let worker = &listener.worker;
    let accepted = Accepted { start: worker.local.clock.now(), open: worker.shutdown().connection() };
    let version = listener.version();
    let inspected = Inspected::new(stream, &ends);
    if version.config.listener_filters.is_empty() {
        serve(listener, &version, inspected, ends, accepted);
    } else {
        tokio::task::spawn_local(inspect(listener.clone(), inspected, ends, accepted));
    }
}

/// The two ends of the socket.
#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

/// Runs the listener filters, of several listeners when the connection is handed over.
async fn inspect(mut listener: Rc<Listener>, mut inspected: Inspected, ends: Ends, accepted: Accepted) {
    for _ in 0..MAX_HAND_OVERS {
        let version = listener.version();
        if let Err(ended) = inspected.inspect(&listener, &version).await {
            tracing::debug!(listener = %listener.name, peer = %ends.peer, "connection ended early: {ended}");
            return turn_away(&listener, &version, inspected, ends, accepted, None);
        }
        let other = match version.config.use_original_dst && inspected.restored {
            true => listener.all.upgrade().and_then(|all| all.for_destination(inspected.local)),
            false => None,
        };
        match other.filter(|other| !Rc::ptr_eq(other, &listener)) {
            Some(other) => listener = other,
            None => return serve(&listener, &version, inspected, ends, accepted),
        }
    }
}

/// `::ffff:1.2.3.4` is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Chooses the chain and runs the connection on it.
fn serve(listener: &Rc<Listener>, version: &Version, inspected: Inspected, ends: Ends, accepted: Accepted) {
    let offered: Vec<&str> = inspected.alpn.iter().map(|a| &**a).collect();
    let view = ConnectionView {
        destination: Some(inspected.local),
        source: Some(inspected.remote),
        direct_source: Some(ends.peer),
        server_name: inspected.server_name.as_deref().unwrap_or_default(),
        transport_protocol: inspected.transport,
        application_protocols: &offered,
    };
    let Some(chain) = version.config.choose(&view).and_then(|c| version.chain(c)).cloned() else {
        listener.stats.no_filter_chain_match.inc();
        tracing::debug!(listener = %listener.name, peer = %ends.peer, server_name = view.server_name, "no filter chain matches: closed");
        return turn_away(listener, version, inspected, ends, accepted, Some("filter_chain_not_found"));
    };
    let counted = Counted::new(listener, accepted);
    let worker = &listener.worker;
    let mut inspected = inspected;
    let info = inspected.info(listener, version, chain.config.clone(), ends, counted.start);
    let socket = match chain.socket(inspected.stream) {
        Ok(socket) => socket.with_prefix(inspected.early.freeze()),
        Err(error) => return tracing::debug!(listener = %listener.name, peer = %ends.peer, "connection lost: {error}"),
    };
    let worker = worker.clone();
    // Boxed, and out here, so that an established connection keeps no room for its handshake and what that was made of.
    let secured = Box::pin(secure(chain.clone(), listener.clone(), socket, info));
    chain.clone().spawn(async move {
        let _counted = counted;
        if let Some((io, info)) = secured.await {
            let session = chain.serve(io, info.clone()).await;
            log_served(&worker, &info, session);
        }
    });
}

/// Ends a connection that has no chain: `why` it has none, unless its listener filters did not come that far.
fn turn_away(
    listener: &Listener,
    version: &Version,
    mut inspected: Inspected,
    ends: Ends,
    accepted: Accepted,
    why: Option<&'static str>,
) {
    let any = version.config.chains.first().or(version.config.default_chain.as_ref());
    if let Some(any) = any.filter(|_| !version.config.access_logs.is_empty()) {
        let info = inspected.info(listener, version, any.clone(), ends, accepted.start);
        log_connection(
            &listener.worker,
            &Rc::new(ConnectionInfo { chain: Name::default(), ..info }),
            why.map(Unserved::Unrouted),
        );
    }
    if !inspected.early.is_empty() {
        // What the client has sent was never read, as far as it is concerned.
        Socket::from(inspected.stream).reset_on_close();
    }
}

/// Terminates TLS, where the chain says so.
async fn secure(
    chain: Rc<Chain>,
    listener: Rc<Listener>,
    socket: Socket,
    mut info: ConnectionInfo,
) -> Option<(Io, Rc<ConnectionInfo>)> {
    let server = match chain.tls() {
        None => return Some((socket.into(), Rc::new(info))),
        Some(Ok(server)) => server,
        Some(Err(error)) => {
            tracing::warn!(listener = %listener.name, chain = %info.chain, "connection closed: {error}");
            match error.is_not_ready() {
                true => listener.stats.secrets_not_ready.inc(),
                false => listener.tls_stats().failed(&error),
            }
            return None;
        }
    };
    let local = &listener.worker.local;
    let unfinished = chain.unfinished();
    let handshake = async {
        tokio::select! {
            biased;
            done = server.accept(socket) => Some(done),
            () = unfinished.overdue(&local.timers) => None,
        }
    };
    let done = match chain.config.transport_connect_timeout {
        None => handshake.await,
        Some(limit) => match local.timers.timeout(limit, handshake).await {
            Ok(done) => done,
            Err(_) => {
                listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
                return None;
            }
        },
    };
    match done? {
        Ok((io, peer)) => {
            listener.tls_stats().completed(&peer);
            info.alpn = io.alpn().map(|a| Name::from(String::from_utf8_lossy(a)));
            info.handshake_complete = Some(local.clock.now());
            info.tls = Some(peer);
            Some((io, Rc::new(info)))
        }
        Err(error) => {
            listener.tls_stats().failed(&error);
            tracing::debug!(listener = %listener.name, remote = %info.remote, "TLS handshake failed: {error}");
            log_connection(&listener.worker, &Rc::new(info), Some(Unserved::Handshake(&error)));
            None
        }
    }
}

/// A PROXY protocol version that is not allowed: refused, unless the header may be missing altogether.
fn disallow(
    stats: &ProxyProtocolStats,
    config: &ProxyProtocolFilter,
    (found, refused): (&Counter, &Counter),
) -> Result<(), Ended> {
    if config.allow_without_header {
        stats.not_found_allowed.inc();
        return Ok(());
    }
    found.inc();
    refused.inc();
    Err(Ended::Filter("a PROXY protocol version that is not allowed"))
}

impl Inspected {
    fn new(stream: TcpStream, ends: &Ends) -> Self {
        Inspected {
            stream,
            early: BytesMut::new(),
            remote: ends.peer,
            local: ends.local,
            restored: false,
            transport: "raw_buffer",
            not_tls: None,
            server_name: None,
            alpn: Vec::new(),
            metadata: Metadata::default(),
            tlvs: Vec::new(),
        }
    }

    /// What is known of the connection now; what was found out is moved there.
    fn info(
        &mut self,
        listener: &Listener,
        version: &Version,
        filter_chain: Arc<FilterChain>,
        ends: Ends,
        start: Instant,
    ) -> ConnectionInfo {
        let worker = &listener.worker;
        let (id, start) = (worker.next_connection_id(), (start, worker.local.clock.system()));
        let alpn = std::mem::take(&mut self.alpn).into_iter().next();
        ConnectionInfo {
            direct_remote: ends.peer,
            direct_local: ends.local,
            local_restored: self.restored,
            server_name: self.server_name.take(),
            alpn: alpn.filter(|_| self.transport != "tls"),
            metadata: std::mem::take(&mut self.metadata),
            proxy_tlvs: std::mem::take(&mut self.tlvs),
            not_tls: self.not_tls,
            ..ConnectionInfo::new(id, start, version.config.clone(), filter_chain, self.local, self.remote)
        }
    }

    /// Runs the listener filters in order, within their time limit.
    async fn inspect(&mut self, listener: &Listener, version: &Version) -> Result<(), Ended> {
        let config = &version.config;
        if config.listener_filters.is_empty() {
            return Ok(());
        }
        listener.stats.downstream_pre_cx_active.inc();
        let unfinished = listener.unfinished();
        let filters = async {
            tokio::select! {
                biased;
                done = self.run_filters(listener, version) => done,
                () = unfinished.overdue(&listener.worker.local.timers) => Err(Ended::Draining),
            }
        };
        let done = match config.listener_filters_timeout {
            None => filters.await,
            Some(limit) => match listener.worker.local.timers.timeout(limit, filters).await {
                Ok(done) => done,
                Err(_) => {
                    listener.stats.downstream_pre_cx_timeout.inc();
                    match config.continue_on_listener_filters_timeout {
                        true => Ok(()),
                        false => Err(Ended::Slow),
                    }
                }
            },
        };
        listener.stats.downstream_pre_cx_active.dec();
        match &done {
            Err(Ended::Closed) => listener.stats.downstream_listener_filter_remote_close.inc(),
            Err(Ended::Broken(_)) => listener.stats.downstream_listener_filter_error.inc(),
            _ => {}
        }
        done
    }

    async fn run_filters(&mut self, listener: &Listener, version: &Version) -> Result<(), Ended> {
        let mut limits = version.limits();
        let mut proxy_stats = version.proxy_protocol();
        for filter in &version.config.listener_filters {
            match filter {
                ListenerFilter::OriginalDst => {
                    if let Some(destination) = original_destination(&self.stream).map(canonical) {
                        self.restored = destination != self.local;
                        self.local = destination;
                    }
                }
                ListenerFilter::ProxyProtocol(config) => {
                    if let Some(stats) = proxy_stats.next() {
                        self.proxy_protocol(stats, config).await?;
                    }
                }
                ListenerFilter::TlsInspector => self.tls_inspector(listener).await?,
                ListenerFilter::HttpInspector => self.http_inspector(listener).await?,
                ListenerFilter::LocalRateLimit(_) => {
                    if let Some(limit) = limits.next() {
                        limit.check(&listener.worker).map_err(|_| Ended::Limited)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Ended> {
        match self.stream.read_buf(&mut self.early).await {
            Ok(n) if n > 0 => Ok(()),
            Ok(_) => Err(Ended::Closed),
            Err(error) => Err(Ended::Broken(error.kind())),
        }
    }

    async fn proxy_protocol(&mut self, stats: &ProxyProtocolStats, config: &ProxyProtocolFilter) -> Result<(), Ended> {
        loop {
            match proxy_protocol::parse(&self.early) {
                Ok(Parsed::Partial) => self.more().await?,
                Ok(Parsed::Header(header)) => {
                    let (disallowed, found, refused) = match header.version {
                        proxy_protocol::Version::V1 => (config.disallow_v1, &stats.v1_found, &stats.v1_disallowed),
                        proxy_protocol::Version::V2 => (config.disallow_v2, &stats.v2_found, &stats.v2_disallowed),
                    };
                    // Where a header may be missing, one of the wrong version is the client's own first bytes.
                    if disallowed {
                        return disallow(stats, config, (found, refused));
                    }
                    found.inc();
                    self.early.advance(header.length);
                    self.told(header, config);
                    return Ok(());
                }
                Ok(Parsed::Absent) if config.allow_without_header => {
                    stats.not_found_allowed.inc();
                    return Ok(());
                }
                Ok(Parsed::Absent) => {
                    stats.not_found_disallowed.inc();
                    return Err(Ended::Filter("no PROXY protocol header"));
                }
                Err(reason) => {
                    let v1 = self.early.first() == Some(&b'P');
                    // Whether the version is allowed is asked before the line is looked at.
                    if v1 && config.disallow_v1 && proxy_protocol::has_line(&self.early) {
                        return disallow(stats, config, (&stats.v1_found, &stats.v1_disallowed));
                    }
                    if v1 { &stats.v1_error } else { &stats.v2_error }.inc();
                    return Err(Ended::Filter(reason));
                }
            }
        }
    }

    fn told(&mut self, header: proxy_protocol::Header, config: &ProxyProtocolFilter) {
        if let Some((source, destination)) = header.addresses {
            self.restored = canonical(destination) != self.local;
            self.remote = canonical(source);
            self.local = canonical(destination);
        }
        for (kind, content) in header.tlvs {
            for (wanted, filter, key) in &config.rules {
                if *wanted == kind {
                    let text = serde_json::Value::String(String::from_utf8_lossy(&content).into_owned());
                    let slot = self.metadata.0.entry(filter.clone()).or_insert_with(|| serde_json::json!({}));
                    if let Some(object) = slot.as_object_mut() {
                        object.insert(key.to_string(), text);
                    }
                }
            }
            // An empty list passes all on.
            if config.pass_through_tlvs.as_ref().is_some_and(|list| list.is_empty() || list.contains(&kind)) {
                self.tlvs.push((kind, content));
            }
        }
    }

    async fn tls_inspector(&mut self, listener: &Listener) -> Result<(), Ended> {
        let stats = &listener.tls_inspector;
        loop {
            match detect::client_hello(&self.early) {
                Detected::Partial if self.early.len() > detect::MAX_INSPECTED_BYTES => {
                    stats.client_hello_too_large.inc();
                    return Err(Ended::Filter("a ClientHello that is too large"));
                }
                Detected::Partial => self.more().await?,
                Detected::Other => {
                    stats.tls_not_found.inc();
                    self.not_tls = Some(detect::why_not_tls(&self.early));
                    return Ok(());
                }
                Detected::Found(hello) => {
                    stats.tls_found.inc();
                    if hello.server_name.is_some() { &stats.sni_found } else { &stats.sni_not_found }.inc();
                    if hello.alpn.is_empty() { &stats.alpn_not_found } else { &stats.alpn_found }.inc();
                    self.transport = "tls";
                    self.server_name = hello.server_name;
                    self.alpn = hello.alpn;
                    return Ok(());
                }
            }
        }
    }

    async fn http_inspector(&mut self, listener: &Listener) -> Result<(), Ended> {
        // What TLS carries is not to be seen here.
        if self.transport == "tls" {
            return Ok(());
        }
        let stats = &listener.http_inspector;
        loop {
            match detect::http(&self.early) {
                Detected::Partial => self.more().await?,
                Detected::Other => {
                    stats.http_not_found.inc();
                    return Ok(());
                }
                Detected::Found(protocol) => {
                    match protocol {
                        "h2c" => &stats.http2_found,
                        "http/1.0" => &stats.http10_found,
                        _ => &stats.http11_found,
                    }
                    .inc();
                    self.alpn = vec![Name::from(protocol)];
                    return Ok(());
                }
            }
        }
    }
}
