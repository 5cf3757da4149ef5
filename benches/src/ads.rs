//! A small ADS server, state of the world: what is put into it goes to whoever subscribes, and acknowledgements are noted with
//! their time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidemesh_proto::envoy::service::discovery::v3 as xds;
use sidemesh_proto::google::Any;
use sidemesh_tests::{background, ports};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use xds::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server has of one type.
#[derive(Default)]
struct Kind {
    version: u64,
    by_name: BTreeMap<String, Any>,
}

/// An answer of a client: to which version, when, and what it objects to.
#[derive(Debug, Clone)]
struct Answer {
    type_url: String,
    version: u64,
    at: Instant,
    error: Option<String>,
}

struct State {
    kinds: Mutex<HashMap<String, Kind>>,
    changed: watch::Sender<u64>,
    answers: Mutex<Vec<Answer>>,
}

/// The server; it runs until the process ends.
pub struct Server {
    state: Arc<State>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start() -> Server {
        let state = State { kinds: Mutex::default(), changed: watch::Sender::default(), answers: Mutex::default() };
        let (state, address) = (Arc::new(state), ports::free());
        let service = AggregatedDiscoveryServiceServer::new(Service(state.clone()));
        background::spawn(tonic::transport::Server::builder().add_service(service).serve(address));
        sidemesh_tests::wait::until_true("the ADS server listens", || std::net::TcpStream::connect(address).is_ok());
        Server { state, address }
    }

    /// Replaces all resources of a type and sends them; gives the version.
    pub fn put(&self, type_url: &str, resources: impl IntoIterator<Item = (String, Any)>) -> u64 {
        let version = {
            let mut kinds = self.state.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = kinds.entry(type_url.to_owned()).or_default();
            kind.version += 1;
            kind.by_name = resources.into_iter().collect();
            kind.version
        };
        self.state.changed.send_modify(|n| *n += 1);
        version
    }

    /// When the client answered to a version of a type; an objection or no answer within `limit` is an error.
    pub fn acknowledged(&self, type_url: &str, version: u64, limit: Duration) -> Result<Instant, String> {
        let deadline = Instant::now() + limit;
        loop {
            let answers = self.state.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = answers.iter().find(|a| a.type_url == type_url && a.version == version) {
                return match &found.error {
                    None => Ok(found.at),
                    Some(error) => Err(format!("refused: {error}")),
                };
            }
            drop(answers);
            if Instant::now() > deadline {
                return Err(format!("no answer to version {version} of {type_url} within {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What one stream was told of a type.
#[derive(Default)]
struct Told {
    names: BTreeSet<String>,
    version: u64,
    nonce: u64,
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<xds::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = BoxStream<xds::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<xds::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(serve(self.0.clone(), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        _request: Request<Streaming<xds::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world alone"))
    }
}

async fn serve(
    state: Arc<State>,
    mut requests: Streaming<xds::DiscoveryRequest>,
    sender: mpsc::Sender<Result<xds::DiscoveryResponse, Status>>,
) {
    let mut told: HashMap<String, Told> = HashMap::new();
    let mut changed = state.changed.subscribe();
    loop {
        tokio::select! {
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                hear(&state, &mut told, request);
            }
            Ok(()) = changed.changed() => {}
            else => return,
        }
        for response in due(&state, &mut told) {
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

/// Takes up a request: what it answers, and what it asks for.
fn hear(state: &State, told: &mut HashMap<String, Told>, request: xds::DiscoveryRequest) {
    let of_type = told.entry(request.type_url.clone()).or_default();
    if of_type.nonce > 0 && request.response_nonce == of_type.nonce.to_string() {
        let error = request.error_detail.map(|e| e.message);
        let answer = Answer { type_url: request.type_url, version: of_type.version, at: Instant::now(), error };
        state.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }
    let names: BTreeSet<String> = request.resource_names.into_iter().collect();
    if names != of_type.names {
        of_type.names = names;
        of_type.version = 0;
    }
}

/// What the stream has not been told yet.
fn due(state: &State, told: &mut HashMap<String, Told>) -> Vec<xds::DiscoveryResponse> {
    let kinds = state.kinds.lock().unwrap_or_else(PoisonError::into_inner);
    let mut responses = Vec::new();
    for (type_url, told) in told {
        let Some(kind) = kinds.get(type_url).filter(|kind| kind.version > told.version) else { continue };
        told.version = kind.version;
        told.nonce += 1;
        let wanted = |name: &String| told.names.is_empty() || told.names.contains(name);
        responses.push(xds::DiscoveryResponse {
            version_info: kind.version.to_string(),
            resources: kind.by_name.iter().filter(|(name, _)| wanted(name)).map(|(_, any)| any.clone()).collect(),
            type_url: type_url.clone(),
            nonce: told.nonce.to_string(),
            ..xds::DiscoveryResponse::default()
        });
    }
    responses
}
