//! Decoders and the output buffer by themselves.
use bytes::{Bytes, BytesMut};

use crate::codec::body::Error;
use crate::codec::h1::Limits;
use crate::codec::h1::decode::{Chunk, Decoder, Item};
use crate::codec::h1::encode::parse_length;

/// Feeds `text` in pieces of `step` bytes; returns the data and the trailers.
fn decode(text: &str, step: usize) -> Result<(String, Option<String>), Error> {
    let limits = Limits { trailers: true, ..Limits::default() };
    let mut decoder = Decoder::Chunked(Chunk::Size);
    let (mut buf, mut data, mut tail) = (BytesMut::new(), Vec::new(), None);
    let mut rest = text.as_bytes();
    loop {
        match decoder.next(&mut buf, rest.is_empty(), &limits)? {
            Item::Data(piece) => data.extend_from_slice(&piece),
            Item::Trailers(map) => tail = map.get("x-t").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()),
            Item::End => return Ok((String::from_utf8_lossy(&data).into_owned(), tail)),
            Item::More => {
                let n = step.min(rest.len());
                buf.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
}

#[test]
fn chunks_in_any_cut() {
    let text = "3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nX-T: v\r\nContent-Length: 9\r\n\r\n";
    for step in 1..text.len() {
        assert_eq!(decode(text, step), Ok(("abc0123456789".to_owned(), Some("v".to_owned()))), "step {step}");
    }
}

#[test]
fn cut_off_chunks_are_an_error() {
    let text = "3\r\nabc\r\n0\r\nx-t: v\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(decode(&text[..end], 4), Err(Error::Closed), "cut at {end}");
    }
}

#[test]
fn long_chunk_lines_are_refused() {
    let text = format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(5000));
    assert!(matches!(decode(&text, 100), Err(Error::Malformed(_))));
    assert!(matches!(decode("3\r\nabc\r\n0\r\nx y: 1\r\n\r\n", 100), Err(Error::Malformed(_))));
}

#[test]
fn lengths_are_digits() {
    let good = [("0", 0), ("42", 42), ("9999999999999999999", 9_999_999_999_999_999_999)];
    assert!(good.iter().all(|(text, n)| parse_length(text.as_bytes()) == Some(*n)));
    assert!(
        ["", "+1", "-1", "1 ", "1,1", "0x1", "18446744073709551616"]
            .iter()
            .all(|t| parse_length(t.as_bytes()).is_none())
    );
}

#[test]
fn a_length_takes_no_more_than_its_own() {
    let mut buf = BytesMut::from(&b"abcdefGET"[..]);
    let mut decoder = Decoder::Length(6);
    let Ok(Item::Data(data)) = decoder.next(&mut buf, false, &Limits::default()) else { panic!("no data") };
    assert_eq!(
        (data, buf.freeze(), decoder.is_done()),
        (Bytes::from_static(b"abcdef"), Bytes::from_static(b"GET"), true)
    );
}
