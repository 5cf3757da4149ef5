//! The server side: one downstream context with its secrets, and the handshake.
//!
//! The ClientHello is read before the configuration is chosen: a client that offers no protocol of ours goes on without ALPN, as
//! in Envoy, where rustls would end the handshake.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm, SignatureScheme, server};
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::resource::tls::{CommonTls, DownstreamTls, StaplePolicy, Tickets as TicketConfig};
use sidemesh_config::snapshot::ByName;

use super::context::{Context, Side};
use super::error::Error;
use super::key_log::{self, KeyLog};
use super::material::{self, FileState, Identity, Reader};
use super::merge::{self, Resolved};
use super::observed::{self, Settled};
use super::ocsp::{self, Verdict};
use super::params;
use super::peer::PeerInfo;
use super::san::dns_match;
use super::store::{self, Expirations};
use super::tickets::Tickets;
use super::verify::{Peer, Verifier, sha256};
use crate::io::{Greeted, Io, Socket};

/// Sessions kept for stateful resumption, per context.
const SESSIONS: usize = 1024;

/// A handle on a context that is ready for handshakes.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Context<State>>,
}

/// What is built of a context and its secrets.
#[derive(Debug)]
pub(super) struct State {
    certificates: Arc<Certificates>,
    verifier: Arc<Verifier>,
    settled: Settled,
    plain: Configs,
    /// With the key log, for connections that it is for.
    logged: Option<Configs>,
    files: Vec<FileState>,
}

/// Variants of one configuration, of which the ClientHello chooses.
#[derive(Debug)]
struct Configs {
    /// By the suite of TLS 1.3 that comes first, in the order of [`params::TLS13_SUITES`]: between those the client's order
    /// counts, as in BoringSSL, while ours counts between those of TLS 1.2.
    by_suite: Vec<Variant>,
}

#[derive(Debug)]
struct Variant {
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
}

/// The certificates of a context, chosen by server name and by what the client can verify.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<Identity>>,
    full_scan: bool,
    policy: StaplePolicy,
}

impl Server {
    /// The context, built before or now. `Err` when a secret is not there, or something cannot be used.
    pub fn new(config: &DownstreamTls, secrets: &ByName<Arc<Secret>>) -> Result<Self, Error> {
        let resolved = merge::resolve(&config.common, Some(&config.tickets), secrets)?;
        let shared = store::server(config, resolved)?;
        Ok(Server { shared })
    }

    pub(super) fn expirations(&self) -> Expirations {
        let state = self.shared.state();
        let certificates = state.certificates.all.iter().map(|c| &*c.certificate);
        self.shared.expirations(certificates, state.verifier.ca_expires())
    }

    /// The handshake of one connection. After an error the alert has been sent; the socket is closed.
    pub async fn accept(&self, socket: Socket) -> Result<(Io, Arc<PeerInfo>), Error> {
        let state = self.shared.state();
        let (local, remote) = (socket.local_addr(), socket.peer_addr());
        let greeted = Greeted::read(socket).await?;
        let hello = greeted.hello();
        let configs = match (&state.logged, &self.shared.config.common.key_log) {
            (Some(logged), Some(config)) if key_log::applies(config, local, remote) => logged,
            _ => &state.plain,
        };
        let config = configs.choose(&hello, &self.shared.config.common.alpn);
        let server_name = hello.server_name().map(str::to_owned);
        let certificate = state.certificates.choose(&hello).map(|(identity, _)| identity.certificate.clone());
        let (tls, signed) = observed::watch(greeted.accept(config)).await;
        let tls = tls?;
        let session = tls.session();
        let verdict = state.verifier.verdict(session.peer_certificates().unwrap_or_default());
        let settled = state.settled.note(session, signed);
        let peer = PeerInfo::new(session, server_name.as_deref(), verdict, settled, certificate);
        Ok((Io::from(tls), Arc::new(peer)))
    }
}

impl Side for State {
    type Config = DownstreamTls;

    fn common(config: &DownstreamTls) -> &CommonTls {
        &config.common
    }

    fn files(&self) -> &[FileState] {
        &self.files
    }

