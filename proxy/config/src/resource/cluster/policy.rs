//! Load balancing: `lb_policy` with its configuration, the `load_balancing_policy` extensions, subsets, `common_lb_config`.

use std::time::Duration;

use sidemesh_proto::envoy::config::cluster::v3 as pb;
use sidemesh_proto::envoy::config::cluster::v3::cluster as old;
use sidemesh_proto::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction as RingHashFunction;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::r#type::v3 as types;
use sidemesh_proto::google;

use super::extension::{self, extension_policy};
use super::{
    ConsistentHashing, HashFunction, LbCommon, LbPolicy, LocalityLb, OverrideSource, SlowStart, SubsetConfig,
    SubsetFallback, SubsetSelector, SubsetSelectorFallback,
};
use crate::rejection::{Rejection, Within};
use crate::resource::endpoint::{HealthStatus, health_status};
use crate::value::{Fraction, Name, name};
use crate::wire;

const DEFAULT_MERGE_WINDOW: Duration = Duration::from_secs(1);
const MAX_RING_SIZE: u64 = 8 << 20;
const MAX_MAGLEV_TABLE: u64 = 5_000_011;
const DEFAULT_MAGLEV_TABLE: u64 = 65_537;

/// Everything about balancing that a cluster says.
pub(super) struct Balancing {
    pub(super) policy: LbPolicy,
    pub(super) common: LbCommon,
    pub(super) subsets: Option<SubsetConfig>,
    pub(super) override_sources: Vec<OverrideSource>,
}

/// The choice of one policy: itself, and where it says so the locality weighting and the subsets.
pub(super) struct Choice {
    pub(super) policy: LbPolicy,
    pub(super) locality: Option<LocalityLb>,
    pub(super) subsets: Option<SubsetConfig>,
    pub(super) override_sources: Vec<OverrideSource>,
}

pub(super) fn balancing(cluster: &pb::Cluster) -> Result<Balancing, Rejection> {
    let mut common = common(cluster.common_lb_config.as_ref()).within("common_lb_config")?;
    let explicit = cluster.load_balancing_policy.as_ref();
    let choice = match explicit {
        Some(policy) => extension_policy(policy, extension::MAX_NESTING).within("load_balancing_policy")?,
        None => old_policy(cluster)?,
    };
    if let Some(locality) = choice.locality {
        common.locality = locality;
    }
    // Consistent hashing spreads over all localities unless they are weighted.
    let hashing = matches!(choice.policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. });
    if hashing && matches!(common.locality, LocalityLb::ZoneAware { .. }) {
        common.locality = LocalityLb::None;
    }
    let subsets = match (&cluster.lb_subset_config, explicit) {
        // Without selectors subsets are off, as in Envoy.
        (Some(config), None) if config.subset_selectors.is_empty() => None,
        (Some(config), None) => Some(subset_config(config).within("lb_subset_config")?),
        _ => choice.subsets,
    };
    if subsets.is_some() && matches!(choice.policy, LbPolicy::ClusterProvided) {
        return Err(Rejection::invalid("lb_subset_config", "cannot be combined with CLUSTER_PROVIDED"));
    }
    Ok(Balancing { policy: choice.policy, common, subsets, override_sources: choice.override_sources })
}

