//! The client side against a scripted origin.
use http::request::Parts;

use super::*;
use crate::codec::h1::client::{Connection, Settings as ClientSettings};
use crate::codec::{Release, SendError, SendOptions};

#[derive(Default)]
struct Pool {
    back: RefCell<Vec<Option<Connection>>>,
}

impl Release<Connection> for Pool {
    fn release(&self, connection: Option<Connection>) {
        self.back.borrow_mut().push(connection);
    }
}

impl Pool {
    /// Whether each exchange gave its connection back.
    fn reused(&self) -> Vec<bool> {
        self.back.borrow().iter().map(Option::is_some).collect()
    }
}

fn head(method: &str, path: &'static str) -> Parts {
    Request::builder().method(method).uri(path).header("host", "h").body(()).unwrap().into_parts().0
}

fn connect() -> (Connection, DuplexStream, Rc<Pool>) {
    let mut settings = ClientSettings::default();
    settings.limits.trailers = true;
    let (io, origin) = tokio::io::duplex(1 << 16);
    (Connection::new(io.into(), Rc::new(settings), worker()), origin, Rc::default())
}

/// One exchange: the origin reads the request, then writes `answer` and closes if asked.
async fn exchange(
    method: &str,
    answer: &[u8],
    close: bool,
) -> (Result<(u16, Result<String, Error>), SendError>, Vec<bool>) {
    let (connection, mut origin, pool) = connect();
    let future = connection.send(&head(method, "/p"), Body::empty(), SendOptions::default(), pool.clone());
    let script = async {
        let mut buf = [0; 1024];
        assert!(origin.read(&mut buf).await.unwrap() > 0);
        origin.write_all(answer).await.unwrap();
        if close { None } else { Some(origin) }
    };
    let call = async {
        let response = future.await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect(1 << 20).await;
        Ok((status, body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
    };
    let (result, origin) = tokio::join!(call, async {
        let origin = script.await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        origin
    });
    drop(origin);
    let reused = pool.reused();
    (result, reused)
}

#[test]
fn responses() {
    let ok = |status: u16, body: &str| Ok((status, Ok(body.to_owned())));
    let cut = |status: u16| Ok((status, Err(Error::Closed)));
    let protocol = |why| Err(SendError::Protocol(why));
    type Case = (&'static str, &'static [u8], bool, Result<(u16, Result<String, Error>), SendError>, bool);
    let cases: Vec<Case> = vec![
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, ok(200, "hi"), true),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, ok(200, ""), true),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false, ok(200, "hi"), true),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", false, ok(200, "hi"), false),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", true, ok(200, "until the end"), false),
        ("GET", b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", false, ok(200, "x"), false),
        ("GET", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx", false, ok(200, "x"), true),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", false, ok(200, ""), true),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", false, ok(304, ""), true),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", false, ok(204, ""), true),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false, ok(204, ""), true),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", false, protocol("content-length in a response without content"), false),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, ok(200, ""), true),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi surplus", false, ok(200, "hi"), false),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", true, cut(200), false),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", true, cut(200), false),
        ("GET", b"", true, Err(SendError::ClosedBeforeResponse { reused: false }), false),
        ("GET", b"HTTP/1.1 20", true, Err(SendError::PartialResponse), false),
        ("GET", b"garbage\r\n\r\n", false, protocol("invalid start line"), false),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi", false, protocol("invalid or repeated content-length"), false),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", false, protocol("both content-length and transfer-encoding"), false),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", false, protocol("unsupported transfer coding"), false),
        ("GET", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", false, protocol("101 without an upgrade"), false),
        ("GET", b"HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n", false, protocol("invalid header name"), false),
    ];
    for (method, answer, close, expected, reused) in cases {
        let shown = String::from_utf8_lossy(answer).into_owned();
        assert_eq!(run(exchange(method, answer, close)), (expected, vec![reused]), "{method} {shown}");
    }
}

