//! Network filters that do not end the chain: what a connection must pass before its terminal filter sees it.

mod connection_limit;
mod rate_limit;
mod rbac;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::network_filter::NetworkFilter;
use sidemesh_config::value::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use connection_limit::ConnectionLimit;
pub use rate_limit::RateLimit;
pub use rbac::Rbac;

use crate::clock::Timers;
use crate::connection::ConnectionInfo;
use crate::io::Io;
use crate::worker::Worker;

/// What is read at once for a client that is refused.
const PIECE: usize = 4096;

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
    pub delay: Option<Duration>,
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

/// What came before a refused client was closed.
#[derive(Debug, Default)]
pub struct Heard {
    /// Bytes from the client; `None`: it has said nothing, and the wait for it was over otherwise.
    pub up: Option<u64>,
    /// Bytes from the host.
    pub down: u64,
    /// Nobody has said anything for too long.
    pub idle: bool,
}

/// Waits for the client's first bytes, or its end, and reads them. Meanwhile `host`, if there is one, is listened to for it, until that
/// ends. A silence of `idle` ends the wait, too.
pub async fn first_bytes(io: &mut Io, host: Option<&mut Io>, timers: &Timers, idle: Option<Duration>) -> Heard {
    let (mut from_client, mut to_client) = tokio::io::split(io);
    let mut first = vec![0; PIECE];
    let down = Cell::new(0);
    let relayed = async {
        let Some(host) = host else {
            silence(timers, idle, std::future::pending::<()>()).await;
            return true;
        };
        let mut said = vec![0; PIECE];
        loop {
            let one = async {
                let n = host.read(&mut said).await.ok().filter(|n| *n > 0)?;
                to_client.write_all(&said[..n]).await.ok()?;
                to_client.flush().await.ok()?;
                Some(n)
            };
            match silence(timers, idle, one).await {
                Some(Some(n)) => down.set(down.get() + n as u64),
                Some(None) => return false,
                None => return true,
            }
        }
    };
    tokio::select! {
        biased;
        read = from_client.read(&mut first) => Heard { up: Some(read.unwrap_or(0) as u64), down: down.get(), idle: false },
        idle = relayed => Heard { up: None, down: down.get(), idle },
    }
}

/// `None`: it has taken longer than `idle`.
async fn silence<T>(timers: &Timers, idle: Option<Duration>, wait: impl Future<Output = T>) -> Option<T> {
    match idle {
        Some(limit) => timers.timeout(limit, wait).await.ok(),
        None => Some(wait.await),
    }
}

/// `PREFIX.tail`.
fn scope(prefix: &str, tail: &str) -> crate::telemetry::stats::Scope {
    crate::telemetry::stats::Scope::Filter(Arc::from(format!("{prefix}.{tail}")))
}
