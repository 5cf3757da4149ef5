use std::time::Duration;

use serde_json::{Value, json};
use sidemesh_config::resource::decode;
use sidemesh_proto::json::any_from_json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A resource from its JSON form.
fn resource(value: Value) -> Resource {
    let any = any_from_json(&value).expect("JSON of a known message");
    decode(&any).result.expect("a valid resource")
}

fn ads(timeout: u64) -> Value {
    json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": format!("{timeout}s")})
}

fn eds_cluster(name: &str, connect_timeout: &str) -> Resource {
    resource(json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": name, "type": "EDS",
        "connect_timeout": connect_timeout, "eds_cluster_config": {"eds_config": ads(15)},
    }))
}

fn endpoints(cluster: &str, port: u16) -> Resource {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    resource(json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }))
}

fn listener(name: &str, port: u16, routes: &str) -> Resource {
    let hcm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x", "rds": {"route_config_name": routes, "config_source": ads(15)},
        "http_filters": [{"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    resource(json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": hcm}]}],
    }))
}

fn routes(name: &str) -> Resource {
    resource(json!({"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": name}))
}

struct Bench {
    assembler: Assembler,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Bench { assembler: Assembler::new(runtime::Layers::default(), Vec::new()), now: Instant::now() }
    }
    fn take(&mut self, resource: Resource) {
        self.assembler.handle_resource(resource, &Source::Ads);
        self.assembler.refresh(self.now);
    }
    fn pass(&mut self, time: Duration) -> Vec<(ResourceKind, Name)> {
        self.now += time;
        let late = self.assembler.handle_time(self.now);
        self.assembler.refresh(self.now);
        late
    }
    fn wanted(&self, kind: ResourceKind) -> Vec<String> {
        let of_kind = self.assembler.wanted().iter().filter(|w| w.kind == kind);
        of_kind.flat_map(|w| w.names.iter().map(|n| n.to_string())).collect()
    }
    fn port(&mut self, cluster: &str) -> Option<String> {
        let snapshot = self.assembler.snapshot();
        let entry = snapshot.cluster(cluster)?;
        Some(entry.endpoints.as_ref()?.localities.first()?.endpoints.first()?.address.to_string())
    }
}

#[test]
fn a_cluster_serves_once_its_endpoints_are_there() {
    let mut b = Bench::new();
    b.take(eds_cluster("a", "1s"));
    assert_eq!(b.wanted(ResourceKind::Endpoints), ["a"]);
    assert!(b.assembler.snapshot().cluster("a").is_none());
    b.take(endpoints("a", 80));
    assert_eq!(b.port("a").as_deref(), Some("127.0.0.1:80"));
    assert_eq!(b.assembler.warming(ResourceKind::Cluster), 0);
}

#[test]
fn a_cluster_whose_endpoints_do_not_come_serves_without_them_after_the_timeout() {
    let mut b = Bench::new();
    b.take(eds_cluster("a", "1s"));
    assert_eq!(b.assembler.next_deadline(), Some(b.now + 15 * SECOND));
    assert_eq!(b.pass(14 * SECOND), []);
    assert!(b.assembler.snapshot().cluster("a").is_none());
    assert_eq!(b.pass(SECOND), [(ResourceKind::Endpoints, Name::from("a"))]);
    assert!(b.assembler.snapshot().cluster("a").is_some_and(|entry| entry.endpoints.is_none()));
    b.take(endpoints("a", 80));
    assert_eq!(b.port("a").as_deref(), Some("127.0.0.1:80"), "late endpoints are taken");
}

#[test]
fn a_changed_cluster_keeps_the_endpoints_it_has() {
    let mut b = Bench::new();
    b.take(eds_cluster("a", "1s"));
    b.take(endpoints("a", 80));
    b.take(eds_cluster("a", "3s"));
    assert_eq!(b.assembler.snapshot().cluster("a").map(|e| e.cluster.connect_timeout), Some(3 * SECOND));
    assert_eq!(b.port("a").as_deref(), Some("127.0.0.1:80"));
}

#[test]
fn a_listener_update_that_waits_for_its_routes_leaves_the_old_one_serving() {
    let mut b = Bench::new();
    b.assembler.open_listeners();
    b.take(listener("l", 80, "one"));
    b.take(routes("one"));
    assert_eq!(b.assembler.snapshot().listeners.len(), 1);
    b.take(listener("l", 81, "two"));
    assert_eq!(b.wanted(ResourceKind::Route), ["one", "two"], "the old table is still in use");
    let port = |b: &mut Bench| b.assembler.snapshot().listeners.get("l").map(|l| l.address.to_string());
    assert_eq!(port(&mut b).as_deref(), Some("127.0.0.1:80"));
    assert!(b.assembler.is_warming(ResourceKind::Listener, "l"));
    b.take(routes("two"));
    assert_eq!(port(&mut b).as_deref(), Some("127.0.0.1:81"));
    assert_eq!(b.wanted(ResourceKind::Route), ["two"]);
    assert!(b.assembler.snapshot().route_config("one").is_none(), "what nobody needs is dropped");
}

#[test]
fn a_refused_table_does_not_hold_its_listener_up() {
    let mut b = Bench::new();
    b.assembler.open_listeners();
    b.take(listener("l", 80, "bad"));
    b.assembler.handle_settled(ResourceKind::Route, "bad");
    b.assembler.refresh(b.now);
    assert!(b.assembler.snapshot().listeners.contains_key("l"));
    assert!(b.assembler.snapshot().routes.is_empty());
}

#[test]
fn listeners_wait_for_the_first_round_of_clusters() {
    let mut b = Bench::new();
    b.take(listener("l", 80, "r"));
    b.take(routes("r"));
    assert!(b.assembler.snapshot().listeners.is_empty());
    b.assembler.open_listeners();
    b.assembler.refresh(b.now);
    assert_eq!(b.assembler.snapshot().listeners.len(), 1);
}

#[test]
fn removal_gives_up_what_was_needed() {
    let mut b = Bench::new();
    b.take(eds_cluster("a", "1s"));
    b.take(endpoints("a", 80));
    assert!(!b.assembler.handle_removed(ResourceKind::Endpoints, "a"), "endpoints stay while their cluster does");
    assert_eq!(b.port("a").as_deref(), Some("127.0.0.1:80"));
    assert!(b.assembler.handle_removed(ResourceKind::Cluster, "a"));
    b.assembler.refresh(b.now);
    assert!(b.assembler.wanted().is_empty());
    assert!(b.assembler.snapshot().clusters.is_empty());
}

#[test]
fn what_did_not_change_is_the_same_value_in_the_next_snapshot() {
    let mut b = Bench::new();
    b.take(eds_cluster("a", "1s"));
    b.take(endpoints("a", 80));
    let before = b.assembler.snapshot();
    b.take(eds_cluster("b", "1s"));
    b.take(endpoints("b", 81));
    let after = b.assembler.snapshot();
    assert!(Arc::ptr_eq(&before.clusters["a"], &after.clusters["a"]));
}
