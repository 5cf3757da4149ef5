//! JSON log lines: a value that is one operator keeps the operator's type, an absent one is `null`.

use sidemesh_config::format::{Format, Piece};
use sidemesh_config::resource::access_log::JsonFormat;

use super::{Field, render, truncated};
use crate::telemetry::stream_info::LogContext;

/// Appends `format` as JSON text. With `omit_empty`, absent values, nulls and objects without fields are left out, with their keys
/// and from lists; lists stay when nothing is left in them.
pub fn render_json(format: &JsonFormat, ctx: &LogContext<'_>, omit_empty: bool, out: &mut String) {
    match format {
        // The line itself is never left out.
        JsonFormat::Object(fields) => drop(object(fields, ctx, omit_empty, out)),
        other => {
            if !value(other, ctx, omit_empty, out) {
                out.push_str("null");
            }
        }
    }
}

/// Appends the value; `false` (and nothing appended) when it is absent.
fn value(format: &JsonFormat, ctx: &LogContext<'_>, omit_empty: bool, out: &mut String) -> bool {
    match format {
        JsonFormat::Literal(serde_json::Value::Null) => return false,
        JsonFormat::Literal(v) => out.push_str(&v.to_string()),
        JsonFormat::Value(f) => return leaf(f, ctx, omit_empty, out),
        JsonFormat::List(items) => {
            out.push('[');
            let mut first = true;
            for item in items {
                let before = out.len();
                if !first {
                    out.push(',');
                }
                if value(item, ctx, omit_empty, out) {
                    first = false;
                } else if omit_empty {
                    out.truncate(before);
                } else {
                    out.push_str("null");
                    first = false;
                }
            }
            out.push(']');
        }
        JsonFormat::Object(fields) => {
            let before = out.len();
            if !object(fields, ctx, omit_empty, out) && omit_empty {
                out.truncate(before);
                return false;
            }
        }
    }
    true
}

/// Appends the object; `false` when it has no field.
fn object(fields: &[(String, JsonFormat)], ctx: &LogContext<'_>, omit_empty: bool, out: &mut String) -> bool {
    out.push('{');
    let mut first = true;
    for (key, field) in fields {
        let before = out.len();
        if !first {
            out.push(',');
        }
        push_string(key, out);
        out.push(':');
        if value(field, ctx, omit_empty, out) {
            first = false;
        } else if omit_empty {
            out.truncate(before);
        } else {
            out.push_str("null");
            first = false;
        }
    }
    out.push('}');
    !first
}

fn leaf(format: &Format, ctx: &LogContext<'_>, omit_empty: bool, out: &mut String) -> bool {
    if let [Piece::Operator { operator, max_length }] = format.pieces.as_slice() {
        return match super::value(operator, ctx) {
            None => false,
            Some(Field::Number(n)) => {
                let mut buffer = itoa::Buffer::new();
                out.push_str(buffer.format(n));
                true
            }
            Some(Field::Json(v)) => {
                out.push_str(&v.to_string());
                true
            }
            Some(Field::Text(t)) => {
                push_string(truncated(&t, *max_length), out);
                true
            }
        };
    }
    let mut text = String::new();
    render(format, ctx, if omit_empty { "" } else { "-" }, &mut text);
    push_string(&text, out);
    true
}

fn push_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
