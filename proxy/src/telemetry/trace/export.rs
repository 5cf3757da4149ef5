//! Spans to a collector over OTLP/gRPC, batched on the control thread.
//!
//! Workers put spans into one bounded queue ([`QUEUED_SPANS`]); what does not fit is dropped and counted. A batch goes out
//! when it is full or when the flush interval has passed; a collector that is away costs its batch, never a request.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status, status};
use sidemesh_config::resource::http_connection_manager::TraceProvider;
use tokio::sync::{Notify, mpsc};

use super::Span;
use crate::stats_group;

/// Spans that wait for the control thread at most.
pub const QUEUED_SPANS: usize = 4096;
/// Spans in one request to the collector at most.
pub const BATCH: usize = 512;
/// Spans that make a report to a Zipkin collector before its time.
const MIN_ZIPKIN: usize = 5;

stats_group! {
    /// What becomes of spans (`tracing.opentelemetry.`), Envoy's names.
    pub struct TraceStats {
        spans_sent: Counter,
        spans_dropped: Counter,
        timer_flushed: Counter,
        export_failed: Counter,
    }
}

/// A worker's end of the queue.
#[derive(Clone)]
pub struct SpanSender(mpsc::Sender<Span>);

/// The control thread's end.
pub struct SpanQueue(mpsc::Receiver<Span>, Arc<Notify>);

impl SpanQueue {
    /// Notifying it ends the queue: what is in it is still taken, and nothing more, whoever still holds a sender.
    pub fn end(&self) -> Arc<Notify> {
        self.1.clone()
    }
}

pub fn queue() -> (SpanSender, SpanQueue) {
    let (sender, receiver) = mpsc::channel(QUEUED_SPANS);
    (SpanSender(sender), SpanQueue(receiver, Arc::default()))
}

impl SpanSender {
    /// `false` when the queue is full: the span is dropped, the caller counts it.
    pub fn send(&self, span: Span) -> bool {
        self.0.try_send(span).is_ok()
    }
}

/// How a batch reaches the collector of a provider: given by the composition root.
pub trait Collector {
    fn export(
        &self,
        provider: &Arc<TraceProvider>,
        request: ExportTraceServiceRequest,
    ) -> impl Future<Output = Result<(), String>>;

    /// Posts spans to a Zipkin collector.
    fn post(
        &self,
        provider: &Arc<TraceProvider>,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> impl Future<Output = Result<(), String>>;

    /// The name of this proxy's service in Zipkin's spans.
    fn service(&self) -> &str;
}

stats_group! {
    /// What becomes of Zipkin's spans (`tracing.zipkin.`), Envoy's names.
    pub struct ZipkinStats {
        spans_sent: Counter,
        timer_flushed: Counter,
        reports_skipped_no_cluster: Counter,
        reports_sent: Counter,
        reports_dropped: Counter,
        reports_failed: Counter,
    }
}

/// Batches and sends until every [`SpanSender`] is gone; then sends what is left.
pub async fn run(mut queue: SpanQueue, collector: impl Collector, flush: Duration, stats: Arc<TraceStats>) {
    let mut pending: HashMap<*const TraceProvider, (Arc<TraceProvider>, Vec<Span>)> = HashMap::new();
    let mut tick = tokio::time::interval(flush);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = queue.end();
    loop {
        tokio::select! {
            () = end.notified() => queue.0.close(),
            span = queue.0.recv() => {
                let Some(span) = span else { break };
                let span_is_zipkin = span.provider.zipkin.is_some();
                let key = Arc::as_ptr(&span.provider);
                let (_, batch) = pending.entry(key).or_insert_with(|| (span.provider.clone(), Vec::new()));
                batch.push(span);
                let full = if span_is_zipkin { MIN_ZIPKIN } else { BATCH };
                if batch.len() >= full && let Some((provider, batch)) = pending.remove(&key) {
                    send(&collector, &provider, batch, &stats).await;
                }
            }
            _ = tick.tick() => {
                for (_, (provider, batch)) in std::mem::take(&mut pending) {
                    stats.timer_flushed.inc();
                    send(&collector, &provider, batch, &stats).await;
                }
            }
        }
    }
    for (_, (provider, batch)) in pending {
        send(&collector, &provider, batch, &stats).await;
    }
}

async fn send(collector: &impl Collector, provider: &Arc<TraceProvider>, batch: Vec<Span>, stats: &TraceStats) {
    let count = batch.len() as u64;
    if let Some(zipkin) = &provider.zipkin {
        let (body, content_type) = super::zipkin::body(zipkin, collector.service(), &batch);
        if let Err(reason) = collector.post(provider, content_type, body).await {
            tracing::debug!(%reason, "spans not taken by the Zipkin collector");
        }
        return;
    }
    match collector.export(provider, request(provider, batch)).await {
        Ok(()) => stats.spans_sent.add(count),
        Err(reason) => {
            stats.export_failed.inc();
            stats.spans_dropped.add(count);
            tracing::debug!(service = %provider.service_name, %reason, "spans not taken by the collector");
        }
    }
}

/// One OTLP request of a provider's spans.
pub fn request(provider: &TraceProvider, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let service = if provider.service_name.is_empty() { "unknown_service:sidemesh" } else { &provider.service_name };
    let mut attributes = vec![string("service.name", service.to_owned())];
    attributes.extend([
        string("telemetry.sdk.language", "rust".to_owned()),
        string("telemetry.sdk.name", "sidemesh".to_owned()),
        string("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    attributes.extend(provider.resource_attributes.iter().map(|(k, v)| string(k, v.to_string())));
    let scope = InstrumentationScope {
        name: "sidemesh".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.into_iter().map(otlp).collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn otlp(span: Span) -> OtlpSpan {
    let parent = span.context.parent_id;
    OtlpSpan {
        trace_id: span.context.trace_id.to_be_bytes().to_vec(),
        span_id: span.context.span_id.to_be_bytes().to_vec(),
        trace_state: span.state.and_then(|s| s.to_str().ok().map(str::to_owned)).unwrap_or_default(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
        name: span.name,
        kind: span.kind as i32,
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.into_iter().map(|a| string(&a.key, a.value)).collect(),
        status: span.error.then(|| Status { code: status::StatusCode::Error as i32, message: String::new() }),
        ..Default::default()
    }
}

fn nanos(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn string(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        ..Default::default()
    }
}
