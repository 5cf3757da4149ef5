use super::*;
use crate::translate::{Resource, Resources};
use sidemesh_proto::google;
use sidemesh_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

/// A client and a server end; `world` is what the server should hand out.
struct Pair {
    session: Session,
    revision: u64,
}

type World<'a> = &'a [(&'static str, &'a [(&'a str, &'a str)])];

impl Pair {
    fn new(variant: Variant, world: World<'_>) -> Pair {
        let mut pair = Pair { session: Session::new(variant), revision: 0 };
        pair.world(world);
        pair
    }

    fn world(&mut self, world: World<'_>) {
        self.revision += 1;
        let mut resources = Resources::new();
        for (type_url, list) in world {
            let any = |text: &str| google::Any { type_url: (*type_url).into(), value: text.as_bytes().to_vec() };
            let set = list.iter().map(|(name, text)| ((*name).to_owned(), Resource::new(any(text))));
            resources.insert(type_url, set.collect());
        }
        let next = Snapshot::next(self.session.snapshot(), self.revision, resources);
        self.session.update(next);
    }

    fn subscribe(&mut self, type_url: &str, names: &[&str]) -> Vec<Response> {
        self.send(type_url, "", None, names)
    }

    fn send(&mut self, type_url: &str, nonce: &str, error: Option<&str>, names: &[&str]) -> Vec<Response> {
        self.session.request(Request {
            type_url: type_url.into(),
            nonce: nonce.into(),
            error: error.map(str::to_owned),
            subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Request::default()
        });
        self.session.poll()
    }
}

/// `CDS a b -c`
fn show(responses: &[Response]) -> Vec<String> {
    responses
        .iter()
        .map(|r| {
            let kind = r.type_url.rsplit('.').next().unwrap_or("").to_owned();
            let names = r.resources.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(&v.body.value)));
            let removed = r.removed.iter().map(|n| format!("-{n}"));
            std::iter::once(kind).chain(names).chain(removed).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn sotw_sends_whole_sets_of_clusters_and_only_changed_endpoints() {
    let world: World<'_> = &[(CLUSTER, &[("a", "1"), ("b", "1")]), (ENDPOINT, &[("a", "1"), ("b", "1")])];
    let mut pair = Pair::new(Variant::StateOfTheWorld, world);
    let first = pair.subscribe(CLUSTER, &[]);
    assert_eq!(show(&first), ["Cluster a=1 b=1"]);
    let endpoints = pair.subscribe(ENDPOINT, &["a", "b"]);
    assert_eq!(show(&endpoints), ["ClusterLoadAssignment a=1 b=1"]);
    assert!(pair.send(CLUSTER, &first[0].nonce, None, &[]).is_empty());
    assert!(pair.send(ENDPOINT, &endpoints[0].nonce, None, &["a", "b"]).is_empty());

    pair.world(&[(CLUSTER, &[("a", "1"), ("b", "1")]), (ENDPOINT, &[("a", "2"), ("b", "1")])]);
    assert_eq!(show(&pair.session.poll()), ["ClusterLoadAssignment a=2"]);
}

#[test]
fn a_changed_cluster_brings_its_endpoints_again() {
    let world: World<'_> = &[(CLUSTER, &[("a", "1")]), (ENDPOINT, &[("a", "1")])];
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut pair = Pair::new(variant, world);
        let clusters = pair.subscribe(CLUSTER, &[]);
        let endpoints = pair.subscribe(ENDPOINT, &["a"]);
        let names: &[&str] = if variant == Variant::Delta { &[] } else { &["a"] };
        pair.send(CLUSTER, &clusters[0].nonce, None, &[]);
        pair.send(ENDPOINT, &endpoints[0].nonce, None, names);
        pair.world(&[(CLUSTER, &[("a", "2")]), (ENDPOINT, &[("a", "1")])]);
        assert_eq!(show(&pair.session.poll()), ["Cluster a=2", "ClusterLoadAssignment a=1"], "{variant:?}");
    }
}

#[test]
fn a_cluster_goes_only_after_the_routes_that_named_it() {
    let world: World<'_> = &[(CLUSTER, &[("new", "1"), ("old", "1")]), (ROUTE, &[("r", "old")])];
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut pair = Pair::new(variant, world);
        let clusters = pair.subscribe(CLUSTER, &[]);
        let routes = pair.subscribe(ROUTE, &["r"]);
        let names: &[&str] = if variant == Variant::Delta { &[] } else { &["r"] };
        pair.send(CLUSTER, &clusters[0].nonce, None, &[]);
        pair.send(ROUTE, &routes[0].nonce, None, names);

        pair.world(&[(CLUSTER, &[("new", "1")]), (ROUTE, &[("r", "new")])]);
        let step = pair.session.poll();
        assert_eq!(show(&step), ["RouteConfiguration r=new"], "{variant:?}");
        let last = pair.send(ROUTE, &step[0].nonce, None, names);
        let expected = if variant == Variant::Delta { "Cluster -old" } else { "Cluster new=1" };
        assert_eq!(show(&last), [expected]);
    }
}

