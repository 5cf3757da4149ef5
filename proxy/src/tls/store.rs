//! Contexts built once for the whole process: found by equality of context and secrets, forgotten with their last user.
//!
//! The lock is taken when a snapshot is prepared and when a worker meets a context for the first time; never by a connection.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use sidemesh_config::rejection::{Rejection, Within};
use sidemesh_config::resource::Resource;
use sidemesh_config::resource::secret::{Secret, SecretValue};
use sidemesh_config::resource::tls::{
    CommonTls, DownstreamTls, DownstreamTransport, TlsCertificate, UpstreamTls, UpstreamTransport, ValidationContext,
};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;

use super::context::{Context, Shelf};
use super::error::Error;
use super::material::{self, Reader};
use super::merge::Resolved;
use super::verify::{Peer, Verifier};
use super::{Client, Server, client, server, tickets};

#[derive(Default)]
struct Store {
    servers: Shelf<server::State>,
    clients: Shelf<client::State>,
}

static STORE: LazyLock<Mutex<Store>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, Store> {
    // What a panicking builder left is complete: entries are added whole.
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn server(config: &DownstreamTls, resolved: Resolved) -> Result<Arc<Context<server::State>>, Error> {
    lock().servers.context(config, resolved)
}

pub(super) fn client(config: &UpstreamTls, resolved: Resolved) -> Result<Arc<Context<client::State>>, Error> {
    lock().clients.context(config, resolved)
}

/// The contexts of one snapshot, kept alive.
#[derive(Debug, Default)]
pub struct Prepared {
    servers: Vec<(Name, Server)>,
    clients: Vec<(Name, Client)>,
}

/// The certificates and CAs of a context by name, and when each runs out (Unix seconds).
pub type Expirations = Vec<(Name, i64)>;

impl Prepared {
    /// Of every listener's contexts, by the listener's name in statistics.
    pub fn of_listeners(&self) -> impl Iterator<Item = (&Name, Expirations)> {
        self.servers.iter().map(|(name, server)| (name, server.expirations()))
    }

    /// The same of clusters.
    pub fn of_clusters(&self) -> impl Iterator<Item = (&Name, Expirations)> {
        self.clients.iter().map(|(name, client)| (name, client.expirations()))
    }

    /// How many contexts are ready: (listeners' side, clusters' side).
    pub fn len(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }
}

/// Builds what the workers will ask for when `snapshot` is published. Contexts that wait for a secret are left out; those that
/// cannot be used are logged: their connections fail.
pub fn prepare(snapshot: &Snapshot) -> Prepared {
    let mut prepared = Prepared::default();
    for listener in snapshot.listeners.values() {
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            if let DownstreamTransport::Tls(config) = &chain.transport {
                match Server::new(config, &snapshot.secrets) {
                    Ok(server) => prepared.servers.push((listener.stat_prefix.clone(), server)),
                    Err(error) => report(&error, "listener", &listener.name),
                }
            }
        }
    }
    for entry in snapshot.clusters.values() {
        let cluster = &entry.cluster;
        let all = std::iter::once(&cluster.transport).chain(cluster.transport_matches.iter().map(|m| &m.transport));
        for config in all.filter_map(upstream_context) {
            match Client::new(config, &snapshot.secrets) {
                Ok(client) => prepared.clients.push((cluster.stat_name.clone(), client)),
                Err(error) => report(&error, "cluster", &cluster.name),
            }
        }
    }
    forget_unused();
    prepared
}

fn report(error: &Error, kind: &str, name: &str) {
    if error.is_not_ready() {
        tracing::debug!(%error, kind, name, "a TLS context is not ready");
    } else {
        tracing::warn!(%error, kind, name, "a TLS context cannot be used: its connections fail");
    }
}

fn forget_unused() {
    let mut store = lock();
    store.servers.forget_unused();
    store.clients.forget_unused();
}

fn upstream_context(transport: &UpstreamTransport) -> Option<&UpstreamTls> {
    match transport {
        UpstreamTransport::Raw => None,
        UpstreamTransport::Tls(config) => Some(config),
        UpstreamTransport::ProxyProtocol { inner, .. } => upstream_context(inner),
    }
}

