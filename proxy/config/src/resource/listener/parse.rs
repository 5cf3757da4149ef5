//! `listener.v3.Listener` → [`Listener`], with Envoy's defaults.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::listener::v3 as pb;
use sidemesh_proto::envoy::extensions::filters::listener as ext;
use sidemesh_proto::type_url;

use ext::http_inspector::v3::HttpInspector;
use ext::local_ratelimit::v3::LocalRateLimit;
use ext::original_dst::v3::OriginalDst;
use ext::proxy_protocol::v3 as proxy_protocol;
use ext::tls_inspector::v3::TlsInspector;
use prost::Name as _;

use super::chain::filter_chain;
use super::matcher;
use super::{ChainIndex, ChainMatcher, FilterChain, Listener, ListenerFilter, ProxyProtocolFilter, TrafficDirection};
use crate::rejection::{Rejection, Within};
use crate::resource::cluster::tcp_keepalive;
use crate::resource::network_filter::rate_limit;
use crate::resource::{access_log, socket_option, tls};
use crate::value::{Address, name};
use crate::wire;

const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_BUFFER_BYTES: u32 = 1 << 20;
/// The kernel cuts this down to `net.core.somaxconn`.
const DEFAULT_BACKLOG: u32 = 0x7fff_ffff;

pub fn parse(listener: &pb::Listener) -> Result<Listener, Rejection> {
    refuse_unsupported(listener)?;
    let wire_address = wire::required(&listener.address, "address")?;
    let address = bind_address(wire_address, "address")?;
    let chains = wire::each(&listener.filter_chains, "filter_chains", |c| filter_chain(c).map(Arc::new))?;
    let default_chain =
        listener.default_filter_chain.as_ref().map(filter_chain).transpose().within("default_filter_chain")?;
    if chains.is_empty() && default_chain.is_none() {
        return Err(Rejection::invalid("filter_chains", "must hold at least one filter chain"));
    }
    let matcher = chain_matcher(listener, &chains)?;
    let spelled = address.to_string();
    let stat_prefix =
        if listener.stat_prefix.is_empty() { spelled.replace(':', "_") } else { listener.stat_prefix.clone() };
    let timeout =
        wire::duration_or(&listener.listener_filters_timeout, "listener_filters_timeout", DEFAULT_FILTERS_TIMEOUT)?;
    let max_per_accept = wire::uint32(&listener.max_connections_to_accept_per_socket_event);
    if max_per_accept == Some(0) {
        return Err(Rejection::invalid("max_connections_to_accept_per_socket_event", "must be at least 1"));
    }
    Ok(Listener {
        name: name(if listener.name.is_empty() { &spelled } else { &listener.name }),
        stat_prefix: name(&stat_prefix),
        additional_addresses: wire::each(&listener.additional_addresses, "additional_addresses", |a| {
            bind_address(wire::required(&a.address, "address")?, "address")
        })?,
        bind_to_port: binds(listener),
        use_original_dst: wire::flag(&listener.use_original_dst, false),
        transparent: wire::flag(&listener.transparent, false),
        freebind: wire::flag(&listener.freebind, false),
        reuse_port: wire::flag(&listener.enable_reuse_port, true),
        ipv4_compat: ipv4_compat(wire_address),
        tcp_backlog: wire::uint32(&listener.tcp_backlog_size).unwrap_or(DEFAULT_BACKLOG),
        socket_options: socket_option::parse_all(&listener.socket_options)?,
        keepalive: listener.tcp_keepalive.as_ref().map(tcp_keepalive),
        listener_filters: listener_filters(listener, &chains)?,
        listener_filters_timeout: (!timeout.is_zero()).then_some(timeout),
        continue_on_listener_filters_timeout: listener.continue_on_listener_filters_timeout,
        index: if matcher.is_some() { ChainIndex::default() } else { index(&chains)? },
        matcher,
        chains,
        default_chain: default_chain.map(Arc::new),
        buffer_limit: wire::uint32(&listener.per_connection_buffer_limit_bytes).unwrap_or(DEFAULT_BUFFER_BYTES),
        access_logs: wire::each(&listener.access_log, "access_log", |l| access_log::parse(l).map(Arc::new))?,
        metadata: listener.metadata.as_ref().map(|m| Arc::new(wire::metadata(m))),
        direction: match wire::enumeration::<core::TrafficDirection>(listener.traffic_direction, "traffic_direction")? {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        },
        drain_modify_only: wire::enumeration::<pb::listener::DrainType>(listener.drain_type, "drain_type")?
            == pb::listener::DrainType::ModifyOnly,
        max_connections_per_accept: max_per_accept,
        address,
    })
}

