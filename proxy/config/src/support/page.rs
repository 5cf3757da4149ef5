//! `docs/compatibility.md`, made from the support table.

use std::fmt::Write;

use super::{Field, Kind, MESSAGES, Message, REFUSED_VALUES, Status};

/// Sections of the page in reading order: title, and the beginning of the names of its messages.
const CHAPTERS: &[(&str, &[&str])] = &[
    ("Bootstrap", &["envoy.config.bootstrap."]),
    ("Listeners", &["envoy.config.listener.", "envoy.extensions.filters.listener."]),
    ("Network filters", &["envoy.extensions.filters.network."]),
    ("HTTP filters", &["envoy.extensions.filters.http.", "envoy.extensions.filters.common."]),
    ("Routes", &["envoy.config.route."]),
    (
        "Clusters and endpoints",
        &[
            "envoy.config.cluster.",
            "envoy.config.endpoint.",
            "envoy.extensions.clusters.",
            "envoy.extensions.load_balancing_policies.",
            "envoy.extensions.upstreams.",
        ],
    ),
    ("Transport sockets and secrets", &["envoy.extensions.transport_sockets."]),
    (
        "Access logs and tracing",
        &["envoy.config.accesslog.", "envoy.extensions.access_loggers.", "envoy.config.trace."],
    ),
    ("Shared messages", &[""]),
];

const INTRODUCTION: &str = "\
# Compatibility

What the proxy does with every field of Envoy's v3 API that it accepts, in static files and over xDS alike.

- **yes**: acted on, with Envoy's meaning and default.
- **hint**: accepted and not acted on, for the reason given. The proxy lists the hints that it met in its log.
- **no**: refused. A resource that sets the field is NACKed with its name and the field's path; the rest of the update is
  applied, and the last good version of the resource stays.

A message that is not on this page, an extension of another type and a field that is newer than this release are refused in
the same way. A refused scalar field that holds its default (`false`, `0`, an empty text) counts as not set.

This page is made from `proxy/config/src/support/table.txt`; a test compares the two (`UPDATE_GOLDEN=1` writes it anew).
";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut printed = vec![false; MESSAGES.len()];
    for (title, prefixes) in CHAPTERS {
        let _ = write!(page, "\n## {title}\n");
        for prefix in *prefixes {
            for (message, printed) in MESSAGES.iter().zip(&mut printed) {
                if !*printed && message.name.text().starts_with(prefix) {
                    *printed = true;
                    section(&mut page, message);
                }
            }
        }
    }
    page
}

fn section(page: &mut String, message: &Message) {
    let _ = write!(page, "\n### `{}`\n\n", message.name.text());
    if message.fields().is_empty() {
        page.push_str("No fields.\n");
        return;
    }
    page.push_str("| Field | Supported | Note |\n|---|---|---|\n");
    for field in message.fields() {
        row(page, field);
    }
}

fn row(page: &mut String, field: &Field) {
    let status = match field.status {
        Status::Supported => "yes",
        Status::Hint => "hint",
        Status::Rejected => "no",
    };
    let mut note = field.note.text().to_owned();
    if let Kind::Enum(first, count) = field.kind {
        for refused in &REFUSED_VALUES[usize::from(first)..][..usize::from(count)] {
            let separator = if note.is_empty() { "" } else { "; " };
            let _ = write!(note, "{separator}not {}", refused.note.text());
        }
    }
    let _ = writeln!(page, "| `{}` | {status} | {} |", field.name.text(), note.replace('|', "\\|"));
}

#[test]
fn compatibility_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
    let made = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &made).expect("the page can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let difference = similar::TextDiff::from_lines(&found, &made).unified_diff().context_radius(1).to_string();
    assert!(found == made, "docs/compatibility.md is not current; set UPDATE_GOLDEN=1 to write it:\n{difference}");
}
