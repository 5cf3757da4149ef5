//! `endpoint.v3.ClusterLoadAssignment` → [`LoadAssignment`].
//!
//! A locality that is listed twice at one priority becomes one entry, as in Envoy: the hosts of both, the weight of the last.
//! Priorities may leave gaps; the gap is an empty priority.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use prost::Message;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::endpoint::v3 as pb;
use sidemesh_proto::wire as encoding;

use super::{AssignmentPolicy, CheckedAt, Endpoint, HealthStatus, LoadAssignment, LocalityEndpoints};
use crate::rejection::{Rejection, Within};
use crate::value::{Address, Fraction, Label, Locality};
use crate::wire;

/// `overprovisioning_factor` when it is not given, in percent.
const DEFAULT_OVERPROVISIONING_FACTOR: u32 = 140;
/// The highest priority number that the API allows.
const MAX_PRIORITY: u32 = 128;

/// Field numbers of `ClusterLoadAssignment.endpoints` and `LocalityLbEndpoints.lb_endpoints`.
const ENDPOINTS: u32 = 2;
const LB_ENDPOINTS: u32 = 2;

/// Whether an endpoint's address may be a name that DNS resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNames {
    Refused,
    Allowed,
}

/// An EDS resource as it came. Each endpoint is decoded and validated before the next: the messages of all of them would be twenty
/// times the size of what is kept.
pub fn parse_encoded(bytes: &[u8]) -> Result<LoadAssignment, Rejection> {
    let (groups, rest) = apart(bytes, ENDPOINTS)?;
    let mut localities = Vec::with_capacity(groups.len());
    for (i, bytes) in groups.into_iter().enumerate() {
        let (encoded, rest) = apart(bytes, LB_ENDPOINTS)?;
        let one = |bytes: &&[u8]| lb_endpoint(&message(bytes)?, HostNames::Refused).map(Arc::new);
        let endpoints = wire::each(&encoded, "lb_endpoints", one).within_index("endpoints", i)?;
        localities.push(locality_endpoints(&message(&rest)?, endpoints).within_index("endpoints", i)?);
    }
    let mut assignment = load_assignment(&message(&rest)?, localities)?;
    keep_first(&mut assignment.localities);
    Ok(assignment)
}

/// An address that EDS names twice is one endpoint, as it is named first (Envoy's rule).
fn keep_first(localities: &mut [LocalityEndpoints]) {
    let count = localities.iter().map(|l| l.endpoints.len()).sum();
    let mut seen: HashSet<&Address, RandomState> = HashSet::with_capacity_and_hasher(count, RandomState::default());
    if localities.iter().flat_map(|l| &l.endpoints).all(|endpoint| seen.insert(&endpoint.address)) {
        return;
    }
    let mut kept: HashSet<Address> = HashSet::new();
    for locality in localities {
        locality.endpoints.retain(|endpoint| kept.insert(endpoint.address.clone()));
    }
}

/// The values of field `number` of a message, and the rest of it.
fn apart(mut bytes: &[u8], number: u32) -> Result<(Vec<&[u8]>, Vec<u8>), Rejection> {
    let (mut values, mut rest) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let before = bytes;
        match encoding::next(&mut bytes).map_err(|e| Rejection::malformed("", e.to_string()))? {
            (found, encoding::Value::Bytes(value)) if found == number => values.push(value),
            _ => rest.extend_from_slice(&before[..before.len() - bytes.len()]),
        }
    }
    Ok((values, rest))
}

fn message<T: Message + Default>(bytes: &[u8]) -> Result<T, Rejection> {
    T::decode(bytes).map_err(|e| Rejection::malformed("", e.to_string()))
}

/// The `load_assignment` of a cluster.
pub fn parse_with(assignment: &pb::ClusterLoadAssignment, names: HostNames) -> Result<LoadAssignment, Rejection> {
    let group = |group: &pb::LocalityLbEndpoints| {
        let one = |e: &pb::LbEndpoint| lb_endpoint(e, names).map(Arc::new);
        locality_endpoints(group, wire::each(&group.lb_endpoints, "lb_endpoints", one)?)
    };
    load_assignment(assignment, wire::each(&assignment.endpoints, "endpoints", group)?)
}

