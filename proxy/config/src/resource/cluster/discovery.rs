//! Where the hosts of a cluster come from: `type` or `cluster_type`, and the options of that kind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::cluster::v3::cluster as old;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateConfig;
use sidemesh_proto::envoy::extensions::clusters::common::dns::v3 as ext_family;
use sidemesh_proto::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use sidemesh_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use sidemesh_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use sidemesh_proto::google;

use super::policy::is;
use super::{Discovery, DnsConfig, DnsFamily, OriginalDst};
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::resource::endpoint::{self, HostNames, LoadAssignment};
use crate::value::{Backoff, Name, name};
use crate::wire;

const DEFAULT_DNS_REFRESH: Duration = Duration::from_secs(5);
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(5);
/// Envoy's default header of an original-destination cluster.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

pub(super) fn discovery(cluster: &pb::Cluster) -> Result<Discovery, Rejection> {
    use old::ClusterDiscoveryType as Wire;
    let kind = match &cluster.cluster_discovery_type {
        Some(Wire::ClusterType(custom)) => return extension(cluster, custom).within("cluster_type.typed_config"),
        Some(Wire::Type(number)) => wire::enumeration::<old::DiscoveryType>(*number, "type")?,
        None => old::DiscoveryType::Static,
    };
    if kind != old::DiscoveryType::Eds && cluster.eds_cluster_config.is_some() {
        return Err(Rejection::invalid("eds_cluster_config", "needs type EDS"));
    }
    match kind {
        old::DiscoveryType::Static => Ok(Discovery::Static(assignment(cluster, HostNames::Refused)?)),
        old::DiscoveryType::StrictDns => Ok(Discovery::StrictDns(dns(cluster)?)),
        old::DiscoveryType::LogicalDns => Ok(Discovery::LogicalDns(one_host(dns(cluster)?)?)),
        old::DiscoveryType::Eds => eds(cluster),
        old::DiscoveryType::OriginalDst => original_dst(cluster),
    }
}

/// A cluster without an assignment has no hosts.
fn assignment(cluster: &pb::Cluster, names: HostNames) -> Result<Arc<LoadAssignment>, Rejection> {
    let mut given = cluster.load_assignment.clone().unwrap_or_default();
    if given.cluster_name.is_empty() {
        given.cluster_name.clone_from(&cluster.name);
    }
    Ok(Arc::new(endpoint::parse_with(&given, names).within("load_assignment")?))
}

fn eds(cluster: &pb::Cluster) -> Result<Discovery, Rejection> {
    let config = wire::required(&cluster.eds_cluster_config, "eds_cluster_config")?;
    let source = wire::required(&config.eds_config, "eds_config").within("eds_cluster_config")?;
    let service = if config.service_name.is_empty() { &cluster.name } else { &config.service_name };
    Ok(Discovery::Eds {
        service_name: name(service),
        source: wire::config_source(source, "eds_config").within("eds_cluster_config")?,
    })
}

fn original_dst(cluster: &pb::Cluster) -> Result<Discovery, Rejection> {
    if cluster.load_assignment.is_some() {
        return Err(Rejection::invalid("load_assignment", "is not for type ORIGINAL_DST; leave it out"));
    }
    let empty = old::OriginalDstLbConfig::default();
    let config = match &cluster.lb_config {
        Some(old::LbConfig::OriginalDstLbConfig(config)) => config,
        _ => &empty,
    };
    let metadata = config.metadata_key.as_ref();
    let metadata = metadata.map(|key| matcher::metadata_key(key, "original_dst_lb_config.metadata_key")).transpose()?;
    let header = match (config.use_http_header, config.http_header_name.as_str()) {
        (false, _) => None,
        (true, "") => Some(http::HeaderName::from_static(ORIGINAL_DST_HEADER)),
        (true, given) => Some(wire::header_name(given, "original_dst_lb_config.http_header_name")?),
    };
    let port_override = match wire::uint32(&config.upstream_port_override) {
        None => None,
        Some(port) => Some(u16::try_from(port).map_err(|_| {
            Rejection::invalid("original_dst_lb_config.upstream_port_override", format!("{port} is more than 65535"))
        })?),
    };
    let cleanup_interval = match &cluster.cleanup_interval {
        Some(d) => wire::positive_duration(d, "cleanup_interval")?,
        None => DEFAULT_CLEANUP_INTERVAL,
    };
    Ok(Discovery::OriginalDst(OriginalDst { header, metadata, port_override, cleanup_interval }))
}

