//! Puts the control plane together, runs it, and stops it in order.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidemesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use sidemesh_proto::sidemesh::admin::v1alpha1::mesh_service_server::MeshServiceServer;
use sidemesh_proto::sidemesh::admin::v1alpha1::proxy_service_server::ProxyServiceServer;
use sidemesh_proto::sidemesh::admin::v1alpha1::resource_service_server::ResourceServiceServer;
use sidemesh_proto::sidemesh::identity::v1alpha1::identity_service_server::IdentityServiceServer;
use sidemesh_proto::sidemesh::registry::v1alpha1::registry_service_server::RegistryServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::ca::kubernetes::ServiceAccounts;
use crate::ca::{Ca, CaError, SanName};
use crate::server::accept::{OwnCertificate, incoming, is_local};
use crate::server::admin::Resources;
use crate::server::ads::Ads;
use crate::server::context::{Context, Counters, stopped};
use crate::server::fleet::Fleet;
use crate::server::guard::AdminGuard;
use crate::server::health;
use crate::server::identity::Identities;
use crate::server::meshinfo::MeshInfo;
use crate::server::proxies::Proxies;
use crate::server::registry::Registry;
use crate::server::world::World;
use crate::source::{Store, StoreError};
use crate::translate::Settings;

/// Streams are told to end, and this much later they are ended.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Dead peers are noticed this soon, plus the timeout.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy's first request can list every resource it has.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub trust_domain: String,
    pub leaf_ttl: Duration,
    pub lease_ttl: Duration,
    pub tls: bool,
    /// More names that clients reach it by, for its TLS certificate.
    pub tls_names: Vec<String>,
    pub allow_plaintext: bool,
    /// Keys that service-account tokens of Kubernetes are signed with.
    pub kubernetes_keys: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A flag asks for what cannot be had: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Something failed: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for RunError {
    fn from(e: StoreError) -> RunError {
        match e {
            StoreError::Unusable { .. } => RunError::Usage(e.to_string()),
            _ => RunError::Failed(e.to_string()),
        }
    }
}

impl From<CaError> for RunError {
    fn from(e: CaError) -> RunError {
        match e {
            CaError::OtherTrustDomain { .. } | CaError::BadTrustDomain(_) => RunError::Usage(e.to_string()),
            _ => RunError::Failed(e.to_string()),
        }
    }
}

/// Runs until `stop` is over. The ports are open when `ready` is called.
pub async fn run(config: Config, stop: impl Future<Output = ()>, ready: impl FnOnce()) -> Result<(), RunError> {
    check(&config)?;
    let (store, ca) = open(&config)?;
    let grpc = health::bind("--listen", config.listen).await.map_err(RunError::Usage)?;
    let metrics = health::bind("--metrics-listen", config.metrics_listen).await.map_err(RunError::Usage)?;

    let settings = Settings { trust_domain: config.trust_domain.clone() };
    let (world, mesh) = World::new(store.clone(), settings)?;
    let (stopping_sender, stopping) = watch::channel(false);
    let context = Context {
        store,
        ca: ca.clone(),
        mesh,
        fleet: Arc::new(Fleet::default()),
        counters: Arc::new(Counters::default()),
        started: SystemTime::now(),
        stopping: stopping.clone(),
    };
    let model = context.mesh().model.clone();
    let registry = Registry::new(context.clone(), config.lease_ttl, config.tls, &model);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(world.run());
    tasks.spawn(registry.clone().sweep());
    tasks.spawn(health::serve(metrics, context.clone(), registry.clone()));
    let acceptor = if config.tls {
        let own = OwnCertificate::new(ca, config.listen.ip(), &config.tls_names)?;
        tasks.spawn(own.clone().keep_fresh());
        Some(own.acceptor()?)
    } else {
        None
    };
    let guard = guard(&config)?;
    let accounts = config.kubernetes_keys.as_deref().map(ServiceAccounts::open).transpose();
    let accounts = accounts.map_err(|e| RunError::Usage(format!("--kubernetes-keys {e}")))?;
    let identities = Identities::new(context.clone(), accounts);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    reporter.set_serving::<AggregatedDiscoveryServiceServer<Ads>>().await;
    let router = services(&context, identities, registry, guard)?.add_service(health_service);
    tracing::info!(listen = %config.listen, metrics = %config.metrics_listen, tls = config.tls, trust_domain = config.trust_domain, revision = context.store.revision(), "control plane is up");
    ready();
    serve(router, grpc, acceptor, stop, || {
        // Streams and watches end themselves on this.
        let _no_receiver = stopping_sender.send(true).is_err();
    })
    .await
}

