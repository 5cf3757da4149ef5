//! One request: what the handler gets, and waiting for its answer.
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version};

use super::conn::{Conn, InformationalSender, RequestBody};
use super::idle::Head;
use super::response;
use crate::codec::body::{Body, Error};
use crate::codec::h1::request::Refusal;
use crate::codec::handler::{Ending, Handler, Rejection, RequestMeta, Upgrade};
use crate::codec::{Closed, Drain, Protocol};

/// What happens to the connection next.
pub(super) enum After {
    /// Another request.
    Next,
    /// End this half, and let the client read.
    Linger(Closed),
    /// Close it.
    Drop(Closed),
    /// Close it so that the client cannot take what it has for complete.
    Cut(Closed),
}

impl After {
    /// Not another request, whatever came before.
    pub(super) fn close(self, closed: Closed) -> Self {
        match self {
            Self::Next | Self::Linger(_) => Self::Linger(closed),
            other => other,
        }
    }
}

/// What the response depends on.
pub(super) struct Exchange {
    pub(super) version: Version,
    pub(super) head: bool,
    pub(super) keep_alive: bool,
    pub(super) keep_alive_said: bool,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) connect: bool,
    pub(super) head_bytes: usize,
}

impl Exchange {
    /// For something that was not understood as a request.
    pub(super) fn refused(head_bytes: usize) -> Self {
        Self {
            version: Version::HTTP_11,
            head: false,
            keep_alive: false,
            keep_alive_said: false,
            upgrade: None,
            connect: false,
            head_bytes,
        }
    }
}

impl Refusal {
    pub(super) fn rejection(self, head_bytes: usize, in_request: bool) -> Rejection {
        Rejection {
            status: self.status,
            details: self.details,
            body: self.body,
            protocol: Protocol::Http11,
            in_request,
            silent: false,
            head_bytes,
        }
    }
}

/// Serves one request: the handler's answer, written.
pub(super) async fn run<H: Handler>(
    conn: &Rc<RefCell<Conn>>,
    handler: &H,
    drain: &Drain,
    deadline: Option<Instant>,
    head: Head,
) -> After {
    let (request, meta, exchange) = begin(conn, head);
    let answer = {
        let handling = std::pin::pin!(handler.handle(request, meta));
        let answer = answer(conn, handling).await;
        if let Answer::Broken(refusal) = &answer {
            handler.ends(Ending::Fault(refusal.details));
        }
        answer
    };
    match answer {
        Answer::Response(response) => {
            let goodbye = drain.is_draining()
                || conn.borrow().leaving.is_some()
                || deadline.is_some_and(|at| conn.borrow().local.clock.now() >= at);
            response::send(conn, response, &exchange, goodbye).await
        }
        Answer::Broken(refusal) => {
            let response = handler.reject(refusal.rejection(exchange.head_bytes, true));
            response::send(conn, response, &exchange, true).await.close(Closed::Rejected)
        }
        Answer::Gone => After::Drop(Closed::ByPeerInRequest),
    }
}

/// Answers what is no request, or one that is refused.
pub(super) async fn refuse<H: Handler>(
    conn: &Rc<RefCell<Conn>>,
    handler: &H,
    refusal: Refusal,
    head_bytes: usize,
) -> After {
    let response = handler.reject(refusal.rejection(head_bytes, false));
    response::send(conn, response, &Exchange::refused(head_bytes), true).await.close(Closed::Rejected)
}

/// Turns a head into what the handler gets, and prepares the connection for the body.
fn begin(conn: &Rc<RefCell<Conn>>, head: Head) -> (Request<Body>, RequestMeta, Exchange) {
    let incoming = *head.incoming;
    let version = incoming.parts.version;
    let bodiless = incoming.body.is_done() && incoming.upgrade.is_none();
    let (current, received) = {
        let mut conn = conn.borrow_mut();
        conn.begin(incoming.body, incoming.expect_continue, incoming.upgrade.is_some());
        // Asked for with the head's last bytes, or when the wait for it began.
        (conn.current, conn.local.clock.coarse())
    };
    let body = if bodiless { Body::empty() } else { RequestBody::new(conn.clone()).into() };
    let exchange = Exchange {
        version,
        head: incoming.parts.method == Method::HEAD,
        keep_alive: incoming.keep_alive,
        keep_alive_said: version == Version::HTTP_10 && incoming.keep_alive,
        upgrade: match &incoming.upgrade {
            Some(Upgrade::Protocol(protocol)) => Some(protocol.clone()),
            _ => None,
        },
        connect: incoming.upgrade == Some(Upgrade::Connect),
        head_bytes: head.bytes,
    };
    let meta = RequestMeta {
        protocol: if version == Version::HTTP_10 { Protocol::Http10 } else { Protocol::Http11 },
        scheme: incoming.scheme,
        upgrade: incoming.upgrade,
        received,
        head_bytes: head.bytes,
        requests_before: current,
        continued: incoming.expect_continue,
        informational: InformationalSender::new(conn.clone(), current, version == Version::HTTP_11).into(),
    };
    (Request::from_parts(incoming.parts, body), meta, exchange)
}

/// What came of the handler.
enum Answer {
    Response(Response<Body>),
    /// The client broke its request's framing.
    Broken(Refusal),
    /// The client went away.
    Gone,
}

/// Drives the handler, and watches the client meanwhile.
async fn answer<F>(conn: &Rc<RefCell<Conn>>, mut handling: Pin<&mut F>) -> Answer
where
    F: Future<Output = Response<Body>>,
{
    poll_fn(move |cx| {
        let polled = handling.as_mut().poll(cx);
        // The client's fault is the answer, whatever the handler made of its broken body.
        let broken = conn.borrow().broken.as_ref().and_then(refusal);
        if let Some(refusal) = broken {
            return Poll::Ready(Answer::Broken(refusal));
        }
        if let Poll::Ready(response) = polled {
            return Poll::Ready(Answer::Response(response));
        }
        let mut conn = conn.borrow_mut();
        let conn = &mut *conn;
        // Interim responses.
        if !conn.out.is_empty()
            && let Poll::Ready(Err(_)) = conn.out.poll_flush(&mut conn.io, cx)
        {
            return Poll::Ready(Answer::Gone);
        }
        conn.poll_gone(cx).map(|_| Answer::Gone)
    })
    .await
}

fn refusal(error: &Error) -> Option<Refusal> {
    match error {
        Error::Malformed(_) => {
            Some(Refusal { status: StatusCode::BAD_REQUEST, details: "http1.codec_error", body: "Bad Request" })
        }
        Error::TooLarge(_) => Some(Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            details: "http1.trailers_too_large",
            body: "Request Header Fields Too Large",
        }),
        _ => None,
    }
}
