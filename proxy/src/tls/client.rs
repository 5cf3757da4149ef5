//! The client side: one upstream context with its secrets, and the handshake.
//!
//! As in Envoy the certificate is held against the context's CA and SAN rules; against the name of the host only where SAN
//! validation asks for it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::client::{Resumption, danger::ServerCertVerifier};
use rustls::pki_types::{DnsName, ServerName};
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::resource::tls::{CommonTls, UpstreamTls};
use sidemesh_config::snapshot::ByName;

use super::context::{Context, Side};
use super::error::Error;
use super::key_log::{self, KeyLog};
use super::material::{self, FileState, Identity, Reader};
use super::merge::{self, Resolved};
use super::observed::{self, Settled};
use super::params;
use super::peer::PeerInfo;
use super::store::{self, Expirations};
use super::verify::{Named, Peer, Verifier};
use crate::io::{Io, Socket, Tls};

/// Configurations with a name or protocols of a connection's own, kept for the next such connection.
const MAX_VARIANTS: usize = 32;

/// A handle on a context that is ready for handshakes.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Context<State>>,
}

/// What one connection asks for besides its context.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// `auto_sni`: goes before the context's own server name.
    pub server_name: Option<&'a str>,
    /// `auto_san_validation`: the certificate must be for this name.
    pub san: Option<&'a str>,
    /// The host's name or address, for `auto_host_sni`.
    pub host: &'a str,
    /// Protocols to offer where the context names none.
    pub alpn: &'a [&'a [u8]],
}

/// What is built of a context and its secrets.
#[derive(Debug)]
pub(super) struct State {
    identity: Option<Arc<Identity>>,
    verifier: Arc<Verifier>,
    settled: Settled,
    base: Arc<ClientConfig>,
    key_log: Option<Arc<KeyLog>>,
    variants: Mutex<Vec<Variant>>,
    files: Vec<FileState>,
}

#[derive(Debug)]
struct Variant {
    alpn: Vec<Vec<u8>>,
    san: Option<Box<str>>,
    logged: bool,
    config: Arc<ClientConfig>,
}

impl Client {
    /// The context, built before or now. `Err` when a secret is not there, or something cannot be used.
    pub fn new(config: &UpstreamTls, secrets: &ByName<Arc<Secret>>) -> Result<Self, Error> {
        let resolved = merge::resolve(&config.common, None, secrets)?;
        let shared = store::client(config, resolved)?;
        Ok(Client { shared })
    }

    pub(super) fn expirations(&self) -> Expirations {
        let state = self.shared.state();
        self.shared.expirations(state.identity.iter().map(|i| &*i.certificate), state.verifier.ca_expires())
    }

    /// The handshake of one connection.
    pub async fn connect(&self, socket: Socket, target: Target<'_>) -> Result<(Io, Arc<PeerInfo>), Error> {
        let state = self.shared.state();
        let name = self.server_name(&target, socket.peer_addr().map(|a| a.ip()))?;
        let log = self.shared.config.common.key_log.as_ref();
        let logged = log.is_some_and(|c| key_log::applies(c, socket.local_addr(), socket.peer_addr()));
        let config = self.session_config(&state, &target, logged);
        let sent = match &name {
            ServerName::DnsName(dns) => Some(dns.as_ref().to_owned()),
            _ => None,
        };
        let (tls, signed) = observed::watch(Tls::connect(socket, config, name)).await;
        let tls = tls?;
        let session = tls.session();
        let verdict = state.verifier.verdict(session.peer_certificates().unwrap_or_default());
        let settled = state.settled.note(session, signed);
        let local = state.identity.as_ref().map(|i| i.certificate.clone());
        let peer = PeerInfo::new(session, sent.as_deref(), verdict, settled, local);
        Ok((Io::from(tls), Arc::new(peer)))
    }

