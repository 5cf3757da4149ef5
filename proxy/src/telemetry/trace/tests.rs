use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use sidemesh_config::resource::http_connection_manager::{TraceProvider, Sampler, Tracing};
use sidemesh_config::value::{Fraction, name};

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
    let Incoming::Context(got) = extract(&headers(&[("traceparent", PARENT), ("tracestate", "v=1")])) else {
        panic!("no context")
    };
    assert_eq!(got.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(got.span_id, 0xb7ad_6b71_6920_3331);
    assert!(got.sampled);
    assert_eq!(got.state.expect("state"), "v=1");
}

#[test]
fn malformed_traceparents_are_left_alone() {
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
    ] {
        let headers = headers(&[("traceparent", bad)]);
        assert_eq!(extract(&headers), Incoming::Malformed, "{bad}");
        assert!(start(&provider(None), &headers, true, true, || 5).is_none(), "{bad}");
    }
}

#[test]
fn what_is_injected_can_be_extracted() {
    let context = TraceContext { trace_id: 7, span_id: 9, parent_id: 3, sampled: true, single_header: false };
    let mut out = HeaderMap::new();
    inject(None, &context, None, &mut out);
    assert_eq!(out["tracestate"], "");
    let Incoming::Context(back) = extract(&out) else { panic!("no context") };
    assert_eq!((back.trace_id, back.span_id, back.sampled), (7, 9, true));
}

fn provider(sampler: Option<Sampler>) -> TraceProvider {
    let (service, http, resource_attributes) = (None, None, Vec::new());
    TraceProvider { service, http, service_name: name("s"), resource_attributes, sampler, zipkin: None }
}

#[test]
fn the_callers_flag_and_the_sampler_decide_what_is_traced() {
    let never = || Sampler::TraceIdRatio(Fraction::NEVER);
    let one = headers(&[("traceparent", PARENT)]);
    let zero = headers(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]);
    let sampled =
        |p: &TraceProvider, h: &HeaderMap, traced| start(p, h, traced, true, || 5).map(|s| s.context.sampled);
    let none = HeaderMap::new();
    assert_eq!(sampled(&provider(None), &none, true), Some(true));
    assert_eq!(sampled(&provider(None), &none, false), Some(false));
    assert_eq!(sampled(&provider(None), &one, true), Some(true));
    assert_eq!(sampled(&provider(None), &one, false), Some(false));
    assert_eq!(sampled(&provider(None), &zero, true), Some(false));
    assert_eq!(sampled(&provider(Some(never())), &one, true), Some(false));
    let by_parent = provider(Some(Sampler::ParentBased(Box::new(never()))));
    assert_eq!(sampled(&by_parent, &one, true), Some(true));
    assert_eq!(sampled(&by_parent, &none, true), Some(false));
}

#[test]
fn who_asks_and_what_the_configuration_lets_through() {
    let tracing = |client, random, overall| Tracing {
        client_sampling: client,
        random_sampling: random,
        overall_sampling: overall,
        max_path_tag_length: 256,
        custom_tags: Vec::new(),
        spawn_upstream_span: false,
        provider: Some(Arc::new(provider(None))),
        operation: None,
        upstream_operation: None,
    };
    let (all, none) = (Fraction::ALWAYS, Fraction::NEVER);
    let asked = Asked { known: None, client: false, forced: false, number: Some(1), draw: 2 };
    let on_client = Asked { client: true, ..asked };
    let on_service = Asked { forced: true, ..asked };
    assert_eq!(reason(&tracing(all, none, all), None, &asked), Reason::NotTraced);
    assert_eq!(reason(&tracing(all, all, all), None, &asked), Reason::Sampled);
    assert_eq!(reason(&tracing(all, none, all), None, &on_client), Reason::Client);
    assert_eq!(reason(&tracing(none, none, all), None, &on_client), Reason::NotTraced);
    assert_eq!(reason(&tracing(none, none, all), None, &on_service), Reason::Forced);
    assert_eq!(reason(&tracing(all, all, none), None, &on_service), Reason::NotTraced);
    let known = Asked { known: Some(Reason::Client), ..asked };
    assert_eq!(reason(&tracing(none, none, all), None, &known), Reason::Client);
    let without_id = Asked { number: None, ..on_service };
    assert_eq!(reason(&tracing(all, all, all), None, &without_id), Reason::NotTraced);
}
