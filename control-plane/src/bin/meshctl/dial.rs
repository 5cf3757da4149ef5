//! The way to the control plane: TCP, and TLS when its URL says https, trusting the authorities that were given and
//! no others.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::client::{Failure, Server};

/// Connection and handshake together.
const TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 15010;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects; what is wrong with the address, the authorities or the connection is said at once.
pub async fn channel(server: &Server) -> Result<Channel, Failure> {
    let target = Target::parse(server)?;
    let authority = format!("{}:{}", target.host, target.port);
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|e| Failure::Usage(format!("--server {}: {e}; write it as https://HOST:PORT", server.url)))?;
    let connect = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move {
            let timed_out = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {TIMEOUT:?}"));
            tokio::time::timeout(TIMEOUT, target.open()).await.map_err(|_| timed_out())?.map(TokioIo::new)
        }
    });
    endpoint
        .connect_with_connector(connect)
        .await
        .map_err(|e| Failure::Unreachable { url: server.url.clone(), cause: root_cause(&e) })
}

/// The innermost error: the outer ones say that something failed, this one says what.
pub fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[derive(Clone)]
struct Target {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// `https://HOST:PORT`, `http://HOST:PORT`, or `HOST:PORT` for the latter.
    fn parse(server: &Server) -> Result<Target, Failure> {
        let wrong =
            |why: &str| Failure::Usage(format!("--server {}: {why}; write it as https://HOST:PORT", server.url));
        let text = if server.url.contains("://") { server.url.clone() } else { format!("http://{}", server.url) };
        let uri: Uri = text.parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
        let host = uri.host().ok_or_else(|| wrong("no host"))?.to_owned();
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("a path has no meaning there"));
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let ca = server
                    .ca
                    .as_ref()
                    .ok_or_else(|| wrong("https needs --ca-file, the control plane's <data-dir>/ca/root.pem"))?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|e| wrong(&e.to_string()))?;
                Some((connector(ca)?, name))
            }
            _ => return Err(wrong("neither http nor https")),
        };
        Ok(Target { host, port: uri.port_u16().unwrap_or(DEFAULT_PORT), tls })
    }

    async fn open(self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(format!("{}:{}", self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        match self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => match connector.connect(name, stream).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(e) => Err(io::Error::new(
                    e.kind(),
                    format!("TLS: {e} (is --ca-file of that control plane, and has it --tls?)"),
                )),
            },
        }
    }
}

fn connector(ca: &[u8]) -> Result<TlsConnector, Failure> {
    let wrong = |e: String| Failure::Usage(format!("--ca-file: {e}; it is the control plane's <data-dir>/ca/root.pem"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(|e| wrong(e.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