fn refuse_unsupported(listener: &pb::Listener) -> Result<(), Rejection> {
    for (set, field) in [
        (listener.fcds_config.is_some(), "fcds_config"),
        (listener.udp_listener_config.is_some(), "udp_listener_config"),
        (listener.api_listener.is_some(), "api_listener"),
        (listener.listener_specifier.is_some(), "internal_listener"),
        (listener.enable_mptcp, "enable_mptcp"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    Ok(())
}

fn bind_address(address: &core::Address, field: &str) -> Result<Address, Rejection> {
    match wire::address(address, field)? {
        Address::Dns { host, .. } => {
            Err(Rejection::invalid("socket_address.address", format!("`{host}` is no IP address"))).within(field)
        }
        address => Ok(address),
    }
}

fn binds(listener: &pb::Listener) -> bool {
    let old = listener.deprecated_v1.as_ref().map_or(&None, |d| &d.bind_to_port);
    wire::flag(&listener.bind_to_port, wire::flag(old, true))
}

fn ipv4_compat(address: &core::Address) -> bool {
    matches!(&address.address, Some(core::address::Address::SocketAddress(s)) if s.ipv4_compat)
}

/// The matcher names chains: they have names of their own, and no criteria.
fn chain_matcher(listener: &pb::Listener, chains: &[Arc<FilterChain>]) -> Result<Option<ChainMatcher>, Rejection> {
    let Some(wire) = &listener.filter_chain_matcher else { return Ok(None) };
    for (i, chain) in listener.filter_chains.iter().enumerate() {
        let at = |field: &str| format!("filter_chains[{i}].{field}");
        if chain.filter_chain_match.as_ref().is_some_and(|m| *m != pb::FilterChainMatch::default()) {
            return Err(Rejection::invalid(at("filter_chain_match"), "leave it out beside filter_chain_matcher"));
        }
        if chain.name.is_empty() {
            return Err(Rejection::invalid(at("name"), "is required: filter_chain_matcher chooses by it"));
        }
        if let Some(other) = chains[..i].iter().position(|c| *c.name == chain.name) {
            let reason = format!("`{}` is also the name of filter_chains[{other}]", chain.name);
            return Err(Rejection::invalid(at("name"), reason));
        }
    }
    matcher::parse(wire).map(Some).within("filter_chain_matcher")
}

fn index(chains: &[Arc<FilterChain>]) -> Result<ChainIndex, Rejection> {
    let mut index = ChainIndex::default();
    for (i, chain) in chains.iter().enumerate() {
        index.insert(&chain.matcher, i).map_err(|other| {
            let reason = format!("matches the same connections as filter_chains[{other}]");
            Rejection::invalid(format!("filter_chains[{i}].filter_chain_match"), reason)
        })?;
    }
    Ok(index)
}

fn listener_filters(listener: &pb::Listener, chains: &[Arc<FilterChain>]) -> Result<Vec<ListenerFilter>, Rejection> {
    let mut filters = wire::each(&listener.listener_filters, "listener_filters", listener_filter)?;
    let original_dst = filters.iter().any(|f| matches!(f, ListenerFilter::OriginalDst));
    if wire::flag(&listener.use_original_dst, false) && !original_dst {
        filters.push(ListenerFilter::OriginalDst);
    }
    // Criteria that only a look at the ClientHello can answer bring the inspector with them, as in Envoy.
    let inspects = filters.iter().any(|f| matches!(f, ListenerFilter::TlsInspector));
    let needs = chains.iter().map(|c| &c.matcher).any(|m| match m.transport_protocol.as_deref() {
        Some(transport) => transport == "tls",
        None => !m.server_names.is_empty() || !m.application_protocols.is_empty(),
    });
    if needs && !inspects {
        filters.push(ListenerFilter::TlsInspector);
    }
    Ok(filters)
}

fn listener_filter(filter: &pb::ListenerFilter) -> Result<ListenerFilter, Rejection> {
    use pb::listener_filter::ConfigType;
    if filter.filter_disabled.is_some() {
        return Err(Rejection::unsupported("filter_disabled", "leave it out"));
    }
    let config = match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Rejection::unsupported("config_discovery", "give the typed_config itself"));
        }
        None => return Err(Rejection::invalid("typed_config", format!("is required for `{}`", filter.name))),
    };
    match type_url::message_name(&config.type_url) {
        n if n == TlsInspector::full_name() => {
            let inspector = wire::unpack::<TlsInspector>(config, "typed_config")?;
            for (fingerprints, field) in [
                (&inspector.enable_ja3_fingerprinting, "enable_ja3_fingerprinting"),
                (&inspector.enable_ja4_fingerprinting, "enable_ja4_fingerprinting"),
            ] {
                if wire::flag(fingerprints, false) {
                    return Err(Rejection::unsupported(field, "leave it out")).within("typed_config");
                }
            }
            Ok(ListenerFilter::TlsInspector)
        }
        n if n == HttpInspector::full_name() => Ok(ListenerFilter::HttpInspector),
        n if n == LocalRateLimit::full_name() => {
            let limit = wire::unpack::<LocalRateLimit>(config, "typed_config")?;
            let bucket = wire::required(&limit.token_bucket, "token_bucket").within("typed_config")?;
            let limit = rate_limit(&limit.stat_prefix, bucket, limit.runtime_enabled.as_ref());
            Ok(ListenerFilter::LocalRateLimit(Arc::new(limit.within("typed_config")?)))
        }
        n if n == OriginalDst::full_name() => Ok(ListenerFilter::OriginalDst),
        n if n == proxy_protocol::ProxyProtocol::full_name() => {
            let config = wire::unpack::<proxy_protocol::ProxyProtocol>(config, "typed_config")?;
            Ok(ListenerFilter::ProxyProtocol(proxy_protocol_filter(&config).within("typed_config")?))
        }
        _ => {
            let known = "tls_inspector, http_inspector, original_dst, proxy_protocol and local_ratelimit";
            let reason = format!("no listener filter `{}`; there are {known}", config.type_url);
            Err(Rejection::unsupported("typed_config", reason))
        }
    }
}

