//! The choice of a filter chain: a pure function of what is known of a connection.
//!
//! Criteria in Envoy's order: destination port, destination address, server name, transport protocol, application
//! protocols, direct source address, source type, source address, source port. Each takes the most specific entry that
//! fits and never comes back: a chain that asks for this very server name shuts out those for any name, also when one of its
//! later criteria fails. Then the default chain is left.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{FilterChain, FilterChainMatch, Listener, ServerName, SourceType};
use crate::matcher::tree::Facts;
use crate::value::{Cidr, Name};

/// What is known of a connection once its listener filters have run.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionView<'a> {
    /// The address the client wanted: the original destination where one was restored.
    pub destination: Option<SocketAddr>,
    /// The client, as a PROXY header may name it.
    pub source: Option<SocketAddr>,
    /// Who holds the other end of the socket.
    pub direct_source: Option<SocketAddr>,
    /// In lower case; empty for none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'a str,
    pub application_protocols: &'a [&'a str],
}

impl Listener {
    /// The chain that serves a connection; `None`: nobody does, it is closed.
    pub fn choose(&self, connection: &ConnectionView<'_>) -> Option<&Arc<FilterChain>> {
        if let Some(matcher) = &self.matcher {
            // A name that no chain has leaves the connection without one, default chain or not.
            let facts = Facts { value: &|input| connection.value(*input), runtime: None };
            return match matcher.find(&facts) {
                Some(name) => self.chains.iter().find(|c| c.name == *name),
                None => self.default_chain.as_ref(),
            };
        }
        self.index.find(connection).and_then(|i| self.chains.get(i)).or(self.default_chain.as_ref())
    }
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Filter chains by their criteria. Values are positions in the listener's list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainIndex(Ports<Addresses<Names>>);

/// By port, and for any port.
#[derive(Debug, Clone, PartialEq)]
struct Ports<T> {
    exact: Map<u16, T>,
    any: Option<Box<T>>,
}

/// By address range, and for any address.
#[derive(Debug, Clone, PartialEq)]
struct Addresses<T> {
    /// Prefix lengths in use, longest first.
    lengths: Vec<u8>,
    ranges: Map<(IpAddr, u8), T>,
    any: Option<Box<T>>,
}

/// By text, `""` for any.
type Texts<T> = Map<Name, T>;
/// By exact name, by `.suffix`, or `""`.
type Names = Texts<Transports>;
type Transports = Texts<Protocols>;
type Protocols = Texts<Addresses<SourceTypes>>;
type Sources = Addresses<Ports<usize>>;

/// In the order of [`SourceType`].
#[derive(Debug, Clone, Default, PartialEq)]
struct SourceTypes([Option<Sources>; 3]);

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Ports { exact: Map::default(), any: None }
    }
}

impl<T> Default for Addresses<T> {
    fn default() -> Self {
        Addresses { lengths: Vec::new(), ranges: Map::default(), any: None }
    }
}

impl<T> Ports<T> {
    fn get(&self, port: Option<u16>) -> Option<&T> {
        port.and_then(|p| self.exact.get(&p)).or(self.any.as_deref())
    }
}

impl<T: Default> Ports<T> {
    fn entry(&mut self, port: Option<u16>) -> &mut T {
        match port {
            Some(port) => self.exact.entry(port).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }
}

impl<T> Addresses<T> {
    fn get(&self, address: Option<IpAddr>) -> Option<&T> {
        if let Some(address) = address.map(|a| a.to_canonical()) {
            let most = if address.is_ipv4() { 32 } else { 128 };
            for length in self.lengths.iter().copied().filter(|l| *l <= most) {
                if let Some(found) = self.ranges.get(&(mask(address, length), length)) {
                    return Some(found);
                }
            }
        }
        self.any.as_deref()
    }
}

impl<T: Default> Addresses<T> {
    fn entry(&mut self, range: Option<Cidr>) -> &mut T {
        let Some(range) = range else { return self.any.get_or_insert_default() };
        if let Err(at) = self.lengths.binary_search_by(|l| range.prefix_len.cmp(l)) {
            self.lengths.insert(at, range.prefix_len);
        }
        self.ranges.entry((mask(range.address.to_canonical(), range.prefix_len), range.prefix_len)).or_default()
    }
}

/// The first `length` bits of an address.
fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let kept = u32::MAX.checked_shl(32u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & kept).into())
        }
        IpAddr::V6(v6) => {
            let kept = u128::MAX.checked_shl(128u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & kept).into())
        }
    }
}

