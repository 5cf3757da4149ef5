//! `tcp_proxy.v3.TcpProxy`.

mod parse;

pub use parse::parse;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::format::Format;
use crate::resource::access_log::AccessLog;
use crate::resource::core::HeaderEdits;
use crate::resource::route::SubsetMatch;
use crate::value::{Backoff, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    pub stat_prefix: Name,
    /// With weights; a single cluster is one entry of weight 1.
    pub clusters: Vec<TcpCluster>,
    pub total_weight: u64,
    pub metadata_match: Option<Arc<SubsetMatch>>,
    /// `None`: off. Default 1 h.
    pub idle_timeout: Option<Duration>,
    pub max_connect_attempts: u32,
    pub backoff: Option<Backoff>,
    pub hash_source_ip: bool,
    pub max_downstream_connection_duration: Option<Duration>,
    /// Up to so much of the duration is added to it, drawn for each connection.
    pub duration_jitter_percent: f64,
    pub access_logs: Vec<Arc<AccessLog>>,
    pub access_log_flush_interval: Option<Duration>,
    /// A session is logged when it begins.
    pub flush_log_on_start: bool,
    pub flush_log_on_connected: bool,
    /// The session goes over an HTTP stream of the cluster.
    pub tunneling: Option<Tunneling>,
    /// Added to a PROXY protocol header towards the host.
    pub proxy_tlvs: Vec<(u8, Bytes)>,
}

/// `TunnelingConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunneling {
    /// The authority asked for.
    pub host: Arc<Format>,
    /// POST to this path instead of CONNECT.
    pub post_path: Option<Name>,
    pub headers: HeaderEdits,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TcpCluster {
    pub name: Name,
    pub weight: u32,
    pub metadata_match: Option<Arc<SubsetMatch>>,
}
