//! `TcpProxy` from the wire.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use sidemesh_proto::envoy::r#type::v3 as types;

use super::{TcpCluster, TcpProxy};
use crate::rejection::{Rejection, Within};
use crate::resource::access_log;
use crate::resource::route::subset_match;
use crate::wire;

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub fn parse(p: &pb::TcpProxy) -> Result<TcpProxy, Rejection> {
    refuse_unsupported(p)?;
    let idle = wire::duration_or(&p.idle_timeout, "idle_timeout", DEFAULT_IDLE_TIMEOUT)?;
    let clusters = clusters(p)?;
    let max_connect_attempts = wire::uint32(&p.max_connect_attempts).unwrap_or(1);
    if max_connect_attempts == 0 {
        return Err(Rejection::invalid("max_connect_attempts", "must be at least 1"));
    }
    let old_interval = wire::optional_duration(&p.access_log_flush_interval, "access_log_flush_interval")?;
    let (access_log_flush_interval, flush_log_on_connected) = match &p.access_log_options {
        None => (old_interval, p.flush_access_log_on_connected),
        Some(_) if old_interval.is_some() || p.flush_access_log_on_connected => {
            return Err(Rejection::invalid("access_log_options", "leave out the deprecated fields beside it"));
        }
        Some(options) if options.flush_access_log_on_start => {
            return Err(Rejection::unsupported("access_log_options.flush_access_log_on_start", "leave it out"));
        }
        Some(options) => {
            let interval = wire::optional_duration(&options.access_log_flush_interval, "access_log_flush_interval");
            (interval.within("access_log_options")?, options.flush_access_log_on_connected)
        }
    };
    Ok(TcpProxy {
        stat_prefix: wire::non_empty(&p.stat_prefix, "stat_prefix")?,
        total_weight: clusters.iter().map(|c| u64::from(c.weight)).sum(),
        clusters,
        metadata_match: subset_match(&p.metadata_match),
        idle_timeout: (!idle.is_zero()).then_some(idle),
        max_connect_attempts,
        backoff: p.backoff_options.as_ref().map(|b| wire::backoff(b, "backoff_options")).transpose()?,
        hash_source_ip: hash_source_ip(&p.hash_policy)?,
        max_downstream_connection_duration: p
            .max_downstream_connection_duration
            .as_ref()
            .map(|d| wire::positive_duration(d, "max_downstream_connection_duration"))
            .transpose()?,
        access_logs: wire::each(&p.access_log, "access_log", |l| access_log::parse(l).map(Arc::new))?,
        access_log_flush_interval,
        flush_log_on_connected,
    })
}

fn refuse_unsupported(p: &pb::TcpProxy) -> Result<(), Rejection> {
    for (set, field) in [
        (p.on_demand.is_some(), "on_demand"),
        (p.tunneling_config.is_some(), "tunneling_config"),
        (!p.proxy_protocol_tlvs.is_empty(), "proxy_protocol_tlvs"),
        (p.upstream_connect_mode != 0, "upstream_connect_mode"),
        (
            p.max_downstream_connection_duration_jitter_percentage.is_some(),
            "max_downstream_connection_duration_jitter_percentage",
        ),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    Ok(())
}

fn clusters(p: &pb::TcpProxy) -> Result<Vec<TcpCluster>, Rejection> {
    use pb::tcp_proxy::ClusterSpecifier;
    match &p.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => {
            let name = wire::non_empty(cluster, "cluster")?;
            Ok(vec![TcpCluster { name, weight: 1, metadata_match: None }])
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            if weighted.clusters.is_empty() {
                return Err(Rejection::invalid("weighted_clusters.clusters", "must name at least one cluster"));
            }
            wire::each(&weighted.clusters, "clusters", |c| {
                if c.weight == 0 {
                    return Err(Rejection::invalid("weight", "must be at least 1"));
                }
                Ok(TcpCluster {
                    name: wire::non_empty(&c.name, "name")?,
                    weight: c.weight,
                    metadata_match: subset_match(&c.metadata_match),
                })
            })
            .within("weighted_clusters")
        }
        None => Err(Rejection::invalid("", "needs cluster or weighted_clusters")),
    }
}

fn hash_source_ip(policies: &[types::HashPolicy]) -> Result<bool, Rejection> {
    use types::hash_policy::PolicySpecifier;
    match policies {
        [] => Ok(false),
        [one] => match &one.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => Ok(true),
            _ => Err(Rejection::unsupported("hash_policy[0]", "only source_ip is supported")),
        },
        _ => Err(Rejection::invalid("hash_policy", "holds at most one policy")),
    }
}
