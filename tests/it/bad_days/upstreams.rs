//! Upstreams that break off.

use std::io::Write;

use serde_json::json;
use sidemesh_tests::http;
use sidemesh_tests::origin::Origin;
use sidemesh_tests::ports;
use sidemesh_tests::proxy::{Proxy, all_to, cluster, fixed, http_listener};

/// The client must see a body that was cut, not a shorter body that ended well.
#[test]
fn a_body_that_breaks_off_arrives_broken_off() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let origin = Origin::start(|request, stream| {
        let head = match request.path() {
            "/length" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
            "/chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
        };
        let written = stream.write_all(head.as_bytes()).is_ok();
        written && request.path() == "/whole"
    });
    let (at, log) = (ports::free(), dir.path().join("access.log"));
    let access_log = json!([{"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": log,
        "log_format": {"text_format_source": {"inline_string": "%REQ(:PATH)% %RESPONSE_FLAGS%\n"}}}}]);
    let listener = http_listener("ingress", at, &all_to("origin"), &json!({"access_log": access_log}));
    let _proxy = Proxy::start(dir.path(), &fixed(&[listener], &[cluster("origin", &[origin.address])]));
    for path in ["/length", "/chunked"] {
        let answer = http::must_get(at, path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.complete, "{path}: it looks complete: {answer:?}");
        assert_eq!(answer.text().trim_end_matches('\0'), "only this");
    }
    let whole = http::must_get(at, "/whole");
    assert!(whole.complete && whole.text() == "whole", "{whole:?}");
    sidemesh_tests::wait::until("the access log says so", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let said = ["/length UPE", "/chunked UPE", "/whole -"].iter().all(|line| text.contains(line));
        if said { Ok(()) } else { Err(text) }
    });
}

#[test]
fn an_upstream_that_is_not_there_is_a_503_with_the_reason() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = ports::free();
    let listener = http_listener("ingress", at, &all_to("nobody"), &json!({}));
    let _proxy = Proxy::start(dir.path(), &fixed(&[listener], &[cluster("nobody", &[ports::free()])]));
    let answer = http::must_get(at, "/");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("remote connection failure"), "{}", answer.text());
}
