//! STRICT_DNS and LOGICAL_DNS: names are resolved again and again; a failure keeps what was last known.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::cluster::DnsConfig;
use sidemesh_config::resource::endpoint::{Endpoint, LoadAssignment};
use sidemesh_config::value::{Address, Label, Name};

use super::resolve::{Resolved, resolve};
use crate::upstream::control::Context;
use crate::upstream::shared::SharedCluster;
use crate::upstream::stats::MembershipStats;

/// Refreshes are never closer together.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// What is known of the names.
pub type Known = BTreeMap<Name, Vec<IpAddr>>;

/// Keeps a cluster's hosts resolved until dropped.
pub async fn run(
    context: Rc<Context>,
    shared: Arc<SharedCluster>,
    config: DnsConfig,
    logical: bool,
    stats: Arc<MembershipStats>,
) {
    let names = names(&config.assignment);
    // As in Envoy: an address is a name that resolves to itself.
    let addresses = config.assignment.localities.iter().flat_map(|l| &l.endpoints);
    let addresses = addresses.filter(|e| !matches!(e.address, Address::Dns { .. })).count() as u64;
    let mut known = Known::new();
    let mut failures = 0u32;
    let mut last: Option<LoadAssignment> = None;
    loop {
        let lookups = names.iter().map(|name| resolve(name, config.family, &config.resolvers));
        let answers = futures_util::future::join_all(lookups).await;
        let mut ttl = None;
        let mut failed = false;
        stats.update_attempt.add(addresses);
        stats.update_success.add(addresses);
        for (name, answer) in names.iter().zip(answers) {
            stats.update_attempt.inc();
            match answer {
                Ok(Resolved { addresses, ttl: this }) if !addresses.is_empty() => {
                    stats.update_success.inc();
                    ttl = [ttl, this].into_iter().flatten().min();
                    known.insert(name.clone(), addresses);
                }
                Ok(_) => {
                    stats.update_empty.inc();
                    failed = true;
                }
                Err(error) => {
                    stats.update_failure.inc();
                    failed = true;
                    tracing::debug!(cluster = %shared.name, %name, %error, "a name does not resolve; what was last known stays");
                }
            }
        }
        failures = if failed { failures.saturating_add(1) } else { 0 };
        let assignment = expand(&config.assignment, &known, logical);
        if last.as_ref() == Some(&assignment) {
            stats.update_no_rebuild.inc();
        } else {
            shared.set_members(Arc::new(assignment.clone()), context.local.clock.now());
            last = Some(assignment);
        }
        shared.discovered();
        let random = &context.local.random;
        tokio::time::sleep(pause(&config, failures, ttl, |bound| random.below(bound + 1))).await;
    }
}

fn names(assignment: &LoadAssignment) -> Vec<Name> {
    let endpoints = assignment.localities.iter().flat_map(|l| &l.endpoints);
    let mut names: Vec<Name> = endpoints
        .filter_map(|e| match &e.address {
            Address::Dns { host, .. } => Some(host.clone()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The assignment with names replaced by what they stand for: all addresses, or (`logical`) the first.
pub fn expand(assignment: &LoadAssignment, known: &Known, logical: bool) -> LoadAssignment {
    let mut expanded = assignment.clone();
    for locality in &mut expanded.localities {
        let mut endpoints = Vec::new();
        for endpoint in &locality.endpoints {
            let Address::Dns { host, port } = &endpoint.address else {
                endpoints.push(literal(endpoint));
                continue;
            };
            let addresses = known.get(host).map_or(&[][..], Vec::as_slice);
            let taken = if logical { &addresses[..addresses.len().min(1)] } else { addresses };
            for ip in taken {
                endpoints.push(Arc::new(resolved(endpoint, host, SocketAddr::new(*ip, *port))));
            }
        }
        locality.endpoints = endpoints;
    }
    expanded
}

/// An address needs no resolving; it is the host's name, too.
fn literal(endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
    match &endpoint.address {
        Address::Socket(address) if endpoint.hostname.is_empty() => {
            let hostname = Label::from(address.ip().to_string().as_str());
            Arc::new(Endpoint { hostname, ..Endpoint::clone(endpoint) })
        }
        _ => endpoint.clone(),
    }
}

fn resolved(endpoint: &Endpoint, host: &Name, address: SocketAddr) -> Endpoint {
    let hostname = if endpoint.hostname.is_empty() { Label(host.clone()) } else { endpoint.hostname.clone() };
    Endpoint { address: Address::Socket(address), hostname, ..endpoint.clone() }
}

/// Until the next refresh: the rate, or the lowest TTL where that is respected, or the growing pause after failures.
pub fn pause(config: &DnsConfig, failures: u32, ttl: Option<Duration>, random: impl Fn(u64) -> u64) -> Duration {
    let jitter = Duration::from_millis(random(config.jitter.as_millis() as u64));
    if failures > 0
        && let Some(backoff) = &config.failure_refresh
    {
        let ceiling = backoff.base.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(backoff.max);
        let ceiling = ceiling.max(backoff.base).as_millis() as u64;
        return Duration::from_millis(random(ceiling.saturating_sub(1))).max(MIN_PAUSE) + jitter;
    }
    let base = match ttl {
        Some(ttl) if config.respect_ttl && failures == 0 => ttl,
        _ => config.refresh_rate,
    };
    base.max(MIN_PAUSE) + jitter
}
