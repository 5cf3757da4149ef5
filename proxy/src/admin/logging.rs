//! `/logging`: the program's own log level, changed while it runs.

use http::StatusCode;
use tracing_subscriber::EnvFilter;

use super::Handle;
use super::route::{Answer, Query};

const USAGE: &str = "usage: /logging?level=LEVEL, /logging?TARGET=LEVEL or /logging?paths=TARGET:LEVEL,TARGET:LEVEL; \
    levels: trace, debug, info, warning, error, off\n";

/// Puts a filter in force; made by the composition root around the subscriber's reload handle.
pub type LogLevel = Box<dyn Fn(EnvFilter) -> Result<(), String>>;

/// `?level=debug` sets the level of everything, `?TARGET=trace` adds one of a module.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let mut directives = Vec::new();
    for (key, value) in query.pairs() {
        match key.as_str() {
            "level" => directives.push((None, value)),
            // `paths=module:level,module:level`
            "paths" => directives.extend(value.split(',').map(|pair| {
                let (target, level) = pair.split_once(':').unwrap_or((pair, ""));
                (Some(target.to_owned()), level.to_owned())
            })),
            _ => directives.push((Some(key), value)),
        }
    }
    if directives.iter().any(|(_, l)| level(l).is_none()) {
        return Answer::refused(StatusCode::BAD_REQUEST, format!("error: unknown logger level\n\n{USAGE}"));
    }
    let directive = |(target, name): &(Option<String>, String)| match target {
        Some(target) => format!("{target}={}", level(name).unwrap_or_default()),
        None => level(name).unwrap_or_default().to_owned(),
    };
    let directives: Vec<String> = directives.iter().map(directive).collect();
    if directives.is_empty() {
        return Answer::text(USAGE);
    }
    let text = directives.join(",");
    match EnvFilter::try_new(&text).map_err(|e| e.to_string()).and_then(&handle.log_level) {
        Ok(()) => Answer::text(format!("active loggers:\n  {text}\n")),
        Err(why) => Answer::refused(StatusCode::BAD_REQUEST, format!("error: {text}: {why}\n")),
    }
}

/// Envoy's level names in ours; `None`: there is no such level.
fn level(name: &str) -> Option<&'static str> {
    Some(match name {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return None,
    })
}
