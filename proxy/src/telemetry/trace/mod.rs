//! Distributed tracing: W3C trace context (and B3 where configured) in and out, spans to an OpenTelemetry collector.
//!
//! A sampled request fills one small [`Span`] in its worker when it ends; the control thread batches spans and sends them
//! over OTLP ([`export`]). A request that is not sampled costs the reading of one header. Sources: W3C Trace Context
//! level 1; Envoy's tracing overview for the decision (client, random, overall sampling) and the tag names; OpenTelemetry
//! HTTP semantic conventions for the attributes added to them.

mod context;
pub mod export;
mod span;
#[cfg(test)]
mod tests;

pub use context::{Incoming, extract, inject};
pub use span::{Attribute, Kind, Span, describe};

use sidemesh_config::resource::http_connection_manager::{Sampler, Tracing};
use sidemesh_config::resource::route::RouteTracing;

use super::stream_info::TraceContext;

/// What was decided about a request's trace, and what it arrived with.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    pub context: TraceContext,
    /// Kept as it came (`tracestate`).
    pub state: Option<http::HeaderValue>,
}

/// Joins the incoming trace or starts one. `random` gives fresh ids and the sampling draw.
pub fn decide(
    tracing: &Tracing,
    route: Option<&RouteTracing>,
    headers: &http::HeaderMap,
    mut random: impl FnMut() -> u64,
) -> Decision {
    let incoming = extract(headers, tracing.b3);
    let span_id = random() | 1;
    let client_forced = headers.contains_key("x-client-trace-id");
    let (trace_id, parent_id, upstream_choice) = match &incoming {
        Some(i) => (i.trace_id, i.span_id, Some(i.sampled)),
        None => ((u128::from(random()) << 64) | u128::from(random() | 1), 0, None),
    };
    let sampled = match upstream_choice {
        Some(choice) => choice,
        None => sample(tracing, route, client_forced, trace_id, random()),
    };
    Decision { context: TraceContext { trace_id, span_id, parent_id, sampled }, state: incoming.and_then(|i| i.state) }
}

fn sample(tracing: &Tracing, route: Option<&RouteTracing>, client_forced: bool, trace_id: u128, draw: u64) -> bool {
    let pick = |of_route: Option<sidemesh_config::value::Fraction>, own| of_route.unwrap_or(own);
    let client = pick(route.and_then(|r| r.client_sampling), tracing.client_sampling);
    let random = pick(route.and_then(|r| r.random_sampling), tracing.random_sampling);
    let overall = pick(route.and_then(|r| r.overall_sampling), tracing.overall_sampling);
    let wanted = (client_forced && client.hit(draw)) || random.hit(draw);
    if !wanted || !overall.hit(draw.rotate_left(17)) {
        return false;
    }
    match tracing.provider.as_deref().and_then(|p| p.sampler.as_ref()) {
        Some(sampler) => sampler_says(sampler, trace_id),
        None => true,
    }
}

/// The decision of a root span's sampler.
fn sampler_says(sampler: &Sampler, trace_id: u128) -> bool {
    match sampler {
        Sampler::AlwaysOn => true,
        Sampler::TraceIdRatio(fraction) => fraction.hit((trace_id as u64) >> 1),
        Sampler::ParentBased(root) => sampler_says(root, trace_id),
    }
}
