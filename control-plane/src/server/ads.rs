//! ADS, both variants: glue between a gRPC stream and the session machine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt};
use sidemesh_proto::envoy::service::discovery::v3 as xds;
use sidemesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cache::Snapshot;
use crate::server::context::{Context, Counters, stopped};
use crate::server::secrets::Secrets;
use crate::server::session::{self, Session, Variant};
use crate::translate::{Mesh, Node, node};

/// Responses waiting for a slow client; more than there are types never wait.
const QUEUE: usize = 8;

/// The service.
#[derive(Clone)]
pub struct Ads {
    context: Context,
}

impl Ads {
    pub fn new(context: Context) -> Ads {
        Ads { context }
    }

    /// Serves one stream until either side ends it.
    fn serve<In, Out>(
        &self,
        variant: Variant,
        peer: String,
        requests: impl Stream<Item = Result<In, Status>> + Send + Unpin + 'static,
    ) -> BoxStream<Out>
    where
        In: Wire + Send + 'static,
        Out: From<session::Response> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let context = self.context.clone();
        // Ends by itself: with the requests, with the receiver, or when the process stops.
        tokio::spawn(async move {
            let mut connection = Connection { context, variant, peer, sender: sender.clone(), open: None };
            if let Err(status) = connection.run(requests).await {
                tracing::info!(peer = connection.peer, "ADS stream ended: {}", status.message());
                let _receiver_gone = sender.send(Err(status)).await;
            }
            connection.close();
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = BoxStream<xds::DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<xds::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let peer = peer(&request);
        Ok(Response::new(self.serve(Variant::StateOfTheWorld, peer, request.into_inner())))
    }

    type DeltaAggregatedResourcesStream = BoxStream<xds::DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<xds::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = peer(&request);
        Ok(Response::new(self.serve(Variant::Delta, peer, request.into_inner())))
    }
}

fn peer<T>(request: &Request<T>) -> String {
    request.remote_addr().map_or_else(|| "unknown".to_owned(), |a| a.to_string())
}

/// A stream, before and after its first request.
struct Connection<Out> {
    context: Context,
    variant: Variant,
    peer: String,
    sender: mpsc::Sender<Result<Out, Status>>,
    open: Option<Open>,
}

struct Open {
    node: Node,
    stream: u64,
    session: Session,
    secrets: Secrets,
}

impl<Out: From<session::Response>> Connection<Out> {
    async fn run<In: Wire>(
        &mut self,
        mut requests: impl Stream<Item = Result<In, Status>> + Unpin,
    ) -> Result<(), Status> {
        let mut mesh = self.context.mesh.clone();
        let mut stopping = self.context.stopping.clone();
        let closed = self.sender.clone();
        loop {
            let renewal = self.open.as_ref().and_then(|o| o.secrets.renew_in());
            tokio::select! {
                request = requests.next() => match request {
                    None => return Ok(()),
                    Some(request) => self.request(request?, &mut mesh).await?,
                },
                changed = mesh.changed(), if self.open.is_some() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.recompute(&mut mesh);
                }
                () = sleep(renewal), if renewal.is_some() => self.renew(&mut mesh),
                () = closed.closed() => return Ok(()),
                () = stopped(&mut stopping) => {
                    return Err(Status::unavailable("the control plane is stopping: connect again"));
                }
            }
            self.push().await?;
        }
    }

    async fn request<In: Wire>(
        &mut self,
        mut request: In,
        mesh: &mut watch::Receiver<Arc<Mesh>>,
    ) -> Result<(), Status> {
        if self.open.is_none() {
            let node = request.take_node().ok_or_else(|| {
                Status::invalid_argument("node: missing: the first request of a stream must carry it")
            })?;
            self.begin(&node).await?;
            self.recompute(mesh);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let request = request.into_request();
        let type_url = request.type_url.clone();
        let now = SystemTime::now();
        let verdict = open.session.request(request);
        self.context.fleet.subscribed(&open.node.id, open.stream, &type_url);
        if let Some(verdict) = verdict {
            Counters::add(if verdict.error.is_some() {
                &self.context.counters.nacks
            } else {
                &self.context.counters.acks
            });
            if let Some(error) = &verdict.error {
                tracing::warn!(node = open.node.id, type_url, revision = verdict.revision, "refused: {error}");
            }
            self.context.fleet.answered(&open.node.id, open.stream, &verdict, now);
        }
        let snapshot = open.session.snapshot().clone();
        let untold = open.session.untold();
        let count = open.session.sent_count(&type_url);
        if count > 0 && !untold.contains(&type_url) {
            self.context.fleet.in_sync(&open.node.id, open.stream, &type_url, count, now);
        }
        self.context.fleet.computed(&open.node.id, open.stream, &snapshot, untold, now);
        Ok(())
    }

    async fn begin(&mut self, wire: &sidemesh_proto::envoy::config::core::v3::Node) -> Result<(), Status> {
        let node = node::parse(wire).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Status::invalid_argument(lines.join("\n"))
        })?;
        let secrets = Secrets::open(&self.context, &node).await;
        let stream = self.context.fleet.connect(node.clone(), self.peer.clone(), self.variant, SystemTime::now());
        Counters::add(&self.context.counters.streams);
        tracing::info!(node = node.id, peer = self.peer, agent = node.user_agent, variant = ?self.variant, "proxy connected");
        self.open = Some(Open { node, stream, session: Session::new(self.variant), secrets });
        Ok(())
    }

    fn recompute(&mut self, mesh: &mut watch::Receiver<Arc<Mesh>>) {
        let Some(open) = &mut self.open else { return };
        let mesh = mesh.borrow_and_update().clone();
        let mut resources = mesh.for_node(&open.node);
        open.secrets.add_to(&mut resources);
        let snapshot = Snapshot::next(open.session.snapshot(), mesh.model.revision, resources);
        open.session.update(snapshot.clone());
        let untold = open.session.untold();
        self.context.fleet.computed(&open.node.id, open.stream, &snapshot, untold, SystemTime::now());
    }

    fn renew(&mut self, mesh: &mut watch::Receiver<Arc<Mesh>>) {
        if let Some(open) = &mut self.open {
            open.secrets.renew(&self.context, &open.node);
        }
        self.recompute(mesh);
    }

    async fn push(&mut self) -> Result<(), Status> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for response in open.session.poll() {
            let count = open.session.sent_count(&response.type_url);
            self.context.fleet.sent(&open.node.id, open.stream, &response, count, SystemTime::now());
            Counters::add(&self.context.counters.pushes);
            if self.sender.send(Ok(response.into())).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.context.fleet.disconnect(&open.node.id, open.stream, SystemTime::now());
            tracing::info!(node = open.node.id, "proxy disconnected");
        }
    }
}

