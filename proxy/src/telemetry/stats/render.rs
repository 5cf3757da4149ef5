//! The figures as `/stats` text and as Prometheus text exposition.

use std::collections::BTreeMap;
use std::fmt::Write;

use sidemesh_config::bootstrap::{StatsConfig, TagValue};

use super::scope::{sanitize, without_colons};
use super::{BUCKETS_MS, HistogramValue, Sample, Scope, Value};

/// `/stats`: one `name: value` a line, sorted; histograms as their quantiles.
pub fn text(samples: &[Sample]) -> String {
    text_with(samples, quantiles)
}

/// The same with histograms shown as `show` says.
pub fn text_with(samples: &[Sample], show: impl Fn(&HistogramValue) -> String) -> String {
    let is_text = |s: &&Sample| matches!(s.value, Value::Text(_));
    let is_histogram = |s: &&Sample| matches!(s.value, Value::Histogram(_));
    // Texts, then numbers, then histograms, each sorted.
    let parts: [Vec<&Sample>; 3] = [
        samples.iter().filter(is_text).collect(),
        samples.iter().filter(|s| !is_text(s) && !is_histogram(s)).collect(),
        samples.iter().filter(is_histogram).collect(),
    ];
    parts.iter().map(|part| lines(part, &show)).collect()
}

fn lines(samples: &[&Sample], show: &impl Fn(&HistogramValue) -> String) -> String {
    let mut lines: Vec<String> = samples
        .iter()
        .map(|s| match &s.value {
            Value::Text(text) => format!("{}: \"{text}\"\n", s.name()),
            Value::Counter(n) => format!("{}: {n}\n", s.name()),
            Value::Gauge(n) => format!("{}: {}\n", s.name(), s.level(*n)),
            Value::Histogram(h) if h.count() == 0 => format!("{}: No recorded values\n", s.name()),
            Value::Histogram(h) => format!("{}: {}\n", s.name(), show(h)),
        })
        .collect();
    lines.sort();
    lines.concat()
}

fn quantiles(h: &HistogramValue) -> String {
    let points = [
        (0.0, "P0"),
        (0.25, "P25"),
        (0.5, "P50"),
        (0.75, "P75"),
        (0.9, "P90"),
        (0.95, "P95"),
        (0.99, "P99"),
        (0.995, "P99.5"),
        (0.999, "P99.9"),
        (1.0, "P100"),
    ];
    points.iter().map(|(q, name)| format!("{name}(nan,{:.4})", h.quantile(*q))).collect::<Vec<_>>().join(" ")
}

/// Whether texts are shown as labels of a gauge that is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    Shown,
    Hidden,
}

/// Prometheus text exposition, series of one metric together under one `# TYPE` line.
pub fn prometheus(samples: &[Sample], config: &StatsConfig, texts: Texts) -> String {
    let mut families: BTreeMap<String, (&'static str, String)> = BTreeMap::new();
    let shown = |s: &&Sample| texts == Texts::Shown || !matches!(s.value, Value::Text(_));
    for sample in samples.iter().filter(shown) {
        let full = sample.name();
        let mut scoped = Vec::new();
        let (mut scope_name, mut labels, mut metric, mut code_tag) =
            (sanitize(sample.scope.prefix().trim_end_matches('.')), Vec::new(), sample.metric.clone(), None);
        if config.default_tags {
            let tags;
            (scope_name, tags) = sample.scope.prometheus();
            scoped.extend(tags.into_iter().map(|(tag, value)| (tag, without_colons(value))));
            labels.extend(scoped.iter().map(|(tag, value)| (*tag, &**value)));
            (metric, code_tag) = split_tls(sample).unwrap_or_else(|| split_code(&sample.metric));
        }
        let fixed = config.tags.iter().filter_map(|t| match &t.value {
            TagValue::Fixed(value) => Some((&*t.name, &**value)),
            TagValue::Regex(_) => None,
        });
        drop(labels.splice(0..0, fixed));
        for (tag, pattern) in config.tags.iter().filter_map(|t| match &t.value {
            TagValue::Regex(pattern) => Some((&*t.name, &pattern.0)),
            TagValue::Fixed(_) => None,
        }) {
            let Some(found) = pattern.captures(&full) else { continue };
            let Some(removed) = found.get(1) else { continue };
            labels.push((tag, found.get(2).unwrap_or(removed).as_str()));
            metric = metric.replacen(removed.as_str(), "", 1);
        }
        if let Some((tag, value)) = &code_tag {
            labels.insert(0, (tag, value));
        }
        let name = format!("envoy_{scope_name}_{}", sanitize(&metric));
        let (_, out) = families.entry(name.clone()).or_insert_with(|| (kind(&sample.value), String::new()));
        match &sample.value {
            Value::Counter(n) => series(out, &name, &labels, n),
            Value::Gauge(n) => series(out, &name, &labels, sample.level(*n)),
            Value::Text(text) => {
                labels.push(("text_value", text));
                series(out, &name, &labels, 0);
            }
            Value::Histogram(h) => histogram(out, &name, &labels, h),
        }
    }
    let mut page = String::new();
    for (name, (kind, body)) in families {
        let _ = writeln!(page, "# TYPE {name} {kind}");
        page.push_str(&body);
    }
    page
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Counter(_) => "counter",
        Value::Gauge(_) | Value::Text(_) => "gauge",
        Value::Histogram(_) => "histogram",
    }
}

