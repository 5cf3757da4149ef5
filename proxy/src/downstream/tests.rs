use std::net::Ipv4Addr;

use sidemesh_config::resource::http_filter::rate_limit::TokenBucket;
use sidemesh_config::resource::listener::ListenerFilter;
use sidemesh_config::resource::network_filter::NetworkRateLimit;
use sidemesh_config::resource::{Resource, decode};
use sidemesh_proto::json::any_from_json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::live::Live;
use crate::telemetry::access_log::{Logger, Writer};
use crate::telemetry::stats::Registry;
use crate::telemetry::trace::export;
use crate::worker::{Node, Shared};

const DRAIN_TIME: Duration = Duration::from_millis(300);

/// One worker with its control side.
struct Bench {
    sockets: Sockets,
    listeners: Rc<Listeners>,
    shared: Shared,
}

impl Bench {
    fn new() -> Self {
        let stats = Arc::new(Registry::default());
        let shared =
            Shared::new(Arc::new(Live::default()), stats.clone(), Default::default(), Arc::new(Node::default()));
        let log = Logger::new(Writer::start().expect("a thread"), Arc::default());
        let worker = Worker::new(0, 1, shared.clone(), log, export::queue().0);
        let upstream = Upstream::new(worker.clone(), crate::upstream::Registry::new(1, stats, Default::default()));
        Bench { sockets: Sockets::new(1), listeners: Listeners::new(worker, upstream, DRAIN_TIME), shared }
    }

    fn put(&mut self, listener: &Arc<Config>) {
        self.sockets.reserve(listener).expect("a free address");
        let sockets = self.sockets.open(listener).expect("listening").remove(0);
        self.listeners.put(listener.clone(), sockets);
    }

    fn address(&self) -> SocketAddr {
        self.listeners.view()[0].addresses[0]
    }

    /// Connects from 127.0.0.`host`.
    async fn connect(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, host).into(), 0)).expect("a loopback address");
        socket.connect(self.address()).await.expect("a listener")
    }
}

/// One chain per client address: `echo`, or a greeting.
fn listener(port: u16, chains: &[(u8, Option<&str>)]) -> Arc<Config> {
    let chain = |(host, greeting): &(u8, Option<&str>)| {
        let filter = match greeting {
            None => serde_json::json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}),
            Some(text) => serde_json::json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
                "response": {"inline_string": text},
            }),
        };
        serde_json::json!({
            "filter_chain_match": {"source_prefix_ranges": [{"address_prefix": format!("127.0.0.{host}"), "prefix_len": 32}]},
            "filters": [{"name": "f", "typed_config": filter}],
        })
    };
    let json = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": chains.iter().map(chain).collect::<Vec<_>>(),
    });
    match decode(&any_from_json(&json).expect("JSON of a listener")).result {
        Ok(Resource::Listener(listener)) => listener,
        other => panic!("no listener: {other:?}"),
    }
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 2];
    stream.write_all(b"hi").await.is_ok() && stream.read_exact(&mut back).await.is_ok() && back == *b"hi"
}

async fn local<F: Future<Output = ()>>(test: F) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_change_drains_the_chains_it_touches_and_no_other() {
    local(async {
        let mut bench = Bench::new();
        bench.put(&listener(0, &[(1, None), (2, None)]));
        let (mut kept, mut dropped) = (bench.connect(1).await, bench.connect(2).await);
        assert!(echoes(&mut kept).await && echoes(&mut dropped).await);

        bench.put(&listener(0, &[(1, None), (2, Some("new"))]));
        assert!(echoes(&mut dropped).await, "an open connection may go on for the drain time");
        let mut text = String::new();
        bench.connect(2).await.read_to_string(&mut text).await.expect("a greeting");
        assert_eq!(text, "new", "new connections use the new chain at once");

        tokio::time::sleep(DRAIN_TIME * 3).await;
        assert!(!echoes(&mut dropped).await);
        assert!(echoes(&mut kept).await);
        assert_eq!(bench.shared.shutdown.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_removed_listener_serves_who_is_in_its_queue_and_refuses_the_next() {
    local(async {
        let mut bench = Bench::new();
        bench.put(&listener(0, &[(1, Some("late"))]));
        let address = bench.address();
        tokio::task::yield_now().await;
        let mut queued = bench.connect(1).await;
        bench.listeners.remove("l");
        bench.sockets.retain(std::iter::empty());
        let mut text = String::new();
        queued.read_to_string(&mut text).await.expect("a greeting");
        assert_eq!(text, "late");
        assert!(TcpStream::connect(address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_no_chain_is_for_is_closed() {
    local(async {
        let mut bench = Bench::new();
        bench.put(&listener(0, &[(1, None)]));
        let mut stranger = bench.connect(9).await;
        assert!(!echoes(&mut stranger).await);
    })
    .await;
}

#[test]
fn an_address_is_given_to_one_listener_and_the_refusal_names_the_other() {
    let mut sockets = Sockets::new(1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let first = listener(free, &[(1, None)]);
    sockets.reserve(&first).expect("a free address");
    let second = Config { name: "other".into(), ..Config::clone(&first) };
    let refusal = sockets.reserve(&second).expect_err("the address is taken").to_string();
    assert!(refusal.contains("listener `l`"), "{refusal}");
    sockets.retain(std::iter::once(&second));
    sockets.reserve(&second).expect("the address is free again");
}

#[tokio::test]
async fn a_rate_limit_of_a_listener_counts_over_its_connections() {
    local(async {
        let mut bench = Bench::new();
        let mut limited = Config::clone(&listener(0, &[(1, None)]));
        let bucket = TokenBucket { max_tokens: 2, tokens_per_fill: 1, fill_interval: Duration::from_secs(3600) };
        let limit = NetworkRateLimit { stat_prefix: "l".into(), bucket, enabled: None };
        limited.listener_filters = vec![ListenerFilter::LocalRateLimit(Arc::new(limit))];
        bench.put(&Arc::new(limited));
        for allowed in [true, true, false, false] {
            assert_eq!(echoes(&mut bench.connect(1).await).await, allowed);
        }
    })
    .await;
}
