//! Trace context on the wire.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::stream_info::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// A trace context that came with a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
    pub state: Option<HeaderValue>,
}

/// Reads `traceparent` (and B3's two forms when asked). Malformed headers count as absent, as the specification says.
pub fn extract(headers: &HeaderMap, b3: bool) -> Option<Incoming> {
    let parent = headers.get(&TRACEPARENT).and_then(|v| v.to_str().ok()).and_then(parse_traceparent);
    if let Some((trace_id, span_id, sampled)) = parent {
        return Some(Incoming { trace_id, span_id, sampled, state: headers.get(&TRACESTATE).cloned() });
    }
    if b3 { extract_b3(headers) } else { None }
}

/// `version-traceid-parentid-flags`; version ff and all-zero ids are invalid.
fn parse_traceparent(value: &str) -> Option<(u128, u64, bool)> {
    let mut parts = value.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let well_formed = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !well_formed || version == "ff" || (version == "00" && parts.next().is_some()) || !is_lower_hex(version) {
        return None;
    }
    if !is_lower_hex(trace) || !is_lower_hex(span) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok().filter(|t| *t != 0)?;
    let span_id = u64::from_str_radix(span, 16).ok().filter(|s| *s != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace_id, span_id, flags & 1 == 1))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn extract_b3(headers: &HeaderMap) -> Option<Incoming> {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let (trace, span, sampled) = match text(&B3) {
        Some(single) => {
            let mut parts = single.split('-');
            (parts.next()?, parts.next()?, parts.next().unwrap_or("1"))
        }
        None => (text(&B3_TRACE_ID)?, text(&B3_SPAN_ID)?, text(&B3_SAMPLED).unwrap_or("1")),
    };
    if !(trace.len() == 16 || trace.len() == 32) || span.len() != 16 {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok().filter(|t| *t != 0)?;
    let span_id = u64::from_str_radix(span, 16).ok().filter(|s| *s != 0)?;
    Some(Incoming { trace_id, span_id, sampled: matches!(sampled, "1" | "d" | "true"), state: None })
}

/// Writes the context of the span that calls upstream.
pub fn inject(context: &TraceContext, state: Option<&HeaderValue>, b3: bool, headers: &mut HeaderMap) {
    let flags = u8::from(context.sampled);
    let parent = format!("00-{:032x}-{:016x}-{flags:02x}", context.trace_id, context.span_id);
    if let Ok(value) = HeaderValue::try_from(parent) {
        headers.insert(TRACEPARENT, value);
    }
    if let Some(state) = state {
        headers.insert(TRACESTATE, state.clone());
    }
    if b3 {
        let mut set = |name: HeaderName, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        set(B3_TRACE_ID, format!("{:032x}", context.trace_id));
        set(B3_SPAN_ID, format!("{:016x}", context.span_id));
        if context.parent_id != 0 {
            set(B3_PARENT, format!("{:016x}", context.parent_id));
        }
        set(B3_SAMPLED, flags.to_string());
    }
}
