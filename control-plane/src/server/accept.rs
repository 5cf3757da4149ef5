//! Connections to the gRPC port: plain TCP, or TLS with a certificate of the mesh's own authority. TLS 1.2 is taken, too:
//! Envoy offers no more to its clusters unless it is told to.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::ca::{Ca, CaError, Identity, SanName};

/// A client that has not finished its handshake by then is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait to be accepted.
const MAX_HANDSHAKES: usize = 256;
/// Our own name in the mesh.
const OWN_NAMESPACE: &str = "sidemesh-system";
const OWN_ACCOUNT: &str = "control-plane";

/// An accepted connection.
pub enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts for as long as the receiver lives. Failures of single connections never end it.
pub fn incoming(listener: TcpListener, tls: Option<TlsAcceptor>) -> ReceiverStream<io::Result<Io>> {
    let (sender, receiver) = mpsc::channel(1);
    // Ends by itself when the server lets go of the stream.
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of file descriptors, say: wait for some to be closed.
                    tracing::warn!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _best_effort = stream.set_nodelay(true).is_ok();
            let Some(acceptor) = &tls else {
                if sender.send(Ok(Io::Plain(stream))).await.is_err() {
                    return;
                }
                continue;
            };
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (handshake, sender) = (acceptor.accept(stream), sender.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => drop(sender.send(Ok(Io::Tls(Box::new(stream)))).await),
                    Ok(Err(e)) => tracing::info!("TLS handshake: {e}"),
                    Err(_) => tracing::info!("TLS handshake: not finished within {HANDSHAKE_TIMEOUT:?}"),
                }
                drop(slot);
            });
        }
    });
    ReceiverStream::new(receiver)
}

/// Our own certificate, renewed at half of its life.
pub struct OwnCertificate {
    ca: Arc<Ca>,
    names: Vec<SanName>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl OwnCertificate {
    /// `more`: further names that clients reach it by.
    pub fn new(ca: Arc<Ca>, listen: IpAddr, more: &[String]) -> Result<Arc<OwnCertificate>, CaError> {
        let mut names = vec![
            SanName::Dns("localhost".into()),
            SanName::Dns("sidemesh-control-plane".into()),
            SanName::Dns("sidemesh-control-plane.sidemesh-system.svc".into()),
            SanName::Ip(IpAddr::from([127, 0, 0, 1])),
        ];
        if !listen.is_unspecified() {
            names.push(SanName::Ip(listen));
        }
        names.extend(more.iter().filter_map(|name| SanName::parse(name)));
        let current = RwLock::new(issue(&ca, &names)?);
        Ok(Arc::new(OwnCertificate { ca, names, current }))
    }

    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, CaError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]);
        let builder = builder.map_err(|e| CaError::Sign(e.to_string()))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Renews until the process ends.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.ca.leaf_ttl() / 2).await;
            match issue(&self.ca, &self.names) {
                Ok(fresh) => *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh,
                Err(e) => tracing::error!("own certificate not renewed: {e}"),
            }
        }
    }
}

fn issue(ca: &Ca, names: &[SanName]) -> Result<Arc<CertifiedKey>, CaError> {
    let identity = Identity { namespace: OWN_NAMESPACE.into(), service_account: OWN_ACCOUNT.into() };
    let (signed, key) = ca.issue_with_key(&identity, names)?;
    let bad = |e: String| CaError::Sign(format!("own certificate: {e}"));
    let chain = CertificateDer::pem_slice_iter(signed.chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| bad(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|e| bad(e.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl Connected for Io {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Io::Plain(stream) => stream.connect_info(),
            Io::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Is this an address that only this machine can reach?
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}
