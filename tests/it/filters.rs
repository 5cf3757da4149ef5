//! What HTTP filters leave for others: metadata for logs, counts for dashboards.

use serde_json::json;
use sidemesh_tests::origin::Origin;
use sidemesh_tests::proxy::{Proxy, all_to, cluster, fixed, http_listener, typed};
use sidemesh_tests::{http, ports, wait};

/// A header becomes metadata, the metadata decide and are logged; the request is counted under its virtual cluster.
#[test]
fn a_header_becomes_metadata_that_others_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (origin, at, log) = (Origin::saying("hello"), ports::free(), dir.path().join("access.log"));
    let filter = |name: &str, message: &str, config| {
        let config = typed(&format!("envoy.extensions.filters.http.{message}"), config);
        json!({"name": name, "typed_config": config})
    };
    let rule = json!({"header": "x-team", "remove": true,
        "on_header_present": {"metadata_namespace": "team", "key": "name"},
        "on_header_missing": {"metadata_namespace": "team", "key": "name", "value": "nobody"}});
    let red =
        json!({"metadata": {"filter": "team", "path": [{"key": "name"}], "value": {"string_match": {"exact": "red"}}}});
    let rules = json!({"rules": {"action": "ALLOW", "policies": {"reds": {"permissions": [{"any": true}], "principals": [red]}}}});
    let line = "%RESPONSE_CODE% %DYNAMIC_METADATA(team:name)% \
        %DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)% %VIRTUAL_CLUSTER_NAME%\n";
    let file = json!({"path": log, "log_format": {"text_format_source": {"inline_string": line}}});
    let manager = json!({
        "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": all_to("origin"),
            "virtual_clusters": [{"name": "reads", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}]}]},
        "http_filters": [
            filter("to-metadata", "header_to_metadata.v3.Config", json!({"request_rules": [rule]})),
            filter("rbac", "rbac.v3.RBAC", rules),
            filter("router", "router.v3.Router", json!({})),
        ],
        "access_log": [{"name": "file",
            "typed_config": typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", file)}],
    });
    let proxy = Proxy::start(
        dir.path(),
        &fixed(&[http_listener("front", at, &all_to("origin"), &manager)], &[cluster("origin", &[origin.address])]),
    );
    let status =
        |method, headers: &[(&str, &str)]| http::request(at, method, "/", headers, &[]).expect("an answer").status;
    assert_eq!(
        (status("GET", &[("x-team", "red")]), status("GET", &[("x-team", "blue")]), status("GET", &[])),
        (200, 403, 403)
    );
    assert_eq!(status("DELETE", &[("x-team", "red")]), 200);
    let lines = wait::until("four lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() == 4 { Ok(text) } else { Err(text) }
    });
    assert_eq!(lines, "200 red allowed reads\n403 blue denied -\n403 nobody denied -\n200 red allowed -\n");
    let counted = |name: &str| proxy.stat(&format!("vhost.all.vcluster.{name}.upstream_rq_total"), "");
    assert_eq!((counted("reads"), counted("other")), (1, 1));
}
