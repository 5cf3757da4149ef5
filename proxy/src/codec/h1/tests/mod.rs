//! Both sides over in-memory pipes, seen from the wire.
mod client;
mod framing;
mod refusal;
mod serving;
mod tokens;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::server::{self, Settings};
use crate::clock::Random;
use crate::codec::body::{Body, Error};
use crate::codec::{Closed, Drain, Handler, Local, Rejection, RequestMeta, path_and_query};

/// Runs a test on a worker-like runtime, with an end to a test that hangs.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs")
    })
}

pub(crate) fn worker() -> Local {
    Local::new(Random::seeded(7))
}

/// What a handler saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Result<String, Error>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Answers by path, and notes what it was asked.
#[derive(Default)]
pub(crate) struct Origin {
    pub(crate) seen: RefCell<Vec<Seen>>,
    pub(crate) rejected: RefCell<Vec<Rejection>>,
    pub(crate) started: Cell<usize>,
    pub(crate) dropped: Rc<Cell<usize>>,
}

struct CountDrop(Rc<Cell<usize>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Chunks that come one per poll.
pub(crate) fn pieces(parts: &'static [&'static str]) -> Body {
    struct Pieces(std::slice::Iter<'static, &'static str>);
    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
            std::task::Poll::Ready(self.0.next().map(|text| match *text {
                "fail" => Err(Error::Closed),
                text => Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes()))),
            }))
        }
    }
    Body::boxed(Pieces(parts.iter()))
}

impl Handler for Origin {
    async fn handle(&self, request: Request<Body>, meta: RequestMeta) -> Response<Body> {
        let guard = CountDrop(self.dropped.clone());
        self.started.set(self.started.get() + 1);
        let (parts, body) = request.into_parts();
        let path = path_and_query(&parts).to_owned();
        let mut response = Response::new(Body::from("ok"));
        match path.as_str() {
            "/hang" => std::future::pending::<()>().await,
            "/unread" => return response,
            "/pieces" => *response.body_mut() = pieces(&["ab", "cde", "f"]),
            "/breaks" => *response.body_mut() = pieces(&["ab", "fail"]),
            "/abort" => return crate::codec::abort(Error::Canceled),
            "/close" => drop(response.headers_mut().insert("connection", http::HeaderValue::from_static("close"))),
            "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/trailers" => {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-tail", http::HeaderValue::from_static("1"));
                *response.body_mut() = Body::full_with_trailers("data", trailers);
            }
            "/hints" => meta.informational.send(StatusCode::EARLY_HINTS, &http::HeaderMap::new()),
            "/echo" => {
                drop(guard);
                return Response::new(body);
            }
            "/upgrade" => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.body_mut() = body;
                return response;
            }
            "/slow" => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => {}
        }
        let body = body.collect(1 << 20).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        self.seen.borrow_mut().push(Seen {
            line: format!(
                "{} {}",
                parts.method,
                if parts.uri.path().is_empty() { parts.uri.to_string() } else { path }
            ),
            headers: parts
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
                .collect(),
            body,
        });
        response
    }

    fn reject(&self, rejection: Rejection) -> Response<Body> {
        self.rejected.borrow_mut().push(rejection);
        rejection.response()
    }
}

/// A served connection.
pub(crate) struct Wire {
    pub(crate) client: DuplexStream,
    pub(crate) origin: Rc<Origin>,
    pub(crate) served: tokio::task::JoinHandle<Closed>,
}

pub(crate) fn serve_with(settings: Settings, drain: Drain) -> Wire {
    let (client, io) = tokio::io::duplex(1 << 20);
    let origin = Rc::new(Origin::default());
    let handler = origin.clone();
    let served = tokio::task::spawn_local(async move {
        server::serve(io.into(), Rc::new(settings), worker(), &*handler, drain).await
    });
    Wire { client, origin, served }
}

pub(crate) fn serve(settings: Settings) -> Wire {
    serve_with(settings, Drain::never())
}

impl Wire {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// What comes until the server is silent for a moment or closes; and whether it closed.
    pub(crate) async fn receive(&mut self) -> (String, bool) {
        receive(&mut self.client).await
    }

    /// Sends, and returns the status lines that come back.
    pub(crate) async fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes).await;
        self.receive().await.0
    }
}

pub(crate) async fn receive(stream: &mut DuplexStream) -> (String, bool) {
    let mut all = Vec::new();
    let mut buf = vec![0; 65536];
    loop {
        match tokio::time::timeout(Duration::from_millis(150), stream.read(&mut buf)).await {
            Ok(Ok(0)) | Ok(Err(_)) => return (String::from_utf8_lossy(&all).into_owned(), true),
            Ok(Ok(n)) => all.extend_from_slice(&buf[..n]),
            Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
        }
    }
}

/// The status codes of all responses in `text`.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text[at..].get(9..12)?.parse().ok()).collect()
}
