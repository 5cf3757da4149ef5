mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sidemesh_config::resource::cluster::{
    ConsistentHashing, HashFunction, SlowStart, SubsetFallback, SubsetSelector, SubsetSelectorFallback,
};
use sidemesh_config::value::{Address, Label, Metadata, name};

use super::*;
use crate::upstream::hash;
use crate::upstream::host::{HostState, flag};
use crate::upstream::tests::{cluster_config, endpoint, retry_policy};

fn host_with(port: u16, weight: u32, lb: serde_json::Value, priority: u32) -> Rc<Host> {
    let mut e = endpoint(port);
    e.weight = weight;
    let mut metadata = Metadata::default();
    metadata.0.insert(name("envoy.lb"), lb);
    e.metadata = Some(Arc::new(metadata));
    let state = HostState::new(name("c"), e.address.clone(), 1, 0);
    Rc::new(Host::new(Arc::new(e), Rc::new(Locality::default()), priority, Arc::new(state), 0))
}

fn host(port: u16, weight: u32) -> Rc<Host> {
    host_with(port, weight, serde_json::json!({}), 0)
}

fn keyed(key: &str, port: u16, weight: u32) -> Rc<Host> {
    host_with(port, weight, serde_json::json!({ "hash_key": key }), 0)
}

fn members(priority: u32, zone: &str, weight: u32, hosts: Vec<Rc<Host>>) -> Members {
    let locality = Rc::new(Locality { zone: Label::from(zone), ..Locality::default() });
    Members { locality, priority, weight, hosts }
}

fn policy() -> AssignmentPolicy {
    AssignmentPolicy { overprovisioning_factor: 140, ..AssignmentPolicy::default() }
}

fn balancer(lb: LbPolicy, members: Vec<Members>) -> Balancer {
    balancer_with(members, |config| config.lb = lb)
}

fn balancer_with(members: Vec<Members>, edit: impl FnOnce(&mut Config)) -> Balancer {
    let mut config = cluster_config("c");
    edit(&mut config);
    Balancer::new(Arc::new(config), policy(), members, None)
}

fn chance(random: &Random) -> Chance<'_> {
    Chance { random, now: 0, cluster_active: 0 }
}

fn port(host: &Host) -> u16 {
    match host.address() {
        Address::Socket(a) => a.port(),
        _ => 0,
    }
}

fn draw(balancer: &Balancer, n: usize) -> BTreeMap<u16, usize> {
    let random = Random::seeded(7);
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        if let Some(host) = balancer.pick(&Request::default(), &chance(&random)).host {
            *counts.entry(port(&host)).or_default() += 1;
        }
    }
    counts
}

const ROUND_ROBIN: LbPolicy = LbPolicy::RoundRobin { slow_start: None };

fn least_request(full_scan: bool) -> LbPolicy {
    LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 1.0, slow_start: None, full_scan }
}

