//! gRPC-Web (the protocol of browsers' gRPC clients) to gRPC and back: content types, the text form, trailers as a last frame.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Response, StatusCode};
use http_body::Frame;
use sidemesh_config::value::Name;

use super::grpc_stats::{CallStats, MAX_METHODS};
use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::http::exchange::is_grpc;
use crate::http::finish::{Answer, Last};
use crate::http::forward::out_of_time;
use crate::http::guard::Guard;
use crate::http::names::{GRPC_MESSAGE, GRPC_STATUS};
use crate::http::reply::percent_encode_message;
use crate::telemetry::stats::{Scope, Shards};

/// What the client wants to hear.
pub struct Mode {
    text: bool,
    stats: Option<Arc<CallStats>>,
}

/// The filter with what it counts, per cluster and method (`cluster.<name>.grpc-web.<service>.<method>.`).
pub struct GrpcWeb {
    groups: Shards<(Name, Name), CallStats>,
}

/// Marks the frame that holds the trailers.
const TRAILERS_FLAG: u8 = 0x80;
/// So much of an answer that is no gRPC becomes the message of the status.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
const TEXT_TYPES: [&str; 2] = ["application/grpc-web-text", "application/grpc-web-text+proto"];
const BINARY_TYPES: [&str; 2] = ["application/grpc-web", "application/grpc-web+proto"];
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

fn is_one_of(headers: &HeaderMap, name: &HeaderName, types: &[&str]) -> bool {
    headers.get(name).is_some_and(|value| types.iter().any(|t| value == t))
}

impl Default for GrpcWeb {
    fn default() -> Self {
        GrpcWeb { groups: Shards::new(MAX_METHODS) }
    }
}

impl GrpcWeb {
    pub fn on_request(&self, at: u16, x: &mut Exchange) -> Flow {
        let text = is_one_of(&x.parts.headers, &CONTENT_TYPE, &TEXT_TYPES);
        if text || is_one_of(&x.parts.headers, &CONTENT_TYPE, &BINARY_TYPES) {
            let stats = self.stats(x);
            make_grpc(at, x, text, stats);
        }
        Flow::Continue
    }

    /// What the call is counted under. Methods beyond the bound, which clients name, are not counted.
    fn stats(&self, x: &Exchange) -> Option<Arc<CallStats>> {
        let cluster = x.info.cluster.clone()?;
        let (service, method) = x.view().path_only().strip_prefix('/')?.split_once('/')?;
        let key = (cluster, Name::from(format!("grpc-web.{service}.{method}")));
        self.groups.admit(x.manager.worker.stats(), &key, |(cluster, part)| Scope::ClusterPart {
            cluster: cluster.clone(),
            part: part.clone(),
        })
    }
}

/// Makes the request one of gRPC.
fn make_grpc(at: u16, x: &mut Exchange, text: bool, stats: Option<Arc<CallStats>>) {
    let headers = &mut x.parts.headers;
    let mode = Mode { text: is_one_of(headers, &ACCEPT, &TEXT_TYPES), stats };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.entry(GRPC_ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
    headers.remove(CONTENT_LENGTH);
    if text && let Some(upload) = &x.upload {
        upload.map_source(|body| Body::boxed(Decoded { body, rest: BytesMut::new() }));
    }
    x.grpc_web = true;
    x.data.push((at, Data::GrpcWeb(mode)));
}

/// Waits, within the limits of the answer, for the text of one that is no gRPC: it goes into its head.
pub async fn whole_if_foreign(x: &Exchange, answer: Answer) -> Answer {
    let Answer::Upstream(mut response, limits) = answer else { return answer };
    if response.body().is_end() || is_translated(&response) {
        return Answer::Upstream(response, limits);
    }
    let last = Rc::new(Last::default());
    let mut body = Guard::new(std::mem::take(response.body_mut()), x, *limits, last.clone());
    let mut text = BytesMut::new();
    while text.len() < MAX_MESSAGE_BYTES
        && let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        match (frame, last.was_cut()) {
            (Ok(frame), _) => {
                let data = frame.into_data().unwrap_or_default();
                text.extend_from_slice(&data[..data.len().min(MAX_MESSAGE_BYTES - text.len())]);
            }
            (Err(_), Some(limit)) => return Answer::Local(out_of_time(x, limit)),
            (Err(error), None) => return Answer::Abort(error),
        }
    }
    *response.body_mut() = Body::full(text.freeze());
    Answer::Own(response)
}

