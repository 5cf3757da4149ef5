//! Our client against our server, and both against the `h2` crate, which shares nothing with them.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};

use super::client::{Connection, connect};
use super::{Reason, Settings, server};
use crate::codec::body::{Body, Error};
use crate::codec::h1::tests::{Origin, pieces, run, worker};
use crate::codec::{Closed, Drain, DrainHandle, Release, SendError, SendOptions, Upgrade};

struct Pair {
    client: Connection,
    origin: Rc<Origin>,
    served: tokio::task::JoinHandle<Closed>,
}

fn serve(
    settings: server::Settings,
    drain: Drain,
) -> (tokio::io::DuplexStream, Rc<Origin>, tokio::task::JoinHandle<Closed>) {
    let (io, served_io) = tokio::io::duplex(1 << 20);
    let origin = Rc::new(Origin::default());
    let handler = origin.clone();
    let served =
        tokio::task::spawn_local(
            async move { server::serve(served_io.into(), settings, worker(), &*handler, drain).await },
        );
    (io, origin, served)
}

async fn pair(settings: server::Settings, drain: Drain) -> Pair {
    let (io, origin, served) = serve(settings, drain);
    let client = connect(io.into(), settings.http2, worker(), None).await.unwrap();
    Pair { client, origin, served }
}

fn head(method: &str, path: &str) -> Parts {
    Request::builder().method(method).uri(path).header("host", "h.test").body(()).unwrap().into_parts().0
}

async fn call(
    client: &Connection,
    method: &str,
    path: &str,
    body: Body,
) -> Result<(u16, Result<String, Error>), SendError> {
    let response = client.send(&head(method, path), body, SendOptions::default(), None).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect(1 << 24).await;
    Ok((status, body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
}

#[test]
fn requests_and_responses_cross() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        let ok = |body: &str| Ok((200, Ok(body.to_owned())));
        assert_eq!(call(&pair.client, "GET", "/x?y", Body::empty()).await, ok("ok"));
        assert_eq!(call(&pair.client, "GET", "/pieces", Body::empty()).await, ok("abcdef"));
        assert_eq!(call(&pair.client, "POST", "/echo", pieces(&["ab", "cd"])).await, ok("abcd"));
        assert_eq!(call(&pair.client, "HEAD", "/", Body::empty()).await, ok(""));
        assert_eq!(call(&pair.client, "GET", "/204", Body::empty()).await, Ok((204, Ok(String::new()))));
        assert_eq!(call(&pair.client, "GET", "/abort", Body::empty()).await, Err(SendError::Reset(Reason::CANCEL)));
        let broken = call(&pair.client, "GET", "/breaks", Body::empty()).await;
        assert_eq!(broken, Ok((200, Err(Error::Reset(Reason::INTERNAL_ERROR)))));
        let seen = pair.origin.seen.borrow();
        assert_eq!((seen[0].line.as_str(), seen[0].header("host")), ("GET /x?y", Some("h.test")));
        assert_eq!(pair.client.active(), 0);
    });
}

#[test]
fn large_bodies_stream_both_ways_through_small_windows() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.initial_stream_window = 65_535;
        settings.http2.initial_connection_window = 65_535;
        let pair = pair(settings, Drain::never()).await;
        let blob = "0123456789abcdef".repeat(1 << 16);
        let (status, body) = call(&pair.client, "POST", "/echo", blob.clone().into()).await.unwrap();
        assert!(status == 200 && body == Ok(blob));
    });
}

#[test]
fn trailers_cross() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        for (path, body) in [
            ("/trailers", Body::empty()),
            ("/echo", {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-tail", HeaderValue::from_static("1"));
                Body::full_with_trailers("data", trailers)
            }),
        ] {
            let response = pair.client.send(&head("POST", path), body, SendOptions::default(), None).await.unwrap();
            let mut body = response.into_body();
            assert_eq!(body.next().await.unwrap().unwrap().into_data().unwrap(), "data");
            assert_eq!(body.next().await.unwrap().unwrap().into_trailers().unwrap()["x-tail"], "1");
            assert!(body.next().await.is_none());
        }
    });
}

#[test]
fn many_streams_share_a_connection() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        let calls: Vec<_> = (0..50)
            .map(|_| pair.client.send(&head("GET", "/slow"), Body::empty(), SendOptions::default(), None))
            .collect();
        assert_eq!(pair.client.active(), 50);
        let started = std::time::Instant::now();
        for call in calls.into_iter().map(tokio::task::spawn_local).collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(pair.client.active(), 0);
    });
}

#[test]
fn a_dropped_call_cancels_the_handler() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        let call = pair.client.send(&head("GET", "/hang"), Body::empty(), SendOptions::default(), None);
        let call = tokio::task::spawn_local(call);
        while pair.origin.started.get() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        call.abort();
        while pair.origin.dropped.get() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(pair.client.active(), 0);
        assert_eq!(call_status(&pair.client).await, Ok(200));
    });
}

