//! `/logging`: the program's own log level, changed while it runs.

use http::StatusCode;
use tracing_subscriber::EnvFilter;

use super::Handle;
use super::route::{Answer, Query};

/// Puts a filter in force; made by the composition root around the subscriber's reload handle.
pub type LogLevel = Box<dyn Fn(EnvFilter) -> Result<(), String>>;

/// `?level=debug` sets the level of everything, `?TARGET=trace` adds one of a module.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let directives: Vec<String> = query
        .pairs()
        .map(|(key, value)| match key.as_str() {
            "level" => level(&value).to_owned(),
            target => format!("{target}={}", level(&value)),
        })
        .collect();
    if directives.is_empty() {
        return Answer::text(
            "usage: /logging?level=LEVEL or /logging?TARGET=LEVEL; levels: trace, debug, info, warning, error, off\n",
        );
    }
    let text = directives.join(",");
    match EnvFilter::try_new(&text).map_err(|e| e.to_string()).and_then(&handle.log_level) {
        Ok(()) => Answer::text(format!("active loggers:\n  {text}\n")),
        Err(why) => Answer::refused(StatusCode::BAD_REQUEST, format!("error: {text}: {why}\n")),
    }
}

/// Envoy's level names in ours.
fn level(name: &str) -> &str {
    match name {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    }
}
