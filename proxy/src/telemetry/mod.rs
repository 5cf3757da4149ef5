//! What the proxy tells about itself and its traffic: counters, access logs, spans.
//!
//! The request path only fills plain memory of its own worker: counters with one writer each ([`stats`]), the per-request
//! record ([`stream_info`]), lines and spans handed to the control thread in bounded queues. Formatting of what is off
//! never happens. Nothing here decides anything about a request.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod http;
pub mod stats;
pub mod stream_info;
pub mod tls;
pub mod trace;

/// This machine's name, read once.
pub fn hostname() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_else(|| "-".to_owned())
    })
}
