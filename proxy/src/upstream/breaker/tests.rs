use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::upstream::tests::config;

fn limits(thresholds: &serde_json::Value) -> CircuitBreakers {
    config(&json!({ "name": "c", "circuit_breakers": { "thresholds": [thresholds] } })).circuit_breakers.clone()
}

#[test]
fn a_limit_of_zero_is_not_open_until_it_is_passed() {
    let (breakers, limits) = (Handle::default(), limits(&json!({ "max_requests": 0, "max_connections": 1 })));
    assert!(!breakers.is_open(&limits, Priority::Default, Overflow::Requests));
    assert!(!breakers.is_open(&limits, Priority::Default, Overflow::Connections));
    let permit = claim(&breakers, &limits, Priority::Default, Overflow::Connections);
    assert!(permit.is_ok() && breakers.is_open(&limits, Priority::Default, Overflow::Connections));
    assert!(!breakers.is_open(&limits, Priority::High, Overflow::Connections));
    drop(permit);
    assert!(!breakers.is_open(&limits, Priority::Default, Overflow::Connections));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Requests come, retry and go in any order: a retry is allowed exactly while the budget has room for it.
    #[test]
    fn a_retry_budget_is_a_share_of_the_requests_in_flight(
        percent in 0u32..=100, least in 0u32..5, story in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..200),
    ) {
        let budget = json!({ "budget_percent": { "value": percent }, "min_retry_concurrency": least });
        let (breakers, limits) = (Handle::default(), limits(&json!({ "retry_budget": budget })));
        let take = |which| claim(&breakers, &limits, Priority::Default, which);
        let (mut requests, mut retries) = (Vec::new(), Vec::new());
        for (step, at) in story {
            match step {
                0 => requests.extend(take(Overflow::Requests)),
                1 => {
                    let allowed = (requests.len() as u32 * percent / 100).max(least) as usize;
                    let retry = take(Overflow::Retries);
                    prop_assert_eq!(retry.is_ok(), retries.len() < allowed);
                    retries.extend(retry);
                }
                2 if !requests.is_empty() => drop(requests.swap_remove(at.index(requests.len()))),
                3 if !retries.is_empty() => drop(retries.swap_remove(at.index(retries.len()))),
                _ => {}
            }
        }
        drop((requests, retries));
        let in_use = breakers.at(Priority::Default);
        prop_assert_eq!((in_use.requests.load(Relaxed), in_use.retries.load(Relaxed)), (0, 0));
    }
}
