//! What is told of the certificates in use: when each runs out, and how often SDS brought new ones (`listener.ADDRESS.` and
//! `cluster.NAME.`, Envoy's names). Kept on the control thread; the names stand there from the start, as in Envoy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sidemesh_config::resource::tls::{CommonTls, DownstreamTransport, SecretRef, UpstreamTransport};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;

use crate::stats_group;
use crate::telemetry::stats::{Counter, Registry, Scope};
use crate::telemetry::tls::TlsStats;
use crate::tls::{self, Expirations, Prepared};

stats_group! {
    struct CertificateStats {
        expirations: Levels = "ssl.certificate.*.expiration_unix_time_seconds",
    }
}

stats_group! {
    struct ServerFactoryStats {
        updates: Counter = "server_ssl_socket_factory.ssl_context_update_by_sds",
        not_ready: Counter = "server_ssl_socket_factory.downstream_context_secrets_not_ready",
        upstream_not_ready: Counter = "server_ssl_socket_factory.upstream_context_secrets_not_ready",
    }
}

stats_group! {
    struct ClientFactoryStats {
        updates: Counter = "client_ssl_socket_factory.ssl_context_update_by_sds",
        downstream_not_ready: Counter = "client_ssl_socket_factory.downstream_context_secrets_not_ready",
        not_ready: Counter = "client_ssl_socket_factory.upstream_context_secrets_not_ready",
    }
}

stats_group! {
    struct FirstExpiryStats {
        days_until_first_cert_expiring: Gauge,
    }
}

/// The figures of one listener or cluster that speaks TLS.
struct Owned<F> {
    certificates: Arc<CertificateStats>,
    factory: Arc<F>,
    /// Shown before the first handshake.
    _handshakes: Arc<TlsStats>,
}

/// The figures of all that speak TLS.
pub struct Certificates {
    registry: Arc<Registry>,
    /// TLS contexts built ahead of the workers' asking, kept until the next snapshot.
    prepared: Prepared,
    listeners: BTreeMap<Name, Owned<ServerFactoryStats>>,
    clusters: BTreeMap<Name, Owned<ClientFactoryStats>>,
    first: Arc<FirstExpiryStats>,
}

impl Certificates {
    pub fn new(registry: Arc<Registry>) -> Self {
        let first = registry.shard(Scope::Server);
        Certificates {
            registry,
            prepared: Prepared::default(),
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            first,
        }
    }

    /// A snapshot follows another: builds its TLS contexts.
    pub fn follow(&mut self, before: &Snapshot, now: &Snapshot) {
        self.prepared = tls::prepare(now);
        self.follow_listeners(before, now);
        self.follow_clusters(before, now);
        self.show();
    }

    fn follow_listeners(&mut self, before: &Snapshot, now: &Snapshot) {
        let mut followed = BTreeMap::new();
        for listener in now.listeners.values() {
            let is_new = !before.listeners.contains_key(&listener.name);
            for chain in listener.chains.iter().chain(&listener.default_chain) {
                let DownstreamTransport::Tls(context) = &chain.transport else { continue };
                let name = &listener.stat_prefix;
                let kept = followed.remove(name).or_else(|| self.listeners.remove(name));
                let owned = kept.unwrap_or_else(|| own(&self.registry, Scope::Listener(name.clone())));
                count(&owned.factory.updates, arrived(&context.common, is_new, before, now));
                followed.insert(name.clone(), owned);
            }
        }
        self.listeners = followed;
    }

    fn follow_clusters(&mut self, before: &Snapshot, now: &Snapshot) {
        let mut followed = BTreeMap::new();
        for entry in now.clusters.values() {
            let cluster = &entry.cluster;
            let is_new = !before.clusters.contains_key(&cluster.name);
            let matches = cluster.transport_matches.iter().map(|m| &m.transport);
            for common in std::iter::once(&cluster.transport).chain(matches).filter_map(context_of) {
                let name = &cluster.stat_name;
                let kept = followed.remove(name).or_else(|| self.clusters.remove(name));
                let owned = kept.unwrap_or_else(|| own(&self.registry, Scope::Cluster(name.clone())));
                count(&owned.factory.updates, arrived(common, is_new, before, now));
                followed.insert(name.clone(), owned);
            }
        }
        self.clusters = followed;
    }

    /// Shows when what is in use now runs out: again when files have changed.
    pub fn show(&self) {
        let mut first = None;
        for (name, levels) in gathered(self.prepared.of_listeners(), &mut first) {
            self.listeners.get(&name).inspect(|owned| owned.certificates.expirations.set(levels));
        }
        for (name, levels) in gathered(self.prepared.of_clusters(), &mut first) {
            self.clusters.get(&name).inspect(|owned| owned.certificates.expirations.set(levels));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
        let days = first.map_or(0, |end| (end - now).max(0) / 86_400);
        self.first.days_until_first_cert_expiring.set(days);
    }
}

fn own<F: crate::telemetry::stats::Group + Default>(registry: &Registry, scope: Scope) -> Owned<F> {
    Owned {
        certificates: registry.shard(scope.clone()),
        factory: registry.shard(scope.clone()),
        _handshakes: registry.shard(scope),
    }
}

fn count(counter: &Counter, n: u64) {
    if n > 0 {
        counter.add(n);
    }
}

fn gathered<'a>(
    all: impl Iterator<Item = (&'a Name, Expirations)>,
    first: &mut Option<i64>,
) -> BTreeMap<Name, BTreeMap<Name, i64>> {
    let mut by_owner: BTreeMap<Name, BTreeMap<Name, i64>> = BTreeMap::new();
    for (owner, expirations) in all {
        for (_, end) in &expirations {
            *first = Some(first.map_or(*end, |known| known.min(*end)));
        }
        by_owner.entry(owner.clone()).or_default().extend(expirations);
    }
    by_owner
}

/// Secrets of a context that came with this snapshot by SDS: of a new context all that it has.
fn arrived(common: &CommonTls, is_new: bool, before: &Snapshot, now: &Snapshot) -> u64 {
    let is_news = |reference: &&SecretRef| {
        let (old, new) = (before.secrets.get(&reference.name), now.secrets.get(&reference.name));
        reference.source.is_some() && new.is_some() && (is_new || old != new)
    };
    common.certificate_secrets.iter().chain(&common.validation_secret).filter(is_news).count() as u64
}

fn context_of(transport: &UpstreamTransport) -> Option<&CommonTls> {
    match transport {
        UpstreamTransport::Raw => None,
        UpstreamTransport::Tls(context) => Some(&context.common),
        UpstreamTransport::ProxyProtocol { inner, .. } => context_of(inner),
    }
}
