//! What is known of a downstream connection: filled by `downstream` before any filter runs, read by filters, logs, formats.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use sidemesh_config::resource::listener::{FilterChain, Listener};
use sidemesh_config::value::{Metadata, Name};

use crate::codec::Protocol;
use crate::tls::PeerInfo;

/// One downstream connection. Immutable once its filter chain runs.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Unique within the process.
    pub id: u64,
    /// When it was accepted.
    pub start: Instant,
    pub start_time: SystemTime,
    /// The client: as the PROXY protocol says, else the peer of the socket.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// Where the client wanted to go: original destination or PROXY protocol, else this end of the socket.
    pub local: SocketAddr,
    /// This end of the socket.
    pub direct_local: SocketAddr,
    /// `local` was restored by the original-destination or PROXY protocol filter.
    pub local_restored: bool,
    /// The TLS server name the client asked for (of a terminated connection, or inspected).
    pub server_name: Option<Name>,
    /// What ALPN settled on, or what was detected by inspection (`http/1.1`, `h2`).
    pub alpn: Option<Name>,
    /// TLS was terminated here.
    pub tls: Option<Arc<PeerInfo>>,
    /// What `x-forwarded-client-cert` says of the peer, the same for all requests; `None`: it cannot be told in a header.
    pub client_cert: OnceCell<Option<HeaderValue>>,
    pub handshake_complete: Option<Instant>,
    pub listener: Arc<Listener>,
    pub filter_chain: Arc<FilterChain>,
    /// Name of the filter chain.
    pub chain: Name,
    pub listener_metadata: Option<Arc<Metadata>>,
    /// Dynamic metadata of the connection (PROXY protocol TLVs, network filters).
    pub metadata: Metadata,
    /// PROXY protocol v2 TLVs that an upstream PROXY protocol transport may pass on.
    pub proxy_tlvs: Vec<(u8, Bytes)>,
    /// Why a look at the first bytes found no TLS.
    pub not_tls: Option<&'static str>,
    /// What its requests have moved so far.
    pub passed: Cell<Passed>,
}

/// What the requests of an HTTP connection have moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passed {
    pub received: u64,
    pub sent: u64,
    pub protocol: Option<Protocol>,
}

impl ConnectionInfo {
    /// A connection of which nothing but its ends is known: neither proxied nor inspected, and without TLS.
    pub fn new(
        id: u64,
        (start, start_time): (Instant, SystemTime),
        listener: Arc<Listener>,
        filter_chain: Arc<FilterChain>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        ConnectionInfo {
            id,
            start,
            start_time,
            remote,
            direct_remote: remote,
            local,
            direct_local: local,
            local_restored: false,
            server_name: None,
            alpn: None,
            tls: None,
            client_cert: OnceCell::new(),
            handshake_complete: None,
            chain: filter_chain.name.clone(),
            filter_chain,
            listener_metadata: listener.metadata.clone(),
            listener,
            metadata: Metadata::default(),
            proxy_tlvs: Vec::new(),
            not_tls: None,
            passed: Cell::default(),
        }
    }

    /// TLS was terminated on the connection.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}
