//! An xDS client written by the test: state of the world over ADS, acknowledging or refusing as told.

use std::net::SocketAddr;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidemesh_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use sidemesh_proto::{google, rpc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// An open ADS stream.
pub struct XdsClient {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: tonic::Streaming<DiscoveryResponse>,
    /// Every request says again what is subscribed to.
    names: Vec<String>,
}

impl XdsClient {
    /// Connects as a sidecar that listens for one service, and subscribes to one kind of resource.
    pub async fn connect(
        server: SocketAddr,
        node: &str,
        (service, listens_at): (&str, SocketAddr),
        type_url: &str,
        names: &[&str],
    ) -> XdsClient {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{server}")).await.expect("connects");
        let (requests, receiver) = mpsc::channel(16);
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let first = DiscoveryRequest {
            node: Some(node_of(node, service, listens_at)),
            type_url: type_url.to_owned(),
            resource_names: names.clone(),
            ..DiscoveryRequest::default()
        };
        requests.send(first).await.expect("the queue is open");
        let stream = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.expect("a stream");
        XdsClient { requests, responses: stream.into_inner(), names }
    }

    /// The next response.
    pub async fn next(&mut self, which: &str) -> DiscoveryResponse {
        let message = tokio::time::timeout(crate::wait::PATIENCE, self.responses.message());
        let message = message.await.unwrap_or_else(|_| panic!("no {which} response in time"));
        message.expect("no error").expect("the stream stays open")
    }

    pub async fn ack(&self, response: &DiscoveryResponse) {
        self.answer(response, &response.version_info, None).await;
    }

    /// Refuses it with `text`; the accepted version stays `version`.
    pub async fn nack(&self, response: &DiscoveryResponse, version: &str, text: &str) {
        let error = rpc::Status { code: 3, message: text.to_owned(), details: Vec::new() };
        self.answer(response, version, Some(error)).await;
    }

    async fn answer(&self, response: &DiscoveryResponse, version: &str, error_detail: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            type_url: response.type_url.clone(),
            version_info: version.to_owned(),
            response_nonce: response.nonce.clone(),
            resource_names: self.names.clone(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("the stream is open");
    }
}

fn node_of(id: &str, service: &str, listens_at: SocketAddr) -> core::Node {
    let object = |key: &str, value: google::Value| {
        let fields = [(key.to_owned(), value)].into_iter().collect();
        google::Struct { fields }
    };
    let value = |kind: google::value::Kind| google::Value { kind: Some(kind) };
    let text = value(google::value::Kind::StringValue(listens_at.to_string()));
    let outbound = object("outbound", value(google::value::Kind::StructValue(object(service, text))));
    let metadata = object("sidemesh", value(google::value::Kind::StructValue(outbound)));
    core::Node { id: id.to_owned(), cluster: "test".to_owned(), metadata: Some(metadata), ..core::Node::default() }
}
