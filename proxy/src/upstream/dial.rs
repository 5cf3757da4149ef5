//! Making a connection to a host: socket, PROXY protocol header, TLS.

mod proxy_header;
mod socket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::cluster::{BindConfig, TcpKeepalive};
use sidemesh_config::resource::tls::UpstreamTransport;
use sidemesh_config::value::Address;
use tokio::io::AsyncWriteExt;

use super::error::{AttemptError, system_words};
use super::pool::Mode;
use crate::clock::Timers;
use crate::io::Io;
use crate::telemetry::tls::TlsStats;
use crate::tls;

pub use proxy_header::{Told, encode};

/// Where to and how.
pub struct Dial<'a> {
    pub address: &'a Address,
    pub fallbacks: &'a [Address],
    pub bind: Option<&'a BindConfig>,
    /// The bootstrap's, for what `bind` does not say.
    pub default_bind: Option<&'a BindConfig>,
    pub keepalive: Option<&'a TcpKeepalive>,
    pub transport: &'a UpstreamTransport,
    /// For a TLS transport.
    pub client: Option<Rc<tls::Client>>,
    /// Where its handshake is counted.
    pub tls_stats: Option<&'a TlsStats>,
    pub server_name: Option<&'a str>,
    pub san: Option<&'a str>,
    pub hostname: &'a str,
    /// `None` for TCP.
    pub mode: Option<Mode>,
    pub told: Told<'a>,
    pub timeout: Duration,
}

/// A connection that is ready to use.
pub struct Dialled {
    pub io: Io,
    pub tls: Option<Arc<tls::PeerInfo>>,
}

impl Dial<'_> {
    /// Connects, within the time limit.
    pub async fn connect(&self, timers: &Timers) -> Result<Dialled, AttemptError> {
        match timers.timeout(self.timeout, self.connect_unlimited()).await {
            Ok(result) => result,
            Err(_) => Err(AttemptError::ConnectTimeout),
        }
    }

    async fn connect_unlimited(&self) -> Result<Dialled, AttemptError> {
        let mut socket = self.connect_any().await?;
        let mut transport = self.transport;
        while let UpstreamTransport::ProxyProtocol { version, inner, .. } = transport {
            let header = encode(*version, &self.told, transport);
            socket.write_all(&header).await.map_err(failed)?;
            transport = inner;
        }
        match transport {
            UpstreamTransport::Tls(_) => self.secure(socket).await,
            _ => Ok(Dialled { io: Io::from(socket), tls: None }),
        }
    }

    async fn secure(&self, socket: crate::io::Socket) -> Result<Dialled, AttemptError> {
        let Some(client) = &self.client else {
            self.tls_stats.inspect(|stats| stats.not_ready.inc());
            return Err(AttemptError::Tls(Rc::from("TLS_error: the cluster's certificates or keys are not there yet")));
        };
        let alpn: &[&[u8]] = match self.mode {
            Some(Mode::Http1) => &[b"http/1.1"],
            Some(Mode::Http2) => &[b"h2"],
            Some(Mode::Auto) => &[b"h2", b"http/1.1"],
            None => &[],
        };
        let ip;
        let host = match (self.hostname, self.address) {
            ("", Address::Socket(address)) => {
                ip = address.ip().to_string();
                &ip
            }
            (name, _) => name,
        };
        let target = tls::Target { server_name: self.server_name, san: self.san, host, alpn };
        match client.connect(socket, target).await {
            Ok((io, peer)) => {
                self.tls_stats.inspect(|stats| stats.completed(&peer));
                Ok(Dialled { io, tls: Some(peer) })
            }
            Err(error) => {
                self.tls_stats.inspect(|stats| stats.failed(&error));
                match error {
                    // As in Envoy: a peer that only closes has given no reason.
                    tls::Error::Closed => Err(AttemptError::Tls("".into())),
                    error => Err(AttemptError::Tls(error.to_string().into())),
                }
            }
        }
    }

    /// The first address that answers, in the order given.
    async fn connect_any(&self) -> Result<crate::io::Socket, AttemptError> {
        let mut last =
            socket::connect(self.address, [self.bind, self.default_bind], self.keepalive, self.mode.is_some()).await;
        for address in self.fallbacks {
            if last.is_ok() {
                break;
            }
            last = socket::connect(address, [self.bind, self.default_bind], self.keepalive, self.mode.is_some()).await;
        }
        last
    }
}

/// Envoy's words for a connection that was refused or broke off at once.
fn failed(error: std::io::Error) -> AttemptError {
    AttemptError::Connect(format!("delayed connect error: {}", system_words(&error)).into())
}
