use super::*;
use crate::value::name;

fn one(text: &str) -> (Operator, Option<usize>) {
    match parse(text).expect(text).pieces.as_slice() {
        [Piece::Operator { operator, max_length }] => (operator.clone(), *max_length),
        other => panic!("{text}: {other:?}"),
    }
}

#[track_caller]
fn fails(text: &str, position: usize, reason: &str) {
    let error = parse(text).expect_err(text);
    assert_eq!((error.position, error.reason.as_str()), (position, reason));
}

#[test]
fn text_and_operators_alternate() {
    let format = parse("a %% %PROTOCOL%b").expect("valid");
    assert_eq!(
        format.pieces,
        [
            Piece::Text("a % ".into()),
            Piece::Operator { operator: Operator::Protocol, max_length: None },
            Piece::Text("b".into())
        ]
    );
    assert_eq!(parse("100%%").expect("valid").as_static(), Some("100%"));
    assert_eq!(parse("").expect("valid").as_static(), Some(""));
}

#[test]
fn the_default_format_is_one_line() {
    let format = parse(DEFAULT_ACCESS_LOG).expect("valid");
    assert_eq!(format.pieces.iter().filter(|p| matches!(p, Piece::Operator { .. })).count(), 15);
    assert_eq!(format.pieces.last(), Some(&Piece::Text("\"\n".into())));
    assert!(!DEFAULT_ACCESS_LOG.contains("  "));
}

#[test]
fn headers_have_alternatives_and_lengths() {
    let path = Operator::RequestHeader {
        name: HeaderName::Header(http::HeaderName::from_static("x-envoy-original-path")),
        fallback: Some(HeaderName::Path),
        without_query: false,
    };
    assert_eq!(one("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):10%"), (path.clone(), Some(10)));
    assert_eq!(one("%REQUEST_HEADER(x-envoy-original-path?:path)%"), (path, None));
    assert!(matches!(one("%REQ_WITHOUT_QUERY(:PATH)%").0, Operator::RequestHeader { without_query: true, .. }));
    assert!(matches!(one("%RESP(x)%").0, Operator::ResponseHeader { fallback: None, .. }));
    assert_eq!(one("%RESP(:STATUS)%").0, Operator::ResponseStatus);
    assert!(matches!(one("%TRAILER(grpc-status)%").0, Operator::ResponseTrailer { .. }));
}

#[test]
fn arguments_are_read() {
    assert_eq!(one("%START_TIME(%s.%3f)%").0, Operator::StartTime(TimeFormat::Strftime("%s.%3f".into()), Zone::Utc));
    assert_eq!(one("%START_TIME%").0, Operator::StartTime(TimeFormat::Default, Zone::Utc));
    assert_eq!(
        one("%START_TIME(%Y(UTC)T)%").0,
        Operator::StartTime(TimeFormat::Strftime("%Y(UTC)T".into()), Zone::Utc)
    );
    let dynamic = Operator::DynamicMetadata { filter: name("ns"), path: vec![name("a"), name("b")] };
    assert_eq!(one("%DYNAMIC_METADATA(ns:a:b):5%"), (dynamic.clone(), Some(5)));
    assert_eq!(one("%METADATA(DYNAMIC:ns:a:b)%").0, dynamic);
    assert_eq!(one("%METADATA(ROUTE:ns)%").0, Operator::RouteMetadata { filter: name("ns"), path: vec![] });
    assert_eq!(one("%PER_REQUEST_STATE(k)%").0, Operator::FilterState { key: name("k"), upstream: false, typed: true });
    assert_eq!(
        one("%FILTER_STATE(k:PLAIN)%").0,
        Operator::FilterState { key: name("k"), upstream: false, typed: false }
    );
    assert_eq!(one("%GRPC_STATUS(SNAKE_STRING)%").0, Operator::GrpcStatus(GrpcStatusFormat::SnakeString));
    assert_eq!(
        one("%COMMON_DURATION(DS_RX_BEG:US_TX_END:us)%").0,
        Operator::CommonDuration {
            from: TimePoint::DownstreamRxBegin,
            to: TimePoint::UpstreamTxEnd,
            precision: Precision::Micros
        }
    );
    assert_eq!(
        one("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%").0,
        Operator::DownstreamRemoteAddress(AddressPart::Network(16))
    );
    assert_eq!(one("%UPSTREAM_PEER_SUBJECT%").0, Operator::UpstreamTls(TlsPart::PeerSubject));
    assert_eq!(one("%DOWNSTREAM_PEER_CERT_V_END%").0, Operator::DownstreamTls(TlsPart::PeerCertValidTo));
    assert_eq!(one("%PATH(NQ:PATH)%").0, Operator::Path { with_query: false, source: Original::Present });
    assert_eq!(
        one("%REQUESTED_SERVER_NAME(SNI_FIRST:HOST)%").0,
        Operator::RequestedServerName(ServerName::SniElseHost(Original::Present))
    );
}

#[test]
fn mistakes_are_named_with_their_place() {
    fails("ab %NOPE%", 3, "unknown operator `NOPE`");
    fails("%CEL(x)%", 0, "unknown operator `CEL`");
    fails("%REQ%", 0, "operator `REQ` needs an argument");
    fails("%REQ(a?b?c)%", 0, "operator `REQ` takes one alternative header at most");
    fails("%REQ(a b)%", 0, "operator `REQ`: `a b` is no request header");
    fails("%PROTOCOL(x)%", 0, "operator `PROTOCOL` takes no argument");
    fails("%PROTOCOL:3%", 0, "operator `PROTOCOL` takes no maximum length");
    fails(
        "%GRPC_STATUS(X)%",
        0,
        "operator `GRPC_STATUS` does not know `X`; it takes CAMEL_STRING, SNAKE_STRING, NUMBER",
    );
    for broken in ["5%", "%", "%REQ(a%", "%lower%", "%REQ(a):x%", "%REQ(a)"] {
        let error = parse(broken).expect_err(broken).to_string();
        assert!(error.contains("write `%%` for a `%`"), "{error}");
    }
}