/// Serves; after `stop`, ends in order within a bound.
async fn serve(
    router: Router,
    listener: TcpListener,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    stop: impl Future<Output = ()>,
    begin_stop: impl FnOnce(),
) -> Result<(), RunError> {
    let (quit_sender, mut quit) = watch::channel(false);
    let quitting = async move { stopped(&mut quit).await };
    let server = router.serve_with_incoming_shutdown(incoming(listener, acceptor), quitting);
    let mut server = std::pin::pin!(server);
    let failed = |e: tonic::transport::Error| RunError::Failed(format!("gRPC server: {e}"));
    tokio::select! {
        ended = &mut server => return ended.map_err(failed),
        () = stop => {}
    }
    tracing::info!("stopping");
    begin_stop();
    let _server_gone = quit_sender.send(true).is_err();
    match tokio::time::timeout(STOP_WITHIN, server).await {
        Ok(ended) => ended.map_err(failed),
        Err(_) => {
            tracing::warn!("some clients did not let go within {STOP_WITHIN:?}");
            Ok(())
        }
    }
}

fn services(
    context: &Context,
    identities: Identities,
    registry: Registry,
    guard: AdminGuard,
) -> Result<Router, RunError> {
    let reflection = |e: tonic_reflection::server::Error| RunError::Failed(format!("reflection: {e}"));
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sidemesh_proto::SIDEMESH_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let ads = AggregatedDiscoveryServiceServer::new(Ads::new(context.clone()));
    let resources = ResourceServiceServer::with_interceptor(Resources::new(context.clone()), guard.clone());
    let proxies = ProxyServiceServer::with_interceptor(Proxies::new(context.clone()), guard.clone());
    let mesh = MeshServiceServer::with_interceptor(MeshInfo::new(context.clone()), guard);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true);
    Ok(server
        .add_service(ads.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(IdentityServiceServer::new(identities))
        .add_service(RegistryServiceServer::new(registry))
        .add_service(resources)
        .add_service(proxies)
        .add_service(mesh)
        .add_service(describe().build_v1().map_err(reflection)?)
        .add_service(describe().build_v1alpha().map_err(reflection)?))
}

fn check(config: &Config) -> Result<(), RunError> {
    if !config.tls && !config.allow_plaintext && !is_local(config.listen) {
        return Err(RunError::Usage(format!(
            "--listen {}: tokens and configuration would cross the network in plain text: add --tls, or --allow-plaintext if something else protects them",
            config.listen
        )));
    }
    if let Some(name) = config.tls_names.iter().find(|n| SanName::parse(n).is_none()) {
        return Err(RunError::Usage(format!("--tls-name {name}: neither an IP address nor a DNS name")));
    }
    if config.leaf_ttl < crate::ca::MIN_LEAF_TTL || config.leaf_ttl > Duration::from_secs(90 * 24 * 3600) {
        return Err(RunError::Usage(format!("--leaf-ttl {:?}: use 2s to 90 days (2160h)", config.leaf_ttl)));
    }
    if config.lease_ttl < Duration::from_secs(1) || config.lease_ttl > Duration::from_secs(3600) {
        return Err(RunError::Usage(format!("--lease-ttl {:?}: use 1s to 1h", config.lease_ttl)));
    }
    Ok(())
}

fn open(config: &Config) -> Result<(Arc<Store>, Arc<Ca>), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.map_err(|e| {
        let dir = config.data_dir.display();
        RunError::Usage(format!("--data-dir {dir}: {e}: choose a directory that this user may write"))
    })?;
    let store = Arc::new(Store::open(&config.data_dir.join("store.redb"))?);
    let ca = Arc::new(Ca::open(&config.data_dir.join("ca"), &config.trust_domain, config.leaf_ttl)?);
    Ok((store, ca))
}

fn guard(config: &Config) -> Result<AdminGuard, RunError> {
    let token = crate::ca::admin_token(&config.data_dir.join("admin.token"))?;
    Ok(AdminGuard::new(&token, !config.tls && is_local(config.listen)))
}
