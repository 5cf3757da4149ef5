//! `listener.v3.Filter` → [`NetworkFilter`].

use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::listener::v3 as pb;
use sidemesh_proto::envoy::extensions::filters::network as ext;
use sidemesh_proto::envoy::r#type::v3 as types;
use sidemesh_proto::{google, type_url};

use super::{ConnectionLimit, NetworkFilter, NetworkRateLimit};
use crate::rejection::{Rejection, Within};
use crate::resource::http_filter::rate_limit::TokenBucket;
use crate::resource::http_filter::rbac::{self, RbacFilter};
use crate::resource::{http_connection_manager, tcp_proxy};
use crate::value::{Fraction, Name, RuntimeFraction, name};
use crate::wire;

use ext::connection_limit::v3::ConnectionLimit as WireConnectionLimit;
use ext::direct_response::v3::Config as DirectResponse;
use ext::echo::v3::Echo;
use ext::http_connection_manager::v3::HttpConnectionManager;
use ext::local_ratelimit::v3::LocalRateLimit;
use ext::rbac::v3::Rbac;
use ext::sni_cluster::v3::SniCluster;
use ext::tcp_proxy::v3::TcpProxy;

/// Refills of a bucket are driven by a coarse timer, as in Envoy.
const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

const NAMES: &str = "http_connection_manager, tcp_proxy, rbac, local_ratelimit, connection_limit, sni_cluster, echo and \
                     direct_response";

pub fn parse(filter: &pb::Filter) -> Result<NetworkFilter, Rejection> {
    use pb::filter::ConfigType;
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => typed(any).within("typed_config"),
        Some(ConfigType::ConfigDiscovery(_)) => {
            Err(Rejection::unsupported("config_discovery", "only HTTP filters are discovered; give the typed_config"))
        }
        None => Err(Rejection::invalid("typed_config", format!("is required for `{}`", filter.name))),
    }
}

fn typed(any: &google::Any) -> Result<NetworkFilter, Rejection> {
    match type_url::message_name(&any.type_url) {
        n if n == HttpConnectionManager::full_name() => {
            let hcm = wire::unpack::<HttpConnectionManager>(any, "")?;
            Ok(NetworkFilter::Http(Arc::new(http_connection_manager::parse(&hcm)?)))
        }
        n if n == TcpProxy::full_name() => {
            Ok(NetworkFilter::Tcp(Arc::new(tcp_proxy::parse(&wire::unpack::<TcpProxy>(any, "")?)?)))
        }
        n if n == Rbac::full_name() => {
            Ok(NetworkFilter::Rbac(Arc::new(network_rbac(&wire::unpack::<Rbac>(any, "")?)?)))
        }
        n if n == LocalRateLimit::full_name() => network_rate_limit(&wire::unpack::<LocalRateLimit>(any, "")?),
        n if n == WireConnectionLimit::full_name() => connection_limit(&wire::unpack::<WireConnectionLimit>(any, "")?),
        n if n == SniCluster::full_name() => Ok(NetworkFilter::SniCluster),
        n if n == Echo::full_name() => Ok(NetworkFilter::Echo),
        n if n == DirectResponse::full_name() => {
            let config = wire::unpack::<DirectResponse>(any, "")?;
            let response = wire::required(&config.response, "response")?;
            Ok(NetworkFilter::DirectResponse(wire::data_source(response, "response")?))
        }
        _ => Err(Rejection::unsupported("", format!("no network filter `{}`; there are {NAMES}", any.type_url))),
    }
}

fn network_rbac(r: &Rbac) -> Result<RbacFilter, Rejection> {
    let shadow = ["shadow_rules", "shadow_matcher"];
    Ok(RbacFilter {
        rules: rbac::either(&r.rules, &r.matcher, ["rules", "matcher"], false)?,
        shadow_rules: rbac::either(&r.shadow_rules, &r.shadow_matcher, shadow, false)?,
        stat_prefix: wire::non_empty(&r.stat_prefix, "stat_prefix")?,
        shadow_stat_prefix: name(&r.shadow_rules_stat_prefix),
        per_rule_stats: false,
        delay_deny: wire::optional_duration(&r.delay_deny, "delay_deny")?.filter(|d| !d.is_zero()),
    })
}

fn network_rate_limit(l: &LocalRateLimit) -> Result<NetworkFilter, Rejection> {
    let bucket = wire::required(&l.token_bucket, "token_bucket")?;
    let limit = rate_limit(&l.stat_prefix, bucket, l.runtime_enabled.as_ref())?;
    Ok(NetworkFilter::LocalRateLimit(Arc::new(limit)))
}

/// A limit on new connections: of the network filter and of the listener filter.
pub fn rate_limit(
    stat_prefix: &str,
    bucket: &types::TokenBucket,
    enabled: Option<&core::RuntimeFeatureFlag>,
) -> Result<NetworkRateLimit, Rejection> {
    let enabled = enabled.map(|flag| {
        let (on, key) = feature_flag(flag);
        RuntimeFraction { key, default: if on { Fraction::ALWAYS } else { Fraction::NEVER } }
    });
    Ok(NetworkRateLimit {
        stat_prefix: wire::non_empty(stat_prefix, "stat_prefix")?,
        bucket: token_bucket(bucket).within("token_bucket")?,
        enabled,
    })
}

fn token_bucket(b: &types::TokenBucket) -> Result<TokenBucket, Rejection> {
    let tokens_per_fill = wire::uint32(&b.tokens_per_fill).unwrap_or(1);
    if b.max_tokens == 0 || tokens_per_fill == 0 {
        return Err(Rejection::invalid("max_tokens", "max_tokens and tokens_per_fill must be at least 1"));
    }
    let fill_interval = wire::duration(wire::required(&b.fill_interval, "fill_interval")?, "fill_interval")?;
    if fill_interval < MIN_FILL_INTERVAL {
        return Err(Rejection::invalid("fill_interval", "must be at least 50ms"));
    }
    Ok(TokenBucket { max_tokens: b.max_tokens, tokens_per_fill, fill_interval })
}

fn connection_limit(c: &WireConnectionLimit) -> Result<NetworkFilter, Rejection> {
    let max_connections = wire::required(&c.max_connections, "max_connections")?.value;
    if max_connections == 0 {
        return Err(Rejection::invalid("max_connections", "must be at least 1"));
    }
    let enabled = c.runtime_enabled.as_ref().map(|flag| {
        let (on, key) = feature_flag(flag);
        (on, key.unwrap_or_else(|| name("")))
    });
    Ok(NetworkFilter::ConnectionLimit(Arc::new(ConnectionLimit {
        stat_prefix: wire::non_empty(&c.stat_prefix, "stat_prefix")?,
        max_connections,
        delay: wire::optional_duration(&c.delay, "delay")?.filter(|d| !d.is_zero()),
        enabled,
    })))
}

fn feature_flag(flag: &core::RuntimeFeatureFlag) -> (bool, Option<Name>) {
    (wire::flag(&flag.default_value, false), wire::optional_name(&flag.runtime_key))
}
