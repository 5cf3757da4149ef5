//! Hosts that a request names itself: the destination of an ORIGINAL_DST cluster, and what `override_host` sources ask for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use sidemesh_config::resource::cluster::{Discovery, OverrideSource};
use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::value::{Address, Label, Locality, Metadata, Name};
use smallvec::SmallVec;

use super::balancer::Balancer;
use super::cluster::Cluster;
use super::error::PickError;
use super::host::Host;

/// The host that a client's session is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// `None`: what the client told is no address.
    pub address: Option<SocketAddr>,
    /// No other host will do.
    pub strict: bool,
    /// The status of the answer when there is no such host.
    pub not_found_status: u16,
}

/// Where a request may name a host.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    pub headers: &'a HeaderMap,
    /// Dynamic metadata: of the request first, then of its connection.
    pub metadata: [&'a Metadata; 2],
    /// The connection's own original destination, where it was restored.
    pub connection: Option<SocketAddr>,
}

impl Naming<'_> {
    fn text_at(&self, filter: &Name, path: &[Name]) -> Option<&str> {
        self.metadata.iter().find_map(|m| m.get(filter, path)?.as_str())
    }
}

impl Cluster {
    /// Where an ORIGINAL_DST cluster is to connect: the address in the configured metadata, else the one in the configured header,
    /// else the connection's own original destination; with the configured port, if there is one.
    pub fn original_destination(&self, naming: &Naming<'_>) -> Option<SocketAddr> {
        let config = self.config();
        let Discovery::OriginalDst(original) = &config.discovery else { return None };
        let told =
            original.metadata.as_ref().and_then(|(filter, path)| self.destination(naming.text_at(filter, path)?));
        let header = || self.destination(naming.headers.get(original.header.as_ref()?)?.to_str().ok()?);
        let mut address = told.or_else(header).or(naming.connection)?;
        if let Some(port) = original.port_override {
            address.set_port(port);
        }
        Some(address)
    }

    fn destination(&self, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.stats.original_dst_host_invalid.inc();
        }
        address
    }

    pub(super) fn original(&self, destination: Option<SocketAddr>) -> Result<Rc<Host>, PickError> {
        let address = destination.ok_or(PickError::NoDestination)?;
        if let Some(host) = self.originals.borrow().get(&address) {
            return Ok(host.clone());
        }
        let state = self.shared.original(address).ok_or(PickError::NoHealthyHost)?;
        let endpoint = Endpoint {
            address: Address::Socket(address),
            additional_addresses: Vec::new(),
            hostname: Label::default(),
            weight: 1,
            health: Default::default(),
            metadata: None,
            checked_at: None,
            disable_active_health_check: true,
        };
        let host = Rc::new(Host::new(Arc::new(endpoint), Rc::new(Locality::default()), 0, state, self.worker.index));
        self.originals.borrow_mut().insert(address, host.clone());
        Ok(host)
    }

    /// The session's host, if its health is one of those that are allowed; without it the request is balanced, unless the session is
    /// strict.
    pub(super) fn session_host(&self, balancer: &Balancer, session: &Session) -> Result<Option<Rc<Host>>, PickError> {
        let allowed = &self.config().lb_common.override_host_status;
        match session.address.as_ref().and_then(|address| balancer.at_address(address)) {
            Some(host) if allowed.contains(&host.status()) => Ok(Some(host.clone())),
            Some(_) if session.strict => Err(PickError::NoHealthyHost),
            None if session.strict => Err(PickError::NoSessionHost { status: session.not_found_status }),
            _ => Ok(None),
        }
    }

    /// The hosts that a request asks for, by the first of the cluster's sources that names any.
    pub fn wanted(&self, naming: &Naming<'_>) -> SmallVec<[SocketAddr; 2]> {
        let config = self.config();
        let named = config.override_sources.iter().find_map(|source| match source {
            OverrideSource::Header(name) => naming.headers.get(name)?.to_str().ok(),
            OverrideSource::Metadata(filter, path) => naming.text_at(filter, path),
        });
        named.into_iter().flat_map(|list| list.split(',')).filter_map(|one| one.trim().parse().ok()).collect()
    }
}
