//! Descriptors of rate limits (`route.v3.RateLimit.actions`): what a request is counted under.

use std::net::IpAddr;

use sidemesh_config::matcher::query::parameter;
use sidemesh_config::resource::http_filter::rate_limit::VhRateLimits;
use sidemesh_config::resource::route::{OwnLimit, RateLimit, RateLimitAction};
use sidemesh_config::value::{Metadata, Name};
use sidemesh_proto::envoy::r#type::v3::RateLimitUnit;

use super::Exchange;

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    pub entries: Vec<(Name, Name)>,
    /// `limit` of the policy: requests per unit.
    pub limit: Option<(u32, i32)>,
    pub hits_addend: Option<u64>,
}

impl Descriptor {
    /// Whether configured entries describe this descriptor; an empty value stands for any.
    pub fn matches(&self, entries: &[(Name, Name)]) -> bool {
        entries.len() == self.entries.len()
            && entries.iter().zip(&self.entries).all(|((k, v), (key, value))| k == key && (v.is_empty() || v == value))
    }
}

/// The descriptors of a request: of the filter's own policies, else of the route and (as `vh` says) the virtual host.
pub fn descriptors(x: &Exchange, own: &[RateLimit], vh: VhRateLimits, stage: u32) -> Vec<Descriptor> {
    if !own.is_empty() {
        return own.iter().filter_map(|l| descriptor(x, l)).collect();
    }
    // As in Envoy: what is answered here alone is not counted by routes and virtual hosts.
    let forward = x.selected.as_ref().and_then(|s| s.forward());
    if forward.is_none() {
        return Vec::new();
    }
    let route = forward.map_or(&[][..], |f| &f.rate_limits);
    let vhost = x.info.vhost.as_ref().map_or(&[][..], |v| &v.rate_limits);
    let include = match vh {
        VhRateLimits::Ignore => false,
        VhRateLimits::Include => true,
        VhRateLimits::Override => {
            route.is_empty() || forward.and_then(|f| f.include_vhost_rate_limits).unwrap_or(false)
        }
    };
    let vhost = if include { vhost } else { &[] };
    let of_stage = route.iter().chain(vhost).filter(|l| l.stage == stage);
    // As in Envoy: how much a request weighs is heeded of the filter's own policies alone.
    of_stage.filter_map(|l| Some(Descriptor { hits_addend: None, ..descriptor(x, l)? })).collect()
}

/// `None`: an action found nothing, or runtime switched the policy off.
fn descriptor(x: &Exchange, policy: &RateLimit) -> Option<Descriptor> {
    if let Some(key) = &policy.disable_key
        && x.config.runtime.number(&format!("ratelimit.{key}.http_filter_enabled")) == Some(0.0)
    {
        return None;
    }
    let mut entries = Vec::with_capacity(policy.actions.len());
    for action in &policy.actions {
        match entry(x, action) {
            Entry::Pair(key, value) => entries.push((key, value)),
            Entry::Skip => {}
            Entry::Abandon => return None,
        }
    }
    let limit = policy.limit.as_ref().and_then(|limit| own_limit(x, limit));
    (!entries.is_empty()).then_some(Descriptor { entries, limit, hits_addend: policy.hits_addend })
}

/// Metadata that hold no such struct ask for no limit.
fn own_limit(x: &Exchange, limit: &OwnLimit) -> Option<(u32, i32)> {
    let (filter, path) = match limit {
        OwnLimit::Fixed(requests, unit) => return Some((*requests, *unit)),
        OwnLimit::Metadata { filter, path } => (filter, path),
    };
    let of = x.info.metadata.get(filter, path)?.as_object()?;
    let requests = of.get("requests_per_unit")?.as_f64().filter(|n| (0.0..=f64::from(u32::MAX)).contains(n))?;
    let unit = RateLimitUnit::from_str_name(of.get("unit")?.as_str()?)?;
    Some((requests as u32, unit.into()))
}

enum Entry {
    Pair(Name, Name),
    Skip,
    Abandon,
}

fn pair(key: &str, value: impl Into<Name>) -> Entry {
    Entry::Pair(key.into(), value.into())
}

fn found(key: &Name, value: Option<&str>, skip: bool) -> Entry {
    match value {
        Some(value) => Entry::Pair(key.clone(), value.into()),
        None if skip => Entry::Skip,
        None => Entry::Abandon,
    }
}

fn entry(x: &Exchange, action: &RateLimitAction) -> Entry {
    match action {
        RateLimitAction::SourceCluster => pair("source_cluster", &*x.manager.worker.shared.node.cluster),
        RateLimitAction::DestinationCluster => match &x.info.cluster {
            Some(cluster) => pair("destination_cluster", cluster.clone()),
            None => Entry::Abandon,
        },
        RateLimitAction::RequestHeader { name, key, skip_if_absent } => found(key, x.header(name), *skip_if_absent),
        RateLimitAction::QueryParameter { name, key, skip_if_absent } => {
            let view = x.view();
            found(key, view.query().and_then(|q| parameter(q, name)), *skip_if_absent)
        }
        RateLimitAction::RemoteAddress => pair("remote_address", x.info.remote.ip().to_string()),
        RateLimitAction::MaskedRemoteAddress { v4_len, v6_len } => {
            pair("masked_remote_address", masked(x.info.remote.ip(), *v4_len, *v6_len))
        }
        RateLimitAction::Generic { key, value } => Entry::Pair(key.clone(), value.clone()),
        RateLimitAction::HeaderValueMatch { key, value, expect, headers } => {
            let view = x.view();
            match headers.iter().all(|m| m.matches(&view)) == *expect {
                true => Entry::Pair(key.clone(), value.clone()),
                false => Entry::Abandon,
            }
        }
        RateLimitAction::QueryParameterValueMatch { key, value, expect, query } => {
            let view = x.view();
            match query.iter().all(|m| m.matches(view.query())) == *expect {
                true => Entry::Pair(key.clone(), value.clone()),
                false => Entry::Abandon,
            }
        }
        RateLimitAction::Metadata { key, filter, path, default, dynamic, skip_if_absent } => {
            let route = x.info.route.as_ref().and_then(|r| r.metadata.as_deref());
            let metadata: Option<&Metadata> = if *dynamic { Some(&x.info.metadata) } else { route };
            let value = metadata.and_then(|m| m.get(filter, path)?.as_str()).filter(|v| !v.is_empty());
            found(key, value.or(Some(&**default).filter(|d| !d.is_empty())), *skip_if_absent)
        }
    }
}

fn masked(ip: IpAddr, v4_len: u8, v6_len: u8) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let len = u32::from(v4_len.min(32));
            let net = u32::from(ip) & u32::MAX.checked_shl(32 - len).unwrap_or(0);
            format!("{}/{len}", std::net::Ipv4Addr::from(net))
        }
        IpAddr::V6(ip) => {
            let len = u32::from(v6_len.min(128));
            let net = u128::from(ip) & u128::MAX.checked_shl(128 - len).unwrap_or(0);
            format!("{}/{len}", std::net::Ipv6Addr::from(net))
        }
    }
}
