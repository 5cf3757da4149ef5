//! gRPC-Web (the protocol of browsers' gRPC clients) to gRPC and back: content types, the text form, trailers as a last frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http_body::Frame;

use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::http::exchange::is_grpc;

/// What the client speaks.
pub struct Mode {
    text: bool,
    /// `application/grpc-web+proto` keeps its suffix.
    suffix: Option<&'static str>,
}

/// Marks the frame that holds the trailers.
const TRAILERS_FLAG: u8 = 0x80;

pub fn on_request(at: u16, x: &mut Exchange) -> Flow {
    let value = x.parts.headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let (text, rest) = match value.strip_prefix(b"application/grpc-web-text") {
        Some(rest) => (true, rest),
        None => match value.strip_prefix(b"application/grpc-web") {
            Some(rest) => (false, rest),
            None => return Flow::Continue,
        },
    };
    let suffix = match rest {
        b"" => None,
        b"+proto" => Some("+proto"),
        _ => return Flow::Continue,
    };
    let headers = &mut x.parts.headers;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    if text {
        headers.remove(CONTENT_LENGTH);
        if let Some(upload) = &x.upload {
            upload.map_source(|body| Body::boxed(Decoded { body, rest: BytesMut::new() }));
        }
    }
    x.data.push((at, Data::GrpcWeb(Mode { text, suffix })));
    Flow::Continue
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    let Some(Data::GrpcWeb(mode)) = super::take(x, at) else { return };
    if !is_grpc(response.headers()) {
        return;
    }
    let kind = match (mode.text, mode.suffix) {
        (true, Some(_)) => "application/grpc-web-text+proto",
        (true, None) => "application/grpc-web-text",
        (false, Some(_)) => "application/grpc-web+proto",
        (false, None) => "application/grpc-web",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().remove(CONTENT_LENGTH);
    let body = std::mem::take(response.body_mut());
    *response.body_mut() =
        if body.is_end() { body } else { Body::boxed(Encoded { body, text: mode.text, ended: false }) };
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
                None if !this.rest.is_empty() => return Poll::Ready(Some(Err(Error::Malformed("gRPC-Web text")))),
                other => return Poll::Ready(other),
            }
        }
    }
}

/// Groups may each be padded: every message is encoded on its own.
fn decode(groups: &[u8]) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(groups.len() / 4 * 3);
    for group in groups.chunks(4) {
        let bytes = STANDARD.decode(group).map_err(|_| Error::Malformed("gRPC-Web text"))?;
        out.extend_from_slice(&bytes);
    }
    Ok(out.freeze())
}

/// A response body with its trailers as a last frame.
struct Encoded {
    body: Body,
    text: bool,
    ended: bool,
}

impl HttpBody for Encoded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.body.poll_next(cx)) {
            Some(Ok(frame)) => {
                let data = match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => {
                        this.ended = true;
                        trailers_frame(&frame.into_trailers().unwrap_or_default())
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
        let out = Body::boxed(Encoded { body, text: false, ended: false }).collect(100).await;
        assert_eq!(out, Ok(Bytes::from_static(b"x\x80\0\0\0\x0fgrpc-status:0\r\n")));
    }

    #[tokio::test]
    async fn text_is_decoded_in_groups() {
        let body = Body::boxed(Decoded { body: Body::full("aGVsbG8="), rest: BytesMut::new() });
        assert_eq!(body.collect(100).await, Ok(Bytes::from("hello")));
    }
}
