//! The codecs: an HTTP/1 exchange from head to head without a socket, and HPACK both ways.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use sidemesh_proxy::clock::Random;
use sidemesh_proxy::codec::h1::server::{self as h1, Settings};
use sidemesh_proxy::codec::h2::hpack::{Decoder, Encoder, Pseudo};
use sidemesh_proxy::codec::{Body, Drain, Handler, Local, RequestMeta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Case;

pub const CASES: &[Case] = &[
    Case::new("http1/request_read_and_answered", 500, exchange),
    Case::new("hpack/encode_request", 20_000, encode),
    Case::new("hpack/decode_request", 20_000, decode),
];

const REQUEST: &[u8] =
    b"GET /items/12345?q=1 HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
accept: */*\r\naccept-encoding: gzip, deflate\r\nx-request-id: 6f1f4d7e-3a51-4a5b-9d07-6c1d9c1f0f11\r\n\r\n";

struct Always;

impl Handler for Always {
    async fn handle(&self, request: Request<Body>, _meta: RequestMeta) -> Response<Body> {
        black_box(request);
        let mut response = Response::new(Body::empty());
        for (name, value) in
            [("content-type", "text/plain"), ("server", "envoy"), ("x-envoy-upstream-service-time", "1")]
        {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }
}

/// A client writes a request and reads the answer, on one connection. The pipe between them counts too.
fn exchange(n: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut client, io) = tokio::io::duplex(1 << 16);
        let settings = Settings { delayed_close_timeout: Duration::ZERO, ..Settings::default() };
        let local = Local::new(Random::seeded(1));
        let serving = h1::serve(io.into(), Rc::new(settings), local, &Always, Drain::never());
        let talking = async move {
            let mut buffer = [0; 1024];
            for _ in 0..n {
                client.write_all(REQUEST).await.expect("the server reads");
                let read = client.read(&mut buffer).await.expect("the server answers");
                assert!(buffer[..read].starts_with(b"HTTP/1.1 200"), "no answer");
            }
        };
        tokio::join!(serving, talking);
    });
}

fn headers() -> Vec<(HeaderName, HeaderValue)> {
    let fields = [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("x-request-id", "6f1f4d7e-3a51-4a5b-9d07-6c1d9c1f0f11"),
        ("x-forwarded-proto", "http"),
    ];
    fields.into_iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn write(encoder: &mut Encoder, headers: &[(HeaderName, HeaderValue)], out: &mut BytesMut) {
    encoder.begin(out);
    encoder.method(&Method::GET, out);
    encoder.scheme(false, out);
    encoder.pseudo(Pseudo::Authority, b"shop.example.com", out);
    encoder.path(b"/items/12345?q=1", out);
    for (name, value) in headers {
        encoder.header(name, value, out);
    }
}

/// Encoders hash with seeds of their own: many take turns, so that no lucky or unlucky one decides.
fn encode(n: u32) {
    let (headers, mut out) = (headers(), BytesMut::with_capacity(1024));
    let mut encoders: Vec<Encoder> = (0..100).map(|_| Encoder::new(4096)).collect();
    // What fills their tables is not what every later block looks like.
    encoders.iter_mut().for_each(|encoder| write(encoder, &headers, &mut out));
    for i in 0..n as usize {
        out.clear();
        write(&mut encoders[i % 100], black_box(&headers), &mut out);
        black_box(&out);
    }
}

fn decode(n: u32) {
    let (mut encoder, headers) = (Encoder::new(4096), headers());
    let mut decoder = Decoder::default();
    // The first block fills the tables, the second is what every later one looks like.
    let mut blocks = [BytesMut::new(), BytesMut::new()];
    blocks.iter_mut().for_each(|out| write(&mut encoder, &headers, out));
    decoder.decode(&blocks[0], |field| drop(black_box(field))).expect("our own block");
    for _ in 0..n {
        decoder.decode(black_box(&blocks[1]), |field| drop(black_box(field))).expect("our own block");
    }
}
