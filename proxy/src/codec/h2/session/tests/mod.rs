//! Two of our own ends joined in memory.
mod wire;

use std::io::IoSlice;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{Role, Session};
use crate::codec::h2::Settings;
use crate::codec::h2::frame::{self, Header, PREFACE};
use crate::codec::h2::head::Head;
use crate::codec::h2::hpack::{Encoder, Pseudo};
use crate::codec::h2::reason::Reason;
use crate::codec::h2::streams::{Cause, Key};
use crate::io::Buffers;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What an end has to say.
fn output(session: &mut Session) -> Vec<u8> {
    let mut all = Vec::new();
    while session.out.len() > 0 {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = session.out.next_slices(&mut slices);
        let before = all.len();
        slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
        session.out.handle_written(all.len() - before);
    }
    all
}

/// The kinds, flags and streams of frames.
fn kinds(bytes: &[u8]) -> Vec<(u8, u8, u32)> {
    let mut rest = bytes.strip_prefix(&PREFACE[..]).unwrap_or(bytes);
    let mut all = Vec::new();
    while let Some(header) = Header::parse(rest) {
        all.push((header.kind, header.flags, header.stream));
        rest = &rest[9 + header.len..];
    }
    all
}

fn get(encoder: &mut Encoder, out: &mut BytesMut) {
    request(&Method::GET, encoder, out);
}

fn post(encoder: &mut Encoder, out: &mut BytesMut) {
    request(&Method::POST, encoder, out);
}

fn request(method: &Method, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.method(method, out);
    encoder.scheme(false, out);
    encoder.path(b"/path", out);
    encoder.pseudo(Pseudo::Authority, b"a.test", out);
    encoder.header(&http::header::ACCEPT, &HeaderValue::from_static("*/*"), out);
}

fn ok(encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.status(StatusCode::OK, out);
}

/// Both ends, and how many bytes at once go from one to the other.
struct Pair {
    client: Session,
    server: Session,
    to_client: BytesMut,
    to_server: BytesMut,
    step: usize,
}

impl Pair {
    fn new(settings: Settings, step: usize) -> Self {
        let end = |role| Session::new(role, settings, Buffers::default());
        let (to_client, to_server) = Default::default();
        let mut pair = Self { client: end(Role::Client), server: end(Role::Server), to_client, to_server, step };
        pair.drive();
        pair
    }

    /// Until neither has anything to say.
    fn drive(&mut self) {
        loop {
            let (there, back) = (output(&mut self.client), output(&mut self.server));
            if there.is_empty() && back.is_empty() {
                return;
            }
            for (bytes, end, input) in
                [(there, &mut self.server, &mut self.to_server), (back, &mut self.client, &mut self.to_client)]
            {
                for piece in bytes.chunks(self.step) {
                    input.extend_from_slice(piece);
                    end.handle_input(input, Instant::now());
                }
            }
        }
    }

    fn open(&mut self, ends: bool) -> Key {
        self.client.open(ends, false, if ends { get } else { post })
    }

    fn accept(&mut self) -> (Key, Box<Head>) {
        self.drive();
        self.server.next_accepted().expect("a stream")
    }
}

/// Everything that can be read now.
fn read(session: &mut Session, key: Key) -> (Vec<u8>, Poll<Option<Cause>>) {
    let mut all = Vec::new();
    loop {
        match session.poll_data(key, &cx()) {
            Poll::Ready(Some(Ok(piece))) => all.extend_from_slice(&piece),
            Poll::Ready(Some(Err(cause))) => return (all, Poll::Ready(Some(cause))),
            Poll::Ready(None) => return (all, Poll::Ready(None)),
            Poll::Pending => return (all, Poll::Pending),
        }
    }
}

fn trailers(value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-tail"), HeaderValue::from_static(value))])
}

