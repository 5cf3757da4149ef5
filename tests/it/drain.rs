//! SIGTERM: no new work, the old work to its end, exit 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidemesh_tests::http::{self, Connection};
use sidemesh_tests::origin::Origin;
use sidemesh_tests::proxy::{Proxy, all_to, cluster, fixed, http_listener};
use sidemesh_tests::{ports, wait};

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst";

/// An origin that answers `/slow` in two halves: the second when the test says so.
fn halting(release: Arc<Barrier>) -> Origin {
    Origin::start(move |request, stream| {
        if request.path() != "/slow" {
            return sidemesh_tests::origin::ok(stream, "fast");
        }
        let begun = stream.write_all(HALF.as_bytes()).is_ok();
        release.wait();
        begun && stream.write_all(b"-last").is_ok()
    })
}

fn start(dir: &std::path::Path, origin: &Origin, flags: &[&str]) -> (Proxy, std::net::SocketAddr) {
    let at = ports::free();
    let listener = http_listener("ingress", at, &all_to("origin"), &serde_json::json!({}));
    let mut proxy = Proxy::spawn(dir, &fixed(&[listener], &[cluster("origin", &[origin.address])]), flags);
    proxy.wait_ready();
    (proxy, at)
}

#[test]
fn a_request_under_way_is_finished() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let release = Arc::new(Barrier::new(2));
    let origin = halting(release.clone());
    let (mut proxy, at) = start(dir.path(), &origin, &["--drain-time-s", "20"]);
    let mut kept = Connection::open(at).expect("connects");
    kept.send("GET /fast HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
    assert_eq!(kept.receive().expect("answered").text(), "fast");

    let slow = std::thread::spawn(move || http::get(at, "/slow"));
    wait::until_true("the slow request is with the origin", || {
        proxy.stat("cluster.origin.", ".upstream_rq_active") == 1
    });
    proxy.process.signal(Signal::SIGTERM);
    wait::until_true("readiness is gone", || http::get(proxy.admin, "/ready").is_ok_and(|answer| answer.status == 503));
    // A client that keeps its connection is told to go, with one of its next answers or by a close.
    wait::until("the kept connection is told to go", || {
        if kept.send("GET /fast HTTP/1.1\r\nhost: a\r\n\r\n").is_err() {
            return Ok(());
        }
        match kept.receive() {
            Ok(answer) if answer.header("connection") != Some("close") => Err(format!("{answer:?}")),
            // Closed, or told so.
            _ => Ok(()),
        }
    });
    assert!(proxy.process.poll().is_none(), "it waits for the slow request");
    release.wait();
    let answer = slow.join().expect("no panic").expect("the slow request is answered");
    assert!(answer.complete && answer.text() == "first-last", "{answer:?}");
    assert_eq!(proxy.process.wait(Duration::from_secs(15)).code(), Some(0), "{}", proxy.process.log());
}

/// The next HTTP/2 frame's type; `None` at the end of the connection.
fn frame_type(stream: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    std::io::copy(&mut stream.take(length.into()), &mut std::io::sink()).ok()?;
    Some(head[3])
}

#[test]
fn an_http2_connection_is_told_goaway() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let dir = tempfile::tempdir().expect("temporary directory");
    let origin = Origin::saying("fast");
    let (mut proxy, at) = start(dir.path(), &origin, &["--drain-time-s", "5"]);
    let mut stream = TcpStream::connect(at).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
    assert_eq!(frame_type(&mut stream), Some(SETTINGS), "the connection is up");
    proxy.process.signal(Signal::SIGTERM);
    let frames: Vec<u8> = std::iter::from_fn(|| frame_type(&mut stream)).collect();
    assert!(frames.contains(&GOAWAY), "{frames:?}");
    assert_eq!(proxy.process.wait(Duration::from_secs(15)).code(), Some(0), "{}", proxy.process.log());
}

#[test]
fn a_request_without_end_does_not_hold_it_for_ever() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let release = Arc::new(Barrier::new(2));
    let origin = halting(release.clone());
    let (mut proxy, at) = start(dir.path(), &origin, &["--drain-time-s", "1"]);
    let slow = std::thread::spawn(move || http::get(at, "/slow"));
    wait::until_true("the slow request is with the origin", || {
        proxy.stat("cluster.origin.", ".upstream_rq_active") == 1
    });
    let begun = Instant::now();
    proxy.process.signal(Signal::SIGTERM);
    assert_eq!(proxy.process.wait(Duration::from_secs(15)).code(), Some(0), "{}", proxy.process.log());
    assert!(begun.elapsed() >= Duration::from_millis(900), "it gave the request its time: {:?}", begun.elapsed());
    release.wait();
    let answer = slow.join().expect("no panic");
    assert!(!answer.is_ok_and(|a| a.complete), "the cut request does not look complete");
}
