//! `load_balancing_policy`: the first policy of the list that this proxy has.

use std::time::Duration;

use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use sidemesh_proto::envoy::extensions::load_balancing_policies as ext;
use sidemesh_proto::google;
use sidemesh_proto::prost::Message;

use ext::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use ext::cluster_provided::v3::ClusterProvided;
use ext::common::v3 as shared;
use ext::least_request::v3::LeastRequest;
use ext::least_request::v3::least_request::SelectionMethod;
use ext::maglev::v3::Maglev;
use ext::override_host::v3::OverrideHost;
use ext::pick_first::v3::PickFirst;
use ext::random::v3::Random;
use ext::ring_hash::v3::RingHash;
use ext::round_robin::v3::RoundRobin;
use ext::subset::v3::Subset;
use ext::wrr_locality::v3::WrrLocality;

use super::policy::{
    Choice, consistent_hashing, is, least_request, maglev, ring_hash, slow_start, subset_config, zone_aware,
};
use super::{ClientSideWrr, ConsistentHashing, LbPolicy, LocalityLb, OverrideSource, SlowStart};
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::wire;

/// Policies inside policies (subset, wrr_locality): no sensible list goes deeper.
pub(super) const MAX_NESTING: u32 = 4;

const NAMES: &str = "round_robin, least_request, random, ring_hash, maglev, subset, wrr_locality, pick_first, \
                     client_side_weighted_round_robin, override_host, cluster_provided";

pub(super) fn extension_policy(list: &pb::LoadBalancingPolicy, depth: u32) -> Result<Choice, Rejection> {
    if depth == 0 {
        return Err(Rejection::invalid("policies", "are nested too deeply"));
    }
    for (i, policy) in list.policies.iter().enumerate() {
        let Some(config) = policy.typed_extension_config.as_ref().and_then(|t| t.typed_config.as_ref()) else {
            continue;
        };
        let path = format!("policies[{i}].typed_extension_config.typed_config");
        if let Some(choice) = known_policy(config, depth).within(&path)? {
            return Ok(choice);
        }
    }
    Err(Rejection::unsupported("policies", format!("none of these policies is supported; there are {NAMES}")))
}

fn known_policy(config: &google::Any, depth: u32) -> Result<Option<Choice>, Rejection> {
    let choice = if is::<RoundRobin>(config) {
        let c = wire::unpack::<RoundRobin>(config, "")?;
        let policy = LbPolicy::RoundRobin { slow_start: shared_slow_start(c.slow_start_config.as_ref())? };
        plain(policy, locality(c.locality_lb_config.as_ref())?)
    } else if is::<LeastRequest>(config) {
        let c = wire::unpack::<LeastRequest>(config, "")?;
        let method = wire::enumeration::<SelectionMethod>(c.selection_method, "selection_method")?;
        let full_scan = method == SelectionMethod::FullScan || wire::flag(&c.enable_full_scan, false);
        let slow_start = shared_slow_start(c.slow_start_config.as_ref())?;
        let policy = least_request(&c.choice_count, c.active_request_bias.as_ref(), slow_start, full_scan)?;
        plain(policy, locality(c.locality_lb_config.as_ref())?)
    } else if is::<Random>(config) {
        plain(LbPolicy::Random, locality(wire::unpack::<Random>(config, "")?.locality_lb_config.as_ref())?)
    } else if is::<RingHash>(config) {
        ring_hash_policy(&wire::unpack::<RingHash>(config, "")?)?
    } else if is::<Maglev>(config) {
        let c = wire::unpack::<Maglev>(config, "")?;
        let hashing = shared_hashing(c.consistent_hashing_lb_config.as_ref())?;
        plain(maglev(&c.table_size, hashing)?, Some(weighted_if(c.locality_weighted_lb_config.is_some())))
    } else if is::<PickFirst>(config) {
        let shuffle = wire::unpack::<PickFirst>(config, "")?.shuffle_address_list;
        plain(LbPolicy::PickFirst { shuffle }, Some(LocalityLb::None))
    } else if is::<ClusterProvided>(config) {
        plain(LbPolicy::ClusterProvided, Some(LocalityLb::None))
    } else if is::<ClientSideWeightedRoundRobin>(config) {
        client_side_wrr(&wire::unpack::<ClientSideWeightedRoundRobin>(config, "")?)?
    } else if is::<WrrLocality>(config) {
        let c = wire::unpack::<WrrLocality>(config, "")?;
        let inner = wire::required(&c.endpoint_picking_policy, "endpoint_picking_policy")?;
        let choice = extension_policy(inner, depth - 1).within("endpoint_picking_policy")?;
        Choice { locality: Some(LocalityLb::Weighted), ..choice }
    } else if is::<Subset>(config) {
        subset_policy(&wire::unpack::<Subset>(config, "")?, depth)?
    } else if is::<OverrideHost>(config) {
        override_host(&wire::unpack::<OverrideHost>(config, "")?, depth)?
    } else {
        return Ok(None);
    };
    Ok(Some(choice))
}

fn plain(policy: LbPolicy, locality: Option<LocalityLb>) -> Choice {
    Choice { policy, locality, subsets: None, override_sources: Vec::new() }
}

fn weighted_if(weighted: bool) -> LocalityLb {
    if weighted { LocalityLb::Weighted } else { LocalityLb::None }
}

