//! `/logging`: the program's own log level, changed while it runs.

use http::StatusCode;
use tracing_subscriber::EnvFilter;

use super::Handle;
use super::route::{Answer, Query};

const USAGE: &str = "usage: /logging?level=LEVEL, /logging?TARGET=LEVEL (a logger of Envoy or a module path) or /logging?paths=TARGET:LEVEL,TARGET:LEVEL; \
    levels: trace, debug, info, warning, error, off\n";

/// Envoy's loggers that have a part here, and that part; and the crates whose modules may be named.
const LOGGERS: [(&str, &str); 17] = [
    ("admin", "sidemesh_proxy::admin"),
    ("config", "sidemesh_proxy::xds"),
    ("conn_handler", "sidemesh_proxy::downstream"),
    ("connection", "sidemesh_proxy::downstream"),
    ("ext_authz", "sidemesh_proxy::http::filter::ext_authz"),
    ("filter", "sidemesh_proxy::tcp"),
    ("hc", "sidemesh_proxy::upstream::health"),
    ("http", "sidemesh_proxy::http"),
    ("http2", "sidemesh_proxy::codec::h2"),
    ("jwt", "sidemesh_proxy::http::filter::jwt_authn"),
    ("main", "sidemesh_proxy::app"),
    ("pool", "sidemesh_proxy::upstream::pool"),
    ("rbac", "sidemesh_proxy::rbac"),
    ("router", "sidemesh_proxy::http::forward"),
    ("secret", "sidemesh_proxy::tls"),
    ("tracing", "sidemesh_proxy::telemetry"),
    ("upstream", "sidemesh_proxy::upstream"),
];
const CRATES: [&str; 9] = [
    "sidemesh_proxy",
    "sidemesh_config",
    "sidemesh_proto",
    "h2",
    "hickory_resolver",
    "hyper",
    "rustls",
    "tonic",
    "tower",
];

/// Puts a filter in force; made by the composition root around the subscriber's reload handle.
pub type LogLevel = Box<dyn Fn(EnvFilter) -> Result<(), String>>;

/// `?level=debug` sets the level of everything, `?TARGET=trace` adds one of a module.
pub fn answer(handle: &Handle, query: &Query) -> Answer {
    if query.pairs().count() > 1 {
        return refused("invalid number of parameters");
    }
    let mut directives = Vec::new();
    for (key, value) in query.pairs() {
        match key.as_str() {
            "level" => directives.push((None, value)),
            // `paths=module:level,module:level`
            "paths" => directives.extend(value.split(',').map(|pair| {
                let (target, level) = pair.split_once(':').unwrap_or((pair, ""));
                (Some(target.to_owned()), level.to_owned())
            })),
            // `?TARGET` alone asks for the levels.
            _ if value.is_empty() => {}
            _ => directives.push((Some(key), value)),
        }
    }
    if directives.iter().any(|(_, l)| level(l).is_none()) {
        return refused("unknown logger level");
    }
    if directives.iter().any(|(target, _)| target.as_deref().is_some_and(|t| logger(t).is_none())) {
        return refused("unknown logger name");
    }
    let directive = |(target, name): &(Option<String>, String)| match target {
        Some(target) => format!("{}={}", logger(target).unwrap_or_default(), level(name).unwrap_or_default()),
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

fn refused(why: &str) -> Answer {
    Answer::refused(StatusCode::BAD_REQUEST, format!("error: {why}\n\n{USAGE}"))
}

/// The modules that a name stands for: one of Envoy's, or a path of ours.
fn logger(name: &str) -> Option<&str> {
    let known = LOGGERS.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    known.or_else(|| CRATES.contains(&name.split("::").next()?).then_some(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_names_and_our_paths_are_loggers() {
        assert_eq!(logger("upstream"), Some("sidemesh_proxy::upstream"));
        assert_eq!(logger("sidemesh_proxy::http::route"), Some("sidemesh_proxy::http::route"));
        assert_eq!(logger("hyper"), Some("hyper"));
        assert_eq!((logger("wasm"), logger("nonsense"), logger("")), (None, None, None));
    }
}
