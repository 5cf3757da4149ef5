//! What a codec hands to the layer above: the request, what the connection knows about it, and the answers that the codec
//! makes itself.
use std::future::Future;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use super::body::{self, Body};
use super::{Protocol, h1, h2};

/// The layer above a server codec: one per connection, shared by its requests.
pub trait Handler {
    /// Answers one request. Dropped when the client goes away, which is the cancellation of all it holds. On HTTP/2 several run
    /// at once. `connection: close` in the response ends the connection after it (HTTP/2: GOAWAY); see also [`abort`].
    fn handle(&self, request: Request<Body>, meta: RequestMeta) -> impl Future<Output = Response<Body>>;

    /// The answer to something that is no request, or one that the codec refuses. Here it is logged and counted, and gets
    /// the proxy's own headers (`date`, `server`).
    fn reject(&self, rejection: Rejection) -> Response<Body> {
        rejection.response()
    }

    /// The HTTP/2 connection is over, with all the requests that are still open: their futures and bodies are dropped next.
    fn ends(&self, _how: Ending) {}

    /// Something to be counted has happened on an HTTP/2 connection.
    fn happened(&self, _events: &h2::Events) {}
}

/// What ends an HTTP/2 connection before its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it, or is out of reach.
    Peer,
    /// The peer broke the protocol; Envoy's response code details.
    Fault(&'static str),
}

/// A message that the codec answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status sent, or that would be sent: HTTP/2 resets the stream instead.
    pub status: StatusCode,
    /// Envoy's response code details.
    pub details: &'static str,
    /// The text of the response.
    pub body: &'static str,
    /// The protocol it came by.
    pub protocol: Protocol,
    /// It befell a request that the handler already had (a broken chunk); the handler's future was dropped before this call.
    pub in_request: bool,
    /// No response can be sent: the call is for the log and the counters, its result is dropped.
    pub silent: bool,
    /// Bytes of the head that were received.
    pub head_bytes: usize,
}

impl Rejection {
    /// Status, text and `content-type`.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        if !self.body.is_empty() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        response
    }
}

/// A "response" that makes the codec reset the stream (HTTP/2) or close the connection without an answer (HTTP/1).
pub fn abort(error: body::Error) -> Response<Body> {
    Response::new(Body::failed(error))
}

/// The scheme of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    #[default]
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// As in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What a request asks to be switched to. The internal form is HTTP/1's: the answer that accepts has status 101 for a protocol
/// and 2xx for CONNECT, and then both bodies are the raw bytes. HTTP/2's extended CONNECT (RFC 8441) is translated by the codecs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// A CONNECT request.
    Connect,
    /// `connection: upgrade` with this `upgrade` value, or an extended CONNECT with this `:protocol`.
    Protocol(HeaderValue),
}

/// What is known about a request besides its head and body.
#[derive(Clone, Debug)]
pub struct RequestMeta {
    /// The protocol it came by.
    pub protocol: Protocol,
    /// The scheme it names itself (absolute form, `:scheme`); not trusted, not checked against the connection.
    pub scheme: Option<Scheme>,
    /// The upgrade it asks for.
    pub upgrade: Option<Upgrade>,
    /// When its head was complete.
    pub received: Instant,
    /// The size of its head (HTTP/2: of the decoded header list).
    pub head_bytes: usize,
    /// How many requests the connection carried before.
    pub requests_before: u64,
    /// It was answered `100 Continue` already.
    pub continued: bool,
    /// Sends interim responses.
    pub informational: Informational,
}

/// Sends interim (1xx) responses to the client of one request, in front of the response.
#[derive(Clone, Default)]
pub struct Informational {
    kind: Option<InformationalKind>,
}

#[derive(Clone)]
enum InformationalKind {
    H1(h1::server::InformationalSender),
    H2(h2::InformationalSender),
}

impl std::fmt::Debug for Informational {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informational").field("connected", &self.kind.is_some()).finish()
    }
}

impl From<h1::server::InformationalSender> for Informational {
    fn from(sender: h1::server::InformationalSender) -> Self {
        Self { kind: Some(InformationalKind::H1(sender)) }
    }
}

impl From<h2::InformationalSender> for Informational {
    fn from(sender: h2::InformationalSender) -> Self {
        Self { kind: Some(InformationalKind::H2(sender)) }
    }
}

impl Informational {
    /// Queues one interim response. Without effect once the response has begun, for HTTP/1.0, and for 101.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        match &self.kind {
            Some(InformationalKind::H1(sender)) => sender.send(status, headers),
            Some(InformationalKind::H2(sender)) => sender.send(status, headers),
            None => {}
        }
    }
}
