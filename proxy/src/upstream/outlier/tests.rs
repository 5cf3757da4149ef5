use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use sidemesh_config::value::name;

use super::*;
use crate::upstream::tests::{config, endpoint};

fn detection(edit: impl FnOnce(&mut OutlierDetection)) -> OutlierDetection {
    let cluster = config(&json!({ "name": "c", "outlier_detection": { "max_ejection_percent": 60 } }));
    let mut detection = OutlierDetection::clone(cluster.outlier.as_ref().expect("given"));
    edit(&mut detection);
    detection
}

struct World {
    hosts: Vec<Arc<HostState>>,
    counters: Vec<Arc<HostCounters>>,
    detector: Detector,
    random: Random,
    now: u64,
}

impl World {
    fn new(n: u16) -> Self {
        let hosts: Vec<_> = (1..=n).map(|p| Arc::new(HostState::new(name("c"), endpoint(p).address, 1, 0))).collect();
        let counters = hosts.iter().map(|h| h.counters(0)).collect();
        World { hosts, counters, detector: Detector::default(), random: Random::seeded(1), now: 0 }
    }

    fn at(&self) -> At<'_> {
        At { now: self.now, hosts: self.hosts.len(), random: &self.random }
    }

    fn charge(&self, config: &OutlierDetection, host: usize, outcome: Outcome) -> Verdict {
        let found = self.detector.handle(config, &self.hosts[host], &self.counters[host], outcome, self.at());
        if found[1] == Verdict::Nothing { found[0] } else { found[1] }
    }

    fn times(&self, config: &OutlierDetection, host: usize, outcome: Outcome, n: usize) -> Verdict {
        (0..n).fold(Verdict::Nothing, |_, _| self.charge(config, host, outcome))
    }

    fn sweep(&self, config: &OutlierDetection) -> sweep::Swept {
        self.detector.sweep(config, &self.hosts, self.at())
    }
}

#[test]
fn five_bad_answers_in_a_row_eject() {
    let (w, c) = (World::new(3), detection(|_| {}));
    assert_eq!(w.times(&c, 0, Outcome::Status(500), 4), Verdict::Nothing);
    w.charge(&c, 0, Outcome::Status(200));
    assert_eq!(w.times(&c, 0, Outcome::Status(500), 4), Verdict::Nothing);
    assert_eq!(w.charge(&c, 0, Outcome::Failed), Verdict::Ejected(Cause::Consecutive5xx));
    assert!(w.hosts[0].is_ejected());
}

#[test]
fn no_more_hosts_are_ejected_than_allowed() {
    for (hosts, percent, out) in [(1, 99, 0), (1, 100, 1), (4, 24, 0), (4, 25, 1), (4, 50, 2), (3, 34, 1), (5, 75, 3)] {
        let (w, c) = (World::new(hosts), detection(|d| d.max_ejection_percent = percent));
        let verdicts: Vec<_> = (0..usize::from(hosts)).map(|host| w.times(&c, host, Outcome::Status(500), 5)).collect();
        assert_eq!(w.hosts.iter().filter(|h| h.is_ejected()).count(), out, "{hosts} hosts, {percent}%");
        assert!(verdicts[out..].iter().all(|v| *v == Verdict::Overflow(Cause::Consecutive5xx)));
    }
    let (w, c) = (World::new(2), detection(|d| (d.max_ejection_percent, d.always_eject_one_host) = (10, true)));
    assert_eq!(w.times(&c, 0, Outcome::Status(500), 5), Verdict::Ejected(Cause::Consecutive5xx));
    assert_eq!(w.times(&c, 1, Outcome::Status(500), 5), Verdict::Overflow(Cause::Consecutive5xx));
}

#[test]
fn what_is_not_enforced_is_only_told() {
    let (w, c) = (World::new(3), detection(|d| d.enforcing_consecutive_5xx = 0));
    assert_eq!(w.times(&c, 0, Outcome::Status(500), 5), Verdict::Spared(Cause::Consecutive5xx));
    assert!(!w.hosts[0].is_ejected());
    // Gateway failures are detected, and by default not enforced; they count as 5xx all the same.
    let (w, c) = (World::new(3), detection(|d| d.consecutive_gateway_failure = 2));
    assert_eq!(w.times(&c, 0, Outcome::Status(503), 2), Verdict::Spared(Cause::ConsecutiveGateway));
}