#[test]
fn round_robin_visits_each_host_once_per_cycle() {
    let b = balancer(ROUND_ROBIN, vec![members(0, "", 0, vec![host(1, 1), host(2, 1), host(3, 1)])]);
    let random = Random::seeded(1);
    let seq: Vec<_> =
        (0..12).filter_map(|_| b.pick(&Request::default(), &chance(&random)).host).map(|h| port(&h)).collect();
    assert_eq!(seq[..3].iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(seq[..3].repeat(4), seq);
}

#[test]
fn weights_give_exact_shares_without_bursts() {
    let b = balancer(ROUND_ROBIN, vec![members(0, "", 0, vec![host(1, 5), host(2, 3), host(3, 2)])]);
    let random = Random::seeded(3);
    let seq: Vec<_> =
        (0..100).filter_map(|_| b.pick(&Request::default(), &chance(&random)).host).map(|h| port(&h)).collect();
    for (p, share) in [(1, 50i32), (2, 30), (3, 20)] {
        let got = seq.iter().filter(|s| **s == p).count() as i32;
        assert!((got - share).abs() <= 1, "{p}: {got}");
    }
    let longest = seq.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
    assert!(longest <= Some(2), "{longest:?}");
}

#[test]
fn least_request_avoids_the_busy_host() {
    for full_scan in [false, true] {
        let hosts = vec![host(1, 1), host(2, 1), host(3, 1)];
        hosts[2].counters().rq_active.add(50);
        let counts = draw(&balancer(least_request(full_scan), vec![members(0, "", 0, hosts)]), 900);
        let busy = counts.get(&3).copied().unwrap_or(0);
        // Two choices, with repetition: only a draw of the busy host twice picks it.
        assert!(if full_scan { busy == 0 } else { busy < 150 }, "{counts:?}");
    }
}

#[test]
fn least_request_with_weights_counts_load_against_them() {
    let hosts = vec![host(1, 3), host(2, 1)];
    hosts[0].counters().rq_active.add(2);
    let counts = draw(&balancer(least_request(false), vec![members(0, "", 0, hosts)]), 400);
    let ratio = counts[&1] as f64 / counts[&2] as f64;
    assert!((0.9..1.1).contains(&ratio), "{counts:?}");
}

fn ring() -> LbPolicy {
    let hashing = ConsistentHashing::default();
    LbPolicy::RingHash { min: 256, max: 8 << 20, function: HashFunction::XxHash, hashing }
}

fn maglev(size: u64) -> LbPolicy {
    LbPolicy::Maglev { table_size: size, hashing: ConsistentHashing::default() }
}

fn named(n: usize, weights: &[u32]) -> Vec<Rc<Host>> {
    let keys = ["host-a", "host-b", "host-c", "host-d"];
    (0..n).map(|i| keyed(keys[i], i as u16 + 1, weights.get(i).copied().unwrap_or(1))).collect()
}

fn letters(b: &Balancer, keys: usize) -> String {
    let random = Random::seeded(1);
    (0..keys)
        .map(|i| {
            let hash = Some(crate::upstream::hash::of(format!("user-{i}").as_bytes()));
            let host = b.pick(&Request { hash, ..Request::default() }, &chance(&random)).host.expect("a host");
            char::from(b'a' + (port(&host) - 1) as u8)
        })
        .collect()
}

#[test]
fn ring_places_keys_as_envoy_does() {
    let whole = balancer(ring(), vec![members(0, "", 0, named(4, &[]))]);
    assert_eq!(letters(&whole, 40), "dcbdabcdabdabbcbbdadaacbacbaacbbacacdbba");
    let without_c = named(4, &[]).into_iter().filter(|h| port(h) != 3).collect();
    let less = balancer(ring(), vec![members(0, "", 0, without_c)]);
    assert_eq!(letters(&less, 40), "dabdabddabdbbbabbdadaddbadaaaabbabddbbba");
}

#[test]
fn maglev_places_keys_as_envoy_does() {
    let even = balancer(maglev(65537), vec![members(0, "", 0, named(3, &[]))]);
    assert_eq!(letters(&even, 40), "aabcbccbaaacabbbcaaacccbbbccbaabaaaacabc");
    let odd = balancer(maglev(1009), vec![members(0, "", 0, named(3, &[6, 3, 1]))]);
    assert_eq!(letters(&odd, 40), "aacacbabababacaabcabbaabbbaaaaaacabbaaab");
}

#[test]
fn losing_a_host_moves_few_keys_of_others() {
    for (lb, limit) in [(ring(), 25), (maglev(65537), 6)] {
        let hosts = || (0..10u16).map(|i| keyed(&format!("h{i}"), i + 1, 1)).collect::<Vec<_>>();
        let all = balancer(lb.clone(), vec![members(0, "", 0, hosts())]);
        let less = balancer(lb, vec![members(0, "", 0, hosts().into_iter().filter(|h| port(h) != 4).collect())]);
        let random = Random::seeded(1);
        let at = |b: &Balancer, i: u64| {
            let hash = Some(crate::upstream::hash::of(&i.to_le_bytes()));
            port(&b.pick(&Request { hash, ..Request::default() }, &chance(&random)).host.expect("a host"))
        };
        let moved = (0..1000).filter(|i| at(&all, *i) != 4 && at(&all, *i) != at(&less, *i)).count();
        assert!(moved * 100 <= limit * 1000, "{moved}");
    }
}

#[test]
fn bounded_loads_spill_to_others_and_stay_put() {
    let hosts = named(4, &[]);
    let hashing = ConsistentHashing { balance_factor: Some(150), ..ConsistentHashing::default() };
    let b = balancer(LbPolicy::Maglev { table_size: 65537, hashing }, vec![members(0, "", 0, hosts.clone())]);
    let random = Random::seeded(1);
    let pick = |active| {
        let chance = Chance { random: &random, now: 0, cluster_active: active };
        b.pick(&Request { hash: Some(42), ..Request::default() }, &chance).host.expect("a host")
    };
    let first = pick(0);
    first.counters().rq_active.add(10);
    let second = pick(10);
    assert_ne!(first.address(), second.address());
    assert_eq!(second.address(), pick(10).address());
}

fn unhealthy(host: &Rc<Host>) {
    host.state().change_flags(flag::FAILED_EDS, 0);
    host.state().show();
}

#[test]
fn half_a_priority_keeps_seventy_percent() {
    let (a, b, c) = (host(1, 1), host(2, 1), host_with(3, 1, serde_json::json!({}), 1));
    unhealthy(&b);
    let b = balancer(ROUND_ROBIN, vec![members(0, "", 0, vec![a, b]), members(1, "", 0, vec![c])]);
    assert_eq!((b.load().healthy.clone(), b.load().panic.clone()), (vec![70, 30], vec![false, false]));
    assert_eq!(draw(&b, 100).keys().copied().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn the_documented_loads_come_out() {
    // Healthy percent of P=0 and P=1 (of ten hosts each) and the loads of Envoy's priority page.
    for (p0, p1, expected) in
        [(10, 10, [100, 0]), (7, 10, [98, 2]), (5, 10, [70, 30]), (0, 10, [0, 100]), (2, 2, [50, 50])]
    {
        let level = |base: u16, healthy: u16, priority| {
            let hosts: Vec<_> = (0..10u16).map(|i| host_with(base + i, 1, serde_json::json!({}), priority)).collect();
            hosts.iter().skip(healthy as usize).for_each(unhealthy);
            members(priority, "", 0, hosts)
        };
        let b = balancer_with(vec![level(100, p0, 0), level(200, p1, 1)], |c| c.lb_common.panic_threshold = 0.0);
        assert_eq!(b.load().healthy, expected, "{p0} {p1}");
    }
}

#[test]
fn degraded_hosts_take_only_what_is_left() {
    let (a, b) = (host(1, 1), host(2, 1));
    b.state().change_flags(flag::DEGRADED_EDS, 0);
    b.state().show();
    let b = balancer(ROUND_ROBIN, vec![members(0, "", 0, vec![a, b])]);
    assert_eq!((b.load().healthy.clone(), b.load().degraded.clone()), (vec![70], vec![30]));
}

#[test]
fn below_the_panic_threshold_all_hosts_serve() {
    for (threshold, expected) in [(50.0, vec![1, 2, 3]), (20.0, vec![1]), (0.0, vec![1])] {
        let hosts = vec![host(1, 1), host(2, 1), host(3, 1)];
        hosts[1..].iter().for_each(unhealthy);
        let b = balancer_with(vec![members(0, "", 0, hosts)], |c| c.lb_common.panic_threshold = threshold);
        assert_eq!(draw(&b, 60).into_keys().collect::<Vec<_>>(), expected, "{threshold}");
    }
}

#[test]
fn nobody_is_chosen_when_nobody_is_usable_and_panic_is_off() {
    let h = host(1, 1);
    unhealthy(&h);
    let b = balancer_with(vec![members(0, "", 0, vec![h])], |c| c.lb_common.panic_threshold = 0.0);
    assert!(draw(&b, 5).is_empty());
    assert!(draw(&balancer(ROUND_ROBIN, vec![]), 5).is_empty());
}

#[test]
fn locality_weights_decide_before_hosts_do() {
    let zones = || vec![members(0, "z1", 3, vec![host(1, 1)]), members(0, "z2", 1, vec![host(2, 1), host(3, 1)])];
    let b = balancer_with(zones(), |c| c.lb_common.locality = LocalityLb::Weighted);
    let counts = draw(&b, 200);
    assert!(counts[&1].abs_diff(150) <= 2, "{counts:?}");
    assert!(counts[&2].abs_diff(25) <= 2, "{counts:?}");
}

#[test]
fn zone_aware_routing_keeps_to_its_zone_as_far_as_shares_allow() {
    let zone = |z: &str| Locality { zone: Label::from(z), ..Locality::default() };
    let aware = LocalityLb::ZoneAware {
        routing_enabled: Fraction::ALWAYS,
        min_cluster_size: 2,
        fail_traffic_on_panic: false,
        force_local_zone_min: None,
    };
    let build = |own: [u64; 2], a: u16, b: u16| {
        let hosts = |from: u16, n: u16| (from..from + n).map(|p| host(p, 1)).collect::<Vec<_>>();
        let mut config = cluster_config("c");
        config.lb_common.locality = aware.clone();
        let own: OwnZones = Arc::new([(zone("a"), own[0]), (zone("b"), own[1])]);
        Balancer::new(
            Arc::new(config),
            policy(),
            vec![members(0, "b", 0, hosts(100, b)), members(0, "a", 0, hosts(1, a))],
            Some(own),
        )
    };
    let local = |b: &Balancer| draw(b, 1000).iter().filter(|(p, _)| **p < 100).map(|(_, n)| n).sum::<usize>();
    assert_eq!(local(&build([1, 1], 4, 4)), 1000);
    // Half of the proxies are here, but only a quarter of the hosts: half of this zone's traffic must leave it.
    let half = local(&build([1, 1], 2, 6));
    assert!(half.abs_diff(500) < 50, "{half}");
}

fn subset_config(fallback: SubsetFallback) -> SubsetConfig {
    let selector = |keys: &[&str]| SubsetSelector {
        keys: keys.iter().map(|k| name(k)).collect(),
        fallback: SubsetSelectorFallback::Inherit,
        single_host_per_subset: false,
    };
    SubsetConfig {
        fallback,
        default_subset: vec![(name("version"), "2".into())],
        selectors: vec![selector(&["version"]), selector(&["stage", "version"])],
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
        metadata_fallback_list: false,
    }
}

#[test]
fn subsets_and_their_fallbacks() {
    let make = |fallback| {
        let hosts = [("1", "prod"), ("1", "dev"), ("2", "prod")];
        let hosts = hosts
            .iter()
            .zip(1u16..)
            .map(|((v, s), p)| host_with(p, 1, serde_json::json!({"version": v, "stage": s}), 0));
        balancer_with(vec![members(0, "", 0, hosts.collect())], |c| c.subsets = Some(Arc::new(subset_config(fallback))))
    };
    let (none, any, default) =
        (make(SubsetFallback::NoFallback), make(SubsetFallback::AnyEndpoint), make(SubsetFallback::DefaultSubset));
    let random = Random::seeded(1);
    let check = |b: &Balancer, wanted: &[(&str, &str)], expected: &[u16]| {
        let labels: Vec<_> = wanted.iter().map(|(k, v)| (name(k), serde_json::Value::from(*v))).collect();
        let request = Request { subset: &labels, ..Request::default() };
        let got: BTreeSet<_> =
            (0..30).filter_map(|_| b.pick(&request, &chance(&random)).host).map(|h| port(&h)).collect();
        assert_eq!(got.into_iter().collect::<Vec<_>>(), expected, "{wanted:?}");
    };
    check(&none, &[("version", "1")], &[1, 2]);
    check(&none, &[("stage", "dev"), ("version", "1")], &[2]);
    check(&none, &[("stage", "dev")], &[]);
    check(&none, &[("version", "9")], &[]);
    check(&none, &[], &[]);
    check(&any, &[("version", "9")], &[1, 2, 3]);
    check(&any, &[], &[1, 2, 3]);
    check(&default, &[("version", "9")], &[3]);
    check(&default, &[], &[3]);
}

#[test]
fn a_retry_avoids_hosts_and_priorities_tried_before() {
    let hosts = vec![host(1, 1), host(2, 1)];
    let tried = [hosts[0].clone()];
    let b = balancer(
        ROUND_ROBIN,
        vec![members(0, "", 0, hosts), members(1, "", 0, vec![host_with(9, 1, serde_json::json!({}), 1)])],
    );
    let random = Random::seeded(5);
    let mut retry = retry_policy();
    retry.avoid_previous_hosts = true;
    retry.host_selection_retry_max_attempts = 5;
    for _ in 0..20 {
        let picked = b.pick(&Request { retry: Some(&retry), tried: &tried, ..Request::default() }, &chance(&random));
        assert_eq!(picked.host.map(|h| port(&h)), Some(2));
    }
    retry.previous_priorities = Some(1);
    let picked = b.pick(&Request { retry: Some(&retry), tried: &tried, ..Request::default() }, &chance(&random));
    assert_eq!(picked.host.map(|h| port(&h)), Some(9));
}

#[test]
fn slow_start_grows_to_the_full_weight() {
    let config = SlowStart { window: Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };
    let factors: Vec<_> = [0, 500, 5000, 9999, 10_000].iter().map(|ms| slow_start::factor(&config, *ms)).collect();
    assert_eq!(factors[..3], [0.1, 0.1, 0.5]);
    assert!(factors[3] > 0.99 && factors[4] == 1.0);
    let hosts = vec![host(1, 1), host(2, 1)];
    hosts[0].state().set_healthy_since(0);
    hosts[1].state().set_healthy_since(100_000);
    let b = balancer(LbPolicy::RoundRobin { slow_start: Some(config) }, vec![members(0, "", 0, hosts)]);
    let random = Random::seeded(1);
    let at = Chance { random: &random, now: 101_000, cluster_active: 0 };
    let slow = (0..110).filter(|_| b.pick(&Request::default(), &at).host.is_some_and(|h| port(&h) == 2)).count();
    assert!(slow.abs_diff(10) <= 1, "{slow}");
}

#[test]
fn load_reports_become_weights() {
    let report = LoadReport::parse("TEXT cpu_utilization=0.5, rps_fractional=100").expect("a report");
    let config = sidemesh_config::resource::cluster::ClientSideWrr {
        blackout_period: Duration::ZERO,
        weight_expiration_period: Duration::from_secs(180),
        error_utilization_penalty: 1.0,
        slow_start: None,
    };
    assert_eq!(weight_of_report(&config, &report), Some(200.0));
    // The same as a message: cpu_utilization 0.5 and rps_fractional 100.
    let binary = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("endpoint-load-metrics-bin"),
        http::HeaderValue::from_static("CQAAAAAAAOA/MQAAAAAAAFlA"),
    )]);
    assert_eq!(LoadReport::of(&binary), Some(report));
    assert_eq!(LoadReport::of(&http::HeaderMap::new()), None);
    assert_eq!(LoadReport::parse("nonsense"), None);
    let hosts = vec![host(1, 1), host(2, 1)];
    hosts[0].state().set_reported_weight(300.0, 0, 0);
    hosts[1].state().set_reported_weight(100.0, 0, 0);
    let counts = draw(&balancer(LbPolicy::ClientSideWeightedRoundRobin(config), vec![members(0, "", 0, hosts)]), 400);
    assert!(counts[&1].abs_diff(300) <= 2, "{counts:?}");
}

#[test]
fn reports_count_after_the_blackout_and_until_they_expire() {
    let host = host(1, 1);
    let weight = |now| host.state().reported_weight(now, 1000, 5000);
    host.state().set_reported_weight(7.0, 100, 5000);
    assert_eq!((weight(500), weight(1100)), (None, Some(7.0)));
    host.state().set_reported_weight(9.0, 2000, 5000);
    assert_eq!((weight(6999), weight(7000)), (Some(9.0), None));
    // After a gap the blackout starts anew.
    host.state().set_reported_weight(5.0, 8000, 5000);
    assert_eq!((weight(8500), weight(9000)), (None, Some(5.0)));
}
