//! Network filters that do not end the chain: what a connection must pass before its terminal filter sees it.

mod connection_limit;
mod rate_limit;
mod rbac;

use std::rc::Rc;
use std::sync::Arc;

use sidemesh_config::resource::network_filter::NetworkFilter;
use sidemesh_config::value::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use connection_limit::ConnectionLimit;
pub use rate_limit::RateLimit;
pub use rbac::Rbac;

use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::worker::Worker;

/// A filter, set up for one chain on one worker.
pub enum Filter {
    Rbac(Box<Rbac>),
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
    /// The connection is closed once the client has sent something.
    pub denied: Option<Denied>,
    _permits: Vec<connection_limit::Permit>,
}

/// The non-terminal filters of a chain; `None` for a terminal one.
pub fn build(filter: &NetworkFilter, worker: &Rc<Worker>) -> Option<Filter> {
    Some(match filter {
        NetworkFilter::Rbac(config) => Filter::Rbac(Box::new(Rbac::new(config.clone(), worker))),
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
            Filter::Rbac(_) if passed.denied.is_some() => {}
            Filter::Rbac(rbac) => passed.denied = rbac.check(connection).err(),
            Filter::RateLimit(limit) => limit.check(worker)?,
            Filter::ConnectionLimit(limit) => passed._permits.extend(limit.check(worker)?),
            Filter::SniCluster => passed.cluster = connection.server_name.clone(),
        }
    }
    Ok(passed)
}

/// Waits for the client's first bytes, or its end, and reads them; meanwhile `host`, if there is one, is listened to for it. Returns how
/// much came from the client and from the host.
pub async fn first_bytes(io: &mut Io, mut host: Option<&mut Io>) -> (u64, u64) {
    let mut down = 0;
    let mut ours = vec![0; 4096];
    let mut theirs = vec![0; 4096];
    loop {
        let heard = async {
            match &mut host {
                Some(host) => host.read(&mut theirs).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        let n = tokio::select! {
            biased;
            read = io.read(&mut ours) => return (read.unwrap_or(0) as u64, down),
            n = heard => n,
        };
        // A host that ends is waited for no longer.
        if n == 0 {
            host = None;
        } else if io.write_all(&theirs[..n]).await.is_err() || io.flush().await.is_err() {
            return (0, down);
        }
        down += n as u64;
    }
}

/// `PREFIX.tail`.
fn scope(prefix: &str, tail: &str) -> crate::telemetry::stats::Scope {
    crate::telemetry::stats::Scope::Filter(Arc::from(format!("{prefix}.{tail}")))
}
