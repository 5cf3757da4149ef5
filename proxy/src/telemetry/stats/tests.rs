use std::sync::Arc;

use sidemesh_config::value::name;

use super::*;

crate::stats_group! {
    struct Sampled {
        upstream_rq_total: Counter,
        upstream_rq: CodeCounters,
        cx_open: Gauge = "circuit_breakers.default.cx_open",
        upstream_rq_time: Histogram,
    }
}

fn two_shards() -> (Registry, Arc<Sampled>, Arc<Sampled>) {
    let registry = Registry::default();
    let scope = Scope::Cluster(name("a.b"));
    let (one, two) = (registry.shard::<Sampled>(scope.clone()), registry.shard::<Sampled>(scope));
    (registry, one, two)
}

#[test]
fn shards_are_summed_under_their_dotted_name() {
    let (registry, one, two) = two_shards();
    one.upstream_rq_total.inc();
    two.upstream_rq_total.add(2);
    one.cx_open.inc();
    two.cx_open.dec();
    let page = text(&registry.read());
    assert!(page.contains("cluster.a.b.upstream_rq_total: 3\n"), "{page}");
    assert!(page.contains("cluster.a.b.circuit_breakers.default.cx_open: 0\n"), "{page}");
}

#[test]
fn statuses_become_tags_in_prometheus_text() {
    let (registry, one, two) = two_shards();
    one.upstream_rq.record(200);
    two.upstream_rq.record(503);
    one.upstream_rq_time.record(3.0);
    let page = prometheus(&registry.read(), registry.config(), Texts::Hidden);
    for line in [
        "# TYPE envoy_cluster_upstream_rq_xx counter",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"a.b\"} 1",
        "envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"a.b\"} 1",
        "envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"a.b\"} 2",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a.b\",le=\"1\"} 0",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a.b\",le=\"5\"} 1",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"a.b\"} 1",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

#[test]
fn reset_makes_counters_read_zero_and_keeps_gauges() {
    let (registry, one, _two) = two_shards();
    one.upstream_rq_total.add(5);
    one.cx_open.set(4);
    registry.reset_counters();
    one.upstream_rq_total.inc();
    let page = text(&registry.read());
    assert!(page.contains("upstream_rq_total: 1\n"), "{page}");
    assert!(page.contains("cx_open: 4\n"), "{page}");
}

#[test]
fn a_removed_scope_is_gone() {
    let (registry, _one, _two) = two_shards();
    registry.remove(&Scope::Cluster(name("a.b")));
    assert!(registry.read().is_empty());
}

#[test]
fn owners_that_come_and_go_leave_one_shard_with_their_counts() {
    let registry = Registry::default();
    let scope = || Scope::Http(name("ingress"));
    for _ in 0..100 {
        registry.shard::<Sampled>(scope()).upstream_rq_total.inc();
    }
    let (one, two) = (registry.shard::<Sampled>(scope()), registry.shard::<Sampled>(scope()));
    assert_eq!((one.upstream_rq_total.get(), two.upstream_rq_total.get()), (100, 0), "each living owner has its own");
    one.upstream_rq_total.inc();
    two.upstream_rq_total.inc();
    let page = text(&registry.read());
    assert!(page.contains("http.ingress.upstream_rq_total: 102\n"), "{page}");
}

#[test]
fn scopes_without_an_owner_are_forgotten_as_others_come() {
    let registry = Registry::default();
    let kept = registry.shard::<Sampled>(Scope::Listener(name("kept")));
    kept.upstream_rq_total.inc();
    for i in 0..5000 {
        drop(registry.shard::<Sampled>(Scope::Listener(name(&format!("127.0.0.1_{i}")))));
    }
    let page = text(&registry.read());
    assert!(page.contains("listener.kept.upstream_rq_total: 1\n"));
    assert!(page.lines().filter(|l| l.contains(".upstream_rq_total: ")).count() <= 1024 + 1);
}

#[test]
fn what_is_configured_decides_which_metrics_there_are_and_their_tags() {
    use sidemesh_config::bootstrap::{StatsConfig, StatsMatcher, Tag, TagValue};
    use sidemesh_config::resource::route::RegexPattern;
    let regex = RegexPattern(regex::Regex::new(r"\.((default)\.)cx").expect("a regular expression"));
    let tags = vec![
        Tag { name: name("env"), value: TagValue::Fixed(name("prod")) },
        Tag { name: name("class"), value: TagValue::Regex(regex) },
    ];
    let without = StatsMatcher::Without(vec![sidemesh_config::matcher::string::StringMatcher::exact(
        "cluster.a.upstream_rq_total",
    )]);
    let registry = Registry::new(StatsConfig { tags: tags.clone(), default_tags: true, matcher: without });
    let one = registry.shard::<Sampled>(Scope::Cluster(name("a")));
    one.cx_open.set(4);
    let page = prometheus(&registry.read(), registry.config(), Texts::Hidden);
    let line = "envoy_cluster_circuit_breakers_cx_open{env=\"prod\",envoy_cluster_name=\"a\",class=\"default\"} 4";
    assert!(page.contains(line), "{page}");
    assert!(!page.contains("upstream_rq_total"), "{page}");

    let plain = Registry::new(StatsConfig { tags: Vec::new(), default_tags: false, matcher: StatsMatcher::All });
    plain.shard::<Sampled>(Scope::Cluster(name("a"))).upstream_rq_total.inc();
    let page = prometheus(&plain.read(), plain.config(), Texts::Hidden);
    assert!(page.contains("envoy_cluster_a_upstream_rq_total{} 1"), "{page}");
}
