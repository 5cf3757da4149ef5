use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as Wire;

use super::{EscapedSlashes, ForwardClientCert, HttpConnectionManager, IpDetection, RouteSource, parse};
use crate::resource::cluster::HeaderCase;

fn router() -> Value {
    json!({ "name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } })
}

fn read(extra: Value) -> Result<HttpConnectionManager, String> {
    let mut value = json!({ "stat_prefix": "x", "http_filters": [router()],
        "rds": { "route_config_name": "r", "config_source": { "ads": {} } } });
    for (key, v) in extra.as_object().expect("an object") {
        value[key] = v.clone();
    }
    let message = sidemesh_proto::json::parse::<Wire>(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &value,
    )
    .expect("well-formed");
    parse(&message).map_err(|r| r.to_string())
}

#[test]
fn defaults_are_envoys() {
    let h = read(json!({})).expect("valid");
    assert!(matches!(&h.routes, RouteSource::Rds { name, .. } if &**name == "r"));
    assert_eq!((&*h.server_name, h.max_request_headers_kb), ("envoy", 60));
    assert_eq!((h.stream_idle_timeout, h.request_timeout), (Some(Duration::from_secs(300)), None));
    assert_eq!((h.drain_timeout, h.delayed_close_timeout), (Duration::from_secs(5), Some(Duration::from_secs(1))));
    assert!(h.generate_request_id && !h.normalize_path && h.http1.allow_absolute_url && h.request_id_pack_trace_reason);
    assert_eq!((h.escaped_slashes, h.forward_client_cert), (EscapedSlashes::Keep, ForwardClientCert::Sanitize));
}

#[test]
fn malformed_http2_messages_end_what_the_nearest_option_says() {
    let set = |extra: Value| read(extra).expect("valid").http2.stream_error_on_invalid_message;
    let over = |stream: bool| json!({ "override_stream_error_on_invalid_http_message": stream });
    assert_eq!(set(json!({})), None);
    assert_eq!(set(json!({ "stream_error_on_invalid_http_message": true })), Some(true));
    assert_eq!(
        set(json!({ "stream_error_on_invalid_http_message": true, "http2_protocol_options": over(false) })),
        Some(false)
    );
}

#[test]
fn zero_switches_a_timeout_off() {
    let h = read(json!({ "stream_idle_timeout": "0s", "delayed_close_timeout": "0s" })).expect("valid");
    assert_eq!((h.stream_idle_timeout, h.delayed_close_timeout), (None, None));
}

#[test]
fn addresses_may_be_found_elsewhere() {
    let any = |name: &str, config: Value| {
        let mut typed =
            json!({ "@type": format!("type.googleapis.com/envoy.extensions.http.original_ip_detection.{name}") });
        for (key, value) in config.as_object().expect("an object") {
            typed[key] = value.clone();
        }
        json!({ "name": "d", "typed_config": typed })
    };
    let header = json!({ "header_name": "x-real-ip", "reject_with_status": { "code": 401 } });
    let h = read(json!({ "original_ip_detection_extensions": [
        any("custom_header.v3.CustomHeaderConfig", header),
        any("xff.v3.XffConfig", json!({ "xff_num_trusted_hops": 1 })) ] }))
    .expect("valid");
    let [IpDetection::Header(header), IpDetection::Xff(xff)] = h.ip_detection.as_slice() else {
        panic!("{:?}", h.ip_detection)
    };
    assert_eq!((header.header.as_str(), header.trusted, header.refusal), ("x-real-ip", false, Some(401)));
    assert_eq!((xff.trusted_hops, xff.skip_append), (1, true));
}

#[test]
fn header_names_may_keep_their_case() {
    let formatter = json!({ "name": "preserve_case", "typed_config": { "@type":
        "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        "forward_reason_phrase": true } });
    let h = read(json!({ "http_protocol_options": { "header_key_format": { "stateful_formatter": formatter } } }));
    assert_eq!(h.expect("valid").http1.header_case, HeaderCase::Preserve { reason: true, own_proper: false });
}

#[test]
fn refusals_name_the_field() {
    let refused = |extra: Value, expected: &str| assert_eq!(read(extra).expect_err("must be refused"), expected);
    refused(json!({ "http_filters": [] }), "http_filters: invalid: the last filter must be envoy.filters.http.router");
    refused(
        json!({ "http_filters": [router(), router()] }),
        "http_filters[0]: invalid: the router must be the last filter",
    );
    refused(json!({ "stat_prefix": "" }), "stat_prefix: invalid: must not be empty");
    refused(
        json!({ "max_request_headers_kb": 9000 }),
        "max_request_headers_kb: invalid: 9000 is not between 1 and 8192",
    );
    refused(json!({ "codec_type": "HTTP3" }), "codec_type: not supported: HTTP/3 is not supported");
    refused(
        json!({ "local_reply_config": { "mappers": [{ "status_code": 700,
            "filter": { "not_health_check_filter": {} } }] } }),
        "local_reply_config.mappers[0].status_code: invalid: 700 is not between 200 and 599",
    );
    refused(json!({ "rds": { "route_config_name": "r" } }), "rds.config_source: invalid: is required");
}
