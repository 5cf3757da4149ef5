//! Endpoints of a cluster (`endpoint.v3.ClusterLoadAssignment`).

mod parse;
pub(in crate::resource) use parse::health_status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use parse::{HostNames, parse_encoded, parse_with};

use crate::value::{Address, Fraction, Label, Locality, Metadata, Name};

/// A validated load assignment. Localities keep the order of the message.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadAssignment {
    pub cluster: Name,
    pub localities: Vec<LocalityEndpoints>,
    pub policy: AssignmentPolicy,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssignmentPolicy {
    pub drop_overloads: Vec<(Name, Fraction)>,
    /// Percent; default 140.
    pub overprovisioning_factor: u32,
    pub weighted_priority_health: bool,
    /// After this long without an update the endpoints are stale and removed.
    pub endpoint_stale_after: Option<std::time::Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    pub locality: Locality,
    pub endpoints: Vec<Arc<Endpoint>>,
    /// `None`: no weight given (the locality gets nothing in locality-weighted balancing).
    pub weight: Option<u32>,
    pub priority: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    pub additional_addresses: Vec<Address>,
    pub hostname: Label,
    /// At least 1.
    pub weight: u32,
    pub health: HealthStatus,
    pub metadata: Option<Arc<Metadata>>,
    /// Where it is checked, if elsewhere than where it serves.
    pub checked_at: Option<Box<CheckedAt>>,
    pub disable_active_health_check: bool,
}

/// `Endpoint.health_check_config`: the address, port and Host of the health checks of one endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckedAt {
    pub port: Option<u16>,
    pub address: Option<Address>,
    pub hostname: Label,
}

/// `core.v3.HealthStatus` as EDS gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthStatus {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}
