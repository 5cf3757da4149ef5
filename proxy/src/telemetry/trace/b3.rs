//! Trace context as Zipkin's libraries tell it: B3 in several headers or in one (github.com/openzipkin/b3-propagation), with
//! W3C's besides where that is asked for. Envoy's choices stand where the specification leaves one.

use http::{HeaderMap, HeaderName, HeaderValue};
use sidemesh_config::resource::http_connection_manager::Zipkin;

use super::Started;
use super::context::{self, Incoming};
use crate::telemetry::stream_info::TraceContext;

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What a request says of its trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    ids: Option<Ids>,
    sampled: Option<bool>,
    single: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    trace: u128,
    span: u64,
    parent: u64,
}

/// A context that makes no sense: the request is no part of a trace here, and its headers pass as they are.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Joins the incoming trace or starts one; `server`: the span is the server's side. `None`: the context is malformed.
pub(super) fn start(
    zipkin: &Zipkin,
    headers: &HeaderMap,
    traced: bool,
    server: bool,
    mut random: impl FnMut() -> u64,
) -> Option<Started> {
    let said = read(zipkin, headers).ok()?;
    let sampled = said.sampled.unwrap_or(traced);
    let context = match said.ids {
        Some(ids) if server && zipkin.shared_span => {
            TraceContext { trace_id: ids.trace, span_id: ids.span, parent_id: ids.parent, ..Default::default() }
        }
        Some(ids) => {
            TraceContext { trace_id: ids.trace, span_id: random() | 1, parent_id: ids.span, ..Default::default() }
        }
        None => {
            let id = random() | 1;
            let high = if zipkin.trace_id_128bit { random() | 1 } else { 0 };
            let (high, id) = if zipkin.timestamp_ids { timed(high, id, zipkin.trace_id_128bit) } else { (high, id) };
            let trace_id = (u128::from(high) << 64) | u128::from(id);
            TraceContext { trace_id, span_id: id, ..Default::default() }
        }
    };
    Some(Started { context: TraceContext { sampled, single_header: said.single, ..context }, state: None })
}

/// The first four bytes of the trace id become the Unix time.
fn timed(high: u64, low: u64, wide: bool) -> (u64, u64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let stamp = |id: u64| (now << 32) | (id & 0xffff_ffff);
    if wide { (stamp(high), low) } else { (high, stamp(low)) }
}

fn read(zipkin: &Zipkin, headers: &HeaderMap) -> Result<Said, Malformed> {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    if let Some(single) = text(&SINGLE) {
        return read_single(single);
    }
    let asked = text(&SAMPLED).map(|v| v == "1" || v.eq_ignore_ascii_case("true"));
    let sampled = if text(&FLAGS) == Some("1") { Some(true) } else { asked };
    let ids = match (text(&TRACE_ID), text(&SPAN_ID)) {
        (Some(trace), Some(span)) => {
            let parent = text(&PARENT_ID).map_or(Ok(0), span_id)?;
            Some(Ids { trace: trace_id(trace)?, span: span_id(span)?, parent })
        }
        _ => None,
    };
    if zipkin.with_w3c
        && ids.is_none()
        && let Incoming::Context(parent) = context::extract(headers)
    {
        let ids = Ids { trace: parent.trace_id, span: parent.span_id, parent: 0 };
        return Ok(Said { ids: Some(ids), sampled: Some(parent.sampled), single: false });
    }
    Ok(Said { ids, sampled, single: false })
}

/// `{trace}-{span}`, `{trace}-{span}-{sampled}`, `{trace}-{span}-{sampled}-{parent}`, or `{sampled}`.
fn read_single(text: &str) -> Result<Said, Malformed> {
    let sampled = |word: &str| match word {
        "0" => Ok(false),
        "1" | "d" => Ok(true),
        _ => Err(Malformed),
    };
    let parts: Vec<&str> = text.split('-').collect();
    let (ids, asked) = match parts[..] {
        [word] => (None, Some(sampled(word)?)),
        [trace, span] => (Some((trace, span, None)), None),
        // A parent may follow at once, without a word about sampling.
        [trace, span, parent] if parent.len() == 16 => (Some((trace, span, Some(parent))), None),
        [trace, span, word] => (Some((trace, span, None)), Some(sampled(word)?)),
        [trace, span, word, parent] => (Some((trace, span, Some(parent))), Some(sampled(word)?)),
        _ => return Err(Malformed),
    };
    let ids = match ids {
        Some((trace, span, parent)) => {
            let parent = parent.map_or(Ok(0), span_id)?;
            Some(Ids { trace: trace_id(trace)?, span: span_id(span)?, parent })
        }
        None => None,
    };
    Ok(Said { ids, sampled: asked, single: true })
}

