//! The admin interface: Envoy's endpoints, shapes and names, for what this proxy has.
//!
//! Served by hyper on the control thread; it reads what others own and changes nothing but the life of the process, the
//! log level and its own runtime layer. Endpoints that change something take POST alone. Source: Envoy's "administration interface" page.

mod certs;
mod clusters;
mod config_dump;
mod server_info;
mod listeners;
mod logging;
mod packed;
mod route;
mod runtime;
mod serve;
mod stats;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidemesh_config::bootstrap::Bootstrap;

pub use logging::LogLevel;
pub use packed::Packed;
pub use runtime::Modify;
pub use serve::serve;

use crate::telemetry::access_log::Writer;
use crate::upstream;
use crate::worker::Shared;
use crate::xds::state::Resources;

/// What the admin interface looks at.
pub struct Handle {
    pub shared: Shared,
    pub upstream: Arc<upstream::Registry>,
    pub resources: Rc<RefCell<Resources>>,
    pub bootstrap: Arc<Bootstrap>,
    /// The start-up file's text, for `/config_dump`.
    pub bootstrap_text: Packed,
    pub started: Instant,
    pub workers: usize,
    /// Command-line options as they were given, for `/server_info`.
    pub options: Vec<(String, String)>,
    pub access_log: Writer,
    pub log_level: LogLevel,
    pub modify_runtime: Modify,
    /// Brings gauges up to date that are otherwise written from time to time.
    pub refresh: Box<dyn Fn()>,
}
