//! `TcpProxy` from the wire.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use sidemesh_proto::envoy::r#type::v3 as types;

use super::{TcpCluster, TcpProxy, Tunneling};
use crate::format;
use crate::rejection::{Rejection, Within};
use crate::resource::access_log;
use crate::resource::core::HeaderEdits;
use crate::resource::route::subset_match;
use crate::resource::substitution::header_additions;
use crate::value::name;
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
    let (access_log_flush_interval, flush_log_on_start, flush_log_on_connected) = match &p.access_log_options {
        None => (old_interval, false, p.flush_access_log_on_connected),
        Some(_) if old_interval.is_some() || p.flush_access_log_on_connected => {
            return Err(Rejection::invalid("access_log_options", "leave out the deprecated fields beside it"));
        }
        Some(options) => {
            let interval = wire::optional_duration(&options.access_log_flush_interval, "access_log_flush_interval");
            let interval = interval.within("access_log_options")?;
            (interval, options.flush_access_log_on_start, options.flush_access_log_on_connected)
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
        duration_jitter_percent: jitter(p)?,
        tunneling: p.tunneling_config.as_ref().map(tunneling).transpose().within("tunneling_config")?,
        proxy_tlvs: wire::each(&p.proxy_protocol_tlvs, "proxy_protocol_tlvs", proxy_tlv)?,
        access_logs: wire::each(&p.access_log, "access_log", |l| access_log::parse(l).map(Arc::new))?,
        access_log_flush_interval,
        flush_log_on_start,
        flush_log_on_connected,
    })
}

fn jitter(p: &pb::TcpProxy) -> Result<f64, Rejection> {
    let percent = p.max_downstream_connection_duration_jitter_percentage.as_ref().map_or(0.0, |j| j.value);
    if (0.0..=100.0).contains(&percent) {
        return Ok(percent);
    }
    Err(Rejection::invalid("max_downstream_connection_duration_jitter_percentage", "must be from 0 to 100"))
}

fn proxy_tlv(tlv: &core::TlvEntry) -> Result<(u8, Bytes), Rejection> {
    let kind =
        u8::try_from(tlv.r#type).map_err(|_| Rejection::invalid("type", "is no TLV type; the largest is 255"))?;
    Ok((kind, Bytes::copy_from_slice(&tlv.value)))
}

fn tunneling(t: &pb::tcp_proxy::TunnelingConfig) -> Result<Tunneling, Rejection> {
    if !t.post_path.is_empty() && !t.use_post {
        return Err(Rejection::invalid("post_path", "needs use_post: CONNECT has no path"));
    }
    let post_path = match (t.use_post, t.post_path.as_str()) {
        (false, _) => None,
        (true, "") => Some(name("/")),
        (true, path) if path.starts_with('/') => Some(name(path)),
        (true, _) => return Err(Rejection::invalid("post_path", "must begin with `/`")),
    };
    let host = wire::non_empty(&t.hostname, "hostname")?;
    Ok(Tunneling {
        host: Arc::new(format::parse(&host).map_err(|e| Rejection::invalid("hostname", e.to_string()))?),
        post_path,
        headers: HeaderEdits { add: header_additions(&t.headers_to_add, "headers_to_add")?, remove: Vec::new() },
    })
}

fn refuse_unsupported(p: &pb::TcpProxy) -> Result<(), Rejection> {
    for (set, field) in [(p.on_demand.is_some(), "on_demand"), (p.upstream_connect_mode != 0, "upstream_connect_mode")]
    {
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