impl ChainIndex {
    /// Adds the chain at position `chain`. `Err`: the position of a chain that matches the same connections.
    pub(super) fn insert(&mut self, matcher: &FilterChainMatch, chain: usize) -> Result<(), usize> {
        let names = texts(matcher.server_names.iter().map(|n| match n {
            ServerName::Exact(name) | ServerName::Wildcard(name) => name.clone(),
        }));
        let protocols = texts(matcher.application_protocols.iter().cloned());
        let transport: Name = matcher.transport_protocol.clone().unwrap_or_else(|| Arc::from(""));
        for range in ranges(&matcher.prefix_ranges) {
            for name in &names {
                for protocol in &protocols {
                    let found = self
                        .0
                        .entry(matcher.destination_port)
                        .entry(range)
                        .entry(name.clone())
                        .or_default()
                        .entry(transport.clone())
                        .or_default()
                        .entry(protocol.clone())
                        .or_default();
                    insert_sources(found, matcher, chain)?;
                }
            }
        }
        Ok(())
    }

    fn find(&self, connection: &ConnectionView<'_>) -> Option<usize> {
        let destination = connection.destination;
        let names = self.0.get(destination.map(|a| a.port()))?.get(destination.map(|a| a.ip()))?;
        let transports = by_name(names, connection.server_name)?;
        let protocols = transports.get(connection.transport_protocol).or_else(|| transports.get(""))?;
        let offered = connection.application_protocols.iter().find_map(|p| protocols.get(*p));
        let types = offered.or_else(|| protocols.get(""))?.get(connection.direct_source.map(|a| a.ip()))?;
        let source = connection.source;
        types.get(connection)?.get(source.map(|a| a.ip()))?.get(source.map(|a| a.port())).copied()
    }
}

fn insert_sources(direct: &mut Addresses<SourceTypes>, matcher: &FilterChainMatch, chain: usize) -> Result<(), usize> {
    let ports: Vec<Option<u16>> = match matcher.source_ports.as_slice() {
        [] => vec![None],
        ports => ports.iter().copied().map(Some).collect(),
    };
    for direct_range in ranges(&matcher.direct_source_ranges) {
        let sources = direct.entry(direct_range).0[matcher.source_type as usize].get_or_insert_default();
        for range in ranges(&matcher.source_ranges) {
            let by_port = sources.entry(range);
            for port in &ports {
                let taken = match port {
                    Some(port) => by_port.exact.insert(*port, chain),
                    None => by_port.any.replace(Box::new(chain)).map(|taken| *taken),
                };
                // The same criterion twice in one chain does no harm.
                if let Some(other) = taken.filter(|other| *other != chain) {
                    return Err(other);
                }
            }
        }
    }
    Ok(())
}

fn ranges(list: &[Cidr]) -> Vec<Option<Cidr>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

fn texts(list: impl Iterator<Item = Name>) -> Vec<Name> {
    let list: Vec<Name> = list.collect();
    if list.is_empty() { vec![Arc::from("")] } else { list }
}

/// Exact, then the longest wildcard, then chains that do not ask for a name.
fn by_name<'a>(names: &'a Names, server_name: &str) -> Option<&'a Transports> {
    if !server_name.is_empty() {
        if let Some(found) = names.get(server_name) {
            return Some(found);
        }
        let wildcard = server_name.match_indices('.').find_map(|(at, _)| names.get(&server_name[at..]));
        if wildcard.is_some() {
            return wildcard;
        }
    }
    names.get("")
}

impl SourceTypes {
    fn get(&self, connection: &ConnectionView<'_>) -> Option<&Sources> {
        let [any, local, external] = &self.0;
        if local.is_some() || external.is_some() {
            let special = if is_local(connection) { local } else { external };
            if special.is_some() {
                return special.as_ref();
            }
        }
        any.as_ref()
    }
}

pub(super) fn is_local(connection: &ConnectionView<'_>) -> bool {
    let Some(source) = connection.source.map(|a| a.ip().to_canonical()) else { return true };
    source.is_loopback() || connection.destination.is_some_and(|d| d.ip().to_canonical() == source)
}

const _: () = assert!(
    SourceType::Any as usize == 0 && SourceType::SameIpOrLoopback as usize == 1 && SourceType::External as usize == 2
);
