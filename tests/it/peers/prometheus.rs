//! A real Prometheus scrapes the demo; every query of the Grafana dashboard runs against it.

use std::net::SocketAddr;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use sidemesh_tests::process::Process;
use sidemesh_tests::programs::{program, repository_file};
use sidemesh_tests::{http, peer, ports, wait};

/// Panels that have nothing to show when all is well would be on this list; there is none.
const MAY_BE_EMPTY: [&str; 0] = [];

/// `meshctl up`; it writes what Prometheus needs into its directory.
fn demo(dir: &std::path::Path) -> Process {
    let mut command = Command::new(program("meshctl"));
    command.args(["up", "--no-tour", "--dir"]).arg(dir);
    let mut process = Process::start("meshctl-up", command, dir).with_children();
    process.wait_for_log("a client keeps ordering");
    process
}

/// The answer to an instant query.
fn ask(prometheus: SocketAddr, query: &str) -> Result<Value, String> {
    let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let answer = http::get(prometheus, &format!("/api/v1/query?query={encoded}")).map_err(|e| e.to_string())?;
    let body: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    if body["status"] == "success" { Ok(body["data"]["result"].clone()) } else { Err(body.to_string()) }
}

/// (panel, query) for every Prometheus query of the dashboard, variables filled in.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or("").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().filter(|t| t["datasource"]["type"] == "prometheus").map(move |target| {
            let expr = target["expr"].as_str().expect("a query").replace("$__rate_interval", "10s");
            (title.clone(), expr.replace("$service", ".*"))
        })
    };
    panels.iter().flat_map(of_panel).collect()
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    let text = std::fs::read_to_string(repository_file("deploy/grafana/sidemesh.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let queries = queries(&dashboard);
    assert!(queries.len() >= 20, "the dashboard has queries");
    let left: Vec<&String> = queries.iter().map(|(_, q)| q).filter(|q| q.contains('$')).collect();
    assert!(left.is_empty(), "variables that the test does not know: {left:?}");

    let Some(mut command) = peer::prometheus("peers::prometheus") else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut demo = demo(dir.path());
    let config = dir.path().join("prometheus.yml");
    let at = ports::free();
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address={at}"));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    let mut prometheus = Process::start("prometheus", command, dir.path());
    wait::until("all targets are scraped", || {
        prometheus.assert_running();
        let up = ask(at, "sum(up)")?;
        let count = up[0]["value"][1].as_str().unwrap_or("0").to_owned();
        if count == "6" { Ok(()) } else { Err(format!("{count} of 6")) }
    });
    for (panel, query) in &queries {
        wait::until(&format!("`{panel}` has data: {query}"), || {
            demo.assert_running();
            let result = ask(at, query)?;
            let empty = result.as_array().is_none_or(Vec::is_empty);
            if empty && !MAY_BE_EMPTY.contains(&panel.as_str()) { Err("no data".to_owned()) } else { Ok(()) }
        });
    }
    let rate = wait::until("orders flow", || {
        let result = ask(at, "sum(rate(envoy_http_downstream_rq_total{service=\"product\"}[10s]))")?;
        let rate: f64 = result[0]["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or(0.0);
        if rate > 1.0 { Ok(rate) } else { Err(rate.to_string()) }
    });
    println!("{} queries answered; product gets {rate:.0} requests a second", queries.len());
    demo.signal(Signal::SIGINT);
    assert_eq!(demo.wait(std::time::Duration::from_secs(30)).code(), Some(0), "{}", demo.log());
}
