use serde_json::{Value, json};
use sidemesh_proto::envoy::config::accesslog::v3 as pb;

use super::*;
use crate::rejection::Rejection;

fn read(value: Value) -> Result<AccessLog, Rejection> {
    let log: pb::AccessLog = sidemesh_proto::json::parse("envoy.config.accesslog.v3.AccessLog", &value).expect("input");
    parse(&log)
}

fn sink(message: &str, mut config: Value) -> Result<AccessLog, Rejection> {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.access_loggers.{message}").into();
    read(json!({ "name": "log", "typed_config": config }))
}

#[test]
fn sinks_by_type() {
    let file = sink("file.v3.FileAccessLog", json!({ "path": "/dev/stdout" })).expect("valid").sink;
    let default = crate::format::parse(crate::format::DEFAULT_ACCESS_LOG).expect("valid");
    let format = LogFormat::Text { format: Arc::new(default), omit_empty: false };
    assert_eq!(file, AccessLogSink::File { path: "/dev/stdout".into(), format: format.clone() });
    let stdout = sink("stream.v3.StdoutAccessLog", json!({})).expect("valid").sink;
    assert_eq!(stdout, AccessLogSink::Stdout(format));
    let common = json!({ "log_name": "n", "grpc_service": { "envoy_grpc": { "cluster_name": "als" } } });
    let grpc = sink(
        "grpc.v3.HttpGrpcAccessLogConfig",
        json!({ "common_config": common, "additional_request_headers_to_log": ["x-a"] }),
    );
    let AccessLogSink::Grpc(grpc) = grpc.expect("valid").sink else { panic!("no gRPC log") };
    assert_eq!((&*grpc.service.cluster, grpc.buffer_bytes, grpc.tcp), ("als", 16_384, false));
    assert_eq!(grpc.flush_interval, std::time::Duration::from_secs(1));
    let otel = json!({ "common_config": common, "body": { "string_value": "%PROTOCOL%" },
        "attributes": { "values": [{ "key": "k", "value": { "int_value": "7" } }] } });
    let log = sink("open_telemetry.v3.OpenTelemetryAccessLogConfig", otel).expect("valid").sink;
    let AccessLogSink::OpenTelemetry(log) = log else { panic!("no OpenTelemetry log") };
    assert_eq!(log.attributes, [(Name::from("k"), JsonFormat::Literal(7.into()))]);
    let other = read(json!({ "typed_config": { "@type": "type.googleapis.com/google.protobuf.Empty" } }));
    let refused = other.expect_err("not implemented").to_string();
    assert!(refused.starts_with("typed_config: not supported: access log `google.protobuf.Empty` is not supported"));
}

#[test]
fn filters_nest() {
    let with = |filter: Value| {
        let stdout = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
        read(json!({ "filter": filter, "typed_config": { "@type": stdout } })).map(|log| log.filter)
    };
    let server_error = json!({ "status_code_filter": { "comparison": {
        "op": "GE", "value": { "default_value": 500, "runtime_key": "k" } } } });
    let both = json!({ "or_filter": { "filters": [server_error, { "response_flag_filter": { "flags": ["UF"] } }] } });
    assert_eq!(
        with(both).expect("valid"),
        Some(AccessLogFilter::Or(vec![
            AccessLogFilter::StatusCode { op: Comparison::Ge, value: 500, runtime_key: Some("k".into()) },
            AccessLogFilter::ResponseFlag(vec!["UF".into()]),
        ]))
    );
    let grpc = json!({ "grpc_status_filter": { "statuses": ["CANCELED", "INTERNAL"], "exclude": true } });
    assert_eq!(with(grpc).expect("valid"), Some(AccessLogFilter::GrpcStatus { statuses: vec![1, 13], exclude: true }));
    let bad = json!({ "and_filter": { "filters": [
        { "not_health_check_filter": {} }, { "response_flag_filter": { "flags": ["XX"] } }] } });
    assert_eq!(
        with(bad).expect_err("unknown flag").to_string(),
        "filter.and_filter.filters[1].response_flag_filter.flags[0]: invalid: `XX` is no response flag"
    );
}