#[test]
fn a_refused_route_keeps_its_old_cluster() {
    let world: World<'_> = &[(CLUSTER, &[("old", "1")]), (ROUTE, &[("r", "old")])];
    let mut pair = Pair::new(Variant::Delta, world);
    let clusters = pair.subscribe(CLUSTER, &[]);
    let routes = pair.subscribe(ROUTE, &["r"]);
    pair.send(CLUSTER, &clusters[0].nonce, None, &[]);
    pair.send(ROUTE, &routes[0].nonce, None, &[]);
    pair.world(&[(CLUSTER, &[]), (ROUTE, &[("r", "bad")])]);
    let step = pair.session.poll();
    assert!(pair.send(ROUTE, &step[0].nonce, Some("no such cluster"), &[]).is_empty());
    pair.world(&[(CLUSTER, &[]), (ROUTE, &[("r", "good")])]);
    let step = pair.session.poll();
    assert_eq!(show(&step), ["RouteConfiguration r=good"]);
    assert_eq!(show(&pair.send(ROUTE, &step[0].nonce, None, &[])), ["Cluster -old"]);
}

#[test]
fn verdicts_name_revision_and_reason() {
    let mut pair = Pair::new(Variant::StateOfTheWorld, &[(CLUSTER, &[("a", "1")])]);
    let first = pair.subscribe(CLUSTER, &[]);
    let request = Request {
        type_url: CLUSTER.into(),
        nonce: first[0].nonce.clone(),
        error: Some("a: bad".into()),
        ..Request::default()
    };
    let verdict = pair.session.request(request.clone()).expect("a verdict");
    assert_eq!((verdict.revision, verdict.error.as_deref()), (1, Some("a: bad")));
    // The same words again are about nothing that is in flight, and nothing is sent again.
    assert_eq!(pair.session.request(request), None);
    assert!(pair.session.poll().is_empty());
}

#[test]
fn one_response_is_in_flight_and_changes_are_joined() {
    let mut pair = Pair::new(Variant::StateOfTheWorld, &[(CLUSTER, &[("a", "1")])]);
    let first = pair.subscribe(CLUSTER, &[]);
    pair.world(&[(CLUSTER, &[("a", "2")])]);
    assert!(pair.session.poll().is_empty());
    pair.world(&[(CLUSTER, &[("a", "3")])]);
    let next = pair.send(CLUSTER, &first[0].nonce, None, &[]);
    assert_eq!(show(&next), ["Cluster a=3"]);
    // An answer to the first response, come late, changes nothing.
    assert!(pair.send(CLUSTER, &first[0].nonce, None, &[]).is_empty());
    assert_eq!(next[0].revision, 3);
}

#[test]
fn delta_sends_what_changed_and_names_what_is_gone_or_never_was() {
    let mut pair = Pair::new(Variant::Delta, &[(ENDPOINT, &[("a", "1"), ("b", "1")])]);
    let first = pair.subscribe(ENDPOINT, &["a", "ghost"]);
    assert_eq!(show(&first), ["ClusterLoadAssignment a=1 -ghost"]);
    assert!(pair.send(ENDPOINT, &first[0].nonce, None, &[]).is_empty());
    let second = pair.send(ENDPOINT, "", None, &["b"]);
    assert_eq!(show(&second), ["ClusterLoadAssignment b=1"]);
    pair.send(ENDPOINT, &second[0].nonce, None, &[]);
    pair.world(&[(ENDPOINT, &[("b", "1"), ("ghost", "1")])]);
    assert_eq!(show(&pair.session.poll()), ["ClusterLoadAssignment ghost=1 -a"]);
}

#[test]
fn delta_trusts_initial_versions() {
    let mut pair = Pair::new(Variant::Delta, &[(CLUSTER, &[("a", "1"), ("b", "1")])]);
    let version = |name: &str| {
        let set = pair.session.snapshot().get(CLUSTER).expect("clusters").clone();
        set.resources[name].version.to_string()
    };
    let initial = [("a", version("a")), ("b", "3.0000000000000001".to_owned()), ("gone", "3.1".to_owned())];
    let initial_versions = initial.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    pair.session.request(Request { type_url: CLUSTER.into(), initial_versions, ..Request::default() });
    assert_eq!(show(&pair.session.poll()), ["Cluster b=1 -gone"]);
}

#[test]
fn delta_wildcard_can_be_joined_and_left() {
    let mut pair = Pair::new(Variant::Delta, &[(LISTENER, &[("a", "1"), ("b", "1")])]);
    let first = pair.subscribe(LISTENER, &["a"]);
    assert_eq!(show(&first), ["Listener a=1"]);
    let all = pair.send(LISTENER, &first[0].nonce, None, &["*"]);
    assert_eq!(show(&all), ["Listener b=1"]);
    pair.session.request(Request {
        type_url: LISTENER.into(),
        nonce: all[0].nonce.clone(),
        unsubscribe: vec!["*".into()],
        ..Request::default()
    });
    pair.world(&[(LISTENER, &[("a", "2"), ("b", "2")])]);
    assert_eq!(show(&pair.session.poll()), ["Listener a=2"]);
}

#[test]
fn first_requests_are_answered_even_when_there_is_nothing() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut pair = Pair::new(variant, &[]);
        assert_eq!(show(&pair.subscribe(CLUSTER, &[])), ["Cluster"]);
        assert_eq!(show(&pair.subscribe("type.googleapis.com/some.Other", &[])), ["Other"]);
    }
}

#[test]
fn sotw_names_for_listeners_as_grpc_asks() {
    let mut pair = Pair::new(Variant::StateOfTheWorld, &[(LISTENER, &[("p:1", "1"), ("q:1", "1")])]);
    let first = pair.subscribe(LISTENER, &["p:1"]);
    assert_eq!(show(&first), ["Listener p:1=1"]);
    let second = pair.send(LISTENER, &first[0].nonce, None, &["p:1", "q:1"]);
    assert_eq!(show(&second), ["Listener p:1=1 q:1=1"]);
    // Nothing more wanted: not the same as everything.
    assert!(pair.send(LISTENER, &second[0].nonce, None, &[]).is_empty());
}
