//! A request's way through the codecs: bytes → our server → our client → our server, which stands for an origin as strict
//! as can be.
//!
//! What must hold is what smuggling breaks: each request that the first server hands over is exactly one request to the
//! origin, with the same method and target, and the origin has nothing to refuse in what our client wrote.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use sidemesh_proxy::clock::Random;
use sidemesh_proxy::codec::h1::client::{Connection, Settings as ClientSettings};
use sidemesh_proxy::codec::h1::server::{self as h1, Settings as Http1};
use sidemesh_proxy::codec::h2::server::{self as h2, Settings as Http2};
use sidemesh_proxy::codec::{
    Body, Drain, Handler, Local, Rejection, Release, RequestMeta, SendError, SendOptions, abort, body, path_and_query,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the client speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Front {
    Http1,
    Http2,
}

/// More than any input needs; reaching it is a hang.
const PATIENCE: Duration = Duration::from_secs(10);
const PIPE_BYTES: usize = 1 << 16;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Sends `data` as a client would, in pieces whose size its first byte chooses, and then closes its sending half.
pub fn relay(front: Front, data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let piece = [1, 3, 17, 64, 1000, usize::MAX][usize::from(*choice) % 6];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let (client, io) = tokio::io::duplex(PIPE_BYTES);
        let handler = Relay { local: Local::new(Random::seeded(1)) };
        let serving = async {
            match front {
                Front::Http1 => {
                    h1::serve(io.into(), http1(*choice), handler.local.clone(), &handler, Drain::never()).await
                }
                Front::Http2 => h2::serve(io.into(), http2(), handler.local.clone(), &handler, Drain::never()).await,
            }
        };
        let whole = async { tokio::join!(serving, talk(client, front, bytes, piece)) };
        tokio::time::timeout(PATIENCE, whole).await.expect("the connection hangs");
    });
}

fn http1(choice: u8) -> Rc<Http1> {
    let flag = |bit: u8| choice & (1 << bit) != 0;
    let mut settings = Http1 {
        accept_http_10: flag(3),
        allow_custom_methods: flag(4),
        allow_chunked_length: flag(5),
        delayed_close_timeout: Duration::ZERO,
        ..Http1::default()
    };
    settings.limits.trailers = flag(6);
    Rc::new(settings)
}

fn http2() -> Http2 {
    Http2 { delayed_close_timeout: Duration::ZERO, drain_timeout: Duration::ZERO, ..Http2::default() }
}

/// The client: writes all, reads to the end.
async fn talk(client: DuplexStream, front: Front, bytes: &[u8], piece: usize) {
    let (mut read, mut write) = tokio::io::split(client);
    let writing = async {
        if front == Front::Http2 && write.write_all(PREFACE).await.is_err() {
            return;
        }
        for part in bytes.chunks(piece.min(bytes.len().max(1))) {
            // The server has the right to close before it has read everything.
            if write.write_all(part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let reading = async {
        let mut sink = vec![0; 4096];
        while matches!(read.read(&mut sink).await, Ok(1..)) {}
    };
    tokio::join!(writing, reading);
}

/// Passes each request on, on a connection of its own.
struct Relay {
    local: Local,
}

impl Handler for Relay {
    async fn handle(&self, request: Request<Body>, meta: RequestMeta) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (method, target) = (parts.method.clone(), target(&parts));
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let origin = Rc::new(Origin { upgrades: meta.upgrade.is_some(), ..Origin::default() });
        let seen = origin.clone();
        let local = self.local.clone();
        tokio::task::spawn_local(async move {
            let settings =
                Http1 { allow_custom_methods: true, delayed_close_timeout: Duration::ZERO, ..Http1::default() };
            h1::serve(far.into(), Rc::new(settings), local, &*origin, Drain::never()).await
        });
        let client = Rc::new(ClientSettings::default());
        let options =
            SendOptions { informational: None, upgrade: meta.upgrade, scheme: meta.scheme.unwrap_or_default() };
        let connection = Connection::new(near.into(), client, self.local.clone());
        let result = connection.send(&parts, body, options, Rc::new(Dropped)).await;
        let refused = seen.refused.get();
        match result {
            Ok(response) => {
                assert_eq!(refused, None, "the origin refuses what we sent");
                assert_eq!(*seen.requests.borrow(), [(method, target)], "one request became another, or several");
                response
            }
            Err(SendError::RequestBody(error)) => abort(error),
            Err(error) => panic!("our own origin: {error}; it refused {refused:?}"),
        }
    }
}

fn target(parts: &http::request::Parts) -> String {
    if parts.method == Method::CONNECT { parts.uri.to_string() } else { path_and_query(parts).to_owned() }
}

/// Notes what it is asked, reads it to the end and answers with it.
#[derive(Default)]
struct Origin {
    requests: RefCell<Vec<(Method, String)>>,
    refused: Cell<Option<Rejection>>,
    upgrades: bool,
}

impl Handler for Origin {
    async fn handle(&self, request: Request<Body>, _meta: RequestMeta) -> Response<Body> {
        let (parts, body) = request.into_parts();
        self.requests.borrow_mut().push((parts.method.clone(), target(&parts)));
        if self.upgrades {
            return Response::new(Body::empty());
        }
        match body.collect(1 << 20).await {
            Ok(bytes) => Response::new(Body::full(bytes)),
            Err(error) => abort(body::Error::Other(error.to_string().into())),
        }
    }

    fn reject(&self, rejection: Rejection) -> Response<Body> {
        // A body that the client cut off is not what our client wrote.
        if !rejection.in_request {
            self.refused.set(Some(rejection));
        }
        rejection.response()
    }
}

/// A connection that carried its one request.
struct Dropped;

impl Release<Connection> for Dropped {
    fn release(&self, _connection: Option<Connection>) {}
}