#[test]
fn an_exchange_is_the_same_however_it_is_cut() {
    for step in (1..40).chain([100, 1000, 100_000]) {
        let mut pair = Pair::new(Settings::default(), step);
        let call = pair.open(false);
        let (served, head) = pair.accept();
        assert_eq!((head.method, head.path), (Some(Method::POST), Some(Bytes::from_static(b"/path"))));
        assert_eq!(
            (&head.headers["host"], &head.headers["accept"]),
            (&HeaderValue::from_static("a.test"), &HeaderValue::from_static("*/*"))
        );
        let data = Bytes::from(vec![b'x'; 5000]);
        pair.client.send_data(call, data.clone(), false).unwrap();
        pair.client.send_trailers(call, &trailers("up")).unwrap();
        pair.drive();
        assert_eq!(read(&mut pair.server, served), (data.to_vec(), Poll::Ready(None)));
        assert_eq!(pair.server.next_trailers(served), Some(trailers("up")));
        assert!(pair.server.send_interim(served, StatusCode::EARLY_HINTS, &HeaderMap::new()));
        pair.server.send_head(served, false, ok).unwrap();
        pair.server.send_data(served, Bytes::from_static(b"answer"), false).unwrap();
        pair.server.send_trailers(served, &trailers("down")).unwrap();
        pair.drive();
        assert_eq!(pair.client.next_interim(call).unwrap().status, Some(StatusCode::EARLY_HINTS));
        let Poll::Ready(Ok(head)) = pair.client.poll_response(call, &cx()) else { panic!("no response") };
        assert_eq!(head.status, Some(StatusCode::OK));
        assert_eq!(read(&mut pair.client, call), (b"answer".to_vec(), Poll::Ready(None)));
        assert_eq!(pair.client.next_trailers(call), Some(trailers("down")));
        assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
        pair.client.release(call);
        pair.server.release(served);
    }
}

fn small_windows() -> Settings {
    Settings { initial_stream_window: 65_535, initial_connection_window: 65_535, ..Settings::default() }
}

/// Sends what there is room for.
fn fill(session: &mut Session, key: Key, cx: &mut Context<'_>) -> usize {
    let mut sent = 0;
    while let Poll::Ready(Ok(capacity)) = session.poll_capacity(key, cx) {
        session.send_data(key, vec![b'x'; capacity].into(), false).unwrap();
        sent += capacity;
    }
    sent
}

/// Sends what the windows allow.
fn exhaust(pair: &mut Pair, call: Key) -> usize {
    let mut sent = 0;
    loop {
        let now = fill(&mut pair.client, call, &mut cx());
        if now == 0 {
            return sent;
        }
        sent += now;
        pair.drive();
        pair.client.begin_round();
    }
}

#[test]
fn windows_hold_the_sender_and_reading_opens_them() {
    let mut pair = Pair::new(small_windows(), 100_000);
    let call = pair.open(false);
    let (served, _) = pair.accept();
    let mut total = 0;
    for _ in 0..20 {
        assert_eq!(exhaust(&mut pair, call), 65_535);
        total += read(&mut pair.server, served).0.len();
        pair.drive();
    }
    assert_eq!(total, 20 * 65_535);
}

/// Notes who was called, in order.
struct Called {
    who: usize,
    order: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.order.lock().unwrap().push(self.who);
    }
}

#[test]
fn streams_in_line_take_turns() {
    let mut pair = Pair::new(Settings { initial_stream_window: 1 << 20, ..small_windows() }, 100_000);
    let calls = [pair.open(false), pair.open(false), pair.open(false)];
    let served: Vec<_> = calls.iter().map(|_| pair.accept().0).collect();
    let order = Arc::new(Mutex::new(vec![0, 1, 2]));
    let wakers = [0, 1, 2].map(|who| Waker::from(Arc::new(Called { who, order: order.clone() })));
    let mut sent = [0; 3];
    for _ in 0..60 {
        let called = std::mem::take(&mut *order.lock().unwrap());
        for who in called {
            sent[who] += fill(&mut pair.client, calls[who], &mut Context::from_waker(&wakers[who]));
        }
        pair.drive();
        for &served in &served {
            let _read = read(&mut pair.server, served);
        }
        pair.drive();
        pair.client.begin_round();
    }
    let (least, most) = (*sent.iter().min().unwrap(), *sent.iter().max().unwrap());
    assert!(least > 200_000 && most - least <= 3 * 65_535, "{sent:?}");
}

#[test]
fn what_nobody_reads_does_not_hold_the_others() {
    let mut pair = Pair::new(small_windows(), 100_000);
    let (first, second) = (pair.open(false), pair.open(false));
    let (ignored, _) = pair.accept();
    let (wanted, _) = pair.accept();
    assert_eq!((exhaust(&mut pair, first), exhaust(&mut pair, second)), (65_535, 0));
    pair.server.discard(ignored);
    pair.drive();
    assert_eq!(exhaust(&mut pair, second), 65_535);
    assert!(!read(&mut pair.server, wanted).0.is_empty());
}

