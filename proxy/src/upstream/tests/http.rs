use serde_json::json;
use sidemesh_config::value::name;

use super::harness::*;
use crate::upstream::{AttemptError, AttemptInfo, Naming, PickContext};

fn h2() -> serde_json::Value {
    json!({ "http2_protocol_options": {} })
}

#[test]
fn requests_share_one_connection_and_are_counted() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        let cluster = world.cluster("c", &[&a], json!({}));
        for _ in 0..5 {
            assert_eq!(fetch(&cluster).await.expect("an answer").1, "a");
        }
        assert_eq!((a.script.connections.get(), a.script.requests.get()), (1, 5));
        assert_eq!(world.stat("c", "upstream_cx_total"), 1);
        assert_eq!(world.stat("c", "upstream_cx_active"), 1);
        assert_eq!(world.stat("c", "upstream_rq_total"), 5);
        assert_eq!(world.stat("c", "upstream_rq_active"), 0);
        assert_eq!(world.stat("c", "membership_healthy"), 1);
        let host = world.registry.clusters().remove(0).hosts.remove(0);
        assert_eq!((host.rq_total, host.rq_success, host.cx_active), (5, 5, 1));
        assert_eq!(host.health_flags(), "healthy");
    });
}

#[test]
fn the_record_says_whether_the_connection_was_reused() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        let cluster = world.cluster("c", &[&a], json!({}));
        let host = cluster.pick(&PickContext::default()).expect("a host");
        let (first, second) = (AttemptInfo::default(), AttemptInfo::default());
        let answer = get_from(&cluster, &host, &first).await.expect("an answer");
        answer.into_body().collect(100).await.expect("a body");
        get_from(&cluster, &host, &second).await.expect("an answer");
        assert!(!first.reused() && second.reused());
        assert!(first.connect_end.get() >= first.connect_start.get());
        let facts = second.connection().expect("a connection");
        assert_eq!(facts.peer.map(|p| p.port()), Some(a.port));
    });
}

#[test]
fn max_requests_per_connection_opens_fresh_ones() {
    run(async {
        for http2 in [false, true] {
            let (world, a) = (World::new(), Origin::start("a", http2).await);
            let mut more = if http2 { h2() } else { json!({}) };
            more["max_requests_per_connection"] = 2.into();
            let cluster = world.cluster("c", &[&a], more);
            for _ in 0..6 {
                fetch(&cluster).await.expect("an answer");
            }
            assert_eq!(*a.script.log.borrow(), [1, 1, 2, 2, 3, 3]);
        }
    });
}

#[test]
fn http2_streams_share_a_connection_also_while_it_is_made() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", true).await);
        a.script.delay_ms.set(20);
        let cluster = world.cluster("c", &[&a], h2());
        let answers = futures_util::future::join_all((0..10).map(|_| fetch(&cluster))).await;
        assert!(answers.into_iter().all(|a| a.is_ok()));
        assert_eq!(a.script.connections.get(), 1);
        assert_eq!(world.stat("c", "upstream_cx_http2_total"), 1);
    });
}

#[test]
fn more_streams_than_one_connection_takes_open_another() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", true).await);
        a.script.delay_ms.set(50);
        let cluster = world.cluster("c", &[&a], json!({ "http2_protocol_options": { "max_concurrent_streams": 2 } }));
        fetch(&cluster).await.expect("an answer");
        let answers = futures_util::future::join_all((0..4).map(|_| fetch(&cluster))).await;
        assert!(answers.into_iter().all(|a| a.is_ok()));
        assert_eq!(a.script.connections.get(), 2);
    });
}

#[test]
fn a_refused_connection_says_so() {
    run(async {
        for more in [json!({}), h2()] {
            let world = World::new();
            let port = dead().await;
            let mut more = more.clone();
            more["name"] = "c".into();
            more["load_assignment"] = json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } } }] }] });
            let cluster = world.apply(&more);
            let error = fetch(&cluster).await.expect_err("nobody listens");
            assert_eq!((error.flag(), error.reason()), ("UF", "remote connection failure"));
            assert_eq!(error.detail(), Some("delayed connect error: Connection refused"));
            assert!(error.is_connect_failure() && error.is_unprocessed());
            assert_eq!(world.stat("c", "upstream_cx_connect_fail"), 1);
            assert_eq!(world.stat("c", "upstream_cx_active"), 0);
        }
    });
}