/// All but the endpoints is in `assignment`.
fn load_assignment(
    assignment: &pb::ClusterLoadAssignment,
    groups: Vec<LocalityEndpoints>,
) -> Result<LoadAssignment, Rejection> {
    let cluster = wire::non_empty(&assignment.cluster_name, "cluster_name")?;
    if !assignment.named_endpoints.is_empty() {
        return Err(Rejection::unsupported("named_endpoints", "list the endpoints in lb_endpoints"));
    }
    let mut localities: Vec<LocalityEndpoints> = Vec::with_capacity(groups.len());
    for group in groups {
        match localities.iter_mut().find(|l| l.priority == group.priority && l.locality == group.locality) {
            Some(same) => {
                same.endpoints.extend(group.endpoints);
                same.weight = group.weight;
            }
            None => localities.push(group),
        }
    }
    check_weights(&localities)?;
    let policy = match &assignment.policy {
        Some(policy) => assignment_policy(policy).within("policy")?,
        None => {
            AssignmentPolicy { overprovisioning_factor: DEFAULT_OVERPROVISIONING_FACTOR, ..AssignmentPolicy::default() }
        }
    };
    Ok(LoadAssignment { cluster, localities, policy })
}

/// All but the endpoints is in `group`.
fn locality_endpoints(
    group: &pb::LocalityLbEndpoints,
    endpoints: Vec<Arc<Endpoint>>,
) -> Result<LocalityEndpoints, Rejection> {
    if group.lb_config.is_some() {
        return Err(Rejection::unsupported("lb_config", "list the endpoints in lb_endpoints"));
    }
    if group.priority > MAX_PRIORITY {
        return Err(Rejection::invalid("priority", format!("{} is more than {MAX_PRIORITY}", group.priority)));
    }
    Ok(LocalityEndpoints {
        locality: group.locality.as_ref().map_or_else(Locality::default, wire::locality),
        endpoints,
        weight: at_least_one(wire::uint32(&group.load_balancing_weight), "load_balancing_weight")?,
        priority: group.priority,
    })
}

fn at_least_one(value: Option<u32>, field: &str) -> Result<Option<u32>, Rejection> {
    if value == Some(0) { Err(Rejection::invalid(field, "must be at least 1")) } else { Ok(value) }
}

fn lb_endpoint(e: &pb::LbEndpoint, names: HostNames) -> Result<Endpoint, Rejection> {
    use pb::lb_endpoint::HostIdentifier;
    let endpoint = match &e.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(Rejection::unsupported("endpoint_name", "give the endpoint itself"));
        }
        None => return Err(Rejection::invalid("endpoint", "is required")),
    };
    let host = |a: &Option<core::Address>| wire::required(a, "address").and_then(|a| host_address(a, names));
    let check = endpoint.health_check_config.as_ref();
    let port = match check.map_or(0, |c| c.port_value) {
        0 => None,
        port => Some(u16::try_from(port).map_err(|_| {
            Rejection::invalid("endpoint.health_check_config.port_value", format!("{port} is more than 65535"))
        })?),
    };
    let address = check
        .and_then(|c| c.address.as_ref())
        .map(|a| host_address(a, HostNames::Refused))
        .transpose()
        .within("endpoint.health_check_config")?;
    let at = CheckedAt { port, address, hostname: Label::from(check.map_or("", |c| c.hostname.as_str())) };
    Ok(Endpoint {
        address: host(&endpoint.address).within("endpoint")?,
        additional_addresses: wire::each(&endpoint.additional_addresses, "additional_addresses", |a| host(&a.address))
            .within("endpoint")?,
        hostname: Label::from(endpoint.hostname.as_str()),
        weight: at_least_one(wire::uint32(&e.load_balancing_weight), "load_balancing_weight")?.unwrap_or(1),
        health: health_status(e.health_status, "health_status")?,
        metadata: e.metadata.as_ref().map(|m| Arc::new(wire::metadata(m))),
        checked_at: (at != CheckedAt::default()).then(|| Box::new(at)),
        disable_active_health_check: check.is_some_and(|c| c.disable_active_health_check),
    })
}

