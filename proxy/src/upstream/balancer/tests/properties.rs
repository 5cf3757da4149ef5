//! What balancers promise whatever the hosts are: fair shares, stable places, bounded loads.

use proptest::prelude::*;

use super::*;

/// Hosts of these weights, with hash keys of their own.
fn hosts(weights: &[u32]) -> Vec<Rc<Host>> {
    weights.iter().enumerate().map(|(i, w)| keyed(&format!("host-{i}"), i as u16 + 1, *w)).collect()
}

fn of(lb: LbPolicy, hosts: Vec<Rc<Host>>) -> Balancer {
    balancer(lb, vec![members(0, "", 0, hosts)])
}

fn sequence(balancer: &Balancer, n: usize, seed: u64) -> Vec<u16> {
    let random = Random::seeded(seed);
    (0..n).filter_map(|_| balancer.pick(&Request::default(), &chance(&random)).host).map(|h| port(&h)).collect()
}

/// Where each of a thousand hashes goes.
fn places(balancer: &Balancer) -> Vec<u16> {
    let random = Random::seeded(1);
    let place = |i: u64| {
        let request = Request { hash: Some(hash::of(&i.to_le_bytes())), ..Request::default() };
        balancer.pick(&request, &chance(&random)).host.map_or(0, |h| port(&h))
    };
    (0..1000).map(place).collect()
}

fn count(of: &[u16], port: usize) -> i64 {
    of.iter().filter(|p| usize::from(**p) == port).count() as i64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_robin_gives_every_host_its_turn(n in 2usize..20, seed: u64) {
        let seen = sequence(&of(ROUND_ROBIN, hosts(&vec![1; n])), 5 * n, seed);
        for window in seen.windows(n) {
            prop_assert_eq!(window.iter().collect::<BTreeSet<_>>().len(), n);
        }
    }

    #[test]
    fn any_cycle_of_weighted_round_robin_has_the_shares(
        weights in prop::collection::vec(1u32..20, 2..10), seed: u64,
    ) {
        let total = weights.iter().sum::<u32>() as usize;
        let seen = sequence(&of(ROUND_ROBIN, hosts(&weights)), 3 * total, seed);
        for window in seen.windows(total) {
            for (i, weight) in weights.iter().enumerate() {
                let off = count(window, i + 1) - i64::from(*weight);
                prop_assert!(off.abs() <= 1, "host {} of weight {weight} is off by {off}", i + 1);
            }
        }
    }

    #[test]
    fn least_request_of_all_takes_the_idlest(active in prop::collection::vec(0i64..50, 2..12), seed: u64) {
        let hosts = hosts(&vec![1; active.len()]);
        hosts.iter().zip(&active).for_each(|(h, n)| h.counters().rq_active.add(*n));
        let least = active.iter().min().copied();
        for port in sequence(&of(least_request(true), hosts), 20, seed) {
            prop_assert_eq!(active.get(usize::from(port) - 1).copied(), least);
        }
    }

    #[test]
    fn a_lost_host_moves_few_keys_of_others(n in 3usize..12, lost in 0usize..12, by_table: bool) {
        let lost = lost % n;
        let policy = || if by_table { maglev(65_537) } else { ring() };
        let all = hosts(&vec![1; n]);
        let fewer = all.iter().filter(|h| usize::from(port(h)) != lost + 1).cloned().collect();
        let (before, after) = (places(&of(policy(), all)), places(&of(policy(), fewer)));
        let others = || before.iter().zip(&after).filter(|(b, _)| usize::from(**b) != lost + 1);
        let moved = others().filter(|(b, a)| a != b).count() as f64 / others().count() as f64;
        prop_assert!(moved < 2.0 / n as f64 + 0.1, "{moved} of the others' keys moved");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter_to_maglev(
        weights in prop::collection::vec(1u32..5, 2..8), seed: u64,
    ) {
        let listed = hosts(&weights);
        let mut shuffled = listed.clone();
        let random = Random::seeded(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, random.below(i as u64 + 1) as usize);
        }
        prop_assert_eq!(places(&of(maglev(1009), listed)), places(&of(maglev(1009), shuffled)));
    }

    #[test]
    fn bounded_loads_are_bounded(n in 2usize..8, factor in 100u32..300, requests in 1u64..200, key: u64) {
        let hashing = ConsistentHashing { balance_factor: Some(factor), ..ConsistentHashing::default() };
        let hosts = hosts(&vec![1; n]);
        let b = of(LbPolicy::Maglev { table_size: 1009, hashing }, hosts.clone());
        let random = Random::seeded(key);
        // All for one key: without a bound one host would have them all.
        for active in 0..requests {
            let request = Request { hash: Some(key), ..Request::default() };
            let picked = b.pick(&request, &Chance { cluster_active: active, ..chance(&random) });
            picked.host.iter().for_each(|h| h.counters().rq_active.inc());
        }
        let slots = (requests * u64::from(factor)).div_ceil(100) as f64;
        let bound = (slots / n as f64).ceil() as u64;
        for host in &hosts {
            prop_assert!(host.state().active_requests() <= bound);
        }
    }

    #[test]
    fn the_load_of_the_priorities_is_always_a_hundred(
        levels in prop::collection::vec(prop::collection::vec(0u32..3, 1..6), 1..5), threshold in 0u32..100,
    ) {
        let members = levels.iter().enumerate().map(|(priority, health)| {
            let hosts = health.iter().enumerate().map(|(i, health)| {
                let host = host_with((priority * 10 + i) as u16 + 1, 1, serde_json::json!({}), priority as u32);
                let flags = [0, flag::DEGRADED_EDS, flag::FAILED_EDS][*health as usize];
                host.state().change_flags(flags, 0);
                host.state().show();
                host
            });
            members(priority as u32, "", 0, hosts.collect())
        });
        let b = balancer_with(members.collect(), |c| c.lb_common.panic_threshold = f64::from(threshold));
        let load = b.load();
        prop_assert_eq!(load.healthy.iter().chain(&load.degraded).sum::<u32>(), 100);
        let usable = levels.iter().flatten().any(|health| *health < 2);
        if usable {
            let random = Random::seeded(9);
            prop_assert!(b.pick(&Request::default(), &chance(&random)).host.is_some());
        }
    }
}
