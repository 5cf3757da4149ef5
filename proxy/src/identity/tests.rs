use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use sidemesh_config::resource::secret::SecretValue;

use super::schedule::{renewal_delay, retry_delay};
use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn svid() -> Svid {
    Svid {
        spiffe_id: "spiffe://mesh.test/ns/default/sa/order".to_owned(),
        chain_pem: "chain".to_owned(),
        key_pem: "key".to_owned(),
        bundle_pem: "bundle".to_owned(),
        renewal_token: "token".to_owned(),
        issued: at(1000),
        not_after: at(2000),
    }
}

#[test]
fn renewal_is_at_half_life_with_bounded_jitter() {
    for (draw, seconds) in [(0.0, 450), (0.5, 500), (1.0, 550)] {
        assert_eq!(renewal_delay(at(1000), at(2000), at(1000), draw), Duration::from_secs(seconds), "draw {draw}");
    }
    assert_eq!(renewal_delay(at(1000), at(2000), at(1900), 0.5), Duration::ZERO);
    assert_eq!(renewal_delay(at(2000), at(1000), at(3000), 0.5), Duration::ZERO);
}

#[test]
fn retries_grow_and_stay_bounded() {
    assert_eq!(retry_delay(1, 1.0), Duration::from_millis(500));
    assert!(retry_delay(5, 1.0) > retry_delay(4, 1.0));
    assert_eq!(retry_delay(u32::MAX, 1.0), Duration::from_secs(30));
}

#[test]
fn a_kept_svid_survives_a_restart_and_is_private() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = dir.path().join("state");
    let store = SvidStore::open(&state).expect("store");
    assert_eq!(store.load().expect("empty"), None);
    store.save(&svid()).expect("save");
    assert_eq!(SvidStore::open(&state).expect("again").load().expect("load"), Some(svid()));
    let mode = |p: &std::path::Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("svid.json"))), (0o700, 0o600));
}

#[test]
fn a_broken_state_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = SvidStore::open(dir.path()).expect("store");
    let file = dir.path().join("svid.json");
    std::fs::write(&file, "{not json").expect("write");
    let error = store.load().expect_err("must fail").to_string();
    assert!(error.contains("svid.json"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "{not json");
}

#[test]
fn an_svid_becomes_the_two_secrets_of_the_data_path() {
    let secrets = svid().secrets();
    assert_eq!(secrets.iter().map(|s| &*s.name).collect::<Vec<_>>(), [CERTIFICATE, TRUST_BUNDLE]);
    assert!(
        matches!(secrets[0].value, SecretValue::Certificate(_))
            && matches!(secrets[1].value, SecretValue::Validation(_))
    );
}

#[test]
fn workload_metadata_is_read_with_defaults() {
    let metadata = json!({"sidemesh": {"service": "product", "version": "v1",
        "inbound": [{"listen": "127.0.0.1:20001", "app": "127.0.0.1:9001", "port": 8080.0}]}});
    let workload = Workload::from_metadata(&metadata).expect("valid").expect("there");
    assert_eq!((workload.namespace.as_str(), workload.service_account.as_str()), ("default", "product"));
    assert_eq!(workload.inbound, [Inbound { listen: ([127, 0, 0, 1], 20001).into(), port: 8080 }]);
    assert_eq!(Workload::from_metadata(&json!({})).expect("valid"), None);
}

#[test]
fn wrong_workload_metadata_names_the_field() {
    for (metadata, field) in [
        (json!({"sidemesh": {}}), "service"),
        (json!({"sidemesh": {"service": 3}}), "service"),
        (json!({"sidemesh": {"service": "a", "inbound": [{"listen": "x", "port": 1}]}}), "inbound[0].listen"),
        (json!({"sidemesh": {"service": "a", "inbound": [{"listen": "127.0.0.1:1"}]}}), "inbound[0].port"),
        (json!({"sidemesh": {"service": "a", "labels": {"x": 1}}}), "labels.x"),
        (json!({"sidemesh": {"service": "a", "egress": [1]}}), "egress"),
    ] {
        let error = Workload::from_metadata(&metadata).expect_err("must fail").to_string();
        assert!(error.contains(field), "{error} should name {field}");
    }
}
