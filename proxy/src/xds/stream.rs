//! The gRPC side of a channel: opens the stream, carries requests and responses, reconnects. No protocol state.
//!
//! Reconnecting waits [`BACKOFF_BASE`] doubled per failure up to [`BACKOFF_MAX`], fully jittered, over the services in turn;
//! a stream that answered starts it over.

use std::time::Duration;

use http::uri::PathAndQuery;
use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::{GrpcService, GrpcSource};
use sidemesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::channel::Outgoing;
use crate::clock::Random;

/// First wait before reconnecting.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Longest wait before reconnecting.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A response larger than this breaks the stream.
pub const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// A response of either variant.
#[derive(Debug)]
pub enum Response {
    StateOfTheWorld(DiscoveryResponse),
    Delta(DeltaDiscoveryResponse),
}

/// What a channel's task tells the manager.
#[derive(Debug)]
pub(super) enum Event {
    /// A stream begins: what is sent here goes out once the connection stands.
    Opened(mpsc::UnboundedSender<Outgoing>),
    /// The server has accepted the stream.
    Connected,
    Response(Response),
    Closed,
}

/// Opens a connection to the cluster of a gRPC service.
pub type Connect = dyn Fn(&GrpcService) -> Result<Channel, String>;

/// The exponential wait between attempts. Pure.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self, random: &Random) -> Duration {
        let ceiling = BACKOFF_BASE.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures += 1;
        Duration::from_millis(random.below(ceiling.as_millis() as u64 + 1))
    }
}

/// Keeps a stream open until the task is dropped.
pub(super) async fn run(
    connect: std::rc::Rc<Connect>,
    source: std::sync::Arc<GrpcSource>,
    kind: Option<ResourceKind>,
    events: mpsc::Sender<(u64, Event)>,
    id: u64,
) {
    let random = Random::from_entropy();
    let mut backoff = Backoff::default();
    for attempt in 0usize.. {
        let service = &source.services[attempt % source.services.len()];
        let (reason, answered) = attempt_once(&*connect, service, source.delta, kind, &events, id).await;
        if answered {
            backoff = Backoff::default();
        }
        let wait = backoff.next(&random);
        tracing::warn!(cluster = %service.cluster, retry_in_ms = wait.as_millis() as u64, "management server stream ended: {reason}");
        if events.send((id, Event::Closed)).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

/// One stream's life: why it ended, and whether the server had answered on it.
async fn attempt_once(
    connect: &Connect,
    service: &GrpcService,
    delta: bool,
    kind: Option<ResourceKind>,
    events: &mpsc::Sender<(u64, Event)>,
    id: u64,
) -> (String, bool) {
    let channel = match connect(service) {
        Ok(channel) => channel,
        Err(reason) => return (reason, false),
    };
    let (requests, outgoing) = mpsc::unbounded_channel();
    if events.send((id, Event::Opened(requests))).await.is_err() {
        return ("the manager is gone".to_owned(), false);
    }
    let outgoing = UnboundedReceiverStream::new(outgoing);
    let path = PathAndQuery::from_static(method(kind, delta));
    if delta {
        let requests = outgoing.filter_map(|o| match o {
            Outgoing::Delta(request) => Some(*request),
            Outgoing::StateOfTheWorld(_) => None,
        });
        let opened = open::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(channel, service, path, requests).await;
        forward(opened, Response::Delta, events, id).await
    } else {
        let requests = outgoing.filter_map(|o| match o {
            Outgoing::StateOfTheWorld(request) => Some(*request),
            Outgoing::Delta(_) => None,
        });
        let opened = open::<DiscoveryRequest, DiscoveryResponse>(channel, service, path, requests).await;
        forward(opened, Response::StateOfTheWorld, events, id).await
    }
}

async fn open<Q, R>(
    channel: Channel,
    service: &GrpcService,
    path: PathAndQuery,
    requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<R>, String>
where
    Q: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    grpc.ready().await.map_err(|e| chain(&e))?;
    let mut request = tonic::Request::new(requests);
    for (name, value) in &service.initial_metadata {
        let value = value.parse().map_err(|_| format!("initial_metadata `{name}`: no valid header value"))?;
        let key = tonic::metadata::MetadataKey::from_bytes(name.as_str().as_bytes());
        request
            .metadata_mut()
            .insert(key.map_err(|_| format!("initial_metadata `{name}`: no valid header name"))?, value);
    }
    let codec: ProstCodec<Q, R> = ProstCodec::default();
    grpc.streaming(request, path, codec).await.map(tonic::Response::into_inner).map_err(|s| describe(&s))
}

async fn forward<R>(
    opened: Result<Streaming<R>, String>,
    wrap: fn(R) -> Response,
    events: &mpsc::Sender<(u64, Event)>,
    id: u64,
) -> (String, bool) {
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(reason) => return (reason, false),
    };
    let mut answered = false;
    if events.send((id, Event::Connected)).await.is_err() {
        return ("the manager is gone".to_owned(), false);
    }
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                answered = true;
                if events.send((id, Event::Response(wrap(response)))).await.is_err() {
                    return ("the manager is gone".to_owned(), true);
                }
            }
            Ok(None) => return ("closed by the server".to_owned(), answered),
            Err(status) => return (describe(&status), answered),
        }
    }
}

fn describe(status: &tonic::Status) -> String {
    let text = format!("{}: {}", status.code(), status.message());
    // tonic puts the last cause into the message already.
    match std::error::Error::source(status).map(chain) {
        Some(cause) if !cause.contains(status.message()) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// An error with its causes, each said once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

/// The method that carries a kind; `None` is the aggregated one.
fn method(kind: Option<ResourceKind>, delta: bool) -> &'static str {
    match (kind, delta) {
        (None, false) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        (None, true) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        (Some(ResourceKind::Listener), false) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        (Some(ResourceKind::Listener), true) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        (Some(ResourceKind::Cluster), false) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        (Some(ResourceKind::Cluster), true) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        (Some(ResourceKind::Endpoints), false) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        (Some(ResourceKind::Endpoints), true) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        (Some(ResourceKind::Route), false) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        (Some(ResourceKind::Route), true) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        (Some(ResourceKind::ScopedRoute), false) => {
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes"
        }
        (Some(ResourceKind::ScopedRoute), true) => {
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes"
        }
        (Some(ResourceKind::VirtualHost), _) => "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        (Some(ResourceKind::Secret), false) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        (Some(ResourceKind::Secret), true) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        (Some(ResourceKind::Runtime), false) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        (Some(ResourceKind::Runtime), true) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
        (Some(ResourceKind::ExtensionConfig), false) => {
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
        }
        (Some(ResourceKind::ExtensionConfig), true) => {
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_ceiling_and_are_jittered() {
        let random = Random::seeded(1);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..200).map(|_| backoff.next(&random)).collect();
        assert!(waits[0] <= BACKOFF_BASE);
        assert!(waits.iter().all(|w| *w <= BACKOFF_MAX));
        let late: std::collections::BTreeSet<_> = waits[20..].iter().collect();
        assert!(late.len() > 100 && *waits.iter().max().unwrap_or(&BACKOFF_BASE) > BACKOFF_MAX / 2);
    }
}
