//! `/stats` and `/stats/prometheus`.

use regex::Regex;
use serde_json::{Value as Json, json};

use super::Handle;
use super::route::{Answer, Query};
use crate::telemetry::stats::{self, HistogramValue, Sample, Texts, Value};

/// How histograms are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buckets {
    Quantiles,
    Cumulative,
    Disjoint,
}

/// Text, JSON or Prometheus, as asked.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    (handle.refresh)();
    let buckets = match query.get("histogram_buckets").as_deref() {
        None | Some("summary" | "none" | "") => Buckets::Quantiles,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some("detailed") => Buckets::Cumulative,
        Some(_) => {
            let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";
            return refused(usage);
        }
    };
    if query.get("hidden").is_some_and(|h| !["include", "only", "exclude", ""].contains(&h.as_str())) {
        return refused("usage: /stats?hidden=(include|only|exclude)\n\n");
    }
    match query.get("format").as_deref() {
        Some("prometheus") => prometheus(handle, query),
        Some("json") => with_samples(handle, query, |samples| Answer::compact_json(&as_json(samples, buckets))),
        None | Some("text") => with_samples(handle, query, |samples| Answer::text(text(samples, buckets))),
        Some("html" | "active-html") => {
            with_samples(handle, query, |samples| Answer::html(html(&text(samples, buckets))))
        }
        Some(_) => refused("usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
    }
}

fn refused(why: impl Into<String>) -> Answer {
    Answer::refused(http::StatusCode::BAD_REQUEST, why)
}

/// Prometheus text exposition.
pub fn prometheus(handle: &Handle, query: &Query) -> Answer {
    (handle.refresh)();
    let texts = if query.has("text_readouts") { Texts::Shown } else { Texts::Hidden };
    with_samples(handle, query, |samples| Answer::text(stats::prometheus(samples, handle.shared.stats.config(), texts)))
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
        Some("TextReadouts") => |v| matches!(v, Value::Text(_)),
        Some(_) => return refused("invalid &type= param"),
    };
    let used_only = query.has("usedonly");
    let mut samples = handle.shared.stats.read();
    samples.retain(|s| {
        wanted(&s.value) && (!used_only || s.used) && filter.as_ref().is_none_or(|f| f.is_match(&s.name()))
    });
    show(&samples)
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

/// A number without its needless `.0`.
fn whole(n: f64) -> Json {
    if n.fract() == 0.0 { json!(n as i64) } else { json!(n) }
}

fn html(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<!DOCTYPE html>\n<html lang=\"en\"><title>stats</title><pre>\n{escaped}</pre></html>\n")
}

fn as_json(samples: &[Sample], buckets: Buckets) -> Json {
    let mut list = Vec::new();
    let mut histograms = Vec::new();
    for s in samples {
        match &s.value {
            Value::Counter(n) => list.push(json!({"name": s.name(), "value": n})),
            Value::Gauge(n) => list.push(json!({"name": s.name(), "value": s.level(*n)})),
            Value::Text(text) => list.push(json!({"name": s.name(), "value": &**text})),
            Value::Histogram(h) if buckets == Buckets::Quantiles => {
                let values = QUANTILES.iter().map(|q| {
                    let value = if h.count() == 0 { Json::Null } else { json!(h.quantile(q / 100.0)) };
                    json!({"interval": null, "cumulative": value})
                });
                histograms.push(json!({"name": s.name(), "values": values.collect::<Vec<_>>()}));
            }
            Value::Histogram(h) => {
                let shown = counts(h, buckets)
                    .map(|(bound, n)| json!({"upper_bound": whole(bound), "interval": n, "cumulative": n}));
                histograms.push(json!({"name": s.name(), "buckets": shown.collect::<Vec<_>>()}));
            }
        }
    }
    if !histograms.is_empty() {
        list.push(match buckets {
            Buckets::Quantiles => {
                json!({"histograms": {"supported_quantiles": QUANTILES.map(whole), "computed_quantiles": histograms}})
            }
            _ => json!({"histograms": histograms}),
        });
    }
    json!({"stats": list})
}