#[test]
fn what_leaves() {
    run(async {
        let text = |method, body: Body| async move {
            let (connection, mut origin, pool) = connect();
            let mut parts = head(method, "/p?q");
            parts.headers.insert("x-a", http::HeaderValue::from_static("1"));
            parts.headers.insert("connection", http::HeaderValue::from_static("x"));
            let future = connection.send(&parts, body, SendOptions::default(), pool);
            tokio::time::timeout(Duration::from_millis(20), future).await.err();
            receive(&mut origin).await.0
        };
        assert_eq!(text("GET", Body::empty()).await, "GET /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\n\r\n");
        assert_eq!(
            text("POST", Body::empty()).await,
            "POST /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(
            text("POST", "abc".into()).await,
            "POST /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\ncontent-length: 3\r\n\r\nabc"
        );
        assert_eq!(
            text("POST", pieces(&["ab", "c"])).await,
            "POST /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        );
    });
}

#[test]
fn an_early_response_comes_while_the_upload_goes_on() {
    run(async {
        let (connection, mut origin, pool) = connect();
        let wire = serve(Settings::default());
        drop(wire);
        let (upload, feed) = pipe();
        let future = connection.send(&head("POST", "/p"), upload, SendOptions::default(), pool.clone());
        let answer = tokio::task::spawn_local(async move {
            let mut buf = [0; 1024];
            assert!(origin.read(&mut buf).await.unwrap() > 0);
            origin.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n").await.unwrap();
            let mut all = String::new();
            while !all.ends_with("0\r\n\r\n") {
                let n = origin.read(&mut buf).await.unwrap();
                all.push_str(&String::from_utf8_lossy(&buf[..n]));
            }
            origin.write_all(b"0\r\n\r\n").await.unwrap();
            (all, origin)
        });
        let mut body = future.await.unwrap().into_body();
        assert_eq!(body.next().await.unwrap().unwrap().into_data().unwrap(), "hi");
        feed.send("more").unwrap();
        drop(feed);
        assert!(body.next().await.is_none());
        assert_eq!(answer.await.unwrap().0, "4\r\nmore\r\n0\r\n\r\n");
        assert_eq!(pool.reused(), [true]);
    });
}

/// A body fed through a channel.
fn pipe() -> (Body, tokio::sync::mpsc::UnboundedSender<&'static str>) {
    struct Pipe(tokio::sync::mpsc::UnboundedReceiver<&'static str>);
    impl http_body::Body for Pipe {
        type Data = Bytes;
        type Error = Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
            self.0
                .poll_recv(cx)
                .map(|text| text.map(|text| Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes())))))
        }
    }
    let (feed, rest) = tokio::sync::mpsc::unbounded_channel();
    (Body::boxed(Pipe(rest)), feed)
}

#[test]
fn a_stale_connection_is_noticed_before_and_after_sending() {
    run(async {
        let (mut connection, origin, pool) = connect();
        assert!(connection.is_reusable());
        drop(origin);
        assert!(!connection.is_reusable());
        let result = connection.send(&head("GET", "/"), Body::empty(), SendOptions::default(), pool.clone()).await;
        assert_eq!(result.err(), Some(SendError::NotSent));
        assert_eq!(pool.reused(), [false]);
        let (mut connection, mut origin, _) = connect();
        origin.write_all(b"unasked").await.unwrap();
        assert!(!connection.is_reusable());
    });
}

#[test]
fn a_dropped_call_closes_its_connection() {
    run(async {
        let (connection, mut origin, pool) = connect();
        let future = connection.send(&head("GET", "/"), Body::empty(), SendOptions::default(), pool.clone());
        drop(future);
        assert_eq!(pool.reused(), [false]);
        assert_eq!(receive(&mut origin).await, (String::new(), true));
    });
}

