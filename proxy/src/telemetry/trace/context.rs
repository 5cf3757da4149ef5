//! Trace context on the wire (W3C Trace Context level 1).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::stream_info::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a request brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    Nothing,
    Context(Parent),
    /// A `traceparent` that is none: it is passed on as it is, and the request is no part of a trace here.
    Malformed,
}

/// The context of the caller's span.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
    pub state: Option<HeaderValue>,
}

/// Reads `traceparent` and `tracestate`.
pub fn extract(headers: &HeaderMap) -> Incoming {
    let Some(value) = headers.get(&TRACEPARENT) else { return Incoming::Nothing };
    match value.to_str().ok().and_then(parse_traceparent) {
        Some((trace_id, span_id, sampled)) => {
            Incoming::Context(Parent { trace_id, span_id, sampled, state: headers.get(&TRACESTATE).cloned() })
        }
        None => Incoming::Malformed,
    }
}

/// `version-traceid-parentid-flags`; all-zero ids are invalid. Of a later version the form of this one is asked for.
fn parse_traceparent(value: &str) -> Option<(u128, u64, bool)> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let well_formed = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !well_formed || parts.next().is_some() || ![version, trace, span, flags].into_iter().all(is_lower_hex) {
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

/// Writes the context of the span that calls upstream. `tracestate` stands beside it, empty where there is none, as Envoy
/// writes it.
pub fn inject(context: &TraceContext, state: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let flags = u8::from(context.sampled);
    let parent = format!("00-{:032x}-{:016x}-{flags:02x}", context.trace_id, context.span_id);
    if let Ok(value) = HeaderValue::try_from(parent) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(TRACESTATE, state.cloned().unwrap_or(HeaderValue::from_static("")));
}
