//! Evaluation of compiled format strings ([`sidemesh_config::format`]) against one request.
//!
//! Operators follow Envoy's "access logging" page: an absent value prints as `-` (or nothing), a typed one keeps its type
//! in JSON.

mod json;
mod operator;
pub mod size;
#[cfg(test)]
mod tests;
mod time;
mod zone;

use std::borrow::Cow;

use sidemesh_config::format::{Format, Operator, Piece};

pub use json::render_json;
pub use size::bytes;
pub use time::{Civil, strftime};

use super::stream_info::LogContext;

/// One operator's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Json(Cow<'a, serde_json::Value>),
}

impl Field<'_> {
    fn push(&self, max_length: Option<usize>, out: &mut String) {
        match self {
            Field::Text(t) => out.push_str(truncated(t, max_length)),
            Field::Number(n) => {
                let mut buffer = itoa::Buffer::new();
                out.push_str(truncated(buffer.format(*n), max_length));
            }
            Field::Json(v) => match &**v {
                serde_json::Value::String(s) => out.push_str(truncated(s, max_length)),
                other => out.push_str(truncated(&other.to_string(), max_length)),
            },
        }
    }
}

/// The first `max` bytes, cut at a character's edge.
fn truncated(text: &str, max: Option<usize>) -> &str {
    match max {
        Some(max) if text.len() > max => {
            let mut end = max;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            &text[..end]
        }
        _ => text,
    }
}

/// Appends `format` to `out`; absent values print as `absent` (`-` in logs, nothing in added headers).
pub fn render(format: &Format, ctx: &LogContext<'_>, absent: &str, out: &mut String) {
    for piece in &format.pieces {
        match piece {
            Piece::Text(t) => out.push_str(t),
            Piece::Operator { operator, max_length } => match operator::value(operator, ctx) {
                Some(field) => field.push(*max_length, out),
                None => out.push_str(absent),
            },
        }
    }
}

/// The value of a format of any shape as text.
pub fn to_string(format: &Format, ctx: &LogContext<'_>, absent: &str) -> String {
    let mut out = String::new();
    render(format, ctx, absent, &mut out);
    out
}

/// The gRPC status of the answer, from its trailers or headers.
pub fn grpc_code(ctx: &LogContext<'_>) -> Option<u32> {
    operator::grpc_status(ctx).and_then(|c| u32::try_from(c).ok())
}

/// One operator's value, `None` when the request has none.
pub fn value<'a>(operator: &Operator, ctx: &LogContext<'a>) -> Option<Field<'a>> {
    operator::value(operator, ctx)
}