/// Names within `ssl.` that are tags: `ssl.ciphers.NAME`.
fn split_tls(sample: &Sample) -> Option<(String, Option<(&'static str, String)>)> {
    let (family, name) = sample.metric.strip_prefix("ssl.")?.split_once('.')?;
    let (stem, tag, value) = match family {
        "ciphers" if matches!(sample.scope, Scope::Cluster(_)) => ("ssl.ciphers", "cipher_suite", name),
        "ciphers" => ("ssl.ciphers", "envoy_ssl_cipher", name),
        "curves" => ("ssl.curves", "envoy_ssl_curve", name),
        "sigalgs" => ("ssl.sigalgs", "envoy_ssl_sigalg", name),
        "versions" => ("ssl.versions", "envoy_ssl_version", name),
        "certificate" => {
            let (certificate, last) = name.rsplit_once('.')?;
            return Some((format!("ssl.certificate.{last}"), Some(("envoy_tls_certificate", certificate.to_owned()))));
        }
        _ => return None,
    };
    Some((stem.to_owned(), Some((tag, value.to_owned()))))
}

/// `upstream_rq_2xx` is `upstream_rq_xx` with a class tag, `upstream_rq_200` is `upstream_rq` with a code tag.
fn split_code(metric: &str) -> (String, Option<(&'static str, String)>) {
    let Some((stem, last)) = metric.rsplit_once('_') else { return (metric.to_owned(), None) };
    let bytes = last.as_bytes();
    if bytes.len() != 3 || !stem.ends_with("_rq") || !bytes[0].is_ascii_digit() {
        return (metric.to_owned(), None);
    }
    if &bytes[1..] == b"xx" {
        return (format!("{stem}_xx"), Some(("envoy_response_code_class", last[..1].to_owned())));
    }
    if bytes.iter().all(u8::is_ascii_digit) {
        return (stem.to_owned(), Some(("envoy_response_code", last.to_owned())));
    }
    (metric.to_owned(), None)
}

fn series(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    out.push_str(name);
    out.push('{');
    push_labels(out, labels);
    let _ = writeln!(out, "}} {value}");
}

fn push_labels(out: &mut String, labels: &[(&str, &str)]) {
    for (i, (key, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{key}=\"{escaped}\"");
    }
}

fn histogram(out: &mut String, name: &str, labels: &[(&str, &str)], h: &HistogramValue) {
    let mut cumulative = 0;
    for (i, n) in h.buckets.iter().enumerate() {
        cumulative += n;
        let _ = write!(out, "{name}_bucket{{");
        push_labels(out, labels);
        let separator = if labels.is_empty() { "" } else { "," };
        match BUCKETS_MS.get(i) {
            Some(bound) => {
                let _ = writeln!(out, "{separator}le=\"{bound}\"}} {cumulative}");
            }
            None => {
                let _ = writeln!(out, "{separator}le=\"+Inf\"}} {cumulative}");
            }
        }
    }
    series(out, &format!("{name}_sum"), labels, h.sum);
    series(out, &format!("{name}_count"), labels, cumulative);
}
