//! One stream: its request for the handler, and the handler's response for the client.
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use super::Shared;
use crate::clock::Sleep;
use crate::codec::Protocol;
use crate::codec::body::{Body, Error};
use crate::codec::h1::tokens;
use crate::codec::h2::recv::RecvBody;
use crate::codec::h2::translate::{self, Refusal};
use crate::codec::h2::upload::{Failure, Upload};
use crate::codec::handler::{Handler, Rejection, RequestMeta};

/// Sends interim responses of one request.
#[derive(Clone)]
pub struct InformationalSender {
    respond: Rc<RefCell<SendResponse<Bytes>>>,
}

impl InformationalSender {
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().clone_from(headers);
        translate::strip_connection_headers(response.headers_mut());
        // After the response has begun, or the stream has ended, there is nobody to inform.
        if let Err(error) = self.respond.borrow_mut().send_informational(response) {
            tracing::debug!(%error, "interim response dropped");
        }
    }
}

/// Serves one stream to its end.
pub(super) async fn run<H: Handler>(
    shared: Rc<Shared>,
    handler: &H,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    index: u64,
) {
    let respond = Rc::new(RefCell::new(respond));
    let (response, bodiless) = match prepare(&shared, request, &respond, index) {
        Ok((request, meta, head)) => (answer(pin!(handler.handle(request, meta)), &respond).await, head),
        Err(refusal) => {
            let response = handler.reject(rejection(refusal));
            // Envoy resets what exceeds its limits or breaks HTTP/2's rules.
            let response = (refusal == Refusal::Target).then_some(response);
            if response.is_none() {
                respond.borrow_mut().send_reset(Reason::PROTOCOL_ERROR);
            }
            (response, false)
        }
    };
    if let Some(response) = response {
        send(&shared, response, &respond, bodiless).await;
    }
}

fn rejection(refusal: Refusal) -> Rejection {
    let (status, details, body) = match refusal {
        Refusal::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http2.too_many_headers", ""),
        Refusal::NoHost => (StatusCode::BAD_REQUEST, "missing_host_header", ""),
        Refusal::Host => (StatusCode::BAD_REQUEST, "http2.invalid_authority", ""),
        Refusal::Malformed => (StatusCode::BAD_REQUEST, "http2.invalid_header_field", ""),
        Refusal::Target => (StatusCode::BAD_REQUEST, "absolute_path_rejected", ""),
    };
    Rejection {
        status,
        details,
        body,
        protocol: Protocol::Http2,
        in_request: false,
        silent: refusal != Refusal::Target,
        head_bytes: 0,
    }
}

/// What the handler gets, and whether it is asked for a head alone.
fn prepare(
    shared: &Shared,
    request: Request<RecvStream>,
    respond: &Rc<RefCell<SendResponse<Bytes>>>,
    index: u64,
) -> Result<(Request<Body>, RequestMeta, bool), Refusal> {
    let (parts, stream) = request.into_parts();
    let mut incoming = translate::incoming(parts, &shared.settings.http2)?;
    if !shared.settings.proxy_100_continue && takes_continue(&incoming.parts.headers) {
        incoming.parts.headers.remove(header::EXPECT);
        let sender = InformationalSender { respond: respond.clone() };
        sender.send(StatusCode::CONTINUE, &HeaderMap::new());
    }
    let body = if stream.is_end_stream() {
        Body::empty()
    } else {
        RecvBody::new(stream, incoming.length, shared.settings.http2.max_headers, None).into()
    };
    let meta = RequestMeta {
        protocol: Protocol::Http2,
        scheme: incoming.scheme,
        upgrade: incoming.upgrade,
        received: shared.local.clock.now(),
        head_bytes: incoming.bytes,
        requests_before: index,
        informational: InformationalSender { respond: respond.clone() }.into(),
    };
    let head = incoming.parts.method == Method::HEAD;
    Ok((Request::from_parts(incoming.parts, body), meta, head))
}

/// The client waits for word to send its body.
fn takes_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Drives the handler until it answers (`Some`) or the client resets the stream.
async fn answer<F: Future<Output = Response<Body>>>(
    mut handling: Pin<&mut F>,
    respond: &RefCell<SendResponse<Bytes>>,
) -> Option<Response<Body>> {
    poll_fn(|cx| {
        if let Poll::Ready(response) = handling.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        respond.borrow_mut().poll_reset(cx).map(|_| None)
    })
    .await
}

/// Writes the response.
async fn send(shared: &Shared, response: Response<Body>, respond: &RefCell<SendResponse<Bytes>>, bodiless: bool) {
    let (parts, mut body) = response.into_parts();
    if let Some(error) = body.failure() {
        return respond.borrow_mut().send_reset(error.reason());
    }
    let closes = |value: &http::HeaderValue| tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close"));
    if parts.headers.get_all(header::CONNECTION).iter().any(closes) {
        shared.goodbye.set(true);
    }
    let none = bodiless || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ends = none || body.is_end();
    let head = translate::response_head(parts);
    let sent = respond.borrow_mut().send_response(head, ends);
    let stream = match sent {
        Ok(stream) => stream,
        Err(error) => return body.fail(crate::codec::h2::body_error(&error)),
    };
    if none {
        body.skip();
    }
    if ends {
        return;
    }
    let mut upload = Upload::new(stream, body, false);
    let failure = pump(shared, &mut upload).await;
    match failure {
        Ok(()) => {}
        Err(Failure::Body(error)) => {
            next_turn().await;
            upload.reset(error.reason());
        }
        Err(Failure::Peer(error)) => {
            let reason = error.reason();
            upload.body_mut().fail(error);
            upload.reset(reason);
        }
    }
}

/// Lets the connection write what is queued, which a reset would take back.
async fn next_turn() {
    // The set of streams comes back to its connection after a stream has woken itself twice.
    let mut turns = 3;
    poll_fn(|cx| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Moves the body, and watches for a reset and for a client that takes nothing.
async fn pump(shared: &Shared, upload: &mut Upload) -> Result<(), Failure> {
    let mut stalled: Option<Sleep> = None;
    poll_fn(|cx| {
        if let Poll::Ready(result) = upload.poll(cx) {
            return Poll::Ready(result);
        }
        if let Poll::Ready(error) = upload.poll_reset(cx) {
            return Poll::Ready(Err(Failure::Peer(error)));
        }
        if !upload.is_stalled() {
            stalled = None;
            return Poll::Pending;
        }
        if stalled.is_none() {
            stalled = shared.settings.flush_timeout.map(|limit| shared.local.timers.after(limit));
        }
        match &mut stalled {
            Some(sleep) => {
                Pin::new(sleep).poll(cx).map(|()| Err(Failure::Peer(Error::Timeout("the stream idle timeout"))))
            }
            None => Poll::Pending,
        }
    })
    .await
}