async fn call_status(client: &Connection) -> Result<u16, SendError> {
    call(client, "GET", "/", Body::empty()).await.map(|(status, _)| status)
}

#[test]
fn websockets_cross_by_extended_connect() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.allow_connect = true;
        let pair = pair(settings, Drain::never()).await;
        call_status(&pair.client).await.unwrap();
        assert!(pair.client.takes_extended_connect());
        let options = SendOptions {
            upgrade: Some(Upgrade::Protocol(HeaderValue::from_static("websocket"))),
            ..SendOptions::default()
        };
        let response = pair.client.send(&head("GET", "/upgrade"), pieces(&["ping"]), options, None).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["upgrade"]),
            (101, &HeaderValue::from_static("websocket"))
        );
        assert_eq!(response.into_body().collect(100).await, Ok(Bytes::from_static(b"ping")));
    });
}

#[test]
fn interim_responses_cross() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        assert_eq!(call(&pair.client, "GET", "/hints", Body::empty()).await, Ok((200, Ok("ok".to_owned()))));
    });
}

#[test]
fn limits_of_heads_reset_the_stream() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.max_head_bytes = 10 * 1024;
        settings.http2.max_headers = 20;
        let (io, origin, _served) = serve(settings, Drain::never());
        let client = connect(io.into(), Settings::default(), worker(), None).await.unwrap();
        let with = |count: usize, size: usize| {
            let mut head = head("GET", "/");
            for i in 0..count {
                let name = http::HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap();
                head.headers.insert(name, HeaderValue::from_bytes(&vec![b'v'; size]).unwrap());
            }
            client.send(&head, Body::empty(), SendOptions::default(), None)
        };
        assert_eq!(with(1, 5000).await.unwrap().status(), StatusCode::OK);
        assert_eq!(with(10, 1).await.unwrap().status(), StatusCode::OK);
        assert_eq!(with(1, 12000).await.err(), Some(SendError::Reset(Reason::INTERNAL_ERROR)));
        assert_eq!(with(30, 1).await.err(), Some(SendError::Reset(Reason::INTERNAL_ERROR)));
        assert_eq!((origin.rejected.borrow().len(), origin.seen.borrow().len()), (2, 2));
    });
}

/// A connection by the `h2` crate's own client.
async fn foreign(io: tokio::io::DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    send.ready().await.unwrap()
}

#[test]
fn cookies_are_joined_and_lengths_checked() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.stream_errors = true;
        let (io, origin, _served) = serve(settings, Drain::never());
        let mut send = foreign(io).await;
        let request = Request::builder().uri("http://a.test/").header("cookie", "a=1").header("cookie", "b=2");
        let response = send.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(origin.seen.borrow()[0].header("cookie"), Some("a=1; b=2"));
        let request = Request::builder().method("POST").uri("http://a.test/").header("content-length", "5");
        let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(h2::Reason::PROTOCOL_ERROR));
        assert!(origin.seen.borrow().iter().filter(|seen| seen.body.is_ok()).count() == 1);
    });
}

#[test]
fn what_breaks_the_rules_of_heads_is_reset() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.stream_errors = true;
        let (io, origin, _served) = serve(settings, Drain::never());
        let mut send = foreign(io).await;
        let twice =
            Request::builder().uri("http://a.test/").header("content-length", "0").header("content-length", "0");
        for case in [twice, Request::builder().uri("http://user@a.test/")] {
            let answer = send.send_request(case.body(()).unwrap(), true).unwrap().0.await;
            assert_eq!(answer.unwrap_err().reason(), Some(h2::Reason::PROTOCOL_ERROR));
        }
        assert!(origin.seen.borrow().is_empty());
    });
}

#[test]
fn continue_is_sent_at_once() {
    run(async {
        let (io, origin, _served) = serve(server::Settings::default(), Drain::never());
        let mut send = foreign(io).await;
        let request = Request::builder().method("POST").uri("http://a.test/x").header("expect", "100-continue");
        let (mut response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), StatusCode::CONTINUE);
        stream.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        assert_eq!(origin.seen.borrow()[0].header("expect"), None);
    });
}

#[test]
fn a_flood_ends_the_connection() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.floods.control_frames = 100;
        let (mut io, _origin, served) = serve(settings, Drain::never());
        let ping = b"\0\0\x08\x06\0\0\0\0\x0012345678";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let flood = [&preface[..], &ping.repeat(1000)].concat();
        tokio::io::AsyncWriteExt::write_all(&mut io, &flood).await.unwrap();
        assert_eq!(served.await.unwrap(), Closed::Protocol { reason: Reason::ENHANCE_YOUR_CALM, in_request: false });
    });
}

