//! `FilterChain` and `FilterChainMatch`.

use std::sync::Arc;

use sidemesh_proto::envoy::config::listener::v3 as pb;
use sidemesh_proto::google;

use super::{FilterChain, FilterChainMatch, ServerName, SourceType};
use crate::rejection::{Rejection, Within};
use crate::resource::{network_filter, tls};
use crate::value::name;
use crate::wire;

pub(super) fn filter_chain(chain: &pb::FilterChain) -> Result<FilterChain, Rejection> {
    if wire::flag(&chain.use_proxy_proto, false) {
        return Err(Rejection::unsupported("use_proxy_proto", "use the proxy_protocol listener filter"));
    }
    let timeout = wire::optional_duration(&chain.transport_socket_connect_timeout, "transport_socket_connect_timeout")?;
    Ok(FilterChain {
        name: name(&chain.name),
        matcher: chain
            .filter_chain_match
            .as_ref()
            .map(matcher)
            .transpose()
            .within("filter_chain_match")?
            .unwrap_or_default(),
        filters: filters(&chain.filters)?,
        transport: tls::parse_downstream(chain.transport_socket.as_ref()).within("transport_socket")?,
        transport_connect_timeout: timeout.filter(|d| !d.is_zero()),
        metadata: chain.metadata.as_ref().map(|m| Arc::new(wire::metadata(m))),
    })
}

/// A chain ends with a filter that answers, and has only one such.
fn filters(list: &[pb::Filter]) -> Result<Vec<network_filter::NetworkFilter>, Rejection> {
    let filters = wire::each(list, "filters", network_filter::parse)?;
    for (i, filter) in filters.iter().enumerate() {
        let last = i + 1 == filters.len();
        let reason = match (filter.is_terminal(), last) {
            (true, false) => format!("`{}` must be the last filter", list[i].name),
            (false, true) => format!("`{}` cannot be the last filter: nothing would answer", list[i].name),
            _ => continue,
        };
        return Err(Rejection::invalid("", reason)).within_index("filters", i);
    }
    Ok(filters)
}

fn matcher(m: &pb::FilterChainMatch) -> Result<FilterChainMatch, Rejection> {
    use pb::filter_chain_match::ConnectionSourceType as Wire;
    if !m.address_suffix.is_empty() || m.suffix_len.is_some() {
        return Err(Rejection::unsupported("address_suffix", "use prefix_ranges"));
    }
    let source_type = match wire::enumeration::<Wire>(m.source_type, "source_type")? {
        Wire::Any => SourceType::Any,
        Wire::SameIpOrLoopback => SourceType::SameIpOrLoopback,
        Wire::External => SourceType::External,
    };
    Ok(FilterChainMatch {
        destination_port: destination_port(&m.destination_port)?,
        prefix_ranges: wire::each(&m.prefix_ranges, "prefix_ranges", |c| wire::cidr(c, ""))?,
        server_names: wire::each(&m.server_names, "server_names", |n| server_name(n))?,
        transport_protocol: wire::optional_name(&m.transport_protocol),
        application_protocols: wire::each(&m.application_protocols, "application_protocols", |p| {
            wire::non_empty(p, "")
        })?,
        direct_source_ranges: wire::each(&m.direct_source_prefix_ranges, "direct_source_prefix_ranges", |c| {
            wire::cidr(c, "")
        })?,
        source_type,
        source_ranges: wire::each(&m.source_prefix_ranges, "source_prefix_ranges", |c| wire::cidr(c, ""))?,
        source_ports: wire::each(&m.source_ports, "source_ports", |p| port(*p))?,
    })
}

fn destination_port(value: &Option<google::UInt32Value>) -> Result<Option<u16>, Rejection> {
    wire::uint32(value).map(port).transpose().within("destination_port")
}

fn port(number: u32) -> Result<u16, Rejection> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Rejection::invalid("", format!("{number} is not between 1 and 65535"))),
    }
}

fn server_name(text: &str) -> Result<ServerName, Rejection> {
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix('*') {
        Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*') => {
            Ok(ServerName::Wildcard(name(suffix)))
        }
        None if !lower.is_empty() && !lower.contains('*') => Ok(ServerName::Exact(name(&lower))),
        _ => Err(Rejection::invalid("", format!("`{text}` must be a name or `*.` and a name"))),
    }
}
