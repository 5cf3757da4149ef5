//! What a proxy tells of each request: a line of the access log, and spans.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use sidemesh_tests::origin::{Origin, ok};
use sidemesh_tests::process::Process;
use sidemesh_tests::programs::program;
use sidemesh_tests::proxy::{Proxy, all_to, cluster, fixed, http_listener, http2_cluster, typed};
use sidemesh_tests::{background, http, ports, wait};
use tonic::{Request, Response, Status};

fn file_log(path: &Path, format: &Value) -> Value {
    let config = json!({"path": path, "log_format": format});
    json!([{"name": "envoy.access_loggers.file",
        "typed_config": typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", config)}])
}

fn line_of(path: &Path) -> String {
    wait::until("a line in the access log", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') { Ok(text) } else { Err(text) }
    })
}

#[test]
fn a_line_in_the_format_that_was_asked_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let origin = Origin::saying("hello");
    let (text_log, json_log) = (dir.path().join("text.log"), dir.path().join("json.log"));
    let text_format = json!({"text_format_source": {"inline_string":
        "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% \"%REQ(USER-AGENT)%\"\n"}});
    let json_format = json!({"json_format": {"method": "%REQ(:METHOD)%", "status": "%RESPONSE_CODE%", "agent": "%REQ(USER-AGENT)%",
        "took": "%DURATION%", "flags": "%RESPONSE_FLAGS%"}});
    let (text_at, json_at) = (ports::free(), ports::free());
    let listener = |name: &str, at: SocketAddr, log: &Path, format: &Value| {
        http_listener(name, at, &all_to("origin"), &json!({"access_log": file_log(log, format)}))
    };
    let listeners =
        [listener("text", text_at, &text_log, &text_format), listener("json", json_at, &json_log, &json_format)];
    let _proxy = Proxy::start(dir.path(), &fixed(&listeners, &[cluster("origin", &[origin.address])]));
    for at in [text_at, json_at] {
        http::request(at, "GET", "/a?b=c", &[("user-agent", "test")], &[]).expect("an answer");
    }
    assert_eq!(line_of(&text_log), format!("GET /a?b=c HTTP/1.1 200 - 5 {} origin \"test\"\n", origin.address));
    let line: Value = serde_json::from_str(&line_of(&json_log)).expect("a JSON line");
    assert_eq!(
        (&line["method"], &line["status"], &line["agent"]),
        (&json!("GET"), &json!(200), &json!("test")),
        "{line}"
    );
    assert!(line["took"].is_u64(), "{line}");
}

/// Keeps every span with the name of its service.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

impl Collector {
    fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let service = attributes.iter().find(|a| a.key == "service.name").and_then(|a| a.value.clone());
            let service = service.map(|v| format!("{:?}", v.value)).unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|s| s.spans).map(|span| (service.clone(), span));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn spans_join_the_trace_of_the_caller() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (collector, collector_at) = (Collector::default(), ports::free());
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    background::spawn(server.serve(collector_at));
    let (seen, at) = (Arc::new(Mutex::new(String::new())), ports::free());
    let record = seen.clone();
    let origin = Origin::start(move |request, stream| {
        *record.lock().unwrap_or_else(PoisonError::into_inner) = request.header("traceparent").unwrap_or("").to_owned();
        ok(stream, "hello")
    });
    let tracer = json!({"grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"}, "service_name": "order"});
    let tracing = json!({"tracing": {"spawn_upstream_span": true, "provider": {"name": "envoy.tracers.opentelemetry",
        "typed_config": typed("envoy.config.trace.v3.OpenTelemetryConfig", tracer)}}});
    let mut bootstrap = fixed(
        &[http_listener("ingress", at, &all_to("origin"), &tracing)],
        &[cluster("origin", &[origin.address]), http2_cluster("collector", collector_at)],
    );
    bootstrap["layered_runtime"] = json!({"layers": [{"name": "static", "static_layer": {
        "tracing.opentelemetry.flush_interval_ms": 100, "tracing.opentelemetry.min_flush_spans": 1}}]});
    let _proxy = Proxy::start(dir.path(), &bootstrap);
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let incoming = format!("00-{trace}-{parent}-01");
    http::request(at, "GET", "/a", &[("traceparent", &incoming)], &[]).expect("an answer");

    let spans = wait::until("two spans at the collector", || {
        let spans = collector.spans();
        if spans.len() >= 2 { Ok(spans) } else { Err(format!("{spans:?}")) }
    });
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let of = |kind: SpanKind| {
        let found = spans.iter().find(|(_, s)| s.kind == kind as i32);
        found.unwrap_or_else(|| panic!("no {kind:?} span in {spans:?}")).clone()
    };
    let ((service, server_span), (_, client_span)) = (of(SpanKind::Server), of(SpanKind::Client));
    assert!(service.contains("order"), "{service}");
    assert_eq!((hex(&server_span.trace_id), hex(&server_span.parent_span_id)), (trace.to_owned(), parent.to_owned()));
    assert_eq!(client_span.trace_id, server_span.trace_id);
    assert_eq!(client_span.parent_span_id, server_span.span_id);
    let sent = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(sent, format!("00-{trace}-{}-01", hex(&client_span.span_id)), "the upstream is the client span's child");
    let attribute = |span: &Span, key: &str| {
        let found = span.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.clone());
        found.map(|v| format!("{:?}", v.value)).unwrap_or_default()
    };
    assert!(attribute(&server_span, "http.request.method").contains("GET"), "{server_span:?}");
    assert!(attribute(&server_span, "http.response.status_code").contains("200"), "{server_span:?}");
}

/// One order is one trace: the caller's sidecar and those of the services it calls.
#[test]
fn the_demo_sends_an_order_as_one_trace() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (collector, collector_at) = (Collector::default(), ports::free());
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    background::spawn(server.serve(collector_at));
    let mut command = Command::new(program("meshctl"));
    command.args(["up", "--no-tour", "--otlp", &collector_at.to_string(), "--dir"]).arg(dir.path());
    let mut demo = Process::start("meshctl-up", command, dir.path()).with_children();
    demo.wait_for_log("a client keeps ordering");
    let services = wait::until("spans of a call at both ends", || {
        demo.assert_running();
        let mut traces: HashMap<Vec<u8>, BTreeSet<String>> = HashMap::new();
        for (service, span) in collector.spans() {
            traces.entry(span.trace_id).or_default().insert(service);
        }
        let widest = traces.into_values().max_by_key(BTreeSet::len).unwrap_or_default();
        if widest.len() >= 2 { Ok(widest) } else { Err(format!("{widest:?}")) }
    });
    assert!(services.iter().any(|s| s.contains("order")), "{services:?}");
    assert!(services.iter().any(|s| s.contains("product") || s.contains("user")), "{services:?}");
}