fn proxy_protocol_filter(p: &proxy_protocol::ProxyProtocol) -> Result<ProxyProtocolFilter, Rejection> {
    use core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
    if p.tlv_location != proxy_protocol::proxy_protocol::TlvLocation::DynamicMetadata as i32 {
        return Err(Rejection::unsupported("tlv_location", "TLVs go into dynamic metadata"));
    }
    let tlv = |number: u32| {
        u8::try_from(number).map_err(|_| Rejection::invalid("", format!("{number} is no TLV type; the largest is 255")))
    };
    let rules = wire::each(&p.rules, "rules", |rule| {
        let target = wire::required(&rule.on_tlv_present, "on_tlv_present")?;
        if target.value_string_encoding != 0 {
            return Err(Rejection::unsupported("on_tlv_present.value_string_encoding", "leave it out"));
        }
        let filter = if target.metadata_namespace.is_empty() {
            "envoy.filters.listener.proxy_protocol"
        } else {
            &target.metadata_namespace
        };
        let key = wire::non_empty(&target.key, "key").within("on_tlv_present")?;
        Ok((tlv(rule.tlv_type).within("tlv_type")?, name(filter), key))
    })?;
    let mut disallowed = (false, false);
    for version in &p.disallowed_versions {
        match tls::proxy_protocol_version(*version).within("disallowed_versions")? {
            tls::ProxyProtocolVersion::V1 => disallowed.0 = true,
            tls::ProxyProtocolVersion::V2 => disallowed.1 = true,
        }
    }
    if disallowed == (true, true) {
        return Err(Rejection::invalid("disallowed_versions", "both versions are disallowed; leave the filter out"));
    }
    let pass_through_tlvs = match &p.pass_through_tlvs {
        None => None,
        Some(passed) => {
            let kind = wire::enumeration::<PassTlVsMatchType>(passed.match_type, "pass_through_tlvs.match_type")?;
            Some(match kind {
                PassTlVsMatchType::IncludeAll => (0..=u8::MAX).collect(),
                PassTlVsMatchType::Include => wire::each(&passed.tlv_type, "pass_through_tlvs.tlv_type", |t| tlv(*t))?,
            })
        }
    };
    Ok(ProxyProtocolFilter {
        allow_without_header: p.allow_requests_without_proxy_protocol,
        rules,
        disallow_v1: disallowed.0,
        disallow_v2: disallowed.1,
        pass_through_tlvs,
        stat_prefix: wire::optional_name(&p.stat_prefix),
    })
}
