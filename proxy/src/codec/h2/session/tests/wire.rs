//! A server of ours against frames made by hand: every bound, every kind of malformed message, and any frames at all.
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use proptest::prelude::*;

use super::{Pair, cx, get, kinds, ok, output, post, read};
use crate::codec::h2::Settings;
use crate::codec::h2::frame::{self, Header, PREFACE, flag, kind};
use crate::codec::h2::hpack::Encoder;
use crate::codec::h2::reason::Reason;
use crate::codec::h2::session::{Role, Session};
use crate::io::Buffers;
use sidemesh_config::resource::cluster::FloodLimits;

/// A server that has been greeted, and a client made by hand.
struct Wire {
    server: Session,
    input: BytesMut,
    encoder: Encoder,
}

impl Wire {
    fn new(settings: Settings) -> Self {
        let mut server = Session::new(Role::Server, settings, Buffers::default());
        let mut input = BytesMut::from(&PREFACE[..]);
        frame::put_settings(&[], &mut input);
        server.handle_input(&mut input, Instant::now());
        output(&mut server);
        Self { server, input, encoder: Encoder::new(4096) }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.send_at(Instant::now(), kind, flags, stream, payload)
    }

    fn send_at(&mut self, now: Instant, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        frame::put_head(kind, flags, stream, payload.len(), &mut self.input);
        self.input.extend_from_slice(payload);
        self.server.handle_input(&mut self.input, now);
        self
    }

    fn headers(&mut self, flags: u8, stream: u32) -> &mut Self {
        let mut block = BytesMut::new();
        post(&mut self.encoder, &mut block);
        self.send(kind::HEADERS, flags, stream, &block)
    }

    fn fault(&self) -> Option<(Reason, &'static str)> {
        self.server.fault().map(|fault| (fault.reason, fault.details))
    }

    /// The reasons of the streams that were reset.
    fn resets(&mut self) -> Vec<(u32, Reason)> {
        let bytes = output(&mut self.server);
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Some(header) = Header::parse(rest) {
            if header.kind == kind::RST_STREAM {
                all.push((header.stream, frame::number(&rest[9..13]).unwrap().into()));
            }
            rest = &rest[9 + header.len..];
        }
        all
    }
}

const END: u8 = flag::END_HEADERS | flag::END_STREAM;

fn calm(details: &'static str) -> Option<(Reason, &'static str)> {
    Some((Reason::ENHANCE_YOUR_CALM, details))
}

fn guarded(change: impl FnOnce(&mut FloodLimits)) -> Wire {
    let mut settings = Settings::default();
    change(&mut settings.floods);
    Wire::new(settings)
}

#[test]
fn frames_that_hold_nothing_are_bounded() {
    let empty = calm("too many consecutive frames with an empty payload");
    let mut wire = guarded(|_| {});
    wire.headers(flag::END_HEADERS, 1).send(kind::DATA, 0, 1, b"").send(kind::DATA, 0, 1, b"x").send(
        kind::DATA,
        0,
        1,
        b"",
    );
    assert_eq!(wire.fault(), None);
    assert_eq!(wire.send(kind::DATA, flag::PADDED, 1, b"\x01\0").fault(), empty);
    let mut wire = guarded(|floods| floods.empty_frames = 0);
    assert_eq!(wire.send(kind::HEADERS, 0, 1, b"").fault(), empty);
}

#[test]
fn priorities_are_bounded() {
    let mut wire = guarded(|floods| floods.priority_frames = 3);
    for _ in 0..3 {
        wire.send(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 0]);
    }
    assert_eq!(wire.fault(), None);
    assert_eq!(wire.send(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 0]).fault(), calm("too many PRIORITY frames"));
}