#[test]
fn a_drain_says_goaway_and_lets_streams_finish() {
    run(async {
        let drain = DrainHandle::new();
        let pair = pair(server::Settings::default(), drain.subscribe()).await;
        let slow = tokio::task::spawn_local(pair.client.send(
            &head("GET", "/slow"),
            Body::empty(),
            SendOptions::default(),
            None,
        ));
        while pair.origin.started.get() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drain.start();
        assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
        pair.client.closed().await;
        assert!(!pair.client.is_usable());
        assert_eq!(call_status(&pair.client).await, Err(SendError::NotSent));
        assert_eq!(pair.served.await.unwrap(), Closed::Drained);
    });
}

#[test]
fn idle_connections_end() {
    run(async {
        let settings = server::Settings {
            idle_timeout: Some(Duration::from_millis(50)),
            drain_timeout: Duration::from_millis(50),
            ..server::Settings::default()
        };
        let pair = pair(settings, Drain::never()).await;
        assert_eq!(call_status(&pair.client).await, Ok(200));
        pair.client.closed().await;
        assert_eq!(pair.served.await.unwrap(), Closed::Timeout("the idle timeout"));
    });
}

#[test]
fn a_limit_of_requests_ends_the_connection_after_them() {
    run(async {
        let settings = server::Settings { max_requests_per_connection: Some(2), ..server::Settings::default() };
        let pair = pair(settings, Drain::never()).await;
        assert_eq!((call_status(&pair.client).await, call_status(&pair.client).await), (Ok(200), Ok(200)));
        pair.client.closed().await;
        assert_eq!(pair.served.await.unwrap(), Closed::AfterResponse);
    });
}

#[test]
fn the_pool_hears_of_each_stream_once() {
    #[derive(Default)]
    struct Pool(Cell<usize>, RefCell<Vec<bool>>);
    impl Release<Connection> for Pool {
        fn release(&self, connection: Option<Connection>) {
            self.0.set(self.0.get() + 1);
            self.1.borrow_mut().push(connection.is_some());
        }
    }
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        let pool = Rc::new(Pool::default());
        let release = || Some(pool.clone() as Rc<dyn Release<Connection>>);
        let response =
            pair.client.send(&head("GET", "/pieces"), Body::empty(), SendOptions::default(), release()).await.unwrap();
        assert_eq!(pool.0.get(), 0);
        drop(response);
        drop(pair.client.send(&head("GET", "/"), Body::empty(), SendOptions::default(), release()));
        pair.client.retire();
        drop(pair.client.send(&head("GET", "/"), Body::empty(), SendOptions::default(), release()));
        assert_eq!(*pool.1.borrow(), [true, true, false]);
    });
}

#[test]
fn a_refused_stream_is_told_from_a_reset_one() {
    run(async {
        let (io, peer) = tokio::io::duplex(1 << 16);
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(peer).await.unwrap();
            let mut reasons = [h2::Reason::REFUSED_STREAM, h2::Reason::ENHANCE_YOUR_CALM].into_iter();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reasons.next().unwrap_or(h2::Reason::CANCEL));
            }
        });
        let client = connect(io.into(), Settings::default(), worker(), None).await.unwrap();
        let refused = call_status(&client).await.unwrap_err();
        assert!(refused == SendError::Refused && refused.is_unprocessed());
        assert_eq!(call_status(&client).await, Err(SendError::Reset(Reason::ENHANCE_YOUR_CALM)));
    });
}

/// Reads a body of the `h2` crate, as fast as it comes.
async fn drain(mut stream: h2::RecvStream) -> (usize, Option<http::HeaderMap>) {
    let mut total = 0;
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        total += data.len();
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    (total, stream.trailers().await.unwrap())
}

/// Sends all of `data` on a stream of the `h2` crate.
async fn fill(stream: &mut h2::SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = data.split_to(capacity.min(data.len()));
        stream.send_data(piece, end && data.is_empty()).unwrap();
    }
}

#[test]
fn a_foreign_client_is_served() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.initial_stream_window = 65_535;
        let (io, _origin, _served) = serve(settings, Drain::never());
        let mut send = foreign(io).await;
        for round in 0..20 {
            let request = Request::builder().method("POST").uri("http://a.test/echo").header("x-round", round);
            let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
            let up = async {
                fill(&mut stream, vec![b'x'; 300_000].into(), false).await;
                stream.send_trailers(http::HeaderMap::new()).unwrap();
            };
            let down = async {
                let response = response.await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                drain(response.into_body()).await
            };
            assert_eq!(tokio::join!(up, down).1.0, 300_000);
        }
        let response = send.send_request(Request::post("http://a.test/trailers").body(()).unwrap(), true).unwrap().0;
        let (bytes, trailers) = drain(response.await.unwrap().into_body()).await;
        assert_eq!((bytes, trailers.unwrap()["x-tail"].as_bytes()), (4, &b"1"[..]));
        let response = send.send_request(Request::get("http://a.test/abort").body(()).unwrap(), true).unwrap().0;
        assert_eq!(response.await.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    });
}

