use http::{HeaderMap, HeaderValue};

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_str(v).expect("header value")))
        .collect()
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn a_traceparent_is_read_whole() {
    let got = extract(&headers(&[("traceparent", PARENT), ("tracestate", "v=1")]), false).expect("context");
    assert_eq!(got.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(got.span_id, 0xb7ad_6b71_6920_3331);
    assert!(got.sampled);
    assert_eq!(got.state.expect("state"), "v=1");
}

#[test]
fn malformed_traceparents_count_as_absent() {
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
    ] {
        assert_eq!(extract(&headers(&[("traceparent", bad)]), false), None, "{bad}");
    }
}

#[test]
fn b3_is_read_only_when_asked() {
    let single = headers(&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0")]);
    assert_eq!(extract(&single, false), None);
    assert!(!extract(&single, true).expect("b3").sampled);
    let multi =
        headers(&[("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-sampled", "1")]);
    assert_eq!(extract(&multi, true).expect("b3").trace_id, 0x8448_eb21_1c80_319c);
}

#[test]
fn what_is_injected_can_be_extracted() {
    let context = TraceContext { trace_id: 7, span_id: 9, parent_id: 3, sampled: true };
    for b3 in [false, true] {
        let mut out = HeaderMap::new();
        inject(&context, None, b3, &mut out);
        let back = extract(&out, b3).expect("context");
        assert_eq!((back.trace_id, back.span_id, back.sampled), (7, 9, true));
    }
}
