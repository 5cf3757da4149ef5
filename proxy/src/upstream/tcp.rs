//! A TCP session's one attempt: choose, connect, charge.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use sidemesh_config::resource::route::{Priority, SubsetMatch};
use sidemesh_config::snapshot::Snapshot;

use super::{
    AttemptError, AttemptInfo, AttemptOptions, Cluster, Downstream, Host, Naming, PickContext, PickError, TcpUpstream,
    Upstream,
};
use crate::codec::{SendOptions, Upgrade, connect};
use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::telemetry::flags::ResponseFlags;

/// What a TCP session's host is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct TcpContext<'a> {
    pub hash: Option<u64>,
    pub metadata_match: Option<&'a SubsetMatch>,
    pub connection: &'a ConnectionInfo,
    /// Told to the host besides what the client's PROXY header brought.
    pub proxy_tlvs: &'a [(u8, Bytes)],
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
    /// The host does not open the tunnel.
    #[error("the tunnel was refused with status {status}")]
    Refused { status: StatusCode, host: Rc<Host> },
    #[error("the tunnel was not answered in time")]
    NoAnswer,
}

impl TcpError {
    pub fn flags(&self) -> ResponseFlags {
        match self {
            TcpError::NoCluster => ResponseFlags::NO_CLUSTER_FOUND,
            TcpError::Pick(error) => error.flag(),
            TcpError::Attempt { error, .. } => error.response_flag(),
            TcpError::Refused { .. } | TcpError::NoAnswer => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
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
        let (cluster, host) = self.choose(snapshot, cluster, &context)?;
        let info = AttemptInfo::default();
        match cluster.connect_tcp(&host, Priority::Default, Some(&context.downstream()), &info).await {
            Ok(upstream) => Ok(TcpConnected { upstream, host, info }),
            Err(error) => Err(TcpError::Attempt { error, host }),
        }
    }

    /// One attempt to open a tunnel through a host of `cluster`, over an HTTP connection of its pool.
    pub async fn tunnel_connect(
        &self,
        snapshot: &Snapshot,
        cluster: &str,
        context: TcpContext<'_>,
        head: &Parts,
    ) -> Result<TcpConnected, TcpError> {
        let (cluster, host) = self.choose(snapshot, cluster, &context)?;
        let info = AttemptInfo::default();
        let downstream = context.downstream();
        let upgrade = (head.method == Method::CONNECT).then_some(Upgrade::Connect);
        let send = SendOptions { upgrade, ..SendOptions::default() };
        let options = AttemptOptions { send, downstream: Some(&downstream), ..AttemptOptions::default() };
        let (upload, body) = connect::Upload::new();
        match cluster.request(&host, head, body, options, &info).await {
            Ok(response) if response.status().is_success() => {
                let io = Io::boxed(upload.connected(response.into_body()));
                Ok(TcpConnected { upstream: TcpUpstream { io, guard: None }, host, info })
            }
            Ok(response) => Err(TcpError::Refused { status: response.status(), host }),
            Err(error) => Err(TcpError::Attempt { error, host }),
        }
    }

    fn choose(
        &self,
        snapshot: &Snapshot,
        cluster: &str,
        context: &TcpContext<'_>,
    ) -> Result<(Rc<Cluster>, Rc<Host>), TcpError> {
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
        Ok((cluster, host))
    }
}

impl TcpContext<'_> {
    fn downstream(&self) -> Downstream {
        let connection = self.connection;
        let added = self.proxy_tlvs.iter().filter(|(kind, _)| !connection.proxy_tlvs.iter().any(|(k, _)| k == kind));
        Downstream {
            remote: connection.remote,
            local: connection.local,
            tlvs: connection.proxy_tlvs.iter().chain(added).cloned().collect(),
            sni: connection.server_name.clone(),
        }
    }
}
