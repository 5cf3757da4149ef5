//! A TCP session's one attempt: choose, connect, charge.

use std::net::SocketAddr;
use std::rc::Rc;

use sidemesh_config::resource::route::{Priority, SubsetMatch};
use sidemesh_config::snapshot::Snapshot;

use super::{AttemptError, AttemptInfo, Downstream, Host, Naming, PickContext, PickError, TcpUpstream, Upstream};
use crate::connection::ConnectionInfo;
use crate::telemetry::flags::ResponseFlags;

/// What a TCP session's host is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct TcpContext<'a> {
    pub hash: Option<u64>,
    pub metadata_match: Option<&'a SubsetMatch>,
    pub connection: &'a ConnectionInfo,
}

/// A session's connection, its host, and the record of how it was made.
pub struct TcpConnected {
    pub upstream: TcpUpstream,
    pub host: Rc<Host>,
    pub info: AttemptInfo,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    #[error("there is no cluster of that name")]
    NoCluster,
    #[error(transparent)]
    Pick(#[from] PickError),
    /// The host that was tried, for the log.
    #[error("{error}")]
    Attempt { error: AttemptError, host: Rc<Host> },
}

impl TcpError {
    pub fn flags(&self) -> ResponseFlags {
        match self {
            TcpError::NoCluster => ResponseFlags::NO_CLUSTER_FOUND,
            TcpError::Pick(error) => error.flag(),
            TcpError::Attempt { error, .. } => error.response_flag(),
        }
    }
}

impl Upstream {
    /// One attempt to connect to a host of `cluster`: limits, PROXY header and TLS included.
    pub async fn tcp_connect(
        &self,
        snapshot: &Snapshot,
        cluster: &str,
        context: TcpContext<'_>,
    ) -> Result<TcpConnected, TcpError> {
        let cluster = self.cluster(snapshot, cluster).ok_or(TcpError::NoCluster)?;
        let connection = context.connection;
        let original: Option<SocketAddr> = connection.local_restored.then_some(connection.local);
        let headers = http::HeaderMap::new();
        let metadata = [&connection.metadata, &connection.metadata];
        let naming = Naming { headers: &headers, metadata, connection: original };
        let pick = PickContext {
            hash: context.hash,
            subset: context.metadata_match.map_or(&[], |m| &m.0),
            destination: cluster.original_destination(&naming),
            wanted: &cluster.wanted(&naming),
            ..PickContext::default()
        };
        let host = cluster.pick(&pick)?;
        let downstream = Downstream {
            remote: connection.remote,
            local: connection.local,
            tlvs: connection.proxy_tlvs.clone(),
            sni: connection.server_name.clone(),
        };
        let info = AttemptInfo::default();
        match cluster.connect_tcp(&host, Priority::Default, Some(&downstream), &info).await {
            Ok(upstream) => Ok(TcpConnected { upstream, host, info }),
            Err(error) => Err(TcpError::Attempt { error, host }),
        }
    }
}
