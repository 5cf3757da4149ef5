use super::*;
use crate::translate::{Flavor, Resources};
use sidemesh_proto::type_url::{CLUSTER, ROUTE};

fn node(id: &str) -> Node {
    Node {
        id: id.into(),
        namespace: "default".into(),
        service: "order".into(),
        service_account: "order".into(),
        version: String::new(),
        user_agent: "sidemesh-proxy/0.1.0".into(),
        flavor: Flavor::Sidecar,
        outbound: BTreeMap::new(),
        outbound_given: false,
        inbound: Vec::new(),
        egress: Vec::new(),
        access_log: None,
        join_token: None,
    }
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn snapshot(revision: u64) -> Snapshot {
    Snapshot::next(&Snapshot::default(), revision, Resources::new())
}

fn verdict(type_url: &str, revision: u64, error: Option<&str>) -> Verdict {
    Verdict { type_url: type_url.into(), revision, version: String::new(), error: error.map(str::to_owned) }
}

fn answers(fleet: &Fleet, revision: u64) -> Vec<(Answer, Option<Duration>)> {
    fleet.answers(revision, Some(at(0))).into_iter().map(|(_, answer, elapsed)| (answer, elapsed)).collect()
}

#[test]
fn a_revision_is_acked_when_all_its_types_are() {
    let fleet = Fleet::default();
    let stream = fleet.connect(node("a"), "peer".into(), Variant::Delta, at(0));
    assert_eq!(answers(&fleet, 5), [(Answer::Pending, None)]);
    fleet.computed("a", stream, &snapshot(5), vec![CLUSTER.into(), ROUTE.into()], at(1));
    fleet.answered("a", stream, &verdict(CLUSTER, 5, None), at(2));
    assert_eq!(answers(&fleet, 5), [(Answer::Pending, None)]);
    fleet.answered("a", stream, &verdict(ROUTE, 5, None), at(7));
    assert_eq!(answers(&fleet, 5), [(Answer::Acked(at(7)), Some(Duration::from_millis(7)))]);
    fleet.computed("a", stream, &snapshot(6), Vec::new(), at(9));
    assert_eq!(answers(&fleet, 6), [(Answer::Unaffected, None)]);
}

#[test]
fn a_refusal_carries_the_proxys_words_and_a_later_push_does_not_hide_it() {
    let fleet = Fleet::default();
    let stream = fleet.connect(node("a"), "peer".into(), Variant::StateOfTheWorld, at(0));
    fleet.computed("a", stream, &snapshot(3), vec![ROUTE.into()], at(1));
    fleet.answered("a", stream, &verdict(ROUTE, 3, Some("route r: no")), at(2));
    fleet.computed("a", stream, &snapshot(4), vec![ROUTE.into()], at(3));
    fleet.answered("a", stream, &verdict(ROUTE, 4, None), at(4));
    let nacked = Answer::Nacked { type_url: ROUTE.into(), error: "route r: no".into(), at: at(2) };
    assert_eq!(answers(&fleet, 3)[0].0, nacked);
    assert_eq!(answers(&fleet, 4)[0].0, Answer::Acked(at(4)));
}

#[test]
fn joined_revisions_are_answered_together() {
    let fleet = Fleet::default();
    let stream = fleet.connect(node("a"), "peer".into(), Variant::Delta, at(0));
    fleet.computed("a", stream, &snapshot(2), vec![CLUSTER.into()], at(1));
    fleet.answered("a", stream, &verdict(CLUSTER, 2, None), at(2));
    fleet.computed("a", stream, &snapshot(5), vec![CLUSTER.into()], at(3));
    assert_eq!(answers(&fleet, 3)[0].0, Answer::Pending);
    fleet.answered("a", stream, &verdict(CLUSTER, 5, None), at(4));
    assert_eq!(answers(&fleet, 3)[0].0, Answer::Acked(at(4)));
    assert_eq!(answers(&fleet, 4)[0].0, Answer::Acked(at(4)));
}

#[test]
fn only_the_newest_stream_of_a_node_counts() {
    let fleet = Fleet::default();
    let old = fleet.connect(node("a"), "peer".into(), Variant::Delta, at(0));
    let new = fleet.connect(node("a"), "peer".into(), Variant::Delta, at(1));
    fleet.disconnect("a", old, at(2));
    assert_eq!(fleet.connected(), 1);
    fleet.disconnect("a", new, at(3));
    assert_eq!(fleet.connected(), 0);
    assert!(fleet.get("a").is_some_and(|p| p.disconnected_at.is_some()));
}
