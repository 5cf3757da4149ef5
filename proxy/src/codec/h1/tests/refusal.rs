//! What is no request, or one that is refused: the cases that Envoy's answers were recorded for.
use super::*;

/// Each on a fresh connection: the first status, or 0 for none; and whether the handler saw it.
fn check(settings: fn() -> Settings, cases: &[(&str, &[u8], u16, bool)]) {
    run(async {
        for (name, bytes, status, reached) in cases {
            let mut wire = serve(settings());
            let answer = wire.ask(bytes).await;
            let first = statuses(&answer).first().copied().unwrap_or(0);
            assert_eq!((first, !wire.origin.seen.borrow().is_empty()), (*status, *reached), "{name}: {answer}");
            assert!(!answer.contains("/hidden"), "{name}: {answer}");
            if (400..600).contains(&first) {
                assert!(answer.contains("connection: close\r\n"), "{name}: {answer}");
                assert_eq!(wire.origin.rejected.borrow().len(), 1, "{name}");
            }
        }
    });
}

#[test]
fn malformed() {
    check(
        Settings::default,
        &[
            ("garbage", b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400, false),
            ("no version", b"GET /\r\n\r\n", 400, false),
            ("bad version", b"GET / HTTP/9.9\r\nHost: h\r\n\r\n", 426, false),
            ("no host: the handler says", b"GET / HTTP/1.1\r\n\r\n", 200, true),
            ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, false),
            ("space in name", b"GET / HTTP/1.1\r\nHost: h\r\nBad Name: x\r\n\r\n", 400, false),
            ("space before colon", b"GET / HTTP/1.1\r\nHost: h\r\nX-A : x\r\n\r\n", 400, false),
            ("nul in value", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n", 400, false),
            ("bare cr", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: a\rb\r\n\r\n", 400, false),
            ("bare lf", b"GET / HTTP/1.1\nHost: h\n\n", 400, false),
            ("bad method", b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("unknown method", b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("space in target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("relative target", b"GET foo HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("empty name", b"GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400, false),
            ("no colon", b"GET / HTTP/1.1\r\nHost: h\r\nnocolon\r\n\r\n", 400, false),
            ("bad host", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, false),
            ("high bytes", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: \xff\xfe\r\n\r\n", 200, true),
            ("leading crlf", b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 200, true),
            ("high path", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("fragment", b"GET /a#frag HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("options star", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200, true),
            ("get star", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("userinfo in target", b"GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 200, true),
            ("other scheme", b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("host nominated", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: host\r\n\r\n", 400, false),
            ("other protocol", b"SSH-2.0-OpenSSH_9.6\r\n", 400, false),
            ("connect without port", b"CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
            ("connect chunked", b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nTransfer-Encoding: chunked\r\n\r\n", 501, false),
            ("connect with path", b"CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", 400, false),
        ],
    );
}

#[test]
fn smuggling() {
    const CASES: &[(&str, &[u8], u16, bool)] = &[
        (
            "cl and te",
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            false,
        ),
        (
            "two cl differ",
            b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcdGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            false,
        ),
        ("two cl same", b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400, false),
        ("cl list", b"Content-Length: 4, 4\r\n\r\nabcd", 400, false),
        ("cl plus", b"Content-Length: +4\r\n\r\nabcd", 400, false),
        ("cl negative", b"Content-Length: -1\r\n\r\n", 400, false),
        ("cl text", b"Content-Length: four\r\n\r\nabcd", 400, false),
        ("cl empty", b"Content-Length:\r\n\r\n", 400, false),
        ("cl overflow", b"Content-Length: 18446744073709551620\r\n\r\nabcd", 400, false),
        ("te xchunked", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, false),
        ("te identity", b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd", 400, false),
        ("te twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501, false),
        ("te gzip chunked", b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, false),
        ("obs fold", b"X-A: a\r\n b\r\n\r\n", 400, false),
        ("fold te", b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, false),
        ("bad chunk size", b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk overflow", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk wraps", b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk no crlf", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n", 400, false),
        ("chunk lf", b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", 400, false),
        ("chunk ext", b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", 200, true),
        ("chunk ext ctl", b"Transfer-Encoding: chunked\r\n\r\n3;a=\x01\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk bare cr", b"Transfer-Encoding: chunked\r\n\r\n3\r;a\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk ff", b"Transfer-Encoding: chunked\r\n\r\n3\x0c;a\r\nabc\r\n0\r\n\r\n", 400, false),
        ("chunk ext tab", b"Transfer-Encoding: chunked\r\n\r\n3\t ;a\r\nabc\r\n0\r\n\r\n", 200, true),
        ("te space", b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, false),
        ("te vt", b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, false),
    ];
    for (name, tail, status, reached) in CASES {
        let whole = [b"POST / HTTP/1.1\r\nHost: h\r\n", *tail].concat();
        run(async {
            let mut wire = serve(Settings::default());
            let answer = wire.ask(&whole).await;
            let seen = wire.origin.seen.borrow();
            let reached_whole = seen.iter().any(|seen| seen.body.is_ok());
            assert_eq!((statuses(&answer), reached_whole), (vec![*status], *reached), "{name}: {answer}");
            assert!(!seen.iter().any(|seen| seen.line.contains("hidden")), "{name}");
        });
    }
    check(
        Settings::default,
        &[
            ("te 1.0", b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 426, false),
            ("get with body", b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd", 200, true),
        ],
    );
}

#[test]
fn head_limits() {
    let small = || Settings {
        limits: crate::codec::h1::Limits { head_bytes: 10 * 1024, headers: 20, trailers: false },
        ..Settings::default()
    };
    let big = |n: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nx-big: {}\r\n\r\n", "v".repeat(n)).into_bytes();
    let many = |n: usize| {
        let lines: String = (0..n).map(|i| format!("x-{i}: 1\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
    };
    let path = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "p".repeat(12000)).into_bytes();
    check(
        small,
        &[
            ("5k", &big(5000), 200, true),
            ("12k", &big(12000), 431, false),
            ("few", &many(10), 200, true),
            ("many", &many(30), 431, false),
            ("long path", &path, 431, false),
        ],
    );
}

#[test]
fn the_answer_is_envoys() {
    run(async {
        let mut wire = serve(Settings::default());
        wire.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n").await;
        let (answer, closed) = wire.receive().await;
        let expected = "HTTP/1.1 426 Upgrade Required\r\ncontent-type: text/plain\r\ncontent-length: 16\r\nconnection: close\r\n\r\nUpgrade Required";
        assert_eq!((answer.as_str(), closed), (expected, true));
        drop(wire.client);
        assert_eq!(wire.served.await.unwrap(), Closed::Rejected);
    });
}

#[test]
fn a_head_in_single_bytes_is_one_request() {
    run(async {
        let mut wire = serve(Settings::default());
        for byte in b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
            wire.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        let (answer, closed) = wire.receive().await;
        assert_eq!((statuses(&answer), closed), (vec![200], false));
        assert_eq!(wire.origin.seen.borrow()[0].body, Ok("abc".to_owned()));
    });
}