#[test]
fn a_connection_that_is_not_made_in_time_says_so() {
    run(async {
        let world = World::new();
        // A listener with a full backlog: the handshake is not answered.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a port");
        socket.listen(0).expect("listening");
        let address = socket.local_addr().expect("an address").as_socket().expect("IP");
        let mut held = Vec::new();
        for _ in 0..4 {
            let one = tokio::net::TcpStream::connect(address);
            if let Ok(Ok(one)) = tokio::time::timeout(std::time::Duration::from_millis(50), one).await {
                held.push(one);
            }
        }
        let cluster =
            world.apply(&json!({ "name": "c", "connect_timeout": "0.1s", "load_assignment": { "cluster_name": "c",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address":
            { "address": "127.0.0.1", "port_value": address.port() } } } }] }] } }));
        assert_eq!(fetch(&cluster).await.expect_err("a timeout"), AttemptError::ConnectTimeout);
        assert_eq!(world.stat("c", "upstream_cx_connect_timeout"), 1);
    });
}

#[test]
fn round_robin_reaches_every_host_and_follows_new_endpoints() {
    run(async {
        let world = World::new();
        let (a, b, c) =
            (Origin::start("a", false).await, Origin::start("b", false).await, Origin::start("c", false).await);
        let cluster = world.cluster("c", &[&a, &b], json!({}));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(fetch(&cluster).await.expect("an answer").1);
        }
        assert_eq!(seen[..2], seen[2..]);
        assert_ne!(seen[0], seen[1]);
        let again = world.cluster("c", &[&c], json!({}));
        assert!(std::rc::Rc::ptr_eq(&cluster, &again));
        for _ in 0..3 {
            assert_eq!(fetch(&cluster).await.expect("an answer").1, "c");
        }
    });
}

#[test]
fn an_aggregate_uses_the_first_cluster_that_has_hosts() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        world.cluster("empty", &[], json!({}));
        world.cluster("full", &[&a], json!({}));
        let all = world.apply(
            &json!({ "name": "all", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": ["empty", "full"] } } }),
        );
        assert_eq!(fetch(&all).await.expect("an answer").1, "a");
        assert_eq!(world.stat("full", "upstream_rq_total"), 1);
    });
}

#[test]
fn names_are_resolved_before_the_cluster_is_ready() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        let cluster = world.apply(
            &json!({ "name": "c", "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY", "load_assignment": {
            "cluster_name": "c", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address":
            { "address": "localhost", "port_value": a.port } } } }] }] } }),
        );
        world.control.ready(&[name("c"), name("nobody")]).await;
        assert_eq!(fetch(&cluster).await.expect("an answer").1, "a");
        let host = cluster.pick(&PickContext::default()).expect("a host");
        assert_eq!(host.hostname(), "localhost");
    });
}

#[test]
fn an_original_destination_is_connected_to() {
    run(async {
        let (world, a) = (World::new(), Origin::start("a", false).await);
        let cluster = world.apply(&json!({ "name": "c", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": { "use_http_header": true } }));
        let mut headers = http::HeaderMap::new();
        assert!(cluster.pick(&PickContext::default()).is_err());
        let address = format!("127.0.0.1:{}", a.port);
        headers.insert("x-envoy-original-dst-host", address.parse().expect("a value"));
        let none = sidemesh_config::value::Metadata::default();
        let destination =
            cluster.original_destination(&Naming { headers: &headers, metadata: [&none, &none], connection: None });
        let host = cluster.pick(&PickContext { destination, ..PickContext::default() }).expect("a host");
        let answer = get_from(&cluster, &host, &AttemptInfo::default()).await.expect("an answer");
        assert_eq!(answer.into_body().collect(10).await.expect("a body"), "a");
        headers.insert("x-envoy-original-dst-host", "nonsense".parse().expect("a value"));
        assert_eq!(
            cluster.original_destination(&Naming { headers: &headers, metadata: [&none, &none], connection: None }),
            None
        );
        assert_eq!(world.stat("c", "original_dst_host_invalid"), 1);
    });
}