fn old_policy(cluster: &pb::Cluster) -> Result<Choice, Rejection> {
    use old::{LbConfig, LbPolicy as Wire};
    let config = cluster.lb_config.as_ref();
    let hashing = cluster.common_lb_config.as_ref().and_then(|c| c.consistent_hashing_lb_config.as_ref());
    let hashing = match hashing {
        Some(h) => consistent_hashing(h.use_hostname_for_hashing, &h.hash_balance_factor)
            .within("common_lb_config.consistent_hashing_lb_config")?,
        None => ConsistentHashing::default(),
    };
    let policy = match wire::enumeration::<Wire>(cluster.lb_policy, "lb_policy")? {
        Wire::RoundRobin => {
            let slow = match config {
                Some(LbConfig::RoundRobinLbConfig(c)) => c.slow_start_config.as_ref(),
                _ => None,
            };
            LbPolicy::RoundRobin { slow_start: old_slow_start(slow).within("round_robin_lb_config.slow_start_config")? }
        }
        Wire::LeastRequest => match config {
            Some(LbConfig::LeastRequestLbConfig(c)) => least_request(
                &c.choice_count,
                c.active_request_bias.as_ref(),
                old_slow_start(c.slow_start_config.as_ref()).within("least_request_lb_config.slow_start_config")?,
                false,
            )
            .within("least_request_lb_config")?,
            _ => least_request(&None, None, None, false)?,
        },
        Wire::Random => LbPolicy::Random,
        Wire::RingHash => match config {
            Some(LbConfig::RingHashLbConfig(c)) => {
                let function =
                    wire::enumeration::<RingHashFunction>(c.hash_function, "ring_hash_lb_config.hash_function")?;
                let murmur = function == RingHashFunction::MurmurHash2;
                ring_hash(&c.minimum_ring_size, &c.maximum_ring_size, murmur, hashing).within("ring_hash_lb_config")?
            }
            _ => ring_hash(&None, &None, false, hashing)?,
        },
        Wire::Maglev => match config {
            Some(LbConfig::MaglevLbConfig(c)) => maglev(&c.table_size, hashing).within("maglev_lb_config")?,
            _ => maglev(&None, hashing)?,
        },
        Wire::ClusterProvided => LbPolicy::ClusterProvided,
        Wire::LoadBalancingPolicyConfig => {
            return Err(Rejection::invalid("load_balancing_policy", "is required with LOAD_BALANCING_POLICY_CONFIG"));
        }
    };
    Ok(Choice { policy, locality: None, subsets: None, override_sources: Vec::new() })
}

pub(super) fn least_request(
    choice_count: &Option<google::UInt32Value>,
    bias: Option<&core::RuntimeDouble>,
    slow_start: Option<SlowStart>,
    full_scan: bool,
) -> Result<LbPolicy, Rejection> {
    let choice_count = wire::uint32(choice_count).unwrap_or(2);
    if choice_count < 2 {
        return Err(Rejection::invalid("choice_count", "must be at least 2"));
    }
    let active_request_bias = bias.map_or(1.0, |b| b.default_value);
    if !(active_request_bias >= 0.0 && active_request_bias.is_finite()) {
        return Err(Rejection::invalid("active_request_bias", "must be 0.0 or more"));
    }
    Ok(LbPolicy::LeastRequest { choice_count, active_request_bias, slow_start, full_scan })
}

pub(super) fn ring_hash(
    min: &Option<google::UInt64Value>,
    max: &Option<google::UInt64Value>,
    murmur2: bool,
    hashing: ConsistentHashing,
) -> Result<LbPolicy, Rejection> {
    let size =
        |v: &Option<google::UInt64Value>, default: u64, field: &str| match v.as_ref().map_or(default, |v| v.value) {
            size if size <= MAX_RING_SIZE => Ok(size),
            size => Err(Rejection::invalid(field, format!("{size} is more than {MAX_RING_SIZE}"))),
        };
    let (min, max) = (size(min, 1024, "minimum_ring_size")?, size(max, MAX_RING_SIZE, "maximum_ring_size")?);
    if min > max {
        return Err(Rejection::invalid("minimum_ring_size", format!("{min} is more than maximum_ring_size {max}")));
    }
    let function = if murmur2 { HashFunction::Murmur2 } else { HashFunction::XxHash };
    Ok(LbPolicy::RingHash { min, max, function, hashing })
}

