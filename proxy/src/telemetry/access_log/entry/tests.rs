use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use sidemesh_config::value::{GrpcService, name};

use super::*;
use crate::telemetry::access_log::testing;
use crate::telemetry::flags::ResponseFlags;

fn log(tcp: bool) -> GrpcAccessLog {
    GrpcAccessLog {
        log_name: name("l"),
        service: GrpcService { cluster: name("als"), authority: None, timeout: None, initial_metadata: Vec::new() },
        flush_interval: Duration::from_secs(1),
        buffer_bytes: 16_384,
        request_headers: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-absent")],
        response_headers: vec![HeaderName::from_static("x-b")],
        response_trailers: vec![HeaderName::from_static("x-c")],
        custom_tags: Vec::new(),
        tcp,
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
}

#[test]
fn an_entry_tells_of_request_answer_and_times() {
    let mut info = testing::stream_info(Some(Protocol::Http2));
    info.status = 503;
    info.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    info.details = "via_upstream".into();
    info.cluster = Some(name("c"));
    info.timing.downstream_rx_end = info.start.checked_add(Duration::from_millis(1500));
    info.metadata.0.insert(name("f"), serde_json::json!({ "k": "v" }));
    let request = headers(&[("x-a", "1"), ("user-agent", "curl"), ("x-request-id", "id-1")]);
    let (answer, trailers) = (headers(&[("x-b", "2"), ("x-other", "3")]), headers(&[("x-c", "4")]));
    let ctx = LogContext {
        request: Some(RequestHead {
            method: &Method::PUT,
            scheme: "http",
            authority: "host",
            path: "/p?q=1",
            headers: &request,
        }),
        response_headers: Some(&answer),
        response_trailers: Some(&trailers),
        ..LogContext::of(&info, info.start)
    };
    let entry = http(&log(false), &ctx);
    assert_eq!(entry.protocol_version, HttpVersion::Http2 as i32);
    let common = entry.common_properties.unwrap_or_default();
    assert_eq!((&*common.upstream_cluster, &*common.stream_id), ("c", "id-1"));
    assert_eq!(common.access_log_type, AccessLogType::DownstreamEnd as i32);
    let flags = common.response_flags.unwrap_or_default();
    assert!(flags.upstream_connection_failure && !flags.no_route_found);
    let last = common.time_to_last_rx_byte.unwrap_or_default();
    assert_eq!((last.seconds, last.nanos), (1, 500_000_000));
    assert!(common.time_to_first_upstream_tx_byte.is_none());
    assert!(common.metadata.unwrap_or_default().filter_metadata["f"].fields.contains_key("k"));
    let request = entry.request.unwrap_or_default();
    assert_eq!((request.request_method, &*request.path), (RequestMethod::Put as i32, "/p?q=1"));
    assert_eq!((&*request.authority, &*request.user_agent), ("host", "curl"));
    assert_eq!(request.request_headers, HashMap::from([("x-a".to_owned(), "1".to_owned())]));
    let response = entry.response.unwrap_or_default();
    assert_eq!(response.response_code.map(|c| c.value), Some(503));
    assert_eq!(response.response_code_details, "via_upstream");
    assert_eq!(response.response_headers, HashMap::from([("x-b".to_owned(), "2".to_owned())]));
    assert_eq!(response.response_trailers, HashMap::from([("x-c".to_owned(), "4".to_owned())]));
}

#[test]
fn a_connection_is_an_entry_of_its_bytes() {
    let mut info = testing::stream_info(None);
    (info.request_body_bytes, info.response_body_bytes) = (7, 9);
    let record = crate::telemetry::access_log::Record::grpc(&Arc::new(log(true)), &LogContext::of(&info, info.start));
    let crate::telemetry::access_log::Record::Tcp { entry, .. } = record else { panic!("no TCP entry") };
    let bytes = entry.connection_properties.unwrap_or_default();
    assert_eq!((bytes.received_bytes, bytes.sent_bytes), (7, 9));
    let common = entry.common_properties.unwrap_or_default();
    assert_eq!(common.access_log_type, AccessLogType::TcpConnectionEnd as i32);
    assert!(common.downstream_remote_address.is_some() && common.tls_properties.is_none());
}
