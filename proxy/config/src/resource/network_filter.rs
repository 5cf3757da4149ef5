//! Network filters other than the connection manager and the TCP proxy.

mod parse;

pub use parse::parse;
pub(in crate::resource) use parse::rate_limit;

use std::sync::Arc;

use crate::resource::http_connection_manager::HttpConnectionManager;
use crate::resource::http_filter::rate_limit::TokenBucket;
use crate::resource::http_filter::rbac::RbacFilter;
use crate::resource::tcp_proxy::TcpProxy;
use crate::value::{DataSource, Name, RuntimeFraction};

#[derive(Debug, Clone, PartialEq)]
pub enum NetworkFilter {
    /// Terminal.
    Http(Arc<HttpConnectionManager>),
    /// Terminal.
    Tcp(Arc<TcpProxy>),
    Rbac(Arc<RbacFilter>),
    LocalRateLimit(Arc<NetworkRateLimit>),
    ConnectionLimit(Arc<ConnectionLimit>),
    /// Uses the TLS server name as the cluster's name.
    SniCluster,
    /// Terminal.
    Echo,
    /// Terminal.
    DirectResponse(DataSource),
}

impl NetworkFilter {
    /// Whether the filter answers itself: it ends its chain.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            NetworkFilter::Http(_) | NetworkFilter::Tcp(_) | NetworkFilter::Echo | NetworkFilter::DirectResponse(_)
        )
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRateLimit {
    pub stat_prefix: Name,
    pub bucket: TokenBucket,
    pub enabled: Option<RuntimeFraction>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionLimit {
    pub stat_prefix: Name,
    pub max_connections: u64,
    pub delay: Option<std::time::Duration>,
    pub enabled: Option<(bool, Name)>,
}