#[test]
fn proxying_an_upgrade_is_passing_two_bodies() {
    struct Forward(RefCell<Option<Connection>>, Rc<Pool>);
    impl Handler for Forward {
        async fn handle(&self, request: Request<Body>, meta: RequestMeta) -> Response<Body> {
            let (parts, body) = request.into_parts();
            let options = SendOptions {
                upgrade: meta.upgrade,
                informational: Some(meta.informational),
                ..SendOptions::default()
            };
            let connection = self.0.borrow_mut().take().unwrap();
            connection.send(&parts, body, options, self.1.clone()).await.unwrap()
        }
    }
    run(async {
        let (connection, mut origin, pool) = connect();
        let (mut client, io) = tokio::io::duplex(1 << 16);
        let served = tokio::task::spawn_local(async move {
            let handler = Forward(RefCell::new(Some(connection)), pool);
            server::serve(io.into(), Rc::default(), worker(), &handler, Drain::never()).await
        });
        client
            .write_all(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let asked = receive(&mut origin).await.0;
        assert_eq!(asked, "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        origin.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: k\r\n\r\nhello").await.unwrap();
        let answer = receive(&mut client).await.0;
        assert!(
            answer.starts_with("HTTP/1.1 101 ")
                && answer.contains("upgrade: websocket")
                && answer.ends_with("\r\n\r\nhello")
        );
        client.write_all(b"ping").await.unwrap();
        assert_eq!(receive(&mut origin).await.0, "ping");
        client.shutdown().await.unwrap();
        assert_eq!(receive(&mut origin).await, (String::new(), true));
        assert_eq!(receive(&mut client).await, (String::new(), true));
        assert_eq!(served.await.unwrap(), Closed::ByPeerInRequest);
    });
}

#[test]
fn a_terminated_connect_is_a_tunnel() {
    struct Terminate(RefCell<Option<DuplexStream>>);
    impl Handler for Terminate {
        async fn handle(&self, request: Request<Body>, meta: RequestMeta) -> Response<Body> {
            assert_eq!(meta.upgrade, Some(crate::codec::Upgrade::Connect));
            assert_eq!(request.uri().authority().map(|a| a.as_str()), Some("x.test:443"));
            let io = self.0.borrow_mut().take().unwrap();
            Response::new(crate::codec::Tunnel::new(io.into(), request.into_body(), Default::default()).into())
        }
    }
    run(async {
        let (mut origin, upstream) = tokio::io::duplex(1 << 16);
        let (mut client, io) = tokio::io::duplex(1 << 16);
        let served = tokio::task::spawn_local(async move {
            let handler = Terminate(RefCell::new(Some(upstream)));
            server::serve(io.into(), Rc::default(), worker(), &handler, Drain::never()).await
        });
        client.write_all(b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\n\r\ntunnel").await.unwrap();
        assert_eq!(receive(&mut client).await, ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), false));
        assert_eq!(receive(&mut origin).await, ("tunnel".to_owned(), false));
        origin.write_all(b"back").await.unwrap();
        assert_eq!(receive(&mut client).await.0, "back");
        client.shutdown().await.unwrap();
        assert_eq!(receive(&mut origin).await, (String::new(), true));
        // The client's half is the tunnel's end.
        assert_eq!(receive(&mut client).await, (String::new(), true));
        assert_eq!(served.await.unwrap(), Closed::ByPeerInRequest);
    });
}

#[test]
fn a_response_in_single_bytes_is_the_same() {
    run(async {
        let (connection, mut origin, pool) = connect();
        let call = connection.send(&head("GET", "/p"), Body::empty(), SendOptions::default(), pool.clone());
        let script = async {
            assert!(origin.read(&mut [0; 1024]).await.unwrap() > 0);
            let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: v\r\n\r\n";
            for byte in answer {
                origin.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let response = call.await.unwrap();
            assert_eq!(response.headers()["x-a"], "b");
            let (mut text, mut body) = (Vec::new(), response.into_body());
            while let Some(frame) = body.next().await {
                match frame.unwrap().into_data() {
                    Ok(data) => text.extend_from_slice(&data),
                    Err(frame) => assert_eq!(frame.into_trailers().unwrap()["x-t"], "v"),
                }
            }
            text
        };
        let (text, ()) = tokio::join!(read, script);
        assert_eq!(text, b"abcde");
        assert_eq!(pool.reused(), [true]);
    });
}

#[test]
fn a_response_that_comes_before_its_upload_costs_the_connection() {
    run(async {
        let (connection, mut origin, pool) = connect();
        let (upload, _feed) = pipe();
        let call = connection.send(&head("POST", "/p"), upload, SendOptions::default(), pool.clone());
        let script = async {
            assert!(origin.read(&mut [0; 1024]).await.unwrap() > 0);
            origin.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        };
        let (response, ()) = tokio::join!(call, script);
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.into_body().collect(10).await.unwrap(), "no");
        assert_eq!(pool.reused(), [false]);
        assert!(receive(&mut origin).await.1);
    });
}
