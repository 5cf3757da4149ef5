//! One stream: its request for the handler, and the handler's response for the client.
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use super::Shared;
use crate::clock::Sleep;
use crate::codec::Protocol;
use crate::codec::body::{Body, Error};
use crate::codec::h1::tokens;
use crate::codec::h2::body_error;
use crate::codec::h2::head::{Head, Malformed};
use crate::codec::h2::link::StreamRef;
use crate::codec::h2::reason::Reason;
use crate::codec::h2::recv::RecvBody;
use crate::codec::h2::translate::{self, Refusal};
use crate::codec::h2::upload::{Failure, Upload};
use crate::codec::handler::{Handler, Rejection, RequestMeta};

/// Sends interim responses of one request.
#[derive(Clone)]
pub struct InformationalSender {
    stream: StreamRef,
}

impl InformationalSender {
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        translate::strip_connection_headers(&mut headers);
        if !self.stream.with(|session, key| session.send_interim(key, status, &headers)) {
            tracing::debug!(%status, "interim response dropped");
        }
    }
}

/// Serves one stream to its end.
pub(super) async fn run<H: Handler>(shared: Rc<Shared>, handler: &H, head: Box<Head>, stream: StreamRef, index: u64) {
    let (response, bodiless) = match prepare(&shared, *head, &stream, index) {
        Ok((request, meta, head)) => (answer(pin!(handler.handle(request, meta)), &stream).await, head),
        Err(refusal) => {
            let response = handler.reject(rejection(refusal));
            // Envoy resets what exceeds its limits or breaks HTTP/2's rules.
            let response = matches!(refusal, Refusal::Target | Refusal::Fragment).then_some(response);
            if response.is_none() {
                let too_large = matches!(refusal, Refusal::TooLarge | Refusal::TooMany);
                reset(&stream, if too_large { Reason::INTERNAL_ERROR } else { Reason::PROTOCOL_ERROR });
            }
            (response, false)
        }
    };
    if let Some(response) = response {
        send(&shared, response, stream, bodiless).await;
    }
}

fn reset(stream: &StreamRef, reason: Reason) {
    stream.with(|session, key| session.reset(key, reason));
}

/// A request that is none, as it is recorded.
pub(super) fn malformed(what: Malformed) -> Rejection {
    Rejection {
        status: StatusCode::BAD_REQUEST,
        details: match what {
            Malformed::Field => "http2.invalid.header.field",
            Malformed::Message => "http2.violation.of.messaging.rule",
        },
        body: "",
        protocol: Protocol::Http2,
        in_request: false,
        silent: true,
        head_bytes: 0,
    }
}

fn rejection(refusal: Refusal) -> Rejection {
    let (status, details, body) = match refusal {
        Refusal::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http2.header_list_size_too_large", ""),
        Refusal::TooMany => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http2.too_many_headers", ""),
        Refusal::NoHost => (StatusCode::BAD_REQUEST, "missing_host_header", ""),
        Refusal::Host => (StatusCode::BAD_REQUEST, "http2.invalid_authority", ""),
        Refusal::Target => (StatusCode::BAD_REQUEST, "absolute_path_rejected", ""),
        Refusal::Fragment => (StatusCode::BAD_REQUEST, "path_normalization_failed", ""),
    };
    let answered = matches!(refusal, Refusal::Target | Refusal::Fragment);
    Rejection { status, details, body, protocol: Protocol::Http2, in_request: false, silent: !answered, head_bytes: 0 }
}

/// What the handler gets, and whether it is asked for a head alone.
fn prepare(
    shared: &Shared,
    head: Head,
    stream: &StreamRef,
    index: u64,
) -> Result<(Request<Body>, RequestMeta, bool), Refusal> {
    let mut incoming = translate::incoming(head)?;
    let continued = !shared.settings.proxy_100_continue && takes_continue(&incoming.parts.headers);
    if continued {
        incoming.parts.headers.remove(header::EXPECT);
        InformationalSender { stream: stream.clone() }.send(StatusCode::CONTINUE, &HeaderMap::new());
    }
    let body = if stream.with(|session, key| session.is_read(key)) {
        Body::empty()
    } else {
        RecvBody::new(stream.clone(), incoming.length, shared.settings.http2.max_headers, None).into()
    };
    let meta = RequestMeta {
        protocol: Protocol::Http2,
        scheme: incoming.scheme,
        upgrade: incoming.upgrade,
        received: shared.local.clock.now(),
        head_bytes: incoming.bytes,
        requests_before: index,
        continued,
        informational: InformationalSender { stream: stream.clone() }.into(),
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
    stream: &StreamRef,
) -> Option<Response<Body>> {
    poll_fn(|cx| {
        if let Poll::Ready(response) = handling.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        stream.with(|session, key| session.poll_reset(key, cx)).map(|_| None)
    })
    .await
}

/// Writes the response.
async fn send(shared: &Shared, response: Response<Body>, stream: StreamRef, bodiless: bool) {
    let (parts, mut body) = response.into_parts();
    if let Some(error) = body.failure() {
        return reset(&stream, error.reason());
    }
    let closes = |value: &http::HeaderValue| tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close"));
    if parts.headers.get_all(header::CONNECTION).iter().any(closes) {
        shared.goodbye.set(true);
    }
    let none = bodiless || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ends = none || body.is_end();
    let sent = stream.with(|session, key| {
        session.send_head(key, ends, |encoder, out| {
            translate::write_response(parts.status, &parts.headers, encoder, out);
        })
    });
    if let Err(cause) = sent {
        return body.fail(body_error(cause));
    }
    if none {
        body.skip();
    }
    if ends {
        return;
    }
    let mut upload = Upload::new(stream, body);
    let failure = pump(shared, &mut upload).await;
    match failure {
        Ok(()) => {}
        // Whatever breaks an answer off, it is none of the client's doing.
        Err(Failure::Body(_)) => upload.reset(Reason::INTERNAL_ERROR),
        Err(Failure::Peer(error)) => {
            let reason = error.reason();
            upload.body_mut().fail(error);
            upload.reset(reason);
        }
    }
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