    fn build(config: &DownstreamTls, resolved: &Resolved) -> Result<Self, Error> {
        let mut reader = Reader::default();
        let provider = params::provider(&config.common.params);
        let all = resolved
            .certificates
            .iter()
            .map(|c| material::identity(&mut reader, c, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        check_staples(config, &all)?;
        let certificates = Arc::new(Certificates { all, full_scan: config.full_scan, policy: config.staple_policy });
        let verifier = Verifier::new(&mut reader, resolved.validation.as_deref(), provider.clone(), Peer::Client)?;
        let verifier = Arc::new(verifier.for_clients(config.require_client_certificate));

        let resumption = resumption(config, resolved, &mut reader, &certificates, &verifier)?;
        let mut bases = Vec::new();
        for first in params::TLS13_SUITES {
            let builder = ServerConfig::builder_with_provider(params::preferring(&provider, first))
                .with_protocol_versions(params::versions(&config.common.params))?;
            let builder = if verifier.asks() {
                builder.with_client_cert_verifier(verifier.clone())
            } else {
                builder.with_no_client_auth()
            };
            let mut base = builder.with_cert_resolver(certificates.clone());
            base.ignore_client_order = !config.prefer_client_ciphers;
            resumption.apply(&mut base);
            bases.push(base);
        }
        let logged = match &config.common.key_log {
            None => None,
            Some(log) => {
                let log = Arc::new(KeyLog::open(log)?);
                let logging = |mut base: ServerConfig| {
                    base.key_log = log.clone();
                    base
                };
                Some(Configs::new(bases.iter().cloned().map(logging), &config.common.alpn))
            }
        };
        let plain = Configs::new(bases, &config.common.alpn);
        Ok(State { certificates, verifier, settled: Settled::default(), plain, logged, files: reader.files })
    }
}

/// A staple that the policy or a certificate asks for must be there from the start.
pub(super) fn check_staples(config: &DownstreamTls, all: &[Arc<Identity>]) -> Result<(), Error> {
    let lacks = |c: &Arc<Identity>| c.staple.is_none() && (c.must_staple || config.staple_policy == StaplePolicy::Must);
    match all.iter().position(lacks) {
        None => Ok(()),
        Some(at) => {
            let what = format!("tls_certificates[{at}].ocsp_staple");
            Err(Error::material(what, "is required, by ocsp_staple_policy or by the certificate itself"))
        }
    }
}

/// How sessions of a context are resumed.
struct Resumption {
    storage: Arc<dyn StoresServerSessions>,
    /// `None`: no tickets.
    tickets: Option<Arc<Tickets>>,
}

/// Session tickets and session identifiers, as the context allows them.
fn resumption(
    config: &DownstreamTls,
    resolved: &Resolved,
    reader: &mut Reader,
    certificates: &Certificates,
    verifier: &Verifier,
) -> Result<Resumption, Error> {
    let storage: Arc<dyn StoresServerSessions> = match config.stateful_resumption {
        true => ServerSessionMemoryCache::new(SESSIONS),
        false => Arc::new(NoServerSessionStorage {}),
    };
    if config.tickets == TicketConfig::Disabled {
        return Ok(Resumption { storage, tickets: None });
    }
    let given = match &resolved.ticket_keys {
        None => None,
        Some(sources) => Some(
            sources
                .iter()
                .map(|s| reader.read(s, "session_ticket_keys").map(|bytes| bytes.to_vec()))
                .collect::<Result<Vec<_>, _>>()?,
        ),
    };
    let leaves: Vec<_> = certificates.all.iter().map(|c| &c.certificate.subject).collect();
    let context = sha256(format!("{}{leaves:?}", verifier.fingerprint()).as_bytes());
    let tickets = Arc::new(Tickets::new(given.as_deref(), context, config.session_timeout)?);
    Ok(Resumption { storage, tickets: Some(tickets) })
}

impl Resumption {
    fn apply(&self, base: &mut ServerConfig) {
        base.session_storage = self.storage.clone();
        match &self.tickets {
            Some(tickets) => base.ticketer = tickets.clone(),
            // TLS 1.3 resumes by tickets alone, what is kept here included: as in Envoy session identifiers are for TLS 1.2.
            None => base.send_tls13_tickets = 0,
        }
    }
}

impl Configs {
    /// `bases`: one for each of the suites of TLS 1.3.
    fn new(bases: impl IntoIterator<Item = ServerConfig>, alpn: &[Vec<u8>]) -> Self {
        let variant = |mut base: ServerConfig| {
            let without_alpn = Arc::new(base.clone());
            base.alpn_protocols = alpn.to_vec();
            Variant { with_alpn: Arc::new(base), without_alpn }
        };
        Configs { by_suite: bases.into_iter().map(variant).collect() }
    }

    fn choose(&self, hello: &server::ClientHello<'_>, ours: &[Vec<u8>]) -> Arc<ServerConfig> {
        let known = |s: &CipherSuite| params::TLS13_SUITES.iter().position(|k| k == s);
        let variant = &self.by_suite[hello.cipher_suites().iter().find_map(known).unwrap_or(0)];
        let common = hello.alpn().is_some_and(|mut theirs| theirs.any(|p| ours.iter().any(|o| o == p)));
        if common { variant.with_alpn.clone() } else { variant.without_alpn.clone() }
    }
}

impl Certificates {
    /// By server name (exact, then wildcard; the common name where there are no DNS names); among several, an ECDSA certificate
    /// for a client that takes one. Without a match the first certificate, or with `full_scan` the best of all.
    fn choose(&self, hello: &server::ClientHello<'_>) -> Option<(&Identity, Verdict)> {
        let offer = Offer::of(hello);
        let now = UnixTime::now().as_secs().cast_signed();
        let best = |of: &dyn Fn(&Identity) -> bool| {
            let usable = || {
                let all = self.all.iter().filter(|c| of(c) && offer.takes(c)).map(|c| (&**c, self.judge(c, now)));
                all.filter(|(_, verdict)| *verdict != Verdict::Fail)
            };
            usable().find(|(c, _)| c.is_ecdsa()).or_else(|| usable().next())
        };
        if let Some(name) = hello.server_name() {
            let named = best(&|c| is_for(c, name, false)).or_else(|| best(&|c| is_for(c, name, true)));
            if named.is_some() || !self.full_scan {
                return named.or_else(|| self.first(now));
            }
        }
        best(&|_| true).or_else(|| self.first(now))
    }

    fn first(&self, now: i64) -> Option<(&Identity, Verdict)> {
        let first = self.all.first()?;
        Some((&**first, self.judge(first, now)))
    }

    fn judge(&self, identity: &Identity, now: i64) -> Verdict {
        ocsp::judge(self.policy, identity.must_staple, identity.staple.as_ref(), now)
    }
}

/// What a client can verify.
struct Offer<'a> {
    schemes: &'a [SignatureScheme],
    /// Of TLS 1.2 suites one signs with ECDSA, or one with RSA; those of 1.3 say nothing.
    ecdsa: bool,
    rsa: bool,
}

impl<'a> Offer<'a> {
    fn of(hello: &'a server::ClientHello<'a>) -> Self {
        let suites = hello.cipher_suites();
        let any = |of: &[CipherSuite]| suites.iter().any(|s| of.contains(s) || params::TLS13_SUITES.contains(s));
        Offer { schemes: hello.signature_schemes(), ecdsa: any(&params::ECDSA_SUITES), rsa: any(&params::RSA_SUITES) }
    }

    fn takes(&self, identity: &Identity) -> bool {
        let suite = match identity.key.key.algorithm() {
            SignatureAlgorithm::RSA => self.rsa,
            _ => self.ecdsa,
        };
        suite && identity.key.key.choose_scheme(self.schemes).is_some()
    }
}

fn is_for(identity: &Identity, name: &str, wildcard: bool) -> bool {
    let certificate = &identity.certificate;
    let fits = |pattern: &str| pattern.starts_with("*.") == wildcard && dns_match(name, pattern);
    if certificate.dns_sans.is_empty() {
        return certificate.common_name.as_deref().is_some_and(fits);
    }
    certificate.dns_sans.iter().any(|san| fits(san))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (identity, verdict) = self.choose(&hello)?;
        match (verdict, &identity.staple) {
            (Verdict::Fail, _) => None,
            (Verdict::NoStaple, Some(staple)) => Some(staple.without.clone()),
            _ => Some(identity.key.clone()),
        }
    }
}
