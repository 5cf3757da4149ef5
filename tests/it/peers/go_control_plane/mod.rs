//! A management server written by others drives the proxy: go-control-plane's snapshot cache, over the aggregated stream and over a
//! stream of its own for each type, state of the world and delta, with TLS. The configuration changes under load.

mod server;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;
use server::Server;
use sidemesh_tests::http::{self, Connection, Response};
use sidemesh_tests::origin::Origin;
use sidemesh_tests::proxy::Proxy;
use sidemesh_tests::{peer, wait};
use world::{Round, Way, World};

const ROUNDS: usize = 12;

/// Requests that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(at: SocketAddr) -> Load {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = |_| {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                let mut open = None;
                while !stop.load(Ordering::Relaxed) {
                    match keep_asking(at, &mut open) {
                        Ok(answer) if answer.status == 200 && answer.complete => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                failures
            })
        };
        let threads = (0..3).map(one).collect();
        Load { stop, sent, threads }
    }

    #[track_caller]
    fn assert_no_failure(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect();
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {sent} requests failed: {:#?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        assert!(sent > 100, "there was load: {sent} requests");
    }
}

/// One request on a connection that is kept until the proxy ends it.
fn keep_asking(at: SocketAddr, open: &mut Option<Connection>) -> std::io::Result<Response> {
    let mut connection = match open.take() {
        Some(connection) => connection,
        None => Connection::open(at)?,
    };
    connection.send("GET / HTTP/1.1\r\nhost: a.test\r\nx-scope: tenant\r\n\r\n")?;
    let answer = connection.receive()?;
    if answer.header("connection") != Some("close") {
        *open = Some(connection);
    }
    Ok(answer)
}

fn ask(at: SocketAddr, path: &str) -> std::io::Result<Response> {
    http::request(at, "GET", path, &[("host", "a.test"), ("x-scope", "tenant")], &[])
}

/// Waits until everything of a round is in force.
#[track_caller]
fn wait_for_round(proxy: &mut Proxy, server: &mut Server, front: SocketAddr, number: usize) {
    let wanted = number.to_string();
    wait::until(&format!("round {number} is in force"), || {
        proxy.process.assert_running();
        let answer = ask(front, "/").map_err(|e| e.to_string())?;
        let marks = ["x-front", "x-round", "x-extension"].map(|name| answer.header(name).map(str::to_owned));
        let beta = ask(front, "/beta").map_err(|e| e.to_string())?.text();
        let beta_is_new = (beta == "on") == number.is_multiple_of(2);
        if marks.iter().all(|m| m.as_deref() == Some(&wanted)) && beta_is_new {
            return Ok(());
        }
        Err(format!("{} {marks:?} beta {beta} {}", answer.status, server.report()["nacks"]))
    });
}

/// A proxy with a server of the test's resources, serving the first round.
struct Started {
    world: World,
    server: Server,
    proxy: Proxy,
    origins: [Origin; 3],
    program: std::path::PathBuf,
    dir: tempfile::TempDir,
}

impl Started {
    fn new(test: &str, way: Way, number: usize, ttl_ms: u32) -> Option<Started> {
        let program = peer::go_control_plane(test)?;
        let dir = tempfile::tempdir().expect("temporary directory");
        let world = World::new(way);
        let (chain, key) = world.server_identity();
        std::fs::write(dir.path().join("server.crt"), chain).expect("a file");
        std::fs::write(dir.path().join("server.key"), key).expect("a file");
        let origins = ["a", "b", "c"].map(Origin::saying);
        let mut server = serve(&program, dir.path(), &world);
        let endpoints = [origins[0].address, origins[1].address];
        server.set("first", &world.resources(&Round { number, endpoints: &endpoints }), ttl_ms);
        let mut proxy = Proxy::spawn(dir.path(), &world.bootstrap(), &[]);
        wait_for_round(&mut proxy, &mut server, world.front, number);
        Some(Started { world, server, proxy, origins, program, dir })
    }

    fn resources(&self, number: usize) -> Value {
        let endpoints = [self.origins[number % 3].address, self.origins[(number + 1) % 3].address];
        self.world.resources(&Round { number, endpoints: &endpoints })
    }
}

fn serve(program: &std::path::Path, dir: &std::path::Path, world: &World) -> Server {
    let identity = (dir.join("server.crt"), dir.join("server.key"));
    Server::start(program, world.server, (&identity.0, &identity.1), world.way.aggregated)
}

