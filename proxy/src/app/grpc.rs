//! gRPC channels to clusters of this proxy, for the control thread: management servers, collectors, the mesh's services.
//!
//! Not the data path: one tonic channel per use, over a connection to one of the cluster's endpoints, chosen at random anew for
//! each connection. TLS as the cluster says.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidemesh_config::resource::cluster::Discovery;
use sidemesh_config::resource::endpoint::LoadAssignment;
use sidemesh_config::resource::tls::UpstreamTransport;
use sidemesh_config::snapshot::ClusterEntry;
use sidemesh_config::value::{Address, GrpcService, Name};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::live::Live;
use crate::tls;
use crate::xds::Connect;

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) type Dialled = TokioIo<Box<dyn Stream>>;

/// How one connection is made: all that the configuration says, decided before the first wait.
pub(super) struct Plan {
    addresses: Vec<Address>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    timeout: Duration,
}

/// Gives channels to the clusters of the configuration in force.
pub fn connector(live: Arc<Live>) -> Rc<Connect> {
    Rc::new(move |service: &GrpcService| channel(&live, service))
}

fn channel(live: &Arc<Live>, service: &GrpcService) -> Result<Channel, String> {
    let snapshot = live.load();
    let unknown = || format!("cluster `{}` is not known (yet)", service.cluster);
    let entry = snapshot.cluster(&service.cluster).ok_or_else(unknown)?;
    let authority = service.authority.as_deref().unwrap_or(&service.cluster);
    let mut endpoint = Endpoint::from(uri(authority));
    if let Some(keepalive) = &entry.cluster.protocol.http2.keepalive
        && let Some(interval) = keepalive.interval
    {
        endpoint = endpoint.http2_keep_alive_interval(interval).keep_alive_timeout(keepalive.timeout);
    }
    let (live, cluster) = (live.clone(), service.cluster.clone());
    let connect = tower::service_fn(move |_: Uri| {
        let plan = plan(&live, &cluster, &[b"h2"]);
        async move { dial(plan?).await }
    });
    Ok(endpoint.connect_with_connector_lazy(connect))
}

/// The authority as a URI; a cluster's name may hold what an authority may not.
fn uri(authority: &str) -> Uri {
    let clean: String =
        authority.chars().map(|c| if c.is_ascii_alphanumeric() || ".-:_[]".contains(c) { c } else { '_' }).collect();
    format!("http://{clean}").parse().unwrap_or_else(|_| Uri::from_static("http://management-server"))
}

pub(super) fn plan(live: &Live, cluster: &Name, alpn: &[&[u8]]) -> io::Result<Plan> {
    let snapshot = live.load();
    let missing = |what: &str| io::Error::other(format!("cluster `{cluster}` {what}"));
    let entry = snapshot.cluster(cluster).ok_or_else(|| missing("is gone"))?;
    let assignment = assignment(entry).ok_or_else(|| missing("has no endpoints"))?;
    let endpoints = assignment.localities.iter().flat_map(|l| &l.endpoints);
    let mut addresses: Vec<Address> = endpoints.clone().map(|e| e.address.clone()).collect();
    shuffle(&mut addresses);
    if addresses.is_empty() {
        return Err(missing("has no endpoints"));
    }
    let tls = match &entry.cluster.transport {
        UpstreamTransport::Raw => None,
        UpstreamTransport::ProxyProtocol { .. } => {
            return Err(missing("has a PROXY protocol transport: not for services of the proxy's own"));
        }
        UpstreamTransport::Tls(context) => {
            let client = tls::Client::new(context, &snapshot.secrets).map_err(|e| io::Error::other(e.to_string()))?;
            let hostname = endpoints.clone().map(|e| e.hostname.to_string()).find(|h| !h.is_empty());
            let host = hostname.unwrap_or_else(|| host_of(&addresses[0]));
            let target = tls::Target { server_name: None, san: None, host: &host, alpn };
            Some(client.session(&target).map_err(|e| io::Error::other(e.to_string()))?)
        }
    };
    Ok(Plan { addresses, tls, timeout: entry.cluster.connect_timeout })
}

fn assignment(entry: &ClusterEntry) -> Option<&LoadAssignment> {
    match &entry.cluster.discovery {
        Discovery::StrictDns(dns) | Discovery::LogicalDns(dns) => Some(&dns.assignment),
        _ => entry.endpoints.as_deref(),
    }
}

fn host_of(address: &Address) -> String {
    match address {
        Address::Socket(address) => address.ip().to_string(),
        Address::Dns { host, .. } => host.to_string(),
        Address::Pipe(_) => "localhost".to_owned(),
    }
}

fn shuffle(addresses: &mut [Address]) {
    let random = crate::clock::Random::from_entropy();
    for i in (1..addresses.len()).rev() {
        addresses.swap(i, random.below(i as u64 + 1) as usize);
    }
}

/// Tries the addresses in turn.
pub(super) async fn dial(plan: Plan) -> io::Result<Dialled> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in &plan.addresses {
        match tokio::time::timeout(plan.timeout, open(address, plan.tls.clone())).await {
            Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                last = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{address}: no connection within {:?}", plan.timeout),
                )
            }
        }
    }
    Err(last)
}

async fn open(address: &Address, tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> io::Result<Box<dyn Stream>> {
    let stream: Pin<Box<dyn Stream>> = match address {
        Address::Socket(address) => Box::pin(tcp(TcpStream::connect(address).await?)?),
        Address::Dns { host, port } => Box::pin(tcp(TcpStream::connect((&**host, *port)).await?)?),
        Address::Pipe(path) => Box::pin(UnixStream::connect(path).await?),
    };
    match tls {
        None => Ok(Box::new(stream)),
        Some((config, name)) => Ok(Box::new(tokio_rustls::TlsConnector::from(config).connect(name, stream).await?)),
    }
}

fn tcp(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