    /// The configuration and name for a stream that is no [`Socket`].
    pub fn session(&self, target: &Target<'_>) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
        let state = self.shared.state();
        Ok((self.session_config(&state, target, false), self.server_name(target, None)?))
    }

    /// An address stands for "no name": it is not sent, and keeps the sessions of different hosts apart.
    fn server_name(&self, target: &Target<'_>, peer: Option<IpAddr>) -> Result<ServerName<'static>, Error> {
        let config = &self.shared.config;
        let host = config.auto_host_sni.then_some(target.host).filter(|h| !h.is_empty());
        let given = target.server_name.or(host).or(config.sni.as_deref());
        match given {
            Some(name) => match name.parse::<IpAddr>() {
                Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
                Err(_) => DnsName::try_from(name.to_owned())
                    .map(ServerName::DnsName)
                    .map_err(|_| Error::ServerName(name.into())),
            },
            None => {
                let host = target.host.parse().ok();
                let ip = peer.or(host).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                Ok(ServerName::IpAddress(ip.into()))
            }
        }
    }

    fn session_config(&self, state: &State, target: &Target<'_>, logged: bool) -> Arc<ClientConfig> {
        let own = &self.shared.config.common.alpn;
        let alpn: &[&[u8]] = if own.is_empty() { target.alpn } else { &[] };
        if alpn.is_empty() && target.san.is_none() && !logged {
            return state.base.clone();
        }
        // Taken when a connection is opened, never per request; rustls' session store is locked then as well.
        let mut variants = state.variants.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |v: &&Variant| v.alpn == alpn && v.san.as_deref() == target.san && v.logged == logged;
        if let Some(found) = variants.iter().find(same) {
            return found.config.clone();
        }
        let mut config = (*state.base).clone();
        if !alpn.is_empty() {
            config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        }
        if let Some(name) = target.san {
            let named = Named { verifier: state.verifier.clone(), name: name.into() };
            config.dangerous().set_certificate_verifier(Arc::new(named));
        }
        if logged && let Some(log) = &state.key_log {
            config.key_log = log.clone();
        }
        let config = Arc::new(config);
        if variants.len() >= MAX_VARIANTS {
            variants.remove(0);
        }
        let alpn = alpn.iter().map(|p| p.to_vec()).collect();
        variants.push(Variant { alpn, san: target.san.map(Into::into), logged, config: config.clone() });
        config
    }
}

impl Side for State {
    type Config = UpstreamTls;

    fn common(config: &UpstreamTls) -> &CommonTls {
        &config.common
    }

    fn files(&self) -> &[FileState] {
        &self.files
    }

    fn build(config: &UpstreamTls, resolved: &Resolved) -> Result<Self, Error> {
        let mut reader = Reader::default();
        let provider = params::provider(&config.common.params);
        let identity = match resolved.certificates.first() {
            Some(certificate) => Some(material::identity(&mut reader, certificate, &provider)?),
            None => None,
        };
        let mut verifier = Verifier::new(&mut reader, resolved.validation.as_deref(), provider.clone(), Peer::Server)?;
        if config.auto_sni_san_validation {
            verifier = verifier.matching_server_name();
        }
        let verifier = Arc::new(verifier);
        let judge: Arc<dyn ServerCertVerifier> = verifier.clone();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(params::versions(&config.common.params))?
            .dangerous()
            .with_custom_certificate_verifier(judge);
        let mut base = match &identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.key.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        base.alpn_protocols.clone_from(&config.common.alpn);
        base.resumption = match config.max_session_keys {
            0 => Resumption::disabled(),
            most => Resumption::in_memory_sessions(most as usize),
        };
        let key_log = config.common.key_log.as_ref().map(|log| KeyLog::open(log).map(Arc::new)).transpose()?;
        Ok(State {
            identity,
            verifier,
            settled: Settled::default(),
            base: Arc::new(base),
            key_log,
            variants: Mutex::new(Vec::new()),
            files: reader.files,
        })
    }
}