fn extension(cluster: &pb::Cluster, custom: &old::CustomClusterType) -> Result<Discovery, Rejection> {
    let config = wire::required(&custom.typed_config, "")?;
    if is::<AggregateConfig>(config) {
        let aggregate = wire::unpack::<AggregateConfig>(config, "")?;
        if aggregate.clusters.is_empty() {
            return Err(Rejection::invalid("clusters", "must name at least one cluster"));
        }
        let clusters: Vec<Name> = wire::each(&aggregate.clusters, "clusters", |c| wire::non_empty(c, ""))?;
        return Ok(Discovery::Aggregate(clusters));
    }
    if is::<DnsCluster>(config) {
        let options = wire::unpack::<DnsCluster>(config, "")?;
        let dns = dns_extension(cluster, &options)?;
        return Ok(if options.all_addresses_in_single_endpoint {
            Discovery::LogicalDns(one_host(dns)?)
        } else {
            Discovery::StrictDns(dns)
        });
    }
    let reason = format!("no cluster type `{}`; there are aggregate and dns", config.type_url);
    Err(Rejection::unsupported("", reason))
}

/// Logical DNS is one name, whatever it resolves to.
fn one_host(dns: DnsConfig) -> Result<DnsConfig, Rejection> {
    match dns.assignment.localities.as_slice() {
        [one] if one.endpoints.len() == 1 => Ok(dns),
        _ => Err(Rejection::invalid("load_assignment", "a LOGICAL_DNS cluster has one locality with one endpoint")),
    }
}

fn dns(cluster: &pb::Cluster) -> Result<DnsConfig, Rejection> {
    let failure = cluster.dns_failure_refresh_rate.as_ref().map(|r| (&r.base_interval, &r.max_interval));
    Ok(DnsConfig {
        assignment: assignment(cluster, HostNames::Allowed)?,
        refresh_rate: refresh_rate(&cluster.dns_refresh_rate)?,
        failure_refresh: failure_refresh(failure)?,
        jitter: wire::duration_or(&cluster.dns_jitter, "dns_jitter", Duration::ZERO)?,
        respect_ttl: cluster.respect_dns_ttl,
        family: family(cluster.dns_lookup_family)?,
        resolvers: resolvers(cluster)?,
        wait_for_warm_on_init: wire::flag(&cluster.wait_for_warm_on_init, true),
    })
}

fn dns_extension(cluster: &pb::Cluster, options: &DnsCluster) -> Result<DnsConfig, Rejection> {
    if options.dns_min_refresh_rate.is_some() {
        return Err(Rejection::unsupported("dns_min_refresh_rate", "use dns_refresh_rate"));
    }
    let failure = options.dns_failure_refresh_rate.as_ref();
    let failure = failure.map(|r: &dns_cluster::RefreshRate| (&r.base_interval, &r.max_interval));
    let family = match wire::enumeration::<ext_family::DnsLookupFamily>(options.dns_lookup_family, "dns_lookup_family")?
    {
        ext_family::DnsLookupFamily::Unspecified | ext_family::DnsLookupFamily::Auto => DnsFamily::Auto,
        ext_family::DnsLookupFamily::V4Only => DnsFamily::V4Only,
        ext_family::DnsLookupFamily::V6Only => DnsFamily::V6Only,
        ext_family::DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        ext_family::DnsLookupFamily::All => DnsFamily::All,
    };
    Ok(DnsConfig {
        assignment: assignment(cluster, HostNames::Allowed)?,
        refresh_rate: refresh_rate(&options.dns_refresh_rate)?,
        failure_refresh: failure_refresh(failure)?,
        jitter: wire::duration_or(&options.dns_jitter, "dns_jitter", Duration::ZERO)?,
        respect_ttl: options.respect_dns_ttl,
        family,
        resolvers: match &options.typed_dns_resolver_config {
            Some(config) => typed_resolvers(config).within("typed_dns_resolver_config")?,
            None => Vec::new(),
        },
        wait_for_warm_on_init: wire::flag(&cluster.wait_for_warm_on_init, true),
    })
}