#[test]
fn a_host_returns_after_its_time_which_grows() {
    let (mut w, c) = (World::new(3), detection(|_| {}));
    w.times(&c, 0, Outcome::Failed, 5);
    w.now = 29_999;
    assert!(w.sweep(&c).returned.is_empty());
    w.now = 30_000;
    assert_eq!(w.sweep(&c).returned, [0]);
    assert_eq!(w.detector.active(), 0);
    // Again at once: twice as long.
    w.times(&c, 0, Outcome::Failed, 5);
    w.now = 89_999;
    assert!(w.sweep(&c).returned.is_empty());
    w.now = 90_000;
    assert_eq!(w.sweep(&c).returned, [0]);
    // Quiet intervals make it shorter again.
    w.sweep(&c);
    w.sweep(&c);
    w.times(&c, 0, Outcome::Failed, 5);
    w.now = 120_000;
    assert_eq!(w.sweep(&c).returned, [0]);
}

#[test]
fn the_longest_ejection_is_bounded() {
    let (mut w, c) = (World::new(3), detection(|_| {}));
    for _ in 0..30 {
        w.times(&c, 0, Outcome::Timeout, 5);
        w.now += 300_000;
        assert_eq!(w.sweep(&c).returned, [0]);
    }
}

#[test]
fn local_failures_are_apart_when_asked() {
    let (w, c) = (World::new(3), detection(|d| d.split_external_local_origin_errors = true));
    w.times(&c, 0, Outcome::Status(500), 3);
    assert_eq!(w.times(&c, 0, Outcome::Failed, 4), Verdict::Nothing);
    assert_eq!(w.charge(&c, 0, Outcome::Timeout), Verdict::Ejected(Cause::ConsecutiveLocal));
}

#[test]
fn the_host_far_below_the_mean_goes() {
    let (w, c) = (World::new(6), detection(|_| {}));
    for host in 0..6 {
        for i in 0..200 {
            let bad = host == 5 && i % 2 == 0;
            w.charge(&c, host, Outcome::Status(if bad { 500 } else { 200 }));
        }
    }
    let judged = w.sweep(&c).judged;
    assert_eq!((judged[0].host, judged[0].verdict), (5, Verdict::Ejected(Cause::SuccessRate)));
    assert_eq!(judged.len(), 1);
    assert_eq!(w.hosts[5].ejections.success_rate(false), Some(50.0));
    // The next interval starts from nothing.
    assert!(w.sweep(&c).judged.is_empty());
}

#[test]
fn failure_percentage_judges_each_host_alone() {
    let edit = |d: &mut OutlierDetection| {
        d.enforcing_success_rate = 0;
        d.enforcing_failure_percentage = 100;
        d.failure_percentage_minimum_hosts = 2;
        d.failure_percentage_request_volume = 10;
        d.consecutive_5xx = 0;
    };
    let (w, c) = (World::new(3), detection(edit));
    for host in 0..3 {
        for i in 0..20 {
            w.charge(&c, host, Outcome::Status(if host == 0 && i < 18 { 500 } else { 200 }));
        }
    }
    let judged: Vec<_> = w.sweep(&c).judged.iter().map(|j| (j.host, j.verdict)).collect();
    assert_eq!(judged, [(0, Verdict::Ejected(Cause::FailurePercentage))]);
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Status(200)),
        Just(Outcome::Status(500)),
        Just(Outcome::Status(503)),
        Just(Outcome::Failed),
        Just(Outcome::Timeout),
        Just(Outcome::Connected),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_few_enough_are_out_and_all_come_back(
        n in 1u16..8, percent in 0u32..=100, split: bool, jitter in 0u64..5,
        story in prop::collection::vec((0usize..8, outcome(), 0u64..4_000), 0..300),
    ) {
        let mut w = World::new(n);
        let c = detection(|d| {
            (d.max_ejection_percent, d.split_external_local_origin_errors) = (percent, split);
            (d.consecutive_5xx, d.consecutive_local_origin_failure) = (2, 2);
            d.max_ejection_time_jitter = std::time::Duration::from_secs(jitter);
        });
        for (host, outcome, pause) in story {
            w.now += pause;
            w.charge(&c, host % usize::from(n), outcome);
            w.sweep(&c);
            let out = w.hosts.iter().filter(|h| h.is_ejected()).count() as u32;
            prop_assert_eq!(out, w.detector.active());
            prop_assert!(out * 100 <= percent * u32::from(n));
        }
        w.now += c.max_ejection_time.as_millis() as u64 + jitter * 1000;
        w.sweep(&c);
        prop_assert!(w.hosts.iter().all(|h| !h.is_ejected()));
    }
}
