//! Which endpoint answers, and the page that lists them.

use http::{Method, Request, StatusCode};
use sidemesh_config::resource::ResourceKind;

use super::{Handle, certs, clusters, config_dump, listeners, logging, runtime, server_info, stats};
use crate::shutdown::{Phase, Which};

pub const TEXT: &str = "text/plain; charset=UTF-8";
pub const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";

/// What an endpoint says.
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    pub fn text(body: impl Into<String>) -> Self {
        Answer { status: StatusCode::OK, content_type: TEXT, body: body.into() }
    }
    pub fn json(value: &serde_json::Value) -> Self {
        let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        Answer { status: StatusCode::OK, content_type: JSON, body }
    }
    pub fn compact_json(value: &serde_json::Value) -> Self {
        Answer { status: StatusCode::OK, content_type: JSON, body: value.to_string() }
    }
    pub fn html(body: String) -> Self {
        Answer { status: StatusCode::OK, content_type: HTML, body }
    }
    pub fn refused(status: StatusCode, why: impl Into<String>) -> Self {
        Answer { status, content_type: TEXT, body: why.into() }
    }
}

/// The query of a request, decoded on demand.
pub struct Query(String);

impl Query {
    pub fn new(text: &str) -> Self {
        Query(text.to_owned())
    }
    pub fn get(&self, key: &str) -> Option<String> {
        self.pairs().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    pub fn has(&self, key: &str) -> bool {
        self.pairs().any(|(k, _)| k == key)
    }
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let decode =
            |t: &str| percent_encoding::percent_decode_str(&t.replace('+', " ")).decode_utf8_lossy().into_owned();
        self.0.split('&').filter(|p| !p.is_empty()).map(move |pair| match pair.split_once('=') {
            Some((k, v)) => (decode(k), decode(v)),
            None => (decode(pair), String::new()),
        })
    }
}

struct Endpoint {
    path: &'static str,
    help: &'static str,
    /// Takes POST alone.
    changes: bool,
    answer: fn(&Handle, &Query) -> Answer,
}

/// The answer of what would begin, clear or end the tracking of lookups.
const UNTRACKED: &str = "Lookups by name are not tracked: there is nothing to do.\n";

const ENDPOINTS: [Endpoint; 29] = [
    Endpoint { path: "/", help: "this page", changes: false, answer: |_, _| home() },
    Endpoint { path: "/certs", help: "certificates in use", changes: false, answer: |h, _| certs::answer(h) },
    Endpoint {
        path: "/clusters",
        help: "clusters and their hosts; ?format=json",
        changes: false,
        answer: clusters::answer,
    },
    Endpoint {
        path: "/config_dump",
        help: "configuration in force; ?resource, ?mask, ?name_regex, ?include_eds",
        changes: false,
        answer: config_dump::answer,
    },
    Endpoint {
        path: "/contention",
        help: "lock contention: not measured",
        changes: false,
        answer: |_, _| Answer::text("Lock contention is not measured: no lock is taken while a request is served.\n"),
    },
    Endpoint {
        path: "/drain_listeners",
        help: "stop accepting connections; ?graceful, ?skip_exit, ?inboundonly",
        changes: true,
        answer: drain,
    },
    Endpoint { path: "/healthcheck/fail", help: "fail health checks", changes: true, answer: |h, _| health(h, true) },
    Endpoint {
        path: "/healthcheck/ok",
        help: "pass health checks again",
        changes: true,
        answer: |h, _| health(h, false),
    },
    Endpoint { path: "/help", help: "the endpoints", changes: false, answer: |_, _| help() },
    Endpoint {
        path: "/hot_restart_version",
        help: "not compatible with any other process",
        changes: false,
        answer: |_, _| Answer::text("disabled"),
    },
    Endpoint {
        path: "/init_dump",
        help: "what the start still waits for",
        changes: false,
        answer: |h, _| init_dump(h),
    },
    Endpoint {
        path: "/listeners",
        help: "listener addresses; ?format=json",
        changes: false,
        answer: listeners::answer,
    },
    Endpoint {
        path: "/logging",
        help: "log levels; ?level=LEVEL or ?TARGET=LEVEL",
        changes: true,
        answer: logging::answer,
    },
    Endpoint { path: "/memory", help: "memory in use", changes: false, answer: |_, _| server_info::memory() },
    Endpoint { path: "/quitquitquit", help: "end the process", changes: true, answer: |h, _| quit(h) },
    Endpoint { path: "/ready", help: "200 when configured and not draining", changes: false, answer: |h, _| ready(h) },
    Endpoint { path: "/reopen_logs", help: "open access logs anew", changes: true, answer: |h, _| reopen(h) },
    Endpoint { path: "/runtime", help: "runtime values and layers", changes: false, answer: |h, _| runtime::answer(h) },
    Endpoint {
        path: "/runtime_modify",
        help: "set keys of the admin's runtime layer; ?key=value",
        changes: true,
        answer: runtime::modify,
    },
    Endpoint { path: "/reset_counters", help: "set all counters to zero", changes: true, answer: |h, _| reset(h) },
    Endpoint {
        path: "/server_info",
        help: "version, state and command line",
        changes: false,
        answer: |h, _| server_info::answer(h),
    },
    Endpoint {
        path: "/stats",
        help: "?filter=REGEX, ?usedonly, ?type, ?format=json|prometheus|text, ?histogram_buckets",
        changes: false,
        answer: stats::answer,
    },
    Endpoint {
        path: "/stats/recentlookups",
        help: "lookups of statistics by name: not tracked",
        changes: false,
        answer: |_, _| {
            Answer::text("Lookups by name are not tracked: statistics are looked up when they are made.\n\ntotal: 0\n")
        },
    },
    Endpoint {
        path: "/stats/recentlookups/clear",
        help: "nothing is tracked",
        changes: true,
        answer: |_, _| Answer::text(UNTRACKED),
    },
    Endpoint {
        path: "/stats/recentlookups/disable",
        help: "nothing is tracked",
        changes: true,
        answer: |_, _| Answer::text(UNTRACKED),
    },
    Endpoint {
        path: "/stats/recentlookups/enable",
        help: "nothing is tracked",
        changes: true,
        answer: |_, _| Answer::text(UNTRACKED),
    },
    Endpoint {
        path: "/cpuprofiler",
        help: "no profiler is built in",
        changes: true,
        answer: |_, q| match q.get("enable").as_deref() {
            Some("y" | "n") => Answer::refused(StatusCode::NOT_IMPLEMENTED, "no profiler is built in\n"),
            _ => Answer::refused(StatusCode::BAD_REQUEST, "?enable=<y|n>\n"),
        },
    },
    Endpoint {
        path: "/heapprofiler",
        help: "no profiler is built in",
        changes: true,
        answer: |_, _| Answer::refused(StatusCode::NOT_IMPLEMENTED, "The current build does not support heap profiler"),
    },
    Endpoint {
        path: "/stats/prometheus",
        help: "Prometheus text exposition; ?filter, ?usedonly",
        changes: false,
        answer: stats::prometheus,
    },
];

