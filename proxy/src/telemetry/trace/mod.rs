//! Distributed tracing: W3C trace context in and out, spans to an OpenTelemetry collector.
//!
//! Two decisions are made, one after the other: whether the request is to be traced ([`reason`]; the connection manager's
//! sampling, told in the request's id), and what its span's context is ([`start`]; the caller's `traceparent`, the tracer's
//! sampler). A sampled request fills one small [`Span`] in its worker when it ends; the control thread batches spans and
//! sends them over OTLP ([`export`]). Sources: W3C Trace Context level 1; Envoy's tracing overview and tag names;
//! OpenTelemetry HTTP semantic conventions for the attributes added to them.

mod b3;
mod context;
pub mod export;
mod zipkin;
mod span;
#[cfg(test)]
mod tests;

pub use context::{Incoming, Parent, extract};
pub use span::{Attribute, Kind, Proxy, Span, custom_value, describe, describe_attempt};

use sidemesh_config::resource::http_connection_manager::{Sampler, TraceProvider, Tracing};
use sidemesh_config::resource::route::RouteTracing;
use sidemesh_config::value::Fraction;

use super::stream_info::TraceContext;

/// Why a request is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NotTraced,
    Sampled,
    /// The client asked for it (`x-client-trace-id`).
    Client,
    /// A service asked for it (`x-envoy-force-trace`).
    Forced,
}

/// What bears on the decision.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// What the request's id says already.
    pub known: Option<Reason>,
    pub client: bool,
    pub forced: bool,
    /// The number that the request's id stands for, the same on all of its way; `None`: it has no such id, and is not traced.
    pub number: Option<u64>,
    /// A random number of this proxy's own.
    pub draw: u64,
}

/// Whether the request is to be traced, and why.
pub fn reason(tracing: &Tracing, route: Option<&RouteTracing>, asked: &Asked) -> Reason {
    let Some(number) = asked.number else { return Reason::NotTraced };
    let pick = |of_route: Option<Fraction>, own: Fraction| of_route.unwrap_or(own);
    let client = pick(route.and_then(|r| r.client_sampling), tracing.client_sampling);
    let random = pick(route.and_then(|r| r.random_sampling), tracing.random_sampling);
    let overall = pick(route.and_then(|r| r.overall_sampling), tracing.overall_sampling);
    let reason = match asked.known {
        Some(known) if known != Reason::NotTraced => known,
        _ if asked.client && client.hit(asked.draw) => Reason::Client,
        _ if asked.forced => Reason::Forced,
        _ if random.hit(number) => Reason::Sampled,
        _ => Reason::NotTraced,
    };
    if overall.hit(number) { reason } else { Reason::NotTraced }
}

/// Writes the context of the span that calls upstream, as the provider's callees read it.
pub fn inject(
    provider: Option<&TraceProvider>,
    context: &TraceContext,
    state: Option<&http::HeaderValue>,
    headers: &mut http::HeaderMap,
) {
    match provider.and_then(|p| p.zipkin.as_ref()) {
        Some(zipkin) => b3::inject(zipkin, context, headers),
        None => context::inject(context, state, headers),
    }
}

/// The context of the request's span, and what it arrived with.
#[derive(Debug, Clone, Default)]
pub struct Started {
    pub context: TraceContext,
    /// Kept as it came (`tracestate`).
    pub state: Option<http::HeaderValue>,
}

/// Joins the incoming trace or starts one; `None`: the incoming context is malformed. `random` gives fresh ids, `server` says
/// that the span is the server's side.
pub fn start(
    provider: &TraceProvider,
    headers: &http::HeaderMap,
    traced: bool,
    server: bool,
    mut random: impl FnMut() -> u64,
) -> Option<Started> {
    if let Some(zipkin) = &provider.zipkin {
        return b3::start(zipkin, headers, traced, server, random);
    }
    let parent = match extract(headers) {
        Incoming::Nothing => None,
        Incoming::Context(parent) => Some(parent),
        Incoming::Malformed => return None,
    };
    let trace_id = parent.as_ref().map(|p| p.trace_id);
    let trace_id = trace_id.unwrap_or_else(|| (u128::from(random()) << 64) | u128::from(random() | 1));
    let of_parent = parent.as_ref().map(|p| p.sampled);
    let sampled = match &provider.sampler {
        Some(sampler) => sampler_says(sampler, trace_id, of_parent),
        None => of_parent.unwrap_or(true),
    };
    Some(Started {
        context: TraceContext {
            trace_id,
            span_id: random() | 1,
            parent_id: parent.as_ref().map_or(0, |p| p.span_id),
            sampled: traced && sampled,
            single_header: false,
        },
        state: parent.and_then(|p| p.state),
    })
}

/// The decision of a sampler; `parent`: whether the caller's span is sampled.
fn sampler_says(sampler: &Sampler, trace_id: u128, parent: Option<bool>) -> bool {
    match sampler {
        Sampler::AlwaysOn => true,
        Sampler::TraceIdRatio(fraction) => fraction.hit((trace_id as u64) >> 1),
        Sampler::ParentBased(root) => parent.unwrap_or_else(|| sampler_says(root, trace_id, None)),
    }
}