#[test]
fn window_updates_are_bounded_by_the_data_sent() {
    let mut wire = guarded(|floods| floods.window_updates = 2);
    wire.headers(END, 1);
    let (key, _) = wire.server.next_accepted().unwrap();
    wire.server.send_head(key, false, ok).unwrap();
    wire.server.send_data(key, Bytes::from_static(b"x"), false).unwrap();
    // 5 + 2 * (one stream + 2 * one frame)
    for _ in 0..11 {
        wire.send(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    }
    assert_eq!(wire.fault(), None);
    assert_eq!(wire.send(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).fault(), calm("too many WINDOW_UPDATE frames"));
}

#[test]
fn resets_are_bounded_by_a_rate() {
    let mut wire = guarded(|floods| (floods.reset_burst, floods.reset_rate) = (3, 1));
    let start = Instant::now();
    let mut next = 1;
    let mut reset = |wire: &mut Wire, now| {
        wire.headers(END, next).send_at(now, kind::RST_STREAM, 0, next, &[0, 0, 0, 8]);
        next += 2;
        wire.fault()
    };
    for seconds in [0, 0, 0, 1] {
        assert_eq!(reset(&mut wire, start + Duration::from_secs(seconds)), None);
    }
    assert_eq!(reset(&mut wire, start + Duration::from_secs(1)), calm("too many streams were reset"));
    // In one turn, before anything was done for them, there is a bound of its own.
    let mut wire = Wire::new(Settings { max_pending_resets: 2, ..Settings::default() });
    for id in [1, 3, 5] {
        wire.headers(END, id).send(kind::RST_STREAM, 0, id, &[0, 0, 0, 8]);
    }
    assert!(wire.server.next_accepted().is_none());
    assert_eq!(wire.fault(), calm("too many streams were reset at once"));
}

#[test]
fn answers_to_a_peer_that_does_not_read_are_bounded() {
    let mut wire = guarded(|floods| floods.control_frames = 5);
    for _ in 0..5 {
        wire.send(kind::PING, 0, 0, &[0; 8]);
        wire.server.out.handle_full();
        wire.server.end_turn(&cx());
    }
    assert_eq!(wire.fault(), None);
    wire.send(kind::PING, 0, 0, &[0; 8]);
    wire.server.end_turn(&cx());
    assert_eq!(wire.fault(), calm("too many control frames wait to be read"));
    let mut wire = guarded(|floods| floods.outbound_frames = 5);
    wire.headers(END, 1);
    let (key, _) = wire.server.next_accepted().unwrap();
    wire.server.send_head(key, false, ok).unwrap();
    for _ in 0..5 {
        wire.server.send_data(key, Bytes::from_static(b"x"), false).unwrap();
    }
    wire.server.end_turn(&cx());
    assert_eq!(wire.fault(), calm("too many frames wait to be read"));
}

#[test]
fn frames_that_have_left_no_longer_wait() {
    let mut wire = guarded(|_| {});
    for turn in 0..10 {
        wire.send(kind::PING, 0, 0, &[0; 8]).send(kind::PING, 0, 0, &[0; 8]);
        wire.server.out.handle_written(17);
        wire.server.out.handle_full();
        // Counted by what waited when the socket was full the last time.
        assert!((turn + 1..turn + 3).contains(&wire.server.out.frames().all), "turn {turn}");
    }
}

#[test]
fn header_blocks_are_bounded() {
    let endless = calm("a header block without an end");
    let mut wire = Wire::new(Settings { max_head_bytes: 1000, ..Settings::default() });
    wire.send(kind::HEADERS, 0, 1, b"\x82");
    for _ in 0..10 {
        wire.send(kind::CONTINUATION, 0, 1, &[0x82; 10_000]);
    }
    assert_eq!(wire.fault(), endless);
    let mut wire = guarded(|_| {});
    wire.send(kind::HEADERS, 0, 1, b"\x82");
    for _ in 0..200 {
        wire.send(kind::CONTINUATION, 0, 1, b"\x82");
    }
    assert_eq!(wire.fault(), endless);
    // One large entry of the table, many times: the list is cut off, the stream told of it.
    let mut wire = Wire::new(Settings { max_head_bytes: 10_000, ..Settings::default() });
    let mut block = BytesMut::new();
    post(&mut wire.encoder, &mut block);
    block.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0x80 | 0x01, 0x17]);
    block.extend_from_slice(&[b'x'; 127 + 0x01 + (0x17 << 7)]);
    block.extend_from_slice(&[0xbe; 10_000]);
    let head = wire.send(kind::HEADERS, END, 1, &block).server.next_accepted().unwrap().1;
    assert!(head.too_large && head.headers.is_empty() && wire.fault().is_none());
}

