use super::*;

fn names(list: &[&str]) -> BTreeSet<Name> {
    list.iter().map(|n| Name::from(*n)).collect()
}

fn sotw(list: &[&str], version: &str, nonce: &str, error: Option<&str>) -> Option<Request> {
    Some(Request::StateOfTheWorld {
        names: list.iter().map(|n| n.to_string()).collect(),
        version: version.into(),
        nonce: nonce.into(),
        error: error.map(str::to_owned),
    })
}

fn delta(subscribe: &[&str], unsubscribe: &[&str], nonce: &str, error: Option<&str>) -> Option<Request> {
    Some(Request::Delta {
        subscribe: subscribe.iter().map(|n| n.to_string()).collect(),
        unsubscribe: unsubscribe.iter().map(|n| n.to_string()).collect(),
        initial_versions: BTreeMap::new(),
        nonce: nonce.into(),
        error: error.map(str::to_owned),
    })
}

#[test]
fn a_wildcard_is_asked_for_without_names_and_acknowledged_with_version_and_nonce() {
    let mut s = Subscription::new(Variant::StateOfTheWorld, true);
    assert_eq!(s.next_request(), sotw(&[], "", "", None));
    assert_eq!(s.next_request(), None);
    s.handle_response("n1", "v1", None);
    assert_eq!(s.next_request(), sotw(&[], "v1", "n1", None));
    assert_eq!(s.next_request(), None);
}

#[test]
fn a_rejection_keeps_the_last_version_and_says_why() {
    let mut s = Subscription::new(Variant::StateOfTheWorld, true);
    s.next_request();
    s.handle_response("n1", "v1", None);
    s.next_request();
    s.handle_response("n2", "v2", Some("bad".into()));
    assert_eq!(s.next_request(), sotw(&[], "v1", "n2", Some("bad")));
    s.handle_response("n3", "v3", None);
    assert_eq!(s.next_request(), sotw(&[], "v3", "n3", None));
}

#[test]
fn names_are_asked_for_once_there_are_any_and_again_when_they_change() {
    let mut s = Subscription::new(Variant::StateOfTheWorld, false);
    assert_eq!(s.next_request(), None);
    s.set_names(names(&["a"]));
    assert_eq!(s.next_request(), sotw(&["a"], "", "", None));
    s.handle_response("n1", "v1", None);
    s.set_names(names(&["a", "b"]));
    assert_eq!(s.next_request(), sotw(&["a", "b"], "v1", "n1", None), "the ACK carries the new names");
    assert_eq!(s.next_request(), None);
    s.set_names(names(&["b"]));
    assert_eq!(s.next_request(), sotw(&["b"], "v1", "n1", None));
    s.set_names(names(&[]));
    assert_eq!(s.next_request(), sotw(&[], "v1", "n1", None), "the last name is given back");
}

#[test]
fn a_new_stream_tells_the_version_held_and_no_nonce() {
    let mut s = Subscription::new(Variant::StateOfTheWorld, false);
    s.set_names(names(&["a"]));
    s.next_request();
    s.handle_response("n1", "v1", None);
    s.handle_new_stream();
    assert_eq!(s.next_request(), sotw(&["a"], "v1", "", None));
    assert_eq!(s.next_request(), None, "answers owed to the old stream are not sent on the new one");
}

#[test]
fn every_response_gets_its_own_answer() {
    let mut s = Subscription::new(Variant::StateOfTheWorld, true);
    s.next_request();
    s.handle_response("n1", "v1", None);
    s.handle_response("n2", "v2", Some("no".into()));
    assert_eq!(s.next_request(), sotw(&[], "v1", "n1", None));
    assert_eq!(s.next_request(), sotw(&[], "v1", "n2", Some("no")));
}

#[test]
fn delta_subscribes_and_unsubscribes_by_difference() {
    let mut s = Subscription::new(Variant::Delta, false);
    assert_eq!(s.next_request(), None);
    s.set_names(names(&["a", "b"]));
    assert_eq!(s.next_request(), delta(&["a", "b"], &[], "", None));
    s.set_names(names(&["b", "c"]));
    assert_eq!(s.next_request(), delta(&["c"], &["a"], "", None));
    s.handle_delta("n1", [("b", "1"), ("c", "1")], [], None);
    assert_eq!(s.next_request(), delta(&[], &[], "n1", None));
    assert_eq!(s.next_request(), None);
}

#[test]
fn delta_tells_a_new_stream_what_it_holds() {
    let mut s = Subscription::new(Variant::Delta, true);
    assert_eq!(s.next_request(), delta(&[], &[], "", None));
    s.handle_delta("n1", [("a", "1"), ("b", "1")], [], None);
    s.next_request();
    s.handle_delta("n2", [("a", "2")], ["b"], Some("c: bad".into()));
    assert_eq!(s.next_request(), delta(&[], &[], "n2", Some("c: bad")));
    s.handle_new_stream();
    let Some(Request::Delta { initial_versions, nonce, .. }) = s.next_request() else { panic!("a first request") };
    assert_eq!(initial_versions, BTreeMap::from([("a".to_owned(), "2".to_owned())]));
    assert_eq!(nonce, "");
}

#[test]
fn a_name_given_up_is_not_claimed_on_the_next_stream() {
    let mut s = Subscription::new(Variant::Delta, false);
    s.set_names(names(&["a", "b"]));
    s.next_request();
    s.handle_delta("n1", [("a", "1"), ("b", "1"), ("stray", "1")], [], None);
    s.set_names(names(&["a"]));
    s.handle_new_stream();
    let Some(Request::Delta { initial_versions, subscribe, .. }) = s.next_request() else { panic!("a first request") };
    assert_eq!(initial_versions.into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(subscribe, ["a"]);
}