fn trace_id(text: &str) -> Result<u128, Malformed> {
    match text.len() {
        1..=32 => u128::from_str_radix(text, 16).map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

fn span_id(text: &str) -> Result<u64, Malformed> {
    u64::from_str_radix(text, 16).map_err(|_| Malformed)
}

/// 16 digits, or 32 where the id needs them.
pub(super) fn trace_text(id: u128) -> String {
    if id >> 64 == 0 { format!("{id:016x}") } else { format!("{id:032x}") }
}

/// Writes the context in the form in which it came; a request without a trace is left alone.
pub(super) fn inject(zipkin: &Zipkin, context: &TraceContext, headers: &mut HeaderMap) {
    if context.trace_id == 0 {
        return;
    }
    let mut set = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    let (trace, span) = (trace_text(context.trace_id), format!("{:016x}", context.span_id));
    let sampled = if context.sampled { "1" } else { "0" };
    let parent = (context.parent_id != 0).then(|| format!("{:016x}", context.parent_id));
    if context.single_header {
        let parent = parent.map(|p| format!("-{p}")).unwrap_or_default();
        set(SINGLE, format!("{trace}-{span}-{sampled}{parent}"));
    } else {
        set(TRACE_ID, trace);
        set(SPAN_ID, span);
        set(SAMPLED, sampled.to_owned());
        if let Some(parent) = parent {
            set(PARENT_ID, parent);
        }
    }
    if zipkin.with_w3c {
        context::inject(context, None, headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZIPKIN: Zipkin =
        Zipkin { trace_id_128bit: false, shared_span: true, protobuf: false, with_w3c: false, timestamp_ids: false };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    fn passed_on(server: bool, pairs: &[(&'static str, &'static str)]) -> Option<HeaderMap> {
        let mut headers = headers(pairs);
        let context = start(&ZIPKIN, &headers, true, server, || 0x77).map(|s| s.context)?;
        inject(&ZIPKIN, &context, &mut headers);
        Some(headers)
    }

    #[test]
    fn a_server_shares_its_callers_span_and_a_client_makes_a_child() {
        let incoming = [("x-b3-traceid", "a2fb4a1d1a96d3aa"), ("x-b3-spanid", "a2fb4a1d1a96d312")];
        let ids = |headers: HeaderMap| {
            ["x-b3-spanid", "x-b3-parentspanid"].map(|n| headers.get(n).map(|v| v.to_str().unwrap().to_owned()))
        };
        let (span, own) = ("a2fb4a1d1a96d312".to_owned(), "0000000000000077".to_owned());
        assert_eq!(ids(passed_on(true, &incoming).unwrap()), [Some(span.clone()), None]);
        assert_eq!(ids(passed_on(false, &incoming).unwrap()), [Some(own), Some(span)]);
    }

    #[test]
    fn one_header_is_answered_by_one() {
        let out = passed_on(true, &[("b3", "463ac35c9f6413ad48485a3953bb6124-00f067aa0ba902b7-0")]).unwrap();
        assert_eq!(out["b3"], "463ac35c9f6413ad48485a3953bb6124-00f067aa0ba902b7-0");
        assert_eq!(passed_on(true, &[("b3", "0")]).unwrap()["b3"], "0000000000000077-0000000000000077-0");
    }

    #[test]
    fn what_makes_no_sense_is_no_context() {
        for bad in ["x", "a-b-c-d-e", "zz-00f067aa0ba902b7", "1-2-9", ""] {
            let outcome = read_single(bad);
            assert_eq!(outcome, Err(Malformed), "{bad}");
        }
        assert_eq!(passed_on(true, &[("x-b3-traceid", "zz"), ("x-b3-spanid", "1")]), None);
    }
}
