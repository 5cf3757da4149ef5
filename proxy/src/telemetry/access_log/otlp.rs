//! OpenTelemetry log records (`opentelemetry.proto.logs.v1`), from the formats of `OpenTelemetryAccessLogConfig`.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use sidemesh_config::resource::access_log::{JsonFormat, OpenTelemetryLog};
use sidemesh_config::value::Name;
use sidemesh_proto::envoy::config::core::v3::Node;

use crate::telemetry::format::to_string;
use crate::telemetry::stream_info::LogContext;

/// The record of one request; its time is the request's start.
pub(super) fn record(log: &OpenTelemetryLog, ctx: &LogContext<'_>) -> LogRecord {
    let start = ctx.info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let trace = ctx.info.trace;
    LogRecord {
        time_unix_nano: u64::try_from(start.as_nanos()).unwrap_or(u64::MAX),
        body: log.body.as_ref().map(|body| value(body, Some(ctx))),
        attributes: pairs(&log.attributes, Some(ctx)),
        trace_id: if trace.trace_id == 0 { Vec::new() } else { trace.trace_id.to_be_bytes().to_vec() },
        span_id: if trace.span_id == 0 { Vec::new() } else { trace.span_id.to_be_bytes().to_vec() },
        ..Default::default()
    }
}

/// One request of a log's records. Labels that the configuration names replace the built-in ones.
pub(super) fn request(log: &OpenTelemetryLog, node: &Node, records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let mut attributes = Vec::new();
    if !log.disable_builtin_labels {
        let zone = node.locality.as_ref().map_or("", |l| l.zone.as_str());
        let builtin = [
            ("log_name", &*log.log_name),
            ("zone_name", zone),
            ("cluster_name", &node.cluster),
            ("node_name", &node.id),
        ];
        for (key, text) in builtin {
            if !log.resource_attributes.iter().any(|(named, _)| **named == *key) {
                attributes.push(pair(key, AnyValue { value: Some(Value::StringValue(text.to_owned())) }));
            }
        }
    }
    attributes.extend(pairs(&log.resource_attributes, None));
    let scope = InstrumentationScope {
        name: "sidemesh".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_logs: vec![ScopeLogs { scope: Some(scope), log_records: records, ..Default::default() }],
            ..Default::default()
        }],
    }
}

fn pairs(list: &[(Name, JsonFormat)], ctx: Option<&LogContext<'_>>) -> Vec<KeyValue> {
    list.iter().map(|(key, format)| pair(key, value(format, ctx))).collect()
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

/// Formats come out as text, as Envoy's do; without a context (resource attributes) the configuration lets only plain text by.
fn value(format: &JsonFormat, ctx: Option<&LogContext<'_>>) -> AnyValue {
    let value = match format {
        JsonFormat::Value(format) => Some(Value::StringValue(match ctx {
            Some(ctx) => to_string(format, ctx, "-"),
            None => format.as_static().unwrap_or_default().to_owned(),
        })),
        JsonFormat::Object(fields) => {
            let values = fields.iter().map(|(key, field)| pair(key, self::value(field, ctx))).collect();
            Some(Value::KvlistValue(KeyValueList { values }))
        }
        JsonFormat::List(items) => {
            Some(Value::ArrayValue(ArrayValue { values: items.iter().map(|item| self::value(item, ctx)).collect() }))
        }
        JsonFormat::Literal(literal) => scalar(literal),
    };
    AnyValue { value }
}

fn scalar(literal: &serde_json::Value) -> Option<Value> {
    match literal {
        serde_json::Value::Bool(b) => Some(Value::BoolValue(*b)),
        serde_json::Value::Number(n) => n.as_i64().map(Value::IntValue).or_else(|| n.as_f64().map(Value::DoubleValue)),
        serde_json::Value::String(s) => Some(Value::StringValue(s.clone())),
        serde_json::Value::Null => None,
        other => Some(Value::StringValue(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use sidemesh_config::value::{GrpcService, name};

    use super::*;
    use crate::telemetry::access_log::testing::stream_info;
    use crate::telemetry::stream_info::Protocol;

    fn text(format: &str) -> JsonFormat {
        JsonFormat::Value(Arc::new(sidemesh_config::format::parse(format).expect("a format")))
    }

    fn log() -> OpenTelemetryLog {
        OpenTelemetryLog {
            log_name: name("l"),
            service: GrpcService {
                cluster: name("otel"),
                authority: None,
                timeout: None,
                initial_metadata: Vec::new(),
            },
            flush_interval: Duration::from_secs(1),
            buffer_bytes: 16_384,
            resource_attributes: vec![(name("node_name"), text("mine"))],
            body: Some(text("%PROTOCOL% %RESPONSE_CODE% %REQ(X-A)%")),
            attributes: vec![
                (name("code"), text("%RESPONSE_CODE%")),
                (name("list"), JsonFormat::List(vec![JsonFormat::Literal(7.into()), JsonFormat::Literal(true.into())])),
            ],
            disable_builtin_labels: false,
            stat_prefix: name(""),
        }
    }

    fn string(text: &str) -> AnyValue {
        AnyValue { value: Some(Value::StringValue(text.to_owned())) }
    }

    #[test]
    fn body_and_attributes_are_formats() {
        let mut info = stream_info(Some(Protocol::Http11));
        info.status = 204;
        info.trace.trace_id = 1;
        let record = record(&log(), &LogContext::of(&info, info.start));
        assert_eq!(record.time_unix_nano, 1_500_000_000);
        assert_eq!(record.body, Some(string("HTTP/1.1 204 -")));
        let list = vec![AnyValue { value: Some(Value::IntValue(7)) }, AnyValue { value: Some(Value::BoolValue(true)) }];
        let list = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: list })) };
        assert_eq!(record.attributes, [pair("code", string("204")), pair("list", list)]);
        assert_eq!((record.trace_id.len(), record.span_id.len()), (16, 0));
    }

    #[test]
    fn a_resource_has_the_nodes_labels_unless_named() {
        let node = Node { id: "n1".to_owned(), cluster: "c1".to_owned(), ..Default::default() };
        let request = request(&log(), &node, vec![LogRecord::default()]);
        let resource = request.resource_logs[0].resource.clone().expect("a resource");
        let expected = [("log_name", "l"), ("zone_name", ""), ("cluster_name", "c1"), ("node_name", "mine")];
        assert_eq!(resource.attributes, expected.map(|(k, v)| pair(k, string(v))));
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len(), 1);
    }
}