pub(super) fn maglev(size: &Option<google::UInt64Value>, hashing: ConsistentHashing) -> Result<LbPolicy, Rejection> {
    let table_size = size.as_ref().map_or(DEFAULT_MAGLEV_TABLE, |v| v.value);
    if table_size > MAX_MAGLEV_TABLE || !is_prime(table_size) {
        let reason = format!("{table_size} is no prime number up to {MAX_MAGLEV_TABLE}");
        return Err(Rejection::invalid("table_size", reason));
    }
    Ok(LbPolicy::Maglev { table_size, hashing })
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

pub(super) fn consistent_hashing(
    use_hostname: bool,
    balance_factor: &Option<google::UInt32Value>,
) -> Result<ConsistentHashing, Rejection> {
    let balance_factor = wire::uint32(balance_factor);
    if balance_factor.is_some_and(|f| f < 100) {
        return Err(Rejection::invalid("hash_balance_factor", "must be at least 100"));
    }
    Ok(ConsistentHashing { use_hostname, balance_factor })
}

fn old_slow_start(config: Option<&old::SlowStartConfig>) -> Result<Option<SlowStart>, Rejection> {
    let Some(c) = config else { return Ok(None) };
    slow_start(&c.slow_start_window, c.aggression.as_ref(), c.min_weight_percent.as_ref())
}

/// A window of zero is no slow start.
pub(super) fn slow_start(
    window: &Option<google::Duration>,
    aggression: Option<&core::RuntimeDouble>,
    min_weight: Option<&types::Percent>,
) -> Result<Option<SlowStart>, Rejection> {
    let window = wire::duration_or(window, "slow_start_window", Duration::ZERO)?;
    let aggression = aggression.map_or(1.0, |a| a.default_value);
    if !(aggression > 0.0 && aggression.is_finite()) {
        return Err(Rejection::invalid("aggression", "must be greater than 0.0"));
    }
    let min_weight = match min_weight {
        Some(p) => wire::percent(p, "min_weight_percent")? / 100.0,
        None => 0.1,
    };
    Ok((!window.is_zero()).then_some(SlowStart { window, aggression, min_weight }))
}

fn common(config: Option<&old::CommonLbConfig>) -> Result<LbCommon, Rejection> {
    use old::common_lb_config::LocalityConfigSpecifier as Wire;
    let empty = old::CommonLbConfig::default();
    let c = config.unwrap_or(&empty);
    let locality = match &c.locality_config_specifier {
        Some(Wire::LocalityWeightedLbConfig(_)) => LocalityLb::Weighted,
        Some(Wire::ZoneAwareLbConfig(z)) => {
            zone_aware(&z.routing_enabled, &z.min_cluster_size, z.fail_traffic_on_panic, None)
                .within("zone_aware_lb_config")?
        }
        None => zone_aware(&None, &None, false, None)?,
    };
    Ok(LbCommon {
        panic_threshold: match &c.healthy_panic_threshold {
            Some(p) => wire::percent(p, "healthy_panic_threshold")?,
            None => 50.0,
        },
        locality,
        ignore_new_hosts_until_first_health_check: c.ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change: c.close_connections_on_host_set_change,
        update_merge_window: wire::duration_or(&c.update_merge_window, "update_merge_window", DEFAULT_MERGE_WINDOW)?,
        override_host_status: match &c.override_host_status {
            None => vec![HealthStatus::Unknown, HealthStatus::Healthy, HealthStatus::Degraded],
            Some(set) => {
                let statuses = set.statuses.iter();
                statuses.map(|s| health_status(*s, "override_host_status.statuses")).collect::<Result<_, _>>()?
            }
        },
    })
}

/// Without any word about localities Envoy is zone-aware, which acts only where `cluster_manager.local_cluster_name` is set.
pub(super) fn zone_aware(
    routing_enabled: &Option<types::Percent>,
    min_cluster_size: &Option<google::UInt64Value>,
    fail_traffic_on_panic: bool,
    force_local_zone_min: Option<u32>,
) -> Result<LocalityLb, Rejection> {
    let percent = match routing_enabled {
        Some(p) => wire::percent(p, "routing_enabled")?,
        None => 100.0,
    };
    Ok(LocalityLb::ZoneAware {
        routing_enabled: Fraction { numerator: (percent * 10_000.0) as u32, denominator: 1_000_000 },
        min_cluster_size: min_cluster_size.as_ref().map_or(6, |v| v.value),
        fail_traffic_on_panic,
        force_local_zone_min,
    })
}

pub(super) fn subset_config(c: &old::LbSubsetConfig) -> Result<SubsetConfig, Rejection> {
    use old::lb_subset_config::LbSubsetMetadataFallbackPolicy as MetadataFallback;
    let selectors = wire::each(&c.subset_selectors, "subset_selectors", |s| {
        subset_selector(&s.keys, s.fallback_policy, &s.fallback_keys_subset, s.single_host_per_subset)
    })?;
    let metadata_fallback =
        wire::enumeration::<MetadataFallback>(c.metadata_fallback_policy, "metadata_fallback_policy")?;
    Ok(SubsetConfig {
        fallback: subset_fallback(c.fallback_policy)?,
        default_subset: c.default_subset.as_ref().map_or_else(Vec::new, sorted_fields),
        selectors,
        locality_weight_aware: c.locality_weight_aware,
        scale_locality_weight: c.scale_locality_weight,
        panic_mode_any: c.panic_mode_any,
        list_as_any: c.list_as_any,
        metadata_fallback_list: metadata_fallback == MetadataFallback::FallbackList,
    })
}

fn subset_fallback(number: i32) -> Result<SubsetFallback, Rejection> {
    use old::lb_subset_config::LbSubsetFallbackPolicy as Wire;
    Ok(match wire::enumeration::<Wire>(number, "fallback_policy")? {
        Wire::NoFallback => SubsetFallback::NoFallback,
        Wire::AnyEndpoint => SubsetFallback::AnyEndpoint,
        Wire::DefaultSubset => SubsetFallback::DefaultSubset,
    })
}

fn subset_selector(
    keys: &[String],
    fallback: i32,
    fallback_keys: &[String],
    single_host_per_subset: bool,
) -> Result<SubsetSelector, Rejection> {
    use old::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire;
    let sorted = |keys: &[String]| {
        let mut keys: Vec<Name> = keys.iter().map(|k| name(k)).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let keys = sorted(keys);
    if keys.is_empty() {
        return Err(Rejection::invalid("keys", "must name at least one key"));
    }
    if single_host_per_subset && keys.len() != 1 {
        return Err(Rejection::invalid("keys", "single_host_per_subset takes exactly one key"));
    }
    let fallback = match wire::enumeration::<Wire>(fallback, "fallback_policy")? {
        Wire::NotDefined => SubsetSelectorFallback::Inherit,
        Wire::NoFallback => SubsetSelectorFallback::NoFallback,
        Wire::AnyEndpoint => SubsetSelectorFallback::AnyEndpoint,
        Wire::DefaultSubset => SubsetSelectorFallback::DefaultSubset,
        Wire::KeysSubset => {
            let subset = sorted(fallback_keys);
            if subset.is_empty() || subset.len() == keys.len() || !subset.iter().all(|k| keys.contains(k)) {
                return Err(Rejection::invalid("fallback_keys_subset", "must be some, not all, of `keys`"));
            }
            SubsetSelectorFallback::KeysSubset(subset)
        }
    };
    Ok(SubsetSelector { keys, fallback, single_host_per_subset })
}

pub(super) fn sorted_fields(s: &google::Struct) -> Vec<(Name, serde_json::Value)> {
    let mut fields: Vec<_> = s.fields.iter().map(|(k, v)| (name(k), wire::value_to_json(v))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Whether `any` holds a `T`.
pub(super) fn is<T: prost::Name>(any: &google::Any) -> bool {
    sidemesh_proto::type_url::message_name(&any.type_url) == T::full_name()
}
