//! `/stats` and `/stats/prometheus`.

use regex::Regex;
use serde_json::{Value as Json, json};

use super::Handle;
use super::route::{Answer, Query};
use crate::telemetry::stats::{self, HistogramValue, Sample, Value};

/// How histograms are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buckets {
    Quantiles,
    Cumulative,
    Disjoint,
}

/// Text, JSON or Prometheus, as asked.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let buckets = match query.get("histogram_buckets").as_deref() {
        None | Some("summary" | "none" | "") => Buckets::Quantiles,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some(_) => return refused("usage: /stats?histogram_buckets=(cumulative|disjoint|none)\n\n"),
    };
    match query.get("format").as_deref() {
        Some("prometheus") => prometheus(handle, query),
        Some("json") => with_samples(handle, query, |samples| Answer::json(&as_json(samples, buckets))),
        None | Some("text") => with_samples(handle, query, |samples| Answer::text(text(samples, buckets))),
        Some(_) => refused("usage: /stats?format=(json|prometheus|text)\n\n"),
    }
}

fn refused(why: impl Into<String>) -> Answer {
    Answer::refused(http::StatusCode::BAD_REQUEST, why)
}

/// Prometheus text exposition.
pub fn prometheus(handle: &Handle, query: &Query) -> Answer {
    with_samples(handle, query, |samples| Answer::text(stats::prometheus(samples, handle.shared.stats.config())))
}

fn with_samples(handle: &Handle, query: &Query, show: impl Fn(&[Sample]) -> Answer) -> Answer {
    let filter = match query.get("filter").map(|f| Regex::new(&f)).transpose() {
        Ok(filter) => filter,
        Err(error) => return refused(format!("Invalid re2 regex: {error}\n")),
    };
    let kind = query.get("type");
    let wanted: fn(&Value) -> bool = match kind.as_deref() {
        None | Some("All") => |_| true,
        Some("Counters") => |v| matches!(v, Value::Counter(_)),
        Some("Gauges") => |v| matches!(v, Value::Gauge(_)),
        Some("Histograms") => |v| matches!(v, Value::Histogram(_)),
        Some("TextReadouts") => |_| false,
        Some(_) => return refused("invalid &type= param"),
    };
    let used_only = query.has("usedonly");
    let mut samples = handle.shared.stats.read();
    samples.retain(|s| {
        wanted(&s.value) && !(used_only && unused(&s.value)) && filter.as_ref().is_none_or(|f| f.is_match(&s.name()))
    });
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

fn text(samples: &[Sample], buckets: Buckets) -> String {
    if buckets == Buckets::Quantiles {
        return stats::text(samples);
    }
    stats::text_with(samples, |h| {
        let shown = counts(h, buckets).map(|(bound, n)| format!("B{bound}({n},{n})"));
        shown.collect::<Vec<_>>().join(" ")
    })
}

/// A histogram's buckets below infinity.
fn counts(h: &HistogramValue, buckets: Buckets) -> impl Iterator<Item = (f64, u64)> {
    let mut below = 0;
    stats::BUCKETS_MS.iter().zip(h.buckets).map(move |(bound, n)| {
        below += n;
        (*bound, if buckets == Buckets::Cumulative { below } else { n })
    })
}

fn as_json(samples: &[Sample], buckets: Buckets) -> Json {
    let mut list = Vec::new();
    let mut histograms = Vec::new();
    for s in samples {
        match &s.value {
            Value::Counter(n) => list.push(json!({"name": s.name(), "value": n})),
            Value::Gauge(n) => list.push(json!({"name": s.name(), "value": n})),
            Value::Histogram(h) if buckets == Buckets::Quantiles => {
                let values = QUANTILES.iter().map(|q| {
                    let value = if h.count() == 0 { Json::Null } else { json!(h.quantile(q / 100.0)) };
                    json!({"interval": null, "cumulative": value})
                });
                histograms.push(json!({"name": s.name(), "values": values.collect::<Vec<_>>()}));
            }
            Value::Histogram(h) => {
                let shown =
                    counts(h, buckets).map(|(bound, n)| json!({"upper_bound": bound, "interval": n, "cumulative": n}));
                histograms.push(json!({"name": s.name(), "buckets": shown.collect::<Vec<_>>()}));
            }
        }
    }
    if !histograms.is_empty() {
        list.push(match buckets {
            Buckets::Quantiles => {
                json!({"histograms": {"supported_quantiles": QUANTILES, "computed_quantiles": histograms}})
            }
            _ => json!({"histograms": histograms}),
        });
    }
    json!({"stats": list})
}