async fn sleep(duration: Option<std::time::Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A request of either variant on the wire.
trait Wire {
    fn take_node(&mut self) -> Option<sidemesh_proto::envoy::config::core::v3::Node>;
    fn into_request(self) -> session::Request;
}

fn refusal(detail: Option<sidemesh_proto::rpc::Status>) -> Option<String> {
    detail.map(|status| status.message)
}

impl Wire for xds::DiscoveryRequest {
    fn take_node(&mut self) -> Option<sidemesh_proto::envoy::config::core::v3::Node> {
        self.node.take()
    }

    fn into_request(self) -> session::Request {
        session::Request {
            type_url: self.type_url,
            nonce: self.response_nonce,
            error: refusal(self.error_detail),
            subscribe: self.resource_names,
            ..session::Request::default()
        }
    }
}

impl Wire for xds::DeltaDiscoveryRequest {
    fn take_node(&mut self) -> Option<sidemesh_proto::envoy::config::core::v3::Node> {
        self.node.take()
    }

    fn into_request(self) -> session::Request {
        session::Request {
            type_url: self.type_url,
            nonce: self.response_nonce,
            error: refusal(self.error_detail),
            subscribe: self.resource_names_subscribe,
            unsubscribe: self.resource_names_unsubscribe,
            initial_versions: self.initial_resource_versions.into_iter().collect(),
        }
    }
}

fn identifier() -> Option<sidemesh_proto::envoy::config::core::v3::ControlPlane> {
    let identifier = concat!("sidemesh-control-plane/", env!("CARGO_PKG_VERSION")).to_owned();
    Some(sidemesh_proto::envoy::config::core::v3::ControlPlane { identifier })
}

impl From<session::Response> for xds::DiscoveryResponse {
    fn from(response: session::Response) -> Self {
        xds::DiscoveryResponse {
            version_info: response.version,
            resources: response.resources.into_iter().map(|(_, r)| (*r.body).clone()).collect(),
            type_url: response.type_url,
            nonce: response.nonce,
            control_plane: identifier(),
            ..Default::default()
        }
    }
}

impl From<session::Response> for xds::DeltaDiscoveryResponse {
    fn from(response: session::Response) -> Self {
        let resources = response.resources.into_iter().map(|(name, r)| xds::Resource {
            name,
            version: r.version.to_string(),
            resource: Some((*r.body).clone()),
            ..Default::default()
        });
        xds::DeltaDiscoveryResponse {
            system_version_info: response.version,
            resources: resources.collect(),
            type_url: response.type_url,
            removed_resources: response.removed,
            nonce: response.nonce,
            control_plane: identifier(),
            ..Default::default()
        }
    }
}
