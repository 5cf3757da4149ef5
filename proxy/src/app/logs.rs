//! Access logs that go to a service: gRPC access logs and OTLP over the channels of [`super::grpc`].

use std::rc::Rc;
use std::time::Duration;

use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use sidemesh_config::value::GrpcService;
use sidemesh_proto::envoy::config::core::v3::Node;
use sidemesh_proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use sidemesh_proto::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic_prost::ProstCodec;

use super::channels::{Channels, call};
use crate::telemetry::access_log::RecordQueue;
use crate::telemetry::access_log::export::{self, LogServices};
use crate::worker::Shared;
use crate::xds::Connect;

/// How long an export may take when the service says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

struct Grpc(Channels);

impl LogServices for Grpc {
    async fn stream(
        &self,
        service: &GrpcService,
        messages: mpsc::Receiver<StreamAccessLogsMessage>,
    ) -> Result<(), String> {
        let mut client = AccessLogServiceClient::new(self.0.to(service)?);
        let call = call(service, ReceiverStream::new(messages));
        client.stream_access_logs(call).await.map(drop).map_err(|status| status.to_string())
    }

    async fn export(&self, service: &GrpcService, request: ExportLogsServiceRequest) -> Result<(), String> {
        let mut client = tonic::client::Grpc::new(self.0.to(service)?);
        client.ready().await.map_err(|e| e.to_string())?;
        let mut call = call(service, request);
        call.set_timeout(service.timeout.unwrap_or(DEFAULT_TIMEOUT));
        let codec: ProstCodec<ExportLogsServiceRequest, ExportLogsServiceResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static(EXPORT);
        client.unary(call, path, codec).await.map(drop).map_err(|status| status.to_string())
    }
}

/// Sends until the workers have ended, and what is left then; the handle ends with that.
pub(super) fn start(queue: RecordQueue, shared: &Shared, node: Node, connect: Rc<Connect>) -> JoinHandle<()> {
    let services = Grpc(Channels::new(connect));
    tokio::task::spawn_local(export::run(queue, services, node, shared.stats.clone()))
}