/// Whether the body of an answer is one of gRPC.
fn is_translated(response: &Response<Body>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::OK && (is_grpc(headers) || is_one_of(headers, &CONTENT_TYPE, &BINARY_TYPES))
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    let Some(Data::GrpcWeb(Mode { text, stats })) = super::take(x, at) else { return };
    let is_ended = response.body().is_end();
    let passes = is_translated(response);
    let encoded = is_one_of(response.headers(), &CONTENT_TYPE, &BINARY_TYPES);
    let kind = if text { TEXT_TYPES[1] } else { BINARY_TYPES[1] };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().remove(CONTENT_LENGTH);
    if is_ended {
        if let Some(stats) = stats {
            stats.charge(response.headers());
        }
        return;
    }
    let body = std::mem::take(response.body_mut());
    if passes {
        // An upstream that speaks gRPC-Web itself sends its trailers as a frame.
        let as_is = encoded && !text;
        *response.body_mut() = Body::boxed(Encoded { body, text, ended: false, as_is, stats });
        return;
    }
    // The text becomes the message of the status that the HTTP status stands for.
    let code = crate::grpc::from_http(response.status().as_u16());
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from(code));
    let said = String::from_utf8_lossy(body.as_full().unwrap_or_default());
    if let Ok(message) = HeaderValue::try_from(percent_encode_message(&said)) {
        response.headers_mut().insert(GRPC_MESSAGE, message);
    }
}

/// A Base64 request body, decoded as far as whole groups have come.
struct Decoded {
    body: Body,
    rest: BytesMut,
}

impl HttpBody for Decoded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            match ready!(this.body.poll_next(cx)) {
                Some(Ok(frame)) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    };
                    this.rest.extend_from_slice(&data);
                    let whole = this.rest.len() / 4 * 4;
                    if whole == 0 {
                        continue;
                    }
                    return Poll::Ready(Some(decode(&this.rest.split_to(whole)).map(Frame::data)));
                }
                None if !this.rest.is_empty() => return Poll::Ready(Some(Err(malformed()))),
                other => return Poll::Ready(other),
            }
        }
    }
}

/// The client gets 400 with this text, where nothing has been answered yet.
fn malformed() -> Error {
    Error::Other("Bad gRPC-web request, invalid base64 data.".into())
}

/// Groups may each be padded: every message is encoded on its own.
fn decode(groups: &[u8]) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(groups.len() / 4 * 3);
    for group in groups.chunks(4) {
        let bytes = STANDARD.decode(group).map_err(|_| malformed())?;
        out.extend_from_slice(&bytes);
    }
    Ok(out.freeze())
}

/// A response body with its trailers as a last frame.
struct Encoded {
    body: Body,
    text: bool,
    ended: bool,
    /// Data and trailers are left as they come.
    as_is: bool,
    stats: Option<Arc<CallStats>>,
}

impl HttpBody for Encoded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.as_is {
            return this.body.poll_next(cx);
        }
        Poll::Ready(match ready!(this.body.poll_next(cx)) {
            Some(Ok(frame)) => {
                let data = match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => {
                        this.ended = true;
                        let trailers = frame.into_trailers().unwrap_or_default();
                        if let Some(stats) = &this.stats {
                            stats.charge(&trailers);
                        }
                        trailers_frame(&trailers)
                    }
                };
                let data = if this.text { Bytes::from(STANDARD.encode(&data)) } else { data };
                Some(Ok(Frame::data(data)))
            }
            other => other,
        })
    }
}

fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut text = BytesMut::new();
    for (name, value) in trailers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.put_u8(b':');
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(text.len() + 5);
    frame.put_u8(TRAILERS_FLAG);
    frame.put_u32(text.len() as u32);
    frame.extend_from_slice(&text);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trailers_become_the_last_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Body::full_with_trailers("x", trailers);
        let out =
            Body::boxed(Encoded { body, text: false, ended: false, as_is: false, stats: None }).collect(100).await;
        assert_eq!(out, Ok(Bytes::from_static(b"x\x80\0\0\0\x0fgrpc-status:0\r\n")));
    }

    #[tokio::test]
    async fn text_is_decoded_in_groups() {
        let body = Body::boxed(Decoded { body: Body::full("aGVsbG8="), rest: BytesMut::new() });
        assert_eq!(body.collect(100).await, Ok(Bytes::from("hello")));
    }

    #[tokio::test]
    async fn text_answers_are_whole_groups() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Body::full_with_trailers("hello", trailers);
        let out = Body::boxed(Encoded { body, text: true, ended: false, as_is: false, stats: None }).collect(100).await;
        let decoded = out.map(|bytes| decode(&bytes));
        assert_eq!(decoded, Ok(Ok(Bytes::from_static(b"hello\x80\0\0\0\x0fgrpc-status:0\r\n"))));
    }

    #[tokio::test]
    async fn broken_text_fails() {
        for text in ["aGVsbG8", "????"] {
            let body = Body::boxed(Decoded { body: Body::full(text), rest: BytesMut::new() });
            assert_eq!(body.collect(100).await, Err(malformed()), "{text}");
        }
    }
}