/// Looks at the files that contexts were built of, and swaps in what changed. A file that cannot be used (a certificate without its
/// new key, say) leaves the context as it was; it is tried again the next time. Returns how many contexts changed.
pub fn refresh_files() -> usize {
    let (servers, clients) = {
        let store = lock();
        (store.servers.in_use(), store.clients.in_use())
    };
    let results = servers.iter().map(|s| s.refresh()).chain(clients.iter().map(|c| c.refresh()));
    let mut changed = 0;
    for result in results {
        match result {
            Ok(true) => changed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "changed certificate files cannot be used: the old ones stay"),
        }
    }
    changed
}

/// Tries the certificates, keys and CAs of a resource that has just been decoded: what cannot be used is refused there and then.
pub fn check(resource: &Resource) -> Result<(), Rejection> {
    match resource {
        Resource::Listener(listener) => {
            for (i, chain) in listener.chains.iter().enumerate() {
                downstream(&chain.transport).within_index("filter_chains", i)?;
            }
            let default = listener.default_chain.as_ref();
            default.map_or(Ok(()), |chain| downstream(&chain.transport)).within("default_filter_chain")
        }
        Resource::Cluster(cluster) => {
            for (i, m) in cluster.transport_matches.iter().enumerate() {
                upstream(&m.transport).within_index("transport_socket_matches", i)?;
            }
            upstream(&cluster.transport)
        }
        Resource::Secret(secret) => check_secret(secret),
        _ => Ok(()),
    }
}

fn downstream(transport: &DownstreamTransport) -> Result<(), Rejection> {
    let DownstreamTransport::Tls(config) = transport else { return Ok(()) };
    let check = || {
        check_common(&config.common, Peer::Client)?;
        let (mut reader, provider) = (Reader::default(), rustls::crypto::aws_lc_rs::default_provider());
        let read = |c: &Arc<TlsCertificate>| material::identity(&mut reader, c, &provider);
        let identities = config.common.certificates.iter().map(read).collect::<Result<Vec<_>, _>>();
        server::check_staples(config, &identities.map_err(refusal)?).map_err(refusal)
    };
    check().within("transport_socket.typed_config.common_tls_context")
}

fn upstream(transport: &UpstreamTransport) -> Result<(), Rejection> {
    let Some(config) = upstream_context(transport) else { return Ok(()) };
    check_common(&config.common, Peer::Server).within("transport_socket.typed_config.common_tls_context")
}

fn check_common(common: &CommonTls, peer: Peer) -> Result<(), Rejection> {
    for (i, certificate) in common.certificates.iter().enumerate() {
        check_certificate(certificate).within_index("tls_certificates", i)?;
    }
    // In a combined context the secret may bring what is missing here.
    match &common.validation {
        Some(validation) if common.validation_secret.is_none() => {
            check_validation(validation, peer).within("validation_context")
        }
        _ => Ok(()),
    }
}

fn check_certificate(certificate: &TlsCertificate) -> Result<(), Rejection> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    material::identity(&mut Reader::default(), certificate, &provider).map(|_| ()).map_err(refusal)
}

fn check_validation(validation: &ValidationContext, peer: Peer) -> Result<(), Rejection> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Verifier::new(&mut Reader::default(), Some(validation), provider, peer).map(|_| ()).map_err(refusal)
}

fn check_secret(secret: &Secret) -> Result<(), Rejection> {
    match &secret.value {
        SecretValue::Certificate(certificate) => check_certificate(certificate).within("tls_certificate"),
        SecretValue::Validation(validation) => {
            // SAN rules may be combined with a CA that stands elsewhere.
            let alone = ValidationContext { san_matchers: Vec::new(), ..(**validation).clone() };
            check_validation(&alone, Peer::Server).within("validation_context")
        }
        SecretValue::TicketKeys(keys) => {
            let mut reader = Reader::default();
            for (i, source) in keys.iter().enumerate() {
                let key = reader.read(source, "").map_err(refusal);
                let key = key.and_then(|k| tickets::Tickets::new(Some(&[k.to_vec()]), [0; 32], None).map_err(refusal));
                key.within_index("session_ticket_keys.keys", i)?;
            }
            Ok(())
        }
        SecretValue::Generic(_) => Ok(()),
    }
}

fn refusal(error: Error) -> Rejection {
    match error {
        Error::Material { what, reason } => Rejection::invalid(what, reason),
        other => Rejection::invalid("", other.to_string()),
    }
}
