//! Clients that hold on: ten thousand that have asked once and say no more, one that says a byte a second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use sidemesh_tests::http::{self, Connection};
use sidemesh_tests::proxy::{Proxy, always, fixed, http_listener};
use sidemesh_tests::{peer, ports, wait};
use socket2::{Domain, Socket, Type};

const IDLE: usize = 10_000;
/// What an idle connection may cost, unoptimised too.
const KIB_EACH: u64 = 12;

/// A kept connection after its first request; from loopback addresses of its own, so that no port of 127.0.0.1 is used up.
fn idle_connection(source: u8, to: SocketAddr) -> std::io::Result<Connection> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, source)), 0);
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    let mut connection = Connection::over(socket.into())?;
    connection.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let answer = connection.receive()?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ok(connection)
}

#[test]
fn ten_thousand_idle_connections_cost_memory_alone() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    if (hard as usize) < IDLE + 500 {
        let needed = format!("a hard limit of open files (`ulimit -Hn`) above {IDLE}");
        return peer::not_run("bad_days::clients", &needed, "`LimitNOFILE`, or limits.conf");
    }
    // The proxy inherits it.
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = ports::free();
    let proxy =
        Proxy::start(dir.path(), &fixed(&[http_listener("ingress", at, &always(200, "here"), &json!({}))], &[]));
    http::must_get(at, "/");
    let before = proxy.process.resident_kib();
    let idle: Vec<Connection> = (0..IDLE)
        .map(|i| idle_connection(1 + (i % 4) as u8, at).unwrap_or_else(|e| panic!("connection {i}: {e}")))
        .collect();
    let open = || proxy.stat("listener.", &format!("_{}.downstream_cx_active", at.port()));
    wait::until_true("all are accepted", || open() >= IDLE as i64);
    let begun = Instant::now();
    assert_eq!(http::must_get(at, "/").text(), "here");
    assert!(begun.elapsed() < Duration::from_secs(2), "others are served at once, not in {:?}", begun.elapsed());
    let each = proxy.process.resident_kib().saturating_sub(before) / IDLE as u64;
    println!("{IDLE} idle connections: {each} KiB each, {before} KiB before");
    assert!(each <= KIB_EACH, "{each} KiB for each idle connection; the bound is {KIB_EACH}");
    drop(idle);
    wait::until_true("all are gone", || open() <= 1);
}

#[test]
fn a_client_that_sends_a_byte_a_second_is_cut_off_and_others_are_served() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = ports::free();
    let listener = http_listener("ingress", at, &always(200, "here"), &json!({"request_headers_timeout": "2s"}));
    let proxy = Proxy::start(dir.path(), &fixed(&[listener], &[]));
    let mut slow = Connection::open(at).expect("connects");
    slow.set_read_timeout(Duration::from_millis(50));
    let begun = Instant::now();
    let mut answer = Vec::new();
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".iter().cycle() {
        let sent = slow.send([*byte]);
        assert_eq!(http::must_get(at, "/").text(), "here", "others are served meanwhile");
        let closed = slow.rest(&mut answer);
        if closed || sent.is_err() || !answer.is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it is never cut off");
        std::thread::sleep(Duration::from_secs(1));
    }
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 408 "), "it is told why: `{text}`");
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "not before its time: {:?}", begun.elapsed());
    assert_eq!(proxy.stat("http.ingress.", ".downstream_rq_header_timeout"), 1);
}
