//! Endpoints of one port of a service.

use std::collections::HashMap;
use std::sync::Arc;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::endpoint::v3 as endpoint;
use xxhash_rust::xxh64::xxh64;

use super::cluster::{MATCH_FILTER, MATCH_LABEL};
use super::{Resource, wire};
use crate::model::Endpoint;

/// Our own key in endpoint metadata: workload and version, for statistics and access logs.
const METADATA: &str = "sidemesh";

/// Maps come out of the encoder in any order, so the hash is taken of the endpoints, not of the bytes.
pub(super) fn resource(name: &str, endpoints: &[Endpoint]) -> Resource {
    let hash = xxh64(format!("{name} {endpoints:?}").as_bytes(), 0);
    Resource { body: Arc::new(wire::any(&assignment(name, endpoints))), hash }
}

pub(super) fn assignment(name: &str, endpoints: &[Endpoint]) -> endpoint::ClusterLoadAssignment {
    let lb_endpoints: Vec<endpoint::LbEndpoint> = endpoints.iter().map(lb_endpoint).collect();
    let locality = endpoint::LocalityLbEndpoints {
        // gRPC wants a locality and a weight; Envoy takes both.
        locality: Some(core::Locality::default()),
        load_balancing_weight: wire::u32_value(1),
        lb_endpoints,
        ..Default::default()
    };
    let endpoints = if endpoints.is_empty() { Vec::new() } else { vec![locality] };
    endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints, ..Default::default() }
}

fn lb_endpoint(from: &Endpoint) -> endpoint::LbEndpoint {
    let host = endpoint::Endpoint { address: wire::address(from.address), ..Default::default() };
    let mut ours = Vec::new();
    ours.extend(from.workload.as_deref().map(|w| ("workload", w)));
    ours.extend(from.version.as_deref().map(|v| ("version", v)));
    let mut filter_metadata = HashMap::new();
    if !ours.is_empty() {
        filter_metadata.insert(METADATA.to_owned(), wire::strings(ours));
    }
    if from.mesh {
        filter_metadata.insert(MATCH_FILTER.to_owned(), wire::strings([MATCH_LABEL]));
    }
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        health_status: core::HealthStatus::Healthy.into(),
        load_balancing_weight: wire::u32_value(1),
        metadata: (!filter_metadata.is_empty()).then(|| core::Metadata { filter_metadata, ..Default::default() }),
    }
}