#[test]
fn a_foreign_server_is_used() {
    run(async {
        let (io, peer) = tokio::io::duplex(1 << 16);
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::Builder::new().initial_window_size(70_000).handshake(peer).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::task::spawn_local(async move {
                    let length = request.headers().get("x-many").cloned();
                    let (total, trailers) = drain(request.into_body()).await;
                    let mut response = http::Response::new(());
                    response.headers_mut().insert("x-total", total.into());
                    length.map(|length| response.headers_mut().insert("x-many", length));
                    let mut stream = respond.send_response(response, false).unwrap();
                    fill(&mut stream, vec![b'y'; total].into(), false).await;
                    stream.send_trailers(trailers.unwrap_or_default()).unwrap();
                });
            }
        });
        let client = connect(io.into(), Settings::default(), worker(), None).await.unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-tail", HeaderValue::from_static("1"));
        let calls = (0..20).map(|i| {
            let body = Body::full_with_trailers(vec![b'x'; 100_000 + i], trailers.clone());
            let mut head = head("POST", "/");
            head.headers.insert("x-many", i.into());
            client.send(&head, body, SendOptions::default(), None)
        });
        let calls: Vec<_> = calls.map(tokio::task::spawn_local).collect();
        for (i, call) in calls.into_iter().enumerate() {
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.headers()["x-total"], (100_000 + i).to_string());
            assert_eq!(response.headers()["x-many"], i.to_string());
            let mut body = response.into_body();
            let (mut bytes, mut tail) = (0, None);
            while let Some(frame) = body.next().await {
                match frame.unwrap().into_data() {
                    Ok(data) => bytes += data.len(),
                    Err(frame) => tail = frame.into_trailers().ok(),
                }
            }
            assert_eq!((bytes, tail), (100_000 + i, Some(trailers.clone())));
        }
        assert_eq!(client.active(), 0);
    });
}

#[test]
fn a_reader_that_stands_still_holds_nobody_else() {
    run(async {
        let pair = pair(server::Settings::default(), Drain::never()).await;
        let blob = Bytes::from(vec![b'x'; 1 << 20]);
        let still = pair.client.send(&head("POST", "/echo"), blob.into(), SendOptions::default(), None);
        let still = still.await.unwrap();
        for _ in 0..3 {
            assert_eq!(call(&pair.client, "GET", "/", Body::empty()).await, Ok((200, Ok("ok".to_owned()))));
        }
        assert_eq!(still.into_body().collect(1 << 21).await.map(|bytes| bytes.len()), Ok(1 << 20));
    });
}

#[test]
fn requests_wait_for_a_place() {
    run(async {
        let mut settings = server::Settings::default();
        settings.http2.max_concurrent_streams = 2;
        let pair = pair(settings, Drain::never()).await;
        let calls: Vec<_> = (0..6)
            .map(|_| pair.client.send(&head("GET", "/slow"), Body::empty(), SendOptions::default(), None))
            .map(tokio::task::spawn_local)
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert_eq!(pair.client.requests(), 6);
    });
}

#[test]
fn a_dead_peer_is_found_by_pings() {
    run(async {
        let (io, _silent) = tokio::io::duplex(1 << 16);
        let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(30));
        let keepalive = Some(super::Keepalive { interval, timeout, jitter_percent: 0.0 });
        let client = connect(io.into(), Settings { keepalive, ..Settings::default() }, worker(), None).await.unwrap();
        let failed = call_status(&client).await;
        assert_eq!(failed, Err(SendError::Io(std::io::ErrorKind::TimedOut)));
    });
}

#[test]
fn a_malformed_request_is_on_record_and_ends_the_connection() {
    use super::frame::{self, flag};
    run(async {
        let (mut io, origin, served) = serve(server::Settings::default(), Drain::never());
        let mut bytes = bytes::BytesMut::from(&frame::PREFACE[..]);
        frame::put_settings(&[], &mut bytes);
        // GET without anything else.
        frame::put_head(frame::kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, 1, &mut bytes);
        bytes.extend_from_slice(&[0x82]);
        tokio::io::AsyncWriteExt::write_all(&mut io, &bytes).await.unwrap();
        drop(io);
        assert_eq!(served.await.unwrap(), Closed::Protocol { reason: Reason::PROTOCOL_ERROR, in_request: true });
        let rejected = origin.rejected.borrow();
        assert_eq!((rejected.len(), rejected[0].details), (1, "http2.violation.of.messaging.rule"));
    });
}