/// Everything changes, round after round, and no request fails; then one type is refused, and the rest goes on; then the
/// server comes back.
fn changes_under_load(test: &str, way: Way) {
    let Some(mut started) = Started::new(test, way, 1, 0) else { return };
    let front = started.world.front;
    let load = Load::start(front);
    for number in 2..=ROUNDS {
        let resources = started.resources(number);
        started.server.set(&number.to_string(), &resources, 0);
        wait_for_round(&mut started.proxy, &mut started.server, front, number);
    }
    let report = started.server.report();
    assert_eq!(report["nacks"].as_array().map(Vec::len), Some(0), "{report}");
    let own_streams = report["streams"].as_object().expect("streams").keys().filter(|k| !k.is_empty()).count();
    assert_eq!(
        own_streams,
        match (way.aggregated, way.delta) {
            (true, _) => 0,
            (false, false) => 8,
            (false, true) => 9,
        },
        "a stream for each type, or one for all: {report}"
    );

    let mut refused = started.resources(ROUNDS + 1);
    let routes = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    refused[routes][1]["virtual_hosts"][0]["domains"] = serde_json::json!(["a", "a"]);
    started.server.set("refused", &refused, 0);
    wait::until("the refusal arrives, and names table and field", || {
        let nacks = started.server.report()["nacks"].to_string();
        if nacks.contains("inner") && nacks.contains("virtual_hosts[0].domains") { Ok(()) } else { Err(nacks) }
    });
    wait::until("the other types of the same version are in force", || {
        let answer = ask(front, "/").map_err(|e| e.to_string())?;
        let marks = ["x-front", "x-round", "x-extension"].map(|name| answer.header(name).unwrap_or("").to_owned());
        let (old, new) = (ROUNDS.to_string(), (ROUNDS + 1).to_string());
        if marks[1] == old && marks[2] == new { Ok(()) } else { Err(format!("{marks:?}")) }
    });

    started.server.stop();
    started.server = serve(&started.program, started.dir.path(), &started.world);
    let resources = started.resources(ROUNDS + 2);
    started.server.set("after", &resources, 0);
    wait_for_round(&mut started.proxy, &mut started.server, front, ROUNDS + 2);
    load.assert_no_failure();
    if way.delta {
        let of_host = |host| http::request(front, "GET", "/", &[("host", host)], &[]).expect("an answer");
        assert_eq!(of_host("late.test").text(), "late", "a virtual host that is fetched on demand");
        assert_eq!(of_host("never.test").status, 404, "and one that there is not");
        let told = started.server.report()["initial"].clone();
        let clusters = told["type.googleapis.com/envoy.config.cluster.v3.Cluster"].as_u64();
        assert_eq!(clusters, Some(2), "a new stream tells the versions that are held: {told}");
    }
}

#[test]
fn one_stream_state_of_the_world() {
    changes_under_load(
        "peers::go_control_plane::one_stream_state_of_the_world",
        Way { aggregated: true, delta: false },
    );
}

#[test]
fn one_stream_delta() {
    changes_under_load("peers::go_control_plane::one_stream_delta", Way { aggregated: true, delta: true });
}

#[test]
fn a_stream_for_each_type_state_of_the_world() {
    let test = "peers::go_control_plane::a_stream_for_each_type_state_of_the_world";
    changes_under_load(test, Way { aggregated: false, delta: false });
}

#[test]
fn a_stream_for_each_type_delta() {
    changes_under_load("peers::go_control_plane::a_stream_for_each_type_delta", Way { aggregated: false, delta: true });
}

/// A resource with a time to live stays while the server confirms it, and goes when the server falls silent.
#[test]
fn time_to_live() {
    let way = Way { aggregated: true, delta: false };
    let Some(mut started) = Started::new("peers::go_control_plane::time_to_live", way, 2, 1_500) else { return };
    let front = started.world.front;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(4);
    while std::time::Instant::now() < end {
        assert_eq!(ask(front, "/beta").expect("an answer").text(), "on", "confirmed");
    }
    started.server.stop();
    wait::until("the runtime layer is gone", || {
        let answer = ask(front, "/beta").map_err(|e| e.to_string())?.text();
        if answer == "off" { Ok(()) } else { Err(answer) }
    });
    assert_eq!(ask(front, "/").expect("an answer").status, 200, "the rest serves");
    let resources = started.resources(4);
    started.server = serve(&started.program, started.dir.path(), &started.world);
    started.server.set("4", &resources, 0);
    wait_for_round(&mut started.proxy, &mut started.server, front, 4);
}
