//! Network filters that do not end the chain: what a connection must pass before its terminal filter sees it.

mod connection_limit;
mod rate_limit;
mod rbac;

use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::network_filter::NetworkFilter;
use sidemesh_config::value::Name;

pub use connection_limit::ConnectionLimit;
pub use rate_limit::RateLimit;
pub use rbac::Rbac;

use crate::connection::ConnectionInfo;
use crate::worker::Worker;

/// A filter, set up for one chain on one worker.
pub enum Filter {
    Rbac(Rbac),
    RateLimit(RateLimit),
    ConnectionLimit(ConnectionLimit),
    /// The TLS server name becomes the cluster's name.
    SniCluster,
}

/// Why a connection is closed by a filter: Envoy's connection termination details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub details: String,
    /// Wait this long before closing.
    pub delay: Option<std::time::Duration>,
}

/// What a filter leaves behind for the length of the connection.
#[derive(Default)]
pub struct Passed {
    /// Chosen by `sni_cluster`.
    pub cluster: Option<Name>,
    _permits: Vec<connection_limit::Permit>,
}

/// The non-terminal filters of a chain; `None` for a terminal one.
pub fn build(filter: &NetworkFilter, worker: &Rc<Worker>) -> Option<Filter> {
    Some(match filter {
        NetworkFilter::Rbac(config) => Filter::Rbac(Rbac::new(config.clone(), worker)),
        NetworkFilter::LocalRateLimit(config) => Filter::RateLimit(RateLimit::new(config, "local_rate_limit", worker)),
        NetworkFilter::ConnectionLimit(config) => Filter::ConnectionLimit(ConnectionLimit::new(config, worker)),
        NetworkFilter::SniCluster => Filter::SniCluster,
        NetworkFilter::Http(_) | NetworkFilter::Tcp(_) | NetworkFilter::Echo | NetworkFilter::DirectResponse(_) => {
            return None;
        }
    })
}

/// Runs the filters in order.
pub fn run(filters: &[Filter], connection: &ConnectionInfo, worker: &Worker) -> Result<Passed, Denied> {
    let mut passed = Passed::default();
    for filter in filters {
        match filter {
            Filter::Rbac(rbac) => rbac.check(connection)?,
            Filter::RateLimit(limit) => limit.check(worker)?,
            Filter::ConnectionLimit(limit) => passed._permits.extend(limit.check(worker)?),
            Filter::SniCluster => passed.cluster = connection.server_name.clone(),
        }
    }
    Ok(passed)
}

/// `PREFIX.tail`.
fn scope(prefix: &str, tail: &str) -> crate::telemetry::stats::Scope {
    crate::telemetry::stats::Scope::Filter(Arc::from(format!("{prefix}.{tail}")))
}
