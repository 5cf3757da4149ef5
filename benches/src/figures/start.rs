//! From the start of the process to ready, with all clusters, endpoints and routes over ADS.

use std::time::Duration;

use serde_json::json;
use sidemesh_proto::type_url;
use sidemesh_tests::{ports, proxy};

use super::resources;
use crate::ads::Server;
use crate::peers::Peer;

/// Starts the proxy with `clusters` clusters of ten endpoints and a route to each; gives the time to ready and CPU spent.
pub fn run(peer: &Peer, clusters: u32) -> Result<(Duration, Duration), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let server = Server::start();
    server.put(type_url::CLUSTER, (0..clusters).map(|i| resources::eds_cluster(&resources::name(i))));
    let hosts = |i: u32| resources::addresses(i * 10, 10);
    server.put(type_url::ENDPOINT, (0..clusters).map(|i| resources::assignment(&resources::name(i), hosts(i))));
    server.put(type_url::LISTENER, [resources::listener(ports::free(), &resources::routes(clusters))]);
    let bootstrap = proxy::from_ads("start", server.address, json!({}), false);
    let running = peer.start(dir.path(), &bootstrap);
    Ok((running.ready_after, running.cpu()))
}
