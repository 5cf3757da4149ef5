//! The examples of RFC 7541, appendix C, and what no input may do.
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::decode::Error;
use super::{Decoder, Encoder, Field, Pseudo, huffman};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn text(field: &Field) -> String {
    match field {
        Field::Pseudo(name, value) => format!("{}: {}", name.as_str(), String::from_utf8_lossy(value)),
        Field::Header(name, value) => format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())),
        Field::Invalid(name) => format!("invalid: {}", name.len()),
    }
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| fields.push(field)).map(|()| fields)
}

fn check(blocks: &[(&str, &[&str])], table: u32) {
    let mut decoder = Decoder::default();
    decoder.set_limit(4096);
    if table != 4096 {
        // The examples of responses use a table of 256 bytes, which was agreed on before.
        decode(&mut decoder, &hex("3fe101")).unwrap();
    }
    for (block, expected) in blocks {
        let fields = decode(&mut decoder, &hex(block)).unwrap();
        assert_eq!(fields.iter().map(text).collect::<Vec<_>>(), *expected, "{block}");
    }
}

#[test]
fn single_fields() {
    check(
        &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &["custom-key: custom-header"])],
        4096,
    );
    check(&[("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"])], 4096);
    check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"])], 4096);
    check(&[("82", &[":method: GET"])], 4096);
}

const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, huffman] {
        check(&std::array::from_fn::<_, 3, _>(|i| (blocks[i], REQUESTS[i])), 4096);
    }
}

#[test]
fn responses_push_entries_out() {
    let date = "date: Mon, 21 Oct 2013 20:13:21 GMT";
    let expected: [&[&str]; 3] = [
        &[":status: 302", "cache-control: private", date, "location: https://www.example.com"],
        &[":status: 307", "cache-control: private", date, "location: https://www.example.com"],
        &[
            ":status: 200",
            "cache-control: private",
            "date: Mon, 21 Oct 2013 20:13:22 GMT",
            "location: https://www.example.com",
            "content-encoding: gzip",
            "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ],
    ];
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, huffman] {
        check(&std::array::from_fn::<_, 3, _>(|i| (blocks[i], expected[i])), 256);
    }
}

#[test]
fn numbers() {
    let mut decoder = Decoder::default();
    // 1337 with a prefix of five bits (C.1.2), as a size of the table.
    assert_eq!(decode(&mut decoder, &hex("3f9a0a")), Ok(vec![]));
    for too_large in ["3fffffffff7f", "3f8080808080", "ffffffffffff01"] {
        assert!(decode(&mut Decoder::default(), &hex(too_large)).is_err(), "{too_large}");
    }
}

#[test]
fn what_is_no_block() {
    for (block, error) in [
        ("80", Error::Index),
        ("be", Error::Index),
        ("40", Error::Truncated),
        ("400a63", Error::Truncated),
        ("3fe21f", Error::TableSize),
        ("8220", Error::TableSize),
        // Too much filling, filling of zeros, the end of the string inside it.
        ("0085ffffffffff00", Error::Huffman),
        ("00810000", Error::Huffman),
        ("0084ffffffff00", Error::Huffman),
    ] {
        assert_eq!(decode(&mut Decoder::default(), &hex(block)), Err(error), "{block}");
    }
}

#[test]
fn a_smaller_table_has_to_be_confirmed() {
    let mut decoder = Decoder::default();
    decoder.set_limit(100);
    assert_eq!(decode(&mut decoder, &hex("82")), Err(Error::TableSize));
    assert_eq!(decode(&mut decoder, &hex("3f4582")).unwrap().len(), 1);
    assert_eq!(decode(&mut decoder, &hex("82")).unwrap().len(), 1);
}

#[test]
fn invalid_fields_keep_the_table_in_step() {
    let mut decoder = Decoder::default();
    // `A: b`, then `c: d`, both to be remembered.
    let fields = decode(&mut decoder, &hex("4001410162 4001630164")).unwrap();
    assert_eq!(fields.iter().map(text).collect::<Vec<_>>(), ["invalid: 1", "c: d"]);
    // A value that is none has a name all the same.
    let fields = decode(&mut decoder, &hex("bebf 4001650100 7e0166")).unwrap();
    assert_eq!(fields.iter().map(text).collect::<Vec<_>>(), ["c: d", "invalid: 1", "invalid: 1", "e: f"]);
}

#[test]
fn the_huffman_code_is_the_rfcs() {
    for (plain, code) in
        [("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"), ("no-cache", "a8eb10649cbf"), ("302", "6402")]
    {
        let mut out = BytesMut::new();
        huffman::encode(plain.as_bytes(), &mut out);
        assert_eq!(out, hex(code));
        assert_eq!(huffman::encoded_len(plain.as_bytes()), out.len());
    }
}

fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
}

#[test]
fn what_repeats_becomes_one_byte_and_what_does_not_stays_out() {
    let mut encoder = Encoder::new(4096);
    let mut decoder = Decoder::default();
    let headers = [
        header("server", "envoy"),
        header("x-custom", "value"),
        header("x-request-id", "0d5bbc1a"),
        header("content-length", "17"),
        header("cookie", "secret"),
    ];
    let mut sizes = Vec::new();
    for round in 0..3 {
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        encoder.status(StatusCode::OK, &mut out);
        for (name, value) in &headers {
            encoder.header(name, value, &mut out);
        }
        let fields = decode(&mut decoder, &out).unwrap();
        assert_eq!(fields.len(), 1 + headers.len(), "round {round}");
        sizes.push(out.len());
    }
    // Status, server and x-custom by number; names by number before the three values.
    assert_eq!(sizes[1], 3 + (2 + 1 + 8) + (2 + 1 + 2) + (2 + 1 + 6));
    assert_eq!(sizes[1], sizes[2]);
}

#[test]
fn secrets_are_marked_as_never_to_be_indexed() {
    let mut out = BytesMut::new();
    let (name, value) = header("authorization", "x");
    Encoder::new(4096).header(&name, &value, &mut out);
    assert_eq!(out[0] & 0xf0, 0x10);
}

#[test]
fn the_peers_table_size_is_honoured() {
    let mut encoder = Encoder::new(4096);
    let mut decoder = Decoder::default();
    let fields: Vec<_> = (0..200).map(|i| header(&format!("name-{}", i % 90), &format!("value-{i}"))).collect();
    for size in [4096, 0, 100, 300, 4096] {
        encoder.set_limit(size);
        for chunk in fields.chunks(20) {
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            chunk.iter().for_each(|(name, value)| encoder.header(name, value, &mut out));
            let decoded = decode(&mut decoder, &out).unwrap();
            let expected: Vec<_> = chunk.iter().cloned().map(|(name, value)| Field::Header(name, value)).collect();
            assert_eq!(decoded, expected);
        }
    }
    // No table at all: nothing is remembered on either side.
    let mut none = Encoder::new(0);
    let mut out = BytesMut::new();
    none.begin(&mut out);
    none.header(&fields[0].0, &fields[0].1, &mut out);
    assert_eq!((out[0], out[1] & 0xc0), (0x20, 0));
}

prop_compose! {
    fn any_header()(name in "[a-d]{1,3}|x-request-id|server|cookie|content-length|[a-z-]{1,60}",
                    value in "[a-c]{0,3}|[ -~]{0,200}|[0-9]{1,5}", secret in any::<bool>()) -> (HeaderName, HeaderValue) {
        let (name, mut value) = header(&name, &value);
        value.set_sensitive(secret);
        (name, value)
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        blocks in prop::collection::vec((prop::collection::vec(any_header(), 0..20), prop::option::of(0u32..5000)), 1..30),
        path in "/[!-~]{0,50}", authority in "[a-z.]{0,20}",
    ) {
        let mut encoder = Encoder::new(4096);
        let mut decoder = Decoder::default();
        for (headers, resize) in blocks {
            if let Some(size) = resize {
                encoder.set_limit(size);
            }
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            encoder.method(&Method::PUT, &mut out);
            encoder.path(path.as_bytes(), &mut out);
            encoder.pseudo(Pseudo::Authority, authority.as_bytes(), &mut out);
            headers.iter().for_each(|(name, value)| encoder.header(name, value, &mut out));
            let mut expected = vec![
                Field::Pseudo(Pseudo::Method, Bytes::from_static(b"PUT")),
                Field::Pseudo(Pseudo::Path, path.clone().into()),
                Field::Pseudo(Pseudo::Authority, authority.clone().into()),
            ];
            expected.extend(headers.into_iter().map(|(name, value)| Field::Header(name, value)));
            prop_assert_eq!(decode(&mut decoder, &out).unwrap(), expected);
        }
    }

    #[test]
    fn no_bytes_are_too_much_for_the_decoder(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..5)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
        }
    }

    #[test]
    fn huffman_there_and_back(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let (mut code, mut back) = (BytesMut::new(), Vec::new());
        huffman::encode(&text, &mut code);
        prop_assert_eq!(code.len(), huffman::encoded_len(&text));
        prop_assert_eq!(huffman::decode(&code, &mut back), Some(()));
        prop_assert_eq!(back, text);
    }
}