fn locality(config: Option<&shared::LocalityLbConfig>) -> Result<Option<LocalityLb>, Rejection> {
    use shared::locality_lb_config::{LocalityConfigSpecifier as Wire, zone_aware_lb_config::LocalityBasis};
    match config.and_then(|c| c.locality_config_specifier.as_ref()) {
        None => Ok(None),
        Some(Wire::LocalityWeightedLbConfig(_)) => Ok(Some(LocalityLb::Weighted)),
        Some(Wire::ZoneAwareLbConfig(z)) => {
            let path = "locality_lb_config.zone_aware_lb_config";
            if z.force_locality_direct_routing {
                let reason = "use force_local_zone";
                return Err(Rejection::unsupported("force_locality_direct_routing", reason)).within(path);
            }
            let basis = wire::enumeration::<LocalityBasis>(z.locality_basis, "locality_basis").within(path)?;
            if basis != LocalityBasis::HealthyHostsNum {
                return Err(Rejection::unsupported("locality_basis", "only HEALTHY_HOSTS_NUM is supported"))
                    .within(path);
            }
            let force = z.force_local_zone.as_ref().map(|f| wire::uint32(&f.min_size).unwrap_or(1));
            zone_aware(&z.routing_enabled, &z.min_cluster_size, z.fail_traffic_on_panic, force).within(path).map(Some)
        }
    }
}

fn shared_slow_start(config: Option<&shared::SlowStartConfig>) -> Result<Option<SlowStart>, Rejection> {
    let Some(c) = config else { return Ok(None) };
    slow_start(&c.slow_start_window, c.aggression.as_ref(), c.min_weight_percent.as_ref()).within("slow_start_config")
}

fn shared_hashing(config: Option<&shared::ConsistentHashingLbConfig>) -> Result<ConsistentHashing, Rejection> {
    let Some(c) = config else { return Ok(ConsistentHashing::default()) };
    if !c.hash_policy.is_empty() {
        return Err(Rejection::unsupported("consistent_hashing_lb_config.hash_policy", "set it on the route"));
    }
    consistent_hashing(c.use_hostname_for_hashing, &c.hash_balance_factor).within("consistent_hashing_lb_config")
}

fn ring_hash_policy(c: &RingHash) -> Result<Choice, Rejection> {
    use ext::ring_hash::v3::ring_hash::HashFunction;
    let mut hashing = shared_hashing(c.consistent_hashing_lb_config.as_ref())?;
    if c.consistent_hashing_lb_config.is_none() {
        hashing = consistent_hashing(c.use_hostname_for_hashing, &c.hash_balance_factor)?;
    }
    let function = wire::enumeration::<HashFunction>(c.hash_function, "hash_function")?;
    let murmur2 = function == HashFunction::MurmurHash2;
    let policy = ring_hash(&c.minimum_ring_size, &c.maximum_ring_size, murmur2, hashing)?;
    Ok(plain(policy, Some(weighted_if(c.locality_weighted_lb_config.is_some()))))
}

fn client_side_wrr(c: &ClientSideWeightedRoundRobin) -> Result<Choice, Rejection> {
    if wire::flag(&c.enable_oob_load_report, false) || c.oob_reporting_config.is_some() {
        return Err(Rejection::unsupported("enable_oob_load_report", "hosts report in their responses"));
    }
    if !c.metric_names_for_computing_utilization.is_empty() {
        return Err(Rejection::unsupported("metric_names_for_computing_utilization", "leave it out"));
    }
    let penalty = c.error_utilization_penalty.as_ref().map_or(1.0, |v| f64::from(v.value));
    if !(penalty >= 0.0 && penalty.is_finite()) {
        return Err(Rejection::invalid("error_utilization_penalty", "must be 0.0 or more"));
    }
    let policy = LbPolicy::ClientSideWeightedRoundRobin(ClientSideWrr {
        blackout_period: wire::duration_or(&c.blackout_period, "blackout_period", Duration::from_secs(10))?,
        weight_expiration_period: wire::duration_or(
            &c.weight_expiration_period,
            "weight_expiration_period",
            Duration::from_secs(180),
        )?,
        error_utilization_penalty: penalty,
        slow_start: shared_slow_start(c.slow_start_config.as_ref())?,
    });
    Ok(plain(policy, None))
}

fn override_host(c: &OverrideHost, depth: u32) -> Result<Choice, Rejection> {
    let fallback = wire::required(&c.fallback_policy, "fallback_policy")?;
    let choice = extension_policy(fallback, depth - 1).within("fallback_policy")?;
    if c.override_host_sources.is_empty() {
        return Err(Rejection::invalid("override_host_sources", "must hold at least one source"));
    }
    let override_sources = wire::each(&c.override_host_sources, "override_host_sources", |source| {
        match (&source.metadata, source.header.as_str()) {
            (Some(key), "") => {
                matcher::metadata_key(key, "metadata").map(|(filter, path)| OverrideSource::Metadata(filter, path))
            }
            (None, header) if !header.is_empty() => wire::header_name(header, "header").map(OverrideSource::Header),
            _ => Err(Rejection::invalid("", "needs either header or metadata")),
        }
    })?;
    Ok(Choice { override_sources, ..choice })
}

fn subset_policy(c: &Subset, depth: u32) -> Result<Choice, Rejection> {
    let inner = wire::required(&c.subset_lb_policy, "subset_lb_policy")?;
    let choice = extension_policy(inner, depth - 1).within("subset_lb_policy")?;
    if choice.subsets.is_some() {
        return Err(Rejection::invalid("subset_lb_policy", "must not be a subset policy"));
    }
    // The cluster's own message has the same fields under the same numbers.
    let same = LbSubsetConfig::decode(&*c.encode_to_vec()).map_err(|e| Rejection::malformed("", e.to_string()))?;
    let subsets = subset_config(&same)?;
    Ok(Choice { subsets: Some(subsets), ..choice })
}