/// Answers one request.
pub fn answer<B>(handle: &Handle, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let Some(endpoint) = ENDPOINTS.iter().find(|e| e.path == path) else {
        return Answer::refused(StatusCode::NOT_FOUND, format!("invalid path. admin commands are:\n{}", list()));
    };
    let query = Query::new(request.uri().query().unwrap_or(""));
    let read_only = *request.method() == Method::GET || *request.method() == Method::HEAD;
    if endpoint.changes && *request.method() != Method::POST {
        return Answer::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {} not allowed, POST required.", request.method()),
        );
    }
    if !endpoint.changes && !read_only && *request.method() != Method::POST {
        return Answer::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {} not allowed, GET required.", request.method()),
        );
    }
    (endpoint.answer)(handle, &query)
}

fn list() -> String {
    ENDPOINTS.iter().map(|e| format!("  {}{}: {}\n", e.path, if e.changes { " (POST)" } else { "" }, e.help)).collect()
}

fn help() -> Answer {
    Answer::text(format!("admin commands are:\n{}", list()))
}

fn home() -> Answer {
    let row = |e: &Endpoint| {
        let link = if e.changes {
            format!("<form method=\"post\" action=\"{0}\"><button>{0}</button></form>", e.path)
        } else {
            format!("<a href=\"{0}\">{0}</a>", e.path)
        };
        format!("<tr><td>{link}</td><td>{}</td></tr>\n", e.help)
    };
    let rows: String = ENDPOINTS.iter().map(row).collect();
    let body = format!(
        "<!doctype html><html lang=\"en\"><title>sidemesh-proxy</title><h1>sidemesh-proxy</h1><table>\n{rows}</table></html>\n"
    );
    Answer { status: StatusCode::OK, content_type: HTML, body }
}

/// Envoy's words for the phase.
pub fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::PreInitializing => "PRE_INITIALIZING",
        Phase::Initializing => "INITIALIZING",
        Phase::Live => "LIVE",
        Phase::Stopping | Phase::Exit => "DRAINING",
    }
}

fn ready(handle: &Handle) -> Answer {
    let phase = handle.shared.shutdown.phase();
    let live = phase == Phase::Live && !handle.shared.shutdown.is_health_failed();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if phase == Phase::Live && !live { "DRAINING" } else { state(phase) };
    Answer { status, content_type: TEXT, body: format!("{word}\n") }
}

/// Which resources have been sent and wait for what they name.
fn init_dump(handle: &Handle) -> Answer {
    let resources = handle.resources.borrow();
    let waiting = |kind| resources.of(kind).filter(|(_, e)| e.warming).map(|(n, _)| n.to_string()).collect::<Vec<_>>();
    let managers: Vec<_> = [ResourceKind::Cluster, ResourceKind::Listener]
        .into_iter()
        .flat_map(waiting)
        .map(|name| serde_json::json!({"name": name, "target_names": []}))
        .collect();
    match managers.is_empty() {
        true => Answer::json(&serde_json::json!({})),
        false => Answer::json(&serde_json::json!({"unready_targets_dumps": managers})),
    }
}

fn drain(handle: &Handle, query: &Query) -> Answer {
    let stay = query.has("skip_exit");
    let which = if query.has("inboundonly") { Which::Inbound } else { Which::All };
    match stay || query.has("graceful") {
        true => handle.shared.shutdown.drain_gracefully(which, stay),
        false => handle.shared.shutdown.drain_listeners(which),
    }
    Answer::text("OK\n")
}

fn quit(handle: &Handle) -> Answer {
    handle.shared.shutdown.quit();
    Answer::text("OK\n")
}

fn health(handle: &Handle, failed: bool) -> Answer {
    handle.shared.shutdown.set_health_failed(failed);
    Answer::text("OK\n")
}

fn reset(handle: &Handle) -> Answer {
    handle.shared.stats.reset_counters();
    Answer::text("OK\n")
}

fn reopen(handle: &Handle) -> Answer {
    handle.access_log.reopen();
    Answer::text("OK\n")
}
