//! The services over real sockets, as clients use them.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use sidemesh_proto::envoy::service::discovery::v3 as xds;
use sidemesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidemesh_proto::google;
use sidemesh_proto::sidemesh::admin::v1alpha1 as admin;
use sidemesh_proto::sidemesh::admin::v1alpha1::mesh_service_client::MeshServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::proxy_service_client::ProxyServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::resource_service_client::ResourceServiceClient;
use sidemesh_proto::sidemesh::identity::v1alpha1 as identity;
use sidemesh_proto::sidemesh::identity::v1alpha1::identity_service_client::IdentityServiceClient;
use sidemesh_proto::sidemesh::identity::v1alpha1::sign_certificate_request::Credential;
use sidemesh_proto::sidemesh::registry::v1alpha1 as registry;
use sidemesh_proto::sidemesh::registry::v1alpha1::registry_service_client::RegistryServiceClient;
use sidemesh_proto::type_url::{CLUSTER, ENDPOINT};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::run::{Config, RunError, run};

const PATIENCE: Duration = Duration::from_secs(10);

/// A control plane in this process, on ports of its own.
struct Mesh {
    dir: PathBuf,
    config: Config,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<Result<(), RunError>>>,
}

impl Mesh {
    async fn start(name: &str) -> Mesh {
        let dir = std::env::temp_dir().join(format!("sidemesh-cp-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        let config = Config {
            data_dir: dir.clone(),
            listen: free_port(),
            metrics_listen: free_port(),
            trust_domain: "mesh.test".into(),
            leaf_ttl: Duration::from_secs(3600),
            lease_ttl: Duration::from_secs(1),
            tls: false,
            tls_names: Vec::new(),
            allow_plaintext: false,
            kubernetes_keys: None,
        };
        let mut mesh = Mesh { dir, config, stop: None, task: None };
        mesh.begin().await;
        mesh
    }

    async fn begin(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready_sender, ready) = oneshot::channel();
        let until = async move { drop(stopped.await) };
        let config = self.config.clone();
        self.task = Some(tokio::spawn(run(config, until, move || ready_sender.send(()).expect("awaited"))));
        ready.await.expect("the control plane starts");
        self.stop = Some(stop);
    }

    async fn end(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            task.await.expect("no panic").expect("ends in order");
        }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.config.listen)).expect("uri").connect().await.expect("connects")
    }

    async fn apply(&self, document: &str) -> Result<admin::ApplyResponse, tonic::Status> {
        let request = admin::ApplyRequest { document: document.into(), actor: "ada".into(), ..Default::default() };
        let mut client = ResourceServiceClient::new(self.channel().await);
        client.apply(request).await.map(tonic::Response::into_inner)
    }

    async fn token(&self, service_account: &str) -> String {
        let request = admin::CreateTokenRequest { service_account: service_account.into(), ..Default::default() };
        MeshServiceClient::new(self.channel().await).create_token(request).await.expect("token").into_inner().token
    }

    async fn sign(&self, credential: Credential) -> Result<identity::SignCertificateResponse, tonic::Status> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        let csr = CertificateParams::default().serialize_request(&key).expect("request");
        let request =
            identity::SignCertificateRequest { csr_der: csr.der().to_vec(), credential: Some(credential), ttl: None };
        let mut client = IdentityServiceClient::new(self.channel().await);
        client.sign_certificate(request).await.map(tonic::Response::into_inner)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

fn reference(kind: &str, name: &str) -> Option<admin::ObjectRef> {
    Some(admin::ObjectRef { kind: kind.into(), name: name.into(), ..Default::default() })
}

const PRODUCT: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: product}\nspec: {ports: [{port: 80}]}";

fn registration(credential: &str) -> registry::RegisterRequest {
    registry::RegisterRequest {
        node_id: "product-0".into(),
        service: "product".into(),
        version: "v1".into(),
        address: "127.0.0.1".into(),
        ports: vec![registry::WorkloadPort { port: 80, endpoint_port: 20001, name: String::new() }],
        credential: credential.into(),
        ..Default::default()
    }
}

/// A client of the delta variant that subscribes to clusters and to product's endpoints.
struct Delta {
    requests: mpsc::Sender<xds::DeltaDiscoveryRequest>,
    responses: Streaming<xds::DeltaDiscoveryResponse>,
}