fn host_address(address: &core::Address, names: HostNames) -> Result<Address, Rejection> {
    match wire::address(address, "address")? {
        Address::Dns { host, .. } if names == HostNames::Refused => Err(Rejection::invalid(
            "address.socket_address.address",
            format!("`{host}` is no IP address; host names need a STRICT_DNS or LOGICAL_DNS cluster"),
        )),
        address => Ok(address),
    }
}

/// `core.v3.HealthStatus`.
pub(in crate::resource) fn health_status(number: i32, field: &str) -> Result<HealthStatus, Rejection> {
    Ok(match wire::enumeration::<core::HealthStatus>(number, field)? {
        core::HealthStatus::Unknown => HealthStatus::Unknown,
        core::HealthStatus::Healthy => HealthStatus::Healthy,
        core::HealthStatus::Unhealthy => HealthStatus::Unhealthy,
        core::HealthStatus::Draining => HealthStatus::Draining,
        core::HealthStatus::Timeout => HealthStatus::Timeout,
        core::HealthStatus::Degraded => HealthStatus::Degraded,
    })
}

/// Weights are 32-bit sums in every balancer: of the hosts of a locality, and of the localities of a priority.
fn check_weights(localities: &[LocalityEndpoints]) -> Result<(), Rejection> {
    let mut per_priority = std::collections::BTreeMap::<u32, u64>::new();
    for l in localities {
        let hosts: u64 = l.endpoints.iter().map(|e| u64::from(e.weight)).sum();
        if hosts > u64::from(u32::MAX) {
            let reason = format!(
                "the host weights of a locality at priority {} add up to {hosts}, more than {}",
                l.priority,
                u32::MAX
            );
            return Err(Rejection::invalid("endpoints", reason));
        }
        let sum = per_priority.entry(l.priority).or_default();
        *sum += u64::from(l.weight.unwrap_or(0));
        if *sum > u64::from(u32::MAX) {
            let reason = format!("the locality weights of priority {} add up to more than {}", l.priority, u32::MAX);
            return Err(Rejection::invalid("endpoints", reason));
        }
    }
    Ok(())
}

fn assignment_policy(policy: &pb::cluster_load_assignment::Policy) -> Result<AssignmentPolicy, Rejection> {
    let drop_overloads = wire::each(&policy.drop_overloads, "drop_overloads", |d| {
        let category = wire::non_empty(&d.category, "category")?;
        let percentage = wire::required(&d.drop_percentage, "drop_percentage")?;
        Ok((category, wire::fraction(percentage, "drop_percentage")?))
    })?;
    let share = |(_, f): &(_, Fraction)| f64::from(f.numerator) / f64::from(f.denominator);
    let dropped: f64 = drop_overloads.iter().map(share).sum();
    if dropped > 1.0 {
        let reason = format!("the percentages add up to {:.0}, which is more than 100", dropped * 100.0);
        return Err(Rejection::invalid("drop_overloads", reason));
    }
    let endpoint_stale_after: Option<Duration> =
        policy.endpoint_stale_after.as_ref().map(|d| wire::positive_duration(d, "endpoint_stale_after")).transpose()?;
    Ok(AssignmentPolicy {
        drop_overloads,
        overprovisioning_factor: at_least_one(
            wire::uint32(&policy.overprovisioning_factor),
            "overprovisioning_factor",
        )?
        .unwrap_or(DEFAULT_OVERPROVISIONING_FACTOR),
        weighted_priority_health: policy.weighted_priority_health,
        endpoint_stale_after,
    })
}
