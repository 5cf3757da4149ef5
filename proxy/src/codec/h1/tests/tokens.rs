//! Heads as they are read here, beside what `httparse` makes of them.
use bytes::Bytes;
use proptest::prelude::*;

use crate::codec::h1::head::{Lines, Scan, request_line, status_line};

/// Pieces that heads are made of, right and wrong.
const PIECES: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b": ",
    b":",
    b": ",
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b"Host",
    b"x-a",
    b"Content-Length",
    b"a_b",
    b"1",
    b"value",
    b"v w",
    b",",
    b"\"",
    b"(",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"@",
    b"[",
    b"\x0d\x0a ",
    b"-",
    b"x-forwarded-for",
];

fn head(start: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..24)
        .prop_map(move |pieces| [start, &pieces.concat(), b"\r\n\r\n"].concat())
}

type Read = Option<Vec<(String, Vec<u8>)>>;

/// The fields of the head that `bytes` begin with; `None` where it is none, or malformed.
fn ours(bytes: &[u8], is_start: impl Fn(&[u8], &Lines) -> bool) -> Read {
    let mut lines = Lines::default();
    let end = Scan::default().run(bytes, usize::MAX, &mut lines).ok()??;
    let head = Bytes::copy_from_slice(&bytes[..end]);
    lines.of_head(&head).ok()?;
    let fields = is_start(&head, &lines).then(|| lines.entries(&head))?;
    fields.map(|f| f.ok().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec()))).collect()
}

/// The same by `httparse`; a bare LF is no end of a line here.
fn theirs(bytes: &[u8], parse: impl Fn(&[u8]) -> Read) -> Read {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = &bytes[..end];
    let bare = (0..end).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    if bare || head.starts_with(b"\r\n") { None } else { parse(head) }
}

fn owned(headers: &[httparse::Header<'_>]) -> Read {
    Some(headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn requests_are_read_alike(bytes in head(b"GET / HTTP/1.1\r\n")) {
        let parse = |head: &[u8]| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            request.parse(head).ok().filter(|s| s.is_complete())?;
            owned(request.headers)
        };
        prop_assert_eq!(ours(&bytes, |head, lines| request_line(head, lines).is_ok()), theirs(&bytes, parse));
    }

    #[test]
    fn responses_are_read_alike(bytes in head(b"HTTP/1.1 200 OK")) {
        let parse = |head: &[u8]| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            response.parse(head).ok().filter(|s| s.is_complete())?;
            owned(response.headers)
        };
        prop_assert_eq!(ours(&bytes, |head, lines| status_line(head, lines).is_ok()), theirs(&bytes, parse));
    }

    #[test]
    fn a_head_ends_at_the_same_byte_in_one_piece_and_in_many(bytes in head(b"GET / HTTP/1.1\r\n"), limit in 10usize..200) {
        let (mut scan, mut lines) = (Scan::default(), Lines::default());
        let whole = scan.run(&bytes, limit, &mut lines).ok();
        // What is wrong with a field is found with the field, which may be later than the line it is in.
        let head = Bytes::copy_from_slice(&bytes);
        prop_assume!(lines.entries(&head).all(|field| field.is_ok()));
        let mut slow = Scan::default();
        let pieces = (1..=bytes.len()).find_map(|n| match slow.run(&bytes[..n], limit, &mut Lines::default()) {
            Ok(None) => None,
            other => Some(other),
        });
        let pieces = pieces.unwrap_or(Ok(None)).ok();
        prop_assert_eq!(whole.map(|end| (end, scan.lines())), pieces.map(|end| (end, slow.lines())));
    }
}