impl Delta {
    async fn connect(mesh: &Mesh) -> Delta {
        let (requests, receiver) = mpsc::channel(8);
        let outbound = r#"{"product.default:80": "127.0.0.1:15081"}"#;
        let metadata = format!(r#"{{"sidemesh": {{"service": "order", "outbound": {outbound}}}}}"#);
        let metadata = serde_json::from_str(&metadata).expect("json");
        let metadata = sidemesh_proto::json::parse("google.protobuf.Struct", &metadata).expect("struct");
        let node = core::Node { id: "order-0".into(), metadata: Some(metadata), ..Default::default() };
        let first = xds::DeltaDiscoveryRequest { node: Some(node), type_url: CLUSTER.into(), ..Default::default() };
        requests.send(first).await.expect("sent");
        let endpoints = xds::DeltaDiscoveryRequest {
            type_url: ENDPOINT.into(),
            resource_names_subscribe: vec!["outbound|80|product.default".into()],
            ..Default::default()
        };
        requests.send(endpoints).await.expect("sent");
        let mut client = AggregatedDiscoveryServiceClient::new(mesh.channel().await);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = client.delta_aggregated_resources(stream).await.expect("stream").into_inner();
        Delta { requests, responses }
    }

    async fn next(&mut self) -> xds::DeltaDiscoveryResponse {
        let next = tokio::time::timeout(PATIENCE, self.responses.next()).await.expect("a response in time");
        next.expect("the stream goes on").expect("no error")
    }

    async fn answer(&self, response: &xds::DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|e| sidemesh_proto::rpc::Status { code: 3, message: e.into(), details: vec![] });
        let request = xds::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.expect("sent");
    }

    /// Acknowledges everything until the endpoints of product are `expected`.
    async fn until_endpoints(&mut self, expected: &[&str]) {
        loop {
            let response = self.next().await;
            self.answer(&response, None).await;
            let endpoints = response.resources.iter().filter_map(|r| r.resource.as_ref());
            let endpoints = endpoints.filter(|any| any.type_url == ENDPOINT).map(addresses);
            if endpoints.into_iter().any(|found| found == expected) {
                return;
            }
        }
    }
}

fn addresses(any: &google::Any) -> Vec<String> {
    use prost::Message;
    let assignment = ClusterLoadAssignment::decode(any.value.as_slice()).expect("endpoints");
    let json = sidemesh_proto::json::any_to_json(any).expect("json").to_string();
    let hosts = assignment.endpoints.iter().map(|l| l.lb_endpoints.len()).sum::<usize>();
    if hosts == 0 { Vec::new() } else { vec![if json.contains("20001") { "20001" } else { "other" }.to_owned()] }
}

