use serde_json::{Value, json};
use sidemesh_proto::envoy::config::core::v3::TransportSocket;

use super::{
    DownstreamTls, DownstreamTransport, Tickets, TlsVersion, UpstreamTransport, parse_downstream, parse_upstream,
};

fn socket(kind: &str, mut context: Value) -> TransportSocket {
    context["@type"] = json!(format!("type.googleapis.com/envoy.extensions.transport_sockets.{kind}"));
    sidemesh_proto::json::parse(
        "envoy.config.core.v3.TransportSocket",
        &json!({ "name": "t", "typed_config": context }),
    )
    .expect("well-formed")
}

fn down(common: Value) -> Result<DownstreamTls, String> {
    let socket = socket("tls.v3.DownstreamTlsContext", json!({ "common_tls_context": common }));
    match parse_downstream(Some(&socket)).map_err(|r| r.to_string())? {
        DownstreamTransport::Tls(tls) => Ok((*tls).clone()),
        DownstreamTransport::Raw => panic!("is TLS"),
    }
}

fn with_certificate(mut common: Value) -> Value {
    common["tls_certificates"] =
        json!([{ "certificate_chain": { "inline_string": "c" }, "private_key": { "inline_string": "k" } }]);
    common
}

#[test]
fn downstream_defaults() {
    let tls = down(with_certificate(json!({}))).expect("valid");
    assert_eq!((tls.common.params.min, tls.common.params.max), (TlsVersion::V1_2, TlsVersion::V1_3));
    assert_eq!(tls.tickets, Tickets::OwnKeys);
    assert!(!tls.require_client_certificate && tls.stateful_resumption);
}

#[test]
fn a_list_of_protocols_may_stand_in_one_text() {
    let tls = down(with_certificate(json!({ "alpn_protocols": ["h2,http/1.1", "x"] }))).expect("valid");
    assert_eq!(tls.common.alpn, [b"h2".to_vec(), b"http/1.1".to_vec(), b"x".to_vec()]);
}

#[test]
fn upstream_defaults_are_envoys() {
    let socket = socket("tls.v3.UpstreamTlsContext", json!({ "sni": "a.test" }));
    let Ok(UpstreamTransport::Tls(tls)) = parse_upstream(Some(&socket)) else { panic!("is TLS") };
    assert_eq!(tls.common.params.max, TlsVersion::V1_2, "Envoy's default for clients");
    assert_eq!((tls.sni.as_deref(), tls.max_session_keys), (Some("a.test"), 1));
}

#[test]
fn old_minimum_is_lifted_and_old_maximum_refused() {
    let tls = down(with_certificate(json!({ "tls_params": { "tls_minimum_protocol_version": "TLSv1_0" } })));
    assert_eq!(tls.expect("valid").common.params.min, TlsVersion::V1_2);
    let refused = down(with_certificate(json!({ "tls_params": { "tls_maximum_protocol_version": "TLSv1_1" } })));
    assert_eq!(
        refused.expect_err("too old"),
        "typed_config.common_tls_context.tls_params.tls_maximum_protocol_version: not supported: TLS below 1.2 is not supported"
    );
}

#[test]
fn cipher_suites_by_name() {
    let suites = |list: Value| {
        down(with_certificate(json!({ "tls_params": { "cipher_suites": list } })))
            .map(|t| t.common.params.cipher_suites.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(
        suites(json!(["[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]", "AES128-GCM-SHA256"])),
        Ok(vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned(), "ECDHE-RSA-CHACHA20-POLY1305".to_owned()])
    );
    let refused = suites(json!(["DES-CBC3-SHA"])).expect_err("unknown");
    assert!(refused.contains("cipher_suites: not supported: no cipher suite `DES-CBC3-SHA`"), "{refused}");
    assert!(suites(json!(["AES128-SHA"])).is_err(), "nothing would be left");
}

#[test]
fn refusals_name_the_field() {
    assert_eq!(
        down(json!({})).expect_err("no certificate"),
        "typed_config.common_tls_context.tls_certificates: invalid: a server needs tls_certificates or \
         tls_certificate_sds_secret_configs"
    );
    assert_eq!(
        down(with_certificate(json!({ "validation_context": { "verify_certificate_hash": ["ab"] } })))
            .expect_err("short"),
        "typed_config.common_tls_context.validation_context.verify_certificate_hash[0]: invalid: must be a SHA-256 hash \
         of 64 hexadecimal digits"
    );
    let other = socket("starttls.v3.StartTlsConfig", json!({}));
    assert!(parse_downstream(Some(&other)).is_err());
}

#[test]
fn pins_are_read() {
    let hash = "AB:".repeat(31) + "AB";
    let tls =
        down(with_certificate(json!({ "validation_context": { "verify_certificate_hash": [hash] } }))).expect("valid");
    assert_eq!(tls.common.validation.expect("given").certificate_hashes, [[0xab; 32]]);
}
