//! Accepted requests: framing of responses, persistence, bodies, limits in time.
use super::*;
use crate::codec::drain::UNFINISHED_GRACE;
use crate::codec::{DrainHandle, body};

async fn whole(wire: &mut Wire, bytes: &[u8]) -> (String, bool) {
    wire.send(bytes).await;
    wire.receive().await
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let mut wire = serve(Settings::default());
        let (answer, closed) = whole(
            &mut wire,
            b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\nPOST /pieces HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhiGET /x?y HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .await;
        assert_eq!((statuses(&answer), closed), (vec![200, 200, 200], false));
        let lines: Vec<_> = wire.origin.seen.borrow().iter().map(|seen| seen.line.clone()).collect();
        assert_eq!(lines, ["GET /slow", "POST /pieces", "GET /x?y"]);
        assert!(answer.contains("2\r\nab\r\n3\r\ncde\r\n1\r\nf\r\n0\r\n\r\n"), "{answer}");
    });
}

#[test]
fn heads_and_empty_answers_have_no_body() {
    run(async {
        let mut wire = serve(Settings::default());
        let answer = wire.ask(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
        let answer = wire.ask(b"GET /204 HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(answer, "HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(statuses(&wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await), [200]);
    });
}

#[test]
fn connection_fields_stay_here() {
    run(async {
        let mut wire = serve(Settings::default());
        wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, x-named\r\nKeep-Alive: 1\r\nProxy-Connection: keep-alive\r\nX-Named: 1\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Normal: 1\r\n\r\n").await;
        let mut names: Vec<_> = wire.origin.seen.borrow()[0].headers.iter().map(|(n, _)| n.clone()).collect();
        names.sort();
        assert_eq!(names, ["host", "te", "x-normal"]);
        assert_eq!(wire.origin.seen.borrow()[0].header("te"), Some("trailers"));
    });
}

#[test]
fn absolute_targets_win_over_the_host_field() {
    run(async {
        let mut wire = serve(Settings::default());
        wire.ask(b"GET http://free.test:81/y?z HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
        wire.ask(b"GET http://free.test HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
        wire.ask(b"GET /q?\"<>`\\^{|} HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let seen = wire.origin.seen.borrow();
        assert_eq!((seen[0].line.as_str(), seen[0].header("host")), ("GET /y?z", Some("free.test:81")));
        assert_eq!((seen[1].line.as_str(), seen[1].header("host")), ("GET /", Some("free.test")));
        assert_eq!(seen[2].line, "GET /q?\"<>`\\^{|}");
    });
}

#[test]
fn http_1_0_when_accepted() {
    run(async {
        let settings = || Settings {
            accept_http_10: true,
            default_host_for_http_10: Some(http::HeaderValue::from_static("dflt.test")),
            ..Settings::default()
        };
        let mut wire = serve(settings());
        let (answer, closed) = whole(&mut wire, b"GET /pieces HTTP/1.0\r\n\r\n").await;
        assert_eq!((answer.as_str(), closed), ("HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabcdef", true));
        assert_eq!(wire.origin.seen.borrow()[0].header("host"), Some("dflt.test"));
        let mut wire = serve(settings());
        let (answer, closed) = whole(&mut wire, b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(
            (answer.as_str(), closed),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", false)
        );
    });
}

#[test]
fn close_is_said_and_done() {
    run(async {
        for request in [
            &b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"[..],
            b"GET /close HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        ] {
            let mut wire = serve(Settings::default());
            let (answer, closed) = whole(&mut wire, request).await;
            assert!(closed && answer.contains("connection: close\r\n"), "{answer}");
        }
        // All of the unread body was there: nothing to close for.
        let mut wire = serve(Settings::default());
        let (answer, closed) = whole(
            &mut wire,
            b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .await;
        assert_eq!((statuses(&answer), closed), (vec![200, 200], false));
        let mut wire = serve(Settings { max_requests_per_connection: Some(2), ..Settings::default() });
        let get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let (first, second) = (whole(&mut wire, get).await, whole(&mut wire, get).await);
        assert!(!first.1 && !first.0.contains("close") && second.1 && second.0.contains("connection: close"));
    });
}

#[test]
fn continue_is_sent_at_once() {
    run(async {
        let head = b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        let mut wire = serve(Settings::default());
        assert_eq!(wire.ask(head).await, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(statuses(&wire.ask(b"body").await), [200]);
        assert_eq!(wire.origin.seen.borrow()[0].header("expect"), None);
        // Whether the body is wanted or not. Where it is not, the connection ends: it may not have come yet.
        let mut wire = serve(Settings::default());
        let (answer, closed) =
            whole(&mut wire, b"POST /unread HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
                .await;
        assert_eq!((statuses(&answer), closed), (vec![100, 200], true));
        let mut wire = serve(Settings { proxy_100_continue: true, ..Settings::default() });
        assert_eq!(wire.ask(head).await, "");
        wire.ask(b"body").await;
        assert_eq!(wire.origin.seen.borrow()[0].header("expect"), Some("100-continue"));
        assert_eq!(statuses(&wire.ask(b"GET /hints HTTP/1.1\r\nHost: h\r\n\r\n").await), [103, 200]);
    });
}

#[test]
fn trailers_go_where_they_may() {
    run(async {
        let mut settings = Settings::default();
        let mut wire = serve(settings.clone());
        let get = b"GET /trailers HTTP/1.1\r\nHost: h\r\n\r\n";
        assert!(wire.ask(get).await.ends_with("\r\n\r\n4\r\ndata\r\n0\r\n\r\n"));
        settings.limits.trailers = true;
        let mut wire = serve(settings);
        assert!(wire.ask(get).await.ends_with("4\r\ndata\r\n0\r\nx-tail: 1\r\n\r\n"));
        let echoed = wire
            .ask(b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n")
            .await;
        assert!(echoed.ends_with("2\r\nab\r\n0\r\nx-t: 1\r\n\r\n"), "{echoed}");
    });
}

#[test]
fn a_response_that_breaks_cuts_the_connection() {
    run(async {
        let mut wire = serve(Settings::default());
        let (answer, closed) = whole(&mut wire, b"GET /breaks HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(closed && !answer.contains("0\r\n\r\n"), "{answer}");
        assert_eq!(wire.served.await.unwrap(), Closed::Aborted(body::Error::Closed));
        let mut wire = serve(Settings::default());
        assert_eq!(whole(&mut wire, b"GET /abort HTTP/1.1\r\nHost: h\r\n\r\n").await, (String::new(), true));
    });
}

#[test]
fn a_client_that_leaves_cancels_its_handler() {
    run(async {
        let mut wire = serve(Settings::default());
        wire.send(b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((wire.origin.started.get(), wire.origin.dropped.get()), (1, 0));
        drop(wire.client);
        assert_eq!(wire.served.await.unwrap(), Closed::ByPeerInRequest);
        assert_eq!(wire.origin.dropped.get(), 1);
    });
}

#[test]
fn limits_in_time() {
    run(async {
        let brief = Some(Duration::from_millis(60));
        let mut wire = serve(Settings { request_headers_timeout: brief, ..Settings::default() });
        let (answer, closed) = whole(&mut wire, b"GET / HTTP/1.1\r\nHost: a\r\nX-Part").await;
        assert!(
            closed && answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("request header timeout"),
            "{answer}"
        );
        let drained = Settings { drain_timeout: Duration::from_millis(20), ..Settings::default() };
        let mut wire = serve(Settings { idle_timeout: brief, ..drained.clone() });
        let (answer, closed) = whole(&mut wire, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((statuses(&answer), closed), (vec![200], true));
        assert_eq!(wire.served.await.unwrap(), Closed::Timeout("the idle timeout"));
        let wire = serve(Settings { max_connection_duration: brief, ..drained });
        assert_eq!(wire.served.await.unwrap(), Closed::Timeout("the maximum connection duration"));
        // Meanwhile one more request is served, and told that it is the last.
        let mut wire = serve(Settings { idle_timeout: brief, ..Settings::default() });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (answer, closed) = whole(&mut wire, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(closed && answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn drain_in_two_steps() {
    run(async {
        let drain = DrainHandle::new();
        let mut wire = serve_with(Settings::default(), drain.subscribe());
        let mut idle = serve_with(Settings::default(), drain.subscribe());
        let get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(statuses(&idle.ask(get).await), [200]);
        drain.start();
        let (answer, closed) = whole(&mut wire, get).await;
        assert!(closed && answer.contains("connection: close\r\n"));
        assert_eq!(idle.receive().await, (String::new(), false));
        drain.close_idle();
        assert_eq!(idle.receive().await, (String::new(), true));
        assert_eq!(idle.served.await.unwrap(), Closed::Drained);
    });
}

#[test]
fn a_drain_waits_for_what_has_come_and_not_for_half_a_head() {
    run(async {
        let drain = DrainHandle::new();
        let mut half = serve_with(Settings::default(), drain.subscribe());
        let mut whole = serve_with(Settings::default(), drain.subscribe());
        assert_eq!(half.ask(b"GET / HTT").await, "");
        // In the socket, not read yet.
        whole.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        drain.close_idle();
        assert_eq!(statuses(&whole.receive().await.0), [200]);
        let ended = tokio::time::timeout(UNFINISHED_GRACE * 2, half.served).await;
        assert_eq!(ended.expect("a bounded wait").expect("no panic"), Closed::Drained);
    });
}

#[test]
fn upgrades_make_both_bodies_raw() {
    run(async {
        let mut wire = serve(Settings::default());
        let head = b"GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
        let answer = wire.ask(head).await;
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly"
        );
        assert_eq!(wire.ask(b"late").await, "late");
        tokio::io::AsyncWriteExt::shutdown(&mut wire.client).await.unwrap();
        assert_eq!(wire.receive().await, (String::new(), true));
        // Refused: what follows the head is nobody's, and the connection ends.
        let mut wire = serve(Settings::default());
        let refused = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        wire.send(refused).await;
        assert_eq!(statuses(&wire.receive().await.0), Vec::<u16>::new(), "the handler waits for the upgrade's bytes");
        let mut wire = serve(Settings::default());
        let refused = b"GET /unread HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let (answer, closed) = whole(&mut wire, refused).await;
        assert_eq!((statuses(&answer), closed), (vec![200], true));
    });
}

#[test]
fn connect_carries_bytes() {
    run(async {
        let mut wire = serve(Settings::default());
        wire.send(b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\n\r\n").await;
        // This handler reads the tunnel before it answers, which must not deadlock the connection's end.
        drop(wire.client);
        assert_eq!(wire.served.await.unwrap(), Closed::ByPeerInRequest);
    });
}

#[test]
fn large_bodies_stream_both_ways() {
    run(async {
        let wire = serve(Settings::default());
        let blob = "0123456789abcdef".repeat(1 << 16);
        let (mut reader, mut writer) = tokio::io::split(wire.client);
        let request = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{blob}", blob.len());
        let upload =
            tokio::task::spawn_local(async move { writer.write_all(request.as_bytes()).await.map(|()| writer) });
        let mut got = Vec::new();
        while !got.ends_with(blob.as_bytes()) {
            assert_ne!(reader.read_buf(&mut got).await.unwrap(), 0, "cut off");
        }
        assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(upload.await.unwrap().is_ok());
    });
}

/// Whatever the cuts between reads, the handler sees the same requests.
#[test]
fn requests_survive_every_cut() {
    let random = crate::clock::Random::seeded(11);
    for round in 0..150 {
        let mut bytes = String::new();
        let mut expected = Vec::new();
        for i in 0..1 + random.below(4) {
            let body = "abcdefghij".repeat(random.below(60) as usize);
            bytes.push_str(&format!(
                "POST /r{i} HTTP/1.1\r\nHost: h\r\nX-Pad: {}\r\n",
                "p".repeat(random.below(300) as usize)
            ));
            if random.chance(1, 2) {
                bytes.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            } else {
                bytes.push_str("Transfer-Encoding: chunked\r\n\r\n");
                let mut rest = body.as_str();
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
                    bytes.push_str(&format!("{:x};e=1\r\n{piece}\r\n", piece.len()));
                    rest = tail;
                }
                bytes.push_str("0\r\nx-t: 1\r\n\r\n");
            }
            expected.push((format!("POST /r{i}"), Ok(body)));
        }
        run(async {
            let mut wire = serve(Settings::default());
            let mut rest = bytes.as_bytes();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(1 + random.below(rest.len().min(200) as u64) as usize);
                wire.send(piece).await;
                tokio::task::yield_now().await;
                rest = tail;
            }
            let mut buf = vec![0; 65536];
            let mut answer = String::new();
            while statuses(&answer).len() < expected.len() {
                let n = wire.client.read(&mut buf).await.unwrap();
                assert_ne!(n, 0, "round {round}: {answer}");
                answer.push_str(&String::from_utf8_lossy(&buf[..n]));
            }
            let seen: Vec<_> = wire.origin.seen.borrow().iter().map(|s| (s.line.clone(), s.body.clone())).collect();
            assert_eq!(seen, expected, "round {round}");
        });
    }
}

/// Memory per idle connection is this future, its task and the connection's state: a proxy's headline number.
#[test]
fn the_connection_is_small() {
    run(async {
        let origin = Origin::default();
        let (_client, io) = tokio::io::duplex(16);
        let future = server::serve(io.into(), Rc::default(), worker(), &origin, Drain::never());
        assert!(size_of_val(&future) <= 1024, "{} bytes", size_of_val(&future));
        let (_client, io) = tokio::io::duplex(16);
        let future = crate::codec::h2::server::serve(io.into(), Default::default(), worker(), &origin, Drain::never());
        assert!(size_of_val(&future) <= 512, "{} bytes", size_of_val(&future));
    });
}
