use prost::Message;
use serde_json::{Value, json};
use sidemesh_proto::{json as mapping, type_url};

use super::{FIELDS, Hint, MESSAGES, Status, check, knows};
use crate::rejection::{Kind, Rejection};

fn checked(name: &str, value: Value) -> Result<Vec<Hint>, Rejection> {
    check(name, &mapping::to_bytes(type_url::message_name(name), &value).expect("test input"))
}

#[track_caller]
fn refused(name: &str, value: Value, expected: &str) {
    assert_eq!(checked(name, value).expect_err("must be refused").to_string(), expected);
}

fn hcm(extra: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [{ "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
    });
    if let (Value::Object(config), Value::Object(extra)) = (&mut config, extra) {
        config.extend(extra);
    }
    json!({ "name": "l", "filter_chains": [{}, { "filters": [{ "name": "hcm", "typed_config": config }] }] })
}

/// Known to the JSON mapping alone.
const UNSUPPORTED: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.EnvoyMobileHttpConnectionManager";

#[test]
fn accepts_what_is_supported() {
    assert_eq!(checked(type_url::LISTENER, hcm(json!({}))), Ok(vec![]));
    let cluster = json!({ "name": "c", "connect_timeout": "1s", "type": "EDS",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } } });
    assert_eq!(checked(type_url::CLUSTER, cluster), Ok(vec![]));
}

#[test]
fn names_the_field_that_is_not_supported() {
    refused(
        type_url::LISTENER,
        hcm(json!({ "http3_protocol_options": {} })),
        "filter_chains[1].filters[0].typed_config.http3_protocol_options: not supported: field `http3_protocol_options` of \
         envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager is not supported: HTTP/3 is not \
         supported",
    );
}

#[test]
fn names_the_enum_value_that_is_not_supported() {
    refused(
        type_url::LISTENER,
        hcm(json!({ "codec_type": "HTTP3" })),
        "filter_chains[1].filters[0].typed_config.codec_type: not supported: value HTTP3 is not supported: HTTP/3 is not \
         supported",
    );
}

#[test]
fn names_the_extension_that_is_not_supported() {
    let listener = json!({ "filter_chains": [{ "filters": [{ "name": "x", "typed_config": {
        "@type": type_url::of(UNSUPPORTED) } }] }] });
    refused(
        type_url::LISTENER,
        listener,
        "filter_chains[0].filters[0].typed_config: not supported: extension type \
         `envoy.extensions.filters.network.http_connection_manager.v3.EnvoyMobileHttpConnectionManager` is not supported",
    );
    refused(
        "type.googleapis.com/envoy.config.core.v3.Extension",
        json!({}),
        "not supported: type `envoy.config.core.v3.Extension` is not supported",
    );
}

#[test]
fn descends_into_maps() {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let cluster = json!({ "name": "c", "typed_extension_protocol_options": { options: {
        "@type": type_url::of(options), "explicit_http_config": { "http3_protocol_options": {} } } } });
    let rejection = checked(type_url::CLUSTER, cluster).expect_err("must be refused");
    assert_eq!(
        rejection.path,
        format!("typed_extension_protocol_options[\"{options}\"].explicit_http_config.http3_protocol_options")
    );
}

#[test]
fn a_default_of_a_refused_scalar_is_not_set() {
    // enable_mptcp (30): false; and true.
    assert_eq!(check(type_url::LISTENER, &[0xf0, 0x01, 0x00]), Ok(vec![]));
    assert_eq!(check(type_url::LISTENER, &[0xf0, 0x01, 0x01]).expect_err("must be refused").path, "enable_mptcp");
}

#[test]
fn tells_hints() {
    let hints = checked(type_url::LISTENER, json!({ "connection_balance_config": { "exact_balance": {} } }));
    assert_eq!(
        hints.expect("accepted").iter().map(|h| h.path.as_str()).collect::<Vec<_>>(),
        ["connection_balance_config"]
    );
}

#[test]
fn leaves_out_an_unknown_extension_that_is_optional() {
    let unknown = json!({ "@type": type_url::of(UNSUPPORTED) });
    let listener = |optional: bool| {
        hcm(json!({ "http_filters": [{ "name": "x", "is_optional": optional, "typed_config": unknown }] }))
    };
    let hints = checked(type_url::LISTENER, listener(true)).expect("accepted");
    assert_eq!(hints[0].path, "filter_chains[1].filters[0].typed_config.http_filters[0].typed_config");
    assert!(checked(type_url::LISTENER, listener(false)).is_err());
}

#[test]
fn refuses_fields_of_a_newer_api() {
    // Field 4000, varint 1.
    let rejection = check(type_url::CLUSTER, &[0x80, 0xfa, 0x01, 0x01]).expect_err("must be refused");
    assert_eq!(
        rejection.to_string(),
        "not supported: field number 4000 of envoy.config.cluster.v3.Cluster is not supported"
    );
}

#[test]
fn survives_bytes_that_are_no_message() {
    for bytes in
        [&[0x0a, 0x7f][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0x0b], &[0xff]]
    {
        assert_eq!(check(type_url::CLUSTER, bytes).expect_err("must be refused").kind, Kind::Malformed, "{bytes:?}");
    }
}

#[test]
fn refuses_bottomless_nesting() {
    let name = "envoy.config.rbac.v3.Permission";
    let mut bytes = vec![0x18, 0x01]; // any: true
    for _ in 0..200 {
        let mut outer = vec![0x42]; // not_rule
        let mut length = bytes.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend(bytes);
        bytes = outer;
    }
    assert!(check(name, &bytes).expect_err("must be refused").reason.contains("nested more than 100 levels"));
}

#[test]
fn the_table_is_sorted_and_small() {
    assert!(MESSAGES.windows(2).all(|pair| pair[0].name.text() < pair[1].name.text()));
    for message in MESSAGES {
        assert!(message.fields().windows(2).all(|pair| pair[0].number < pair[1].number), "{}", message.name.text());
    }
    assert!(knows("envoy.config.route.v3.RouteConfiguration"));
    // Every hint says why.
    assert!(FIELDS.iter().all(|f| f.status != Status::Hint || !f.note.text().is_empty()));
    // The table is in the binary without relocations: its size is all it costs.
    assert!(std::mem::size_of_val(FIELDS) + std::mem::size_of_val(MESSAGES) + super::TEXT.len() < 256 * 1024);
}

#[test]
fn survives_any_bytes() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let listener = mapping::to_bytes("envoy.config.listener.v3.Listener", &hcm(json!({}))).expect("test input");
    for _ in 0..20_000 {
        // A valid listener with a few bytes changed gets deeper than noise does.
        let mut bytes = listener.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(1 + random() as usize % bytes.len());
        // Bytes that the generated type cannot read must not pass as a listener without complaint from either side.
        let decoded = sidemesh_proto::envoy::config::listener::v3::Listener::decode(bytes.as_slice());
        let printed = mapping::to_json("envoy.config.listener.v3.Listener", &bytes);
        let _ = check(type_url::LISTENER, &bytes);
        assert!(decoded.is_err() || printed.is_ok(), "{printed:?} {bytes:?}");
    }
}