#[test]
fn malformed_messages_end_the_connection_or_the_stream() {
    let cases: [&dyn Fn(&mut Encoder, &mut BytesMut); 7] = [
        // No method; a status; twice the same; a pseudo-header after another field.
        &|encoder, out| encoder.path(b"/path", out),
        &|encoder, out| {
            get(encoder, out);
            ok(encoder, out);
        },
        &|encoder, out| {
            encoder.path(b"/path", out);
            get(encoder, out);
        },
        &|encoder, out| {
            encoder.header(&http::header::ACCEPT, &HeaderValue::from_static("*/*"), out);
            get(encoder, out);
        },
        // What belongs to HTTP/1 alone; a length that is none; a name in upper case.
        &|encoder, out| {
            get(encoder, out);
            encoder.header(&http::header::CONNECTION, &HeaderValue::from_static("close"), out);
        },
        &|encoder, out| {
            get(encoder, out);
            encoder.header(&http::header::CONTENT_LENGTH, &HeaderValue::from_static("x"), out);
        },
        &|encoder, out| {
            get(encoder, out);
            out.extend_from_slice(&[0, 1, b'A', 1, b'b']);
        },
    ];
    for (case, write) in cases.iter().enumerate() {
        for stream_errors in [false, true] {
            let mut wire = Wire::new(Settings { stream_errors, ..Settings::default() });
            let mut block = BytesMut::new();
            write(&mut wire.encoder, &mut block);
            wire.send(kind::HEADERS, END, 1, &block);
            assert!(wire.server.next_accepted().is_none());
            if stream_errors {
                assert_eq!((wire.fault(), wire.resets()), (None, vec![(1, Reason::PROTOCOL_ERROR)]), "case {case}");
            } else {
                assert_eq!(wire.fault(), Some((Reason::PROTOCOL_ERROR, "malformed message")), "case {case}");
            }
        }
    }
}

#[test]
fn a_body_has_the_length_that_was_declared() {
    for (body, ends, whole) in [("abc", true, true), ("ab", true, false), ("abcd", false, false)] {
        let mut wire = Wire::new(Settings { stream_errors: true, ..Settings::default() });
        let mut block = BytesMut::new();
        post(&mut wire.encoder, &mut block);
        wire.encoder.header(&http::header::CONTENT_LENGTH, &HeaderValue::from_static("3"), &mut block);
        wire.send(kind::HEADERS, flag::END_HEADERS, 1, &block);
        wire.send(kind::DATA, if ends { flag::END_STREAM } else { 0 }, 1, body.as_bytes());
        let expected = if whole { vec![] } else { vec![(1, Reason::PROTOCOL_ERROR)] };
        assert_eq!((wire.resets(), wire.fault()), (expected, None), "{body}");
    }
}

#[test]
fn padding_counts_for_the_window_and_is_not_data() {
    let mut wire = Wire::new(Settings::default());
    wire.headers(flag::END_HEADERS, 1).send(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x03data\0\0\0");
    let (key, _) = wire.server.next_accepted().unwrap();
    assert_eq!(read(&mut wire.server, key), (b"data".to_vec(), Poll::Ready(None)));
    let mut wire = Wire::new(Settings::default());
    wire.headers(flag::END_HEADERS, 1).send(kind::DATA, flag::PADDED, 1, b"\x09data");
    assert_eq!(wire.fault(), Some((Reason::PROTOCOL_ERROR, "more padding than payload")));
}

#[test]
fn long_heads_go_out_in_continuations() {
    let mut pair = Pair::new(Settings::default(), 7);
    let value = HeaderValue::from_bytes(&vec![b'~'; 40_000]).unwrap();
    pair.client.open(true, false, |encoder, out| {
        get(encoder, out);
        encoder.header(&http::header::REFERER, &value, out);
    });
    let bytes = output(&mut pair.client);
    assert_eq!(
        kinds(&bytes),
        [(kind::HEADERS, flag::END_STREAM, 1), (kind::CONTINUATION, 0, 1), (kind::CONTINUATION, flag::END_HEADERS, 1)]
    );
    pair.server.handle_input(&mut BytesMut::from(&bytes[..]), Instant::now());
    assert_eq!(pair.server.next_accepted().unwrap().1.headers["referer"], value);
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(frames in prop::collection::vec(
        (0u8..12, any::<u8>(), 0u32..6, prop::collection::vec(any::<u8>(), 0..40)), 0..40)) {
        let mut wire = Wire::new(Settings { stream_errors: true, ..Settings::default() });
        let mut keys = Vec::new();
        for (kind, flags, stream, payload) in frames {
            if kind == 11 {
                wire.headers(flags & END | flag::END_HEADERS, stream);
            } else {
                wire.send(kind, flags, stream, &payload);
            }
            while let Some((key, _)) = wire.server.next_accepted() {
                keys.push(key);
            }
            for &key in &keys {
                let _read = read(&mut wire.server, key);
            }
            output(&mut wire.server);
        }
        for key in keys {
            wire.server.release(key);
        }
    }
}