fn refresh_rate(rate: &Option<google::Duration>) -> Result<Duration, Rejection> {
    let rate = wire::duration_or(rate, "dns_refresh_rate", DEFAULT_DNS_REFRESH)?;
    if rate <= Duration::from_millis(1) {
        return Err(Rejection::invalid("dns_refresh_rate", "must be more than 1ms"));
    }
    Ok(rate)
}

type Interval<'a> = &'a Option<google::Duration>;

fn failure_refresh(rate: Option<(Interval<'_>, Interval<'_>)>) -> Result<Option<Backoff>, Rejection> {
    let Some((base, max)) = rate else { return Ok(None) };
    let base = wire::required(base, "base_interval").and_then(|d| wire::positive_duration(d, "base_interval"));
    let base = base.within("dns_failure_refresh_rate")?;
    let max = wire::duration_or(max, "max_interval", base.saturating_mul(10)).within("dns_failure_refresh_rate")?;
    if max < base {
        return Err(Rejection::invalid("dns_failure_refresh_rate.max_interval", "is less than base_interval"));
    }
    Ok(Some(Backoff { base, max }))
}

fn family(number: i32) -> Result<DnsFamily, Rejection> {
    Ok(match wire::enumeration::<old::DnsLookupFamily>(number, "dns_lookup_family")? {
        old::DnsLookupFamily::Auto => DnsFamily::Auto,
        old::DnsLookupFamily::V4Only => DnsFamily::V4Only,
        old::DnsLookupFamily::V6Only => DnsFamily::V6Only,
        old::DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        old::DnsLookupFamily::All => DnsFamily::All,
    })
}

/// The typed configuration counts before the deprecated ones.
fn resolvers(cluster: &pb::Cluster) -> Result<Vec<SocketAddr>, Rejection> {
    if let Some(config) = &cluster.typed_dns_resolver_config {
        return typed_resolvers(config).within("typed_dns_resolver_config");
    }
    if cluster.use_tcp_for_dns_lookups {
        return Err(Rejection::unsupported("use_tcp_for_dns_lookups", "TCP is used when an answer does not fit UDP"));
    }
    if let Some(config) = &cluster.dns_resolution_config {
        return addresses(&config.resolvers, "resolvers").within("dns_resolution_config");
    }
    addresses(&cluster.dns_resolvers, "dns_resolvers")
}

fn typed_resolvers(config: &core::TypedExtensionConfig) -> Result<Vec<SocketAddr>, Rejection> {
    let any = wire::required(&config.typed_config, "typed_config")?;
    if is::<GetAddrInfoDnsResolverConfig>(any) {
        return Ok(Vec::new());
    }
    if is::<CaresDnsResolverConfig>(any) {
        let cares = wire::unpack::<CaresDnsResolverConfig>(any, "typed_config")?;
        return addresses(&cares.resolvers, "resolvers").within("typed_config");
    }
    let reason = format!("no DNS resolver `{}`; there are cares and getaddrinfo", any.type_url);
    Err(Rejection::unsupported("typed_config", reason))
}

fn addresses(list: &[core::Address], field: &str) -> Result<Vec<SocketAddr>, Rejection> {
    wire::each(list, field, |a| wire::ip_address(a, ""))
}
