//! `/stats` and `/stats/prometheus`.

use regex::Regex;
use serde_json::{Value as Json, json};

use super::Handle;
use super::route::{Answer, Query};
use crate::telemetry::stats::{self, Sample, Value};

/// Text, JSON or Prometheus, as asked.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    match query.get("format").as_deref() {
        Some("prometheus") => prometheus(handle, query),
        Some("json") => with_samples(handle, query, |samples| Answer::json(&as_json(samples))),
        None | Some("text") => with_samples(handle, query, |samples| Answer::text(stats::text(samples))),
        Some(other) => Answer::refused(
            http::StatusCode::BAD_REQUEST,
            format!("format={other}: not one of text, json, prometheus\n"),
        ),
    }
}

/// Prometheus text exposition.
pub fn prometheus(handle: &Handle, query: &Query) -> Answer {
    with_samples(handle, query, |samples| Answer::text(stats::prometheus(samples)))
}

fn with_samples(handle: &Handle, query: &Query, show: impl Fn(&[Sample]) -> Answer) -> Answer {
    let filter = match query.get("filter").map(|f| Regex::new(&f)).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            return Answer::refused(
                http::StatusCode::BAD_REQUEST,
                format!("filter: invalid regular expression: {error}\n"),
            );
        }
    };
    let used_only = query.has("usedonly");
    let mut samples = handle.shared.stats.read();
    samples.retain(|s| !(used_only && unused(&s.value)) && filter.as_ref().is_none_or(|f| f.is_match(&s.name())));
    show(&samples)
}

fn unused(value: &Value) -> bool {
    match value {
        Value::Counter(n) => *n == 0,
        Value::Gauge(n) => *n == 0,
        Value::Histogram(h) => h.count() == 0,
    }
}

/// Quantiles that Envoy prints of each histogram.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

fn as_json(samples: &[Sample]) -> Json {
    let mut list = Vec::new();
    let mut computed = Vec::new();
    for s in samples {
        match &s.value {
            Value::Counter(n) => list.push(json!({"name": s.name(), "value": n})),
            Value::Gauge(n) => list.push(json!({"name": s.name(), "value": n})),
            Value::Histogram(h) => {
                let values: Vec<Json> = QUANTILES
                    .iter()
                    .map(|q| json!({"interval": null, "cumulative": if h.count() == 0 { Json::Null } else { json!(h.quantile(q / 100.0)) }}))
                    .collect();
                computed.push(json!({"name": s.name(), "values": values}));
            }
        }
    }
    if !computed.is_empty() {
        list.push(json!({"histograms": {"supported_quantiles": QUANTILES, "computed_quantiles": computed}}));
    }
    json!({"stats": list})
}