#[tokio::test]
async fn objects_are_written_read_watched_and_kept_in_history() {
    let mut mesh = Mesh::start("objects").await;
    let mut client = ResourceServiceClient::new(mesh.channel().await);
    let mut events = client
        .watch(admin::WatchRequest { kind: "svc".into(), ..Default::default() })
        .await
        .expect("watch")
        .into_inner();
    let first = mesh.apply(PRODUCT).await.expect("applied");
    assert_eq!((first.outcome(), first.revision), (admin::apply_response::Outcome::Created, 1));
    assert_eq!(mesh.apply(PRODUCT).await.expect("again").outcome(), admin::apply_response::Outcome::Unchanged);
    let changed = mesh.apply(&PRODUCT.replace("port: 80", "port: 81")).await.expect("changed");
    assert_eq!(changed.object.as_ref().map(|o| o.generation), Some(2));

    let stale = PRODUCT.replace("{name: product}", "{name: product, resourceVersion: '1'}");
    assert_eq!(mesh.apply(&stale).await.expect_err("stale").code(), Code::Aborted);
    let wrong = mesh.apply(&PRODUCT.replace("ports", "prots")).await.expect_err("unknown field");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("spec.prots: unknown field"), "{}", wrong.message());
    assert!(!wrong.details().is_empty());

    let history = client.history(admin::HistoryRequest { r#ref: reference("Service", "product"), limit: 0 });
    let entries = history.await.expect("history").into_inner().entries;
    assert_eq!(entries.iter().map(|e| (e.revision, e.actor.as_str())).collect::<Vec<_>>(), [(2, "ada"), (1, "ada")]);
    mesh.apply(&entries[1].json).await.expect("undo");
    let delete = admin::DeleteRequest { r#ref: reference("service", "product"), dry_run: true, ..Default::default() };
    client.delete(delete.clone()).await.expect("would work");
    client.delete(admin::DeleteRequest { dry_run: false, ..delete.clone() }).await.expect("deleted");
    assert_eq!(client.delete(delete).await.expect_err("gone").code(), Code::NotFound);

    use admin::watch_response::Type;
    for expected in [Type::Bookmark, Type::Added, Type::Modified, Type::Modified, Type::Deleted] {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("one more");
        assert_eq!(event.expect("no error").r#type(), expected);
    }
    mesh.end().await;
}

#[tokio::test]
async fn a_join_token_is_good_for_one_certificate_and_renewal_for_more() {
    let mut mesh = Mesh::start("identity").await;
    let token = mesh.token("product").await;
    let first = mesh.sign(Credential::JoinToken(token.clone())).await.expect("signed");
    assert_eq!(first.spiffe_id, "spiffe://mesh.test/ns/default/sa/product");
    let again = mesh.sign(Credential::JoinToken(token.clone())).await.expect_err("used");
    assert_eq!(again.code(), Code::Unauthenticated);
    assert!(again.message().contains("used before"), "{}", again.message());
    for _ in 0..2 {
        mesh.sign(Credential::RenewalToken(first.renewal_token.clone())).await.expect("renewed");
    }
    assert_eq!(
        mesh.sign(Credential::JoinToken("nonsense".into())).await.expect_err("bad").code(),
        Code::Unauthenticated
    );
    // The use of a token survives a restart, and so does the authority.
    mesh.end().await;
    mesh.begin().await;
    assert!(mesh.sign(Credential::JoinToken(token)).await.is_err());
    mesh.sign(Credential::RenewalToken(first.renewal_token)).await.expect("renewed after a restart");
    mesh.end().await;
}

#[tokio::test]
async fn a_registered_workload_is_an_endpoint_until_it_is_silent() {
    let mut mesh = Mesh::start("registry").await;
    mesh.apply(PRODUCT).await.expect("applied");
    let mut proxy = Delta::connect(&mesh).await;
    let mut client = RegistryServiceClient::new(mesh.channel().await);
    let lease = client.register(registration("")).await.expect("registered").into_inner();
    assert_eq!(lease.heartbeat_interval.map(|d| d.nanos), Some(333_333_333));
    proxy.until_endpoints(&["20001"]).await;
    let beat = |not_ready| registry::HeartbeatRequest { lease_id: lease.lease_id.clone(), not_ready };
    client.heartbeat(beat(true)).await.expect("heard");
    proxy.until_endpoints(&[]).await;
    client.heartbeat(beat(false)).await.expect("heard");
    proxy.until_endpoints(&["20001"]).await;
    // Silence.
    proxy.until_endpoints(&[]).await;
    assert_eq!(client.heartbeat(beat(false)).await.expect_err("over").code(), Code::NotFound);

    let signed = mesh.sign(Credential::JoinToken(mesh.token("order").await)).await.expect("signed");
    let other = client.register(registration(&signed.renewal_token)).await.expect_err("not product's");
    assert_eq!(other.code(), Code::PermissionDenied);
    let bad = registry::RegisterRequest { address: "0.0.0.0".into(), ports: vec![], ..registration("") };
    let bad = client.register(bad).await.expect_err("invalid");
    assert!(bad.message().contains("spec.address") && bad.message().contains("spec.ports"), "{}", bad.message());
    mesh.end().await;
}

#[tokio::test]
async fn acks_and_nacks_are_followed_to_the_proxys_own_words() {
    let mut mesh = Mesh::start("acks").await;
    let revision = mesh.apply(PRODUCT).await.expect("applied").revision;
    let mut proxy = Delta::connect(&mesh).await;
    let mut client = ProxyServiceClient::new(mesh.channel().await);
    // Refuses every cluster, takes the rest.
    let answering = tokio::spawn(async move {
        loop {
            let response = proxy.next().await;
            let refuse = response.type_url == CLUSTER && !response.resources.is_empty();
            proxy.answer(&response, refuse.then_some("cluster x: no such thing")).await;
        }
    });
    while client.list_proxies(admin::ListProxiesRequest::default()).await.expect("list").into_inner().proxies.is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = admin::WatchAcksRequest { revision, timeout: Some(google::Duration { seconds: 10, nanos: 0 }) };
    let mut stream = client.watch_acks(request).await.expect("stream").into_inner();
    let last = loop {
        let state = stream.next().await.expect("a last word").expect("no error");
        if state.timed_out || state.done {
            break state;
        }
    };
    assert_eq!((last.total, last.acked, last.nacked, last.timed_out), (1, 0, 1, false));
    assert_eq!(last.proxies[0].nack_error, "cluster x: no such thing");

    let request = admin::GetProxyConfigRequest { node_id: "order-0".into(), type_url: String::new() };
    let config = client.get_proxy_config(request).await.expect("config").into_inner();
    assert_eq!(config.outbound["product.default:80"], "127.0.0.1:15081");
    assert!(config.resources.iter().any(|r| r.type_url == CLUSTER && r.json.contains("outlier_detection")));
    let listed = client.list_proxies(admin::ListProxiesRequest::default()).await.expect("list").into_inner();
    let status = &listed.proxies[0].types[0];
    assert_eq!((status.state(), status.nacked_revision), (admin::type_status::State::Nacked, revision));
    answering.abort();
    mesh.end().await;
}

#[tokio::test]
async fn bad_starts_say_what_and_the_cure() {
    let mut mesh = Mesh::start("starts").await;
    let start = |config: Config| run(config, std::future::pending(), || {});
    let taken = Config { data_dir: mesh.dir.join("other"), ..mesh.config.clone() };
    let error = start(taken).await.expect_err("port taken");
    assert!(error.to_string().contains(&format!("--listen {}", mesh.config.listen)), "{error}");
    let same = Config { listen: free_port(), metrics_listen: free_port(), ..mesh.config.clone() };
    assert!(start(same.clone()).await.expect_err("locked").to_string().contains("another process"));
    let open = Config { listen: "0.0.0.0:1".parse().expect("address"), ..same };
    assert!(matches!(start(open).await, Err(RunError::Usage(_))));
    mesh.end().await;
}
