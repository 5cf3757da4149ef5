//! Spans to their collectors: OTLP over the gRPC channels of [`super::grpc`], or posted ([`super::http_post`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use sidemesh_config::bootstrap::{Bootstrap, RuntimeOrigin};
use sidemesh_config::resource::http_connection_manager::TraceProvider;
use sidemesh_config::value::{Name, RuntimeValue};
use tokio::task::JoinHandle;
use tonic_prost::ProstCodec;

use super::channels::{Channels, call};
use super::http_post::post;
use crate::live::Live;
use crate::telemetry::stats::{Registry, Scope};
use crate::telemetry::trace::export::{self, Collector, SpanQueue, TraceStats, ZipkinStats};
use crate::worker::Shared;
use crate::xds::Connect;

/// How long an export may take when the provider says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const FLUSH_KEY: &str = "tracing.opentelemetry.flush_interval_ms";
const DEFAULT_FLUSH_MS: f64 = 5000.0;

struct Collectors {
    channels: Channels,
    live: Arc<Live>,
    service: Name,
    registry: Arc<Registry>,
}

impl Collector for Collectors {
    async fn export(
        &self,
        provider: &Arc<TraceProvider>,
        request: ExportTraceServiceRequest,
    ) -> Result<(), String> {
        if let Some(service) = &provider.http {
            return post(&self.live, service, "application/x-protobuf", request.encode_to_vec().into()).await;
        }
        let Some(service) = provider.service.as_ref() else { return Ok(()) };
        let mut client = tonic::client::Grpc::new(self.channels.to(service)?);
        client.ready().await.map_err(|e| e.to_string())?;
        let mut request = call(service, request);
        request.set_timeout(service.timeout.unwrap_or(DEFAULT_TIMEOUT));
        let codec: ProstCodec<ExportTraceServiceRequest, ExportTraceServiceResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static(EXPORT);
        client.unary(request, path, codec).await.map(drop).map_err(|status| status.to_string())
    }

    async fn post(
        &self,
        provider: &Arc<TraceProvider>,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<(), String> {
        let Some(service) = &provider.http else { return Ok(()) };
        let stats: Arc<ZipkinStats> = self.registry.shard(Scope::Fixed("tracing.zipkin"));
        let sent = post(&self.live, service, content_type, body.into()).await;
        if sent.is_ok() { &stats.reports_sent } else { &stats.reports_failed }.inc();
        sent
    }

    fn service(&self) -> &str {
        &self.service
    }
}

const ZIPKIN_FLUSH_KEY: &str = "tracing.zipkin.flush_interval_ms";

pub(super) fn start(queue: SpanQueue, shared: &Shared, bootstrap: &Bootstrap, connect: Rc<Connect>) -> JoinHandle<()> {
    let stats: Arc<TraceStats> = shared.stats.shard(Scope::Fixed("tracing.opentelemetry"));
    let often = flush_ms(bootstrap, FLUSH_KEY).min(flush_ms(bootstrap, ZIPKIN_FLUSH_KEY));
    let flush = Duration::from_millis(often.max(1.0) as u64);
    tokio::task::spawn_local(export::run(
        queue,
        Collectors {
            channels: Channels::new(connect),
            live: shared.live.clone(),
            service: shared.node.cluster.to_string().into(),
            registry: shared.stats.clone(),
        },
        flush,
        stats,
    ))
}

/// Read once: the bootstrap's static layers alone.
fn flush_ms(bootstrap: &Bootstrap, key: &str) -> f64 {
    let value = |layer: &RuntimeOrigin| match layer {
        RuntimeOrigin::Static(entries) => match entries.get(key) {
            Some(RuntimeValue::Number(n)) => Some(*n),
            Some(RuntimeValue::Text(t)) => t.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    bootstrap.runtime.iter().rev().find_map(|l| value(&l.origin)).unwrap_or(DEFAULT_FLUSH_MS)
}
