//! One request as one line.

use sidemesh_config::resource::access_log::LogFormat;

use crate::telemetry::format::{render, render_json};
use crate::telemetry::stream_info::LogContext;

/// Appends the line. JSON lines end with a newline; a text format carries its own.
pub(super) fn append(format: &LogFormat, ctx: &LogContext<'_>, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(256);
    match format {
        LogFormat::Text { format, omit_empty } => render(format, ctx, if *omit_empty { "" } else { "-" }, &mut text),
        LogFormat::Json { format, omit_empty, sort_properties: _ } => {
            render_json(format, ctx, *omit_empty, &mut text);
            text.push('\n');
        }
    }
    out.extend_from_slice(text.as_bytes());
}
