//! Listeners (`listener.v3.Listener`): address, listener filters, filter chains.

mod chain;
mod choose;
mod matcher;
mod parse;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use choose::{ChainIndex, ConnectionView};
pub(in crate::resource) use matcher::input as matcher_input;
pub use matcher::{ChainMatcher, Input};
pub use parse::parse;

use crate::resource::access_log::AccessLog;
use crate::resource::cluster::TcpKeepalive;
use crate::resource::network_filter::NetworkFilter;
use crate::resource::socket_option::SocketOption;
use crate::resource::tls::DownstreamTransport;
use crate::value::{Address, Cidr, Metadata, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Name,
    /// `stat_prefix`, else the address as Envoy spells it in stats.
    pub stat_prefix: Name,
    pub address: Address,
    pub additional_addresses: Vec<Address>,
    pub bind_to_port: bool,
    pub use_original_dst: bool,
    pub transparent: bool,
    pub freebind: bool,
    pub reuse_port: bool,
    pub ipv4_compat: bool,
    pub tcp_backlog: u32,
    /// Of the listening sockets.
    pub socket_options: Vec<SocketOption>,
    pub keepalive: Option<TcpKeepalive>,
    pub listener_filters: Vec<ListenerFilter>,
    /// `None`: no limit. Default 15 s.
    pub listener_filters_timeout: Option<Duration>,
    pub continue_on_listener_filters_timeout: bool,
    pub chains: Vec<Arc<FilterChain>>,
    pub default_chain: Option<Arc<FilterChain>>,
    /// `chains` by what they match; see [`Listener::choose`].
    pub index: ChainIndex,
    /// `filter_chain_matcher`: chooses instead of the index.
    pub matcher: Option<ChainMatcher>,
    /// Default 1 MiB.
    pub buffer_limit: u32,
    pub access_logs: Vec<Arc<AccessLog>>,
    pub metadata: Option<Arc<Metadata>>,
    /// `traffic_direction`: spans are named after it.
    pub direction: TrafficDirection,
    pub drain_modify_only: bool,
    pub max_connections_per_accept: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDirection {
    Unspecified,
    Inbound,
    Outbound,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ListenerFilter {
    TlsInspector,
    HttpInspector,
    OriginalDst,
    ProxyProtocol(ProxyProtocolFilter),
    LocalRateLimit(Arc<crate::resource::network_filter::NetworkRateLimit>),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProxyProtocolFilter {
    pub allow_without_header: bool,
    /// TLV type → dynamic metadata (filter, key).
    pub rules: Vec<(u8, Name, Name)>,
    pub disallow_v1: bool,
    pub disallow_v2: bool,
    pub pass_through_tlvs: Option<Vec<u8>>,
    /// Its counts stand under `proxy_proto.PREFIX.`
    pub stat_prefix: Option<Name>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    pub name: Name,
    pub matcher: FilterChainMatch,
    pub filters: Vec<NetworkFilter>,
    pub transport: DownstreamTransport,
    /// `None`: none.
    pub transport_connect_timeout: Option<Duration>,
    pub metadata: Option<Arc<Metadata>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterChainMatch {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<Cidr>,
    /// Lower-cased; `*.example.com` kept as `.example.com`.
    pub server_names: Vec<ServerName>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: Option<Name>,
    pub application_protocols: Vec<Name>,
    pub direct_source_ranges: Vec<Cidr>,
    pub source_type: SourceType,
    pub source_ranges: Vec<Cidr>,
    pub source_ports: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    Exact(Name),
    /// The suffix with its leading dot.
    Wildcard(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

/// Where a listener's own socket is bound.
pub fn bind_addresses(listener: &Listener) -> Vec<SocketAddr> {
    std::iter::once(&listener.address)
        .chain(&listener.additional_addresses)
        .filter_map(|a| match a {
            Address::Socket(s) => Some(*s),
            _ => None,
        })
        .collect()
}

impl Listener {
    /// Equal but for the filter chains: connections of chains that stay need not notice.
    pub fn differs_in_chains_alone(&self, other: &Listener) -> bool {
        let bare =
            |l: &Listener| Listener { chains: Vec::new(), default_chain: None, index: Default::default(), ..l.clone() };
        bare(self) == bare(other)
    }
}