#[test]
fn resets_reach_the_other_end() {
    let mut pair = Pair::new(Settings::default(), 100_000);
    let call = pair.open(false);
    let (served, _) = pair.accept();
    assert_eq!(pair.server.poll_reset(served, &cx()), Poll::Pending);
    pair.client.send_data(call, Bytes::from_static(b"some"), false).unwrap();
    pair.client.reset(call, Reason::CANCEL);
    pair.drive();
    assert_eq!(pair.server.poll_reset(served, &cx()), Poll::Ready(Cause::Reset(Reason::CANCEL)));
    // What came before can still be read.
    assert_eq!(read(&mut pair.server, served), (b"some".to_vec(), Poll::Ready(Some(Cause::Reset(Reason::CANCEL)))));
    assert_eq!(pair.server.send_head(served, true, ok), Err(Cause::Reset(Reason::CANCEL)));
    assert_eq!(pair.client.poll_response(call, &cx()).map(Result::err), Poll::Ready(Some(Cause::Canceled)));
}

#[test]
fn a_server_that_has_answered_needs_no_more_of_the_request() {
    let mut pair = Pair::new(Settings::default(), 100_000);
    let call = pair.open(false);
    let (served, _) = pair.accept();
    pair.server.send_head(served, true, ok).unwrap();
    pair.server.release(served);
    pair.client.send_data(call, Bytes::from_static(b"late"), false).unwrap();
    pair.drive();
    assert!(matches!(pair.client.poll_response(call, &cx()), Poll::Ready(Ok(_))));
    assert_eq!(read(&mut pair.client, call).1, Poll::Ready(None));
    let failed = pair.client.poll_capacity(call, &cx());
    assert_eq!(failed, Poll::Ready(Err(Cause::Reset(Reason::NO_ERROR))));
    assert!(pair.client.ended().is_none() && pair.server.ended().is_none());
}

#[test]
fn going_away_lets_streams_finish_and_refuses_later_ones() {
    let mut pair = Pair::new(Settings::default(), 100_000);
    let call = pair.open(true);
    let (served, _) = pair.accept();
    pair.server.leave();
    let late = pair.open(true);
    pair.drive();
    // Both were on their way before the last stream was named.
    assert!(!pair.client.takes_streams() && !pair.server.is_finished());
    let (second, _) = pair.server.next_accepted().unwrap();
    pair.server.leave_now();
    for served in [served, second] {
        pair.server.send_head(served, true, ok).unwrap();
    }
    pair.drive();
    assert!(pair.server.is_finished() && pair.client.is_finished());
    for call in [call, late] {
        assert!(matches!(pair.client.poll_response(call, &cx()), Poll::Ready(Ok(_))));
    }
    // A peer that names an earlier one has not looked at the later.
    let mut pair = Pair::new(Settings::default(), 100_000);
    let calls = [pair.open(true), pair.open(true)];
    let mut goaway = BytesMut::new();
    frame::put_goaway(1, Reason::NO_ERROR, &mut goaway);
    pair.client.handle_input(&mut goaway, Instant::now());
    let failed = calls.map(|call| pair.client.poll_response(call, &cx()).map(Result::err));
    assert_eq!(failed, [Poll::Pending, Poll::Ready(Some(Cause::Refused))]);
}

#[test]
fn the_end_of_the_socket_fails_what_is_open() {
    let mut pair = Pair::new(Settings::default(), 100_000);
    let call = pair.open(true);
    pair.client.handle_end(Cause::Closed);
    assert_eq!(pair.client.poll_response(call, &cx()).map(Result::err), Poll::Ready(Some(Cause::Closed)));
    assert!(!pair.client.takes_streams());
}

#[test]
fn streams_above_the_limit_are_refused() {
    let mut pair = Pair::new(Settings { max_concurrent_streams: 2, ..Settings::default() }, 100_000);
    assert_eq!(pair.client.max_streams(), 2);
    let calls = [pair.open(true), pair.open(true), pair.open(true)];
    pair.drive();
    let failed = calls.map(|call| pair.client.poll_response(call, &cx()).map(Result::err));
    assert_eq!(failed, [Poll::Pending, Poll::Pending, Poll::Ready(Some(Cause::Reset(Reason::REFUSED_STREAM)))]);
}
