//! Route selection: which virtual host and route take a request, and why the others do not.
//!
//! Pure: [`RouteConfig::select`] serves the request path, [`RouteConfig::explain`] the command-line tools; both ask the same
//! [`RouteMatch::check`]. `require_tls` of a virtual host and clusters that do not exist are the caller's business.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Route, RouteConfig, RouteMatch, TlsMatch, VirtualHost};
use crate::matcher::cookie::cookie;
use crate::matcher::{PeerCertificate, RequestView, is_grpc};

impl RouteConfig {
    /// The virtual host that claims the authority.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        let at = if self.ignore_port_in_host_matching {
            self.domains.find_without_port(authority)
        } else {
            self.domains.find(authority)
        };
        self.virtual_hosts.get(at?)
    }

    /// The virtual host that takes the request: by its authority, or the header that the table names.
    pub fn virtual_host_of(&self, view: &RequestView<'_>) -> Option<&Arc<VirtualHost>> {
        match &self.vhost_header {
            None => self.virtual_host(view.authority),
            Some(name) => self.virtual_host(view.headers.get(name)?.to_str().ok()?),
        }
    }

    /// The virtual host and its first route that matches.
    pub fn select(&self, view: &RequestView<'_>) -> Option<(&Arc<VirtualHost>, &Arc<Route>)> {
        let host = self.virtual_host_of(view)?;
        Some((host, host.select(view, self.ignore_path_parameters)?))
    }

    /// The same choice with every route that was tried before it, in order, and why it lost.
    pub fn explain(&self, view: &RequestView<'_>) -> Explanation {
        let Some(host) = self.virtual_host_of(view) else {
            return Explanation { virtual_host: None, lost: Vec::new(), route: None };
        };
        let path = matched_path(view, self.ignore_path_parameters);
        let mut lost = Vec::new();
        for route in host.eligible(view) {
            match route.matcher.check(view, &path) {
                Ok(()) => {
                    return Explanation { virtual_host: Some(host.clone()), lost, route: Some(route.clone()) };
                }
                Err(mismatch) => lost.push((route.clone(), mismatch)),
            }
        }
        Explanation { virtual_host: Some(host.clone()), lost, route: None }
    }
}

/// How a request found its route, or did not.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// `None`: no domain covers the authority.
    pub virtual_host: Option<Arc<VirtualHost>>,
    /// Routes before the chosen one (all, when none was chosen).
    pub lost: Vec<(Arc<Route>, Mismatch)>,
    pub route: Option<Arc<Route>>,
}

impl VirtualHost {
    /// The first route that matches.
    pub fn select(&self, view: &RequestView<'_>, ignore_path_parameters: bool) -> Option<&Arc<Route>> {
        let path = matched_path(view, ignore_path_parameters);
        if self.tree.is_some() {
            return self.eligible(view).iter().find(|route| route.matcher.check(view, &path).is_ok());
        }
        self.index.candidates(&path, self.routes.len(), |at| {
            let route = self.routes.get(at)?;
            route.matcher.check(view, &path).is_ok().then_some(route)
        })
    }

    /// The routes that may take the request: all, or those that the matching tree leads to.
    fn eligible(&self, view: &RequestView<'_>) -> &[Arc<Route>] {
        match &self.tree {
            Some(tree) => self.routes.get(tree.find(view)).unwrap_or_default(),
            None => &self.routes,
        }
    }
}

/// The path that matchers see: without the `;parameters` of its segments, where they do not count.
fn matched_path<'v>(view: &RequestView<'v>, ignore_path_parameters: bool) -> Cow<'v, str> {
    let path = view.path_only();
    if !ignore_path_parameters || !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or(""));
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

/// The condition of a route match that failed first; an index points into its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Path,
    Header(usize),
    Query(usize),
    Cookie(usize),
    /// The request is no gRPC request.
    Grpc,
    TlsContext,
    DynamicMetadata(usize),
    /// The request fell outside `runtime_fraction`.
    FilterState(usize),
    RuntimeFraction,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Path => f.write_str("the path does not match"),
            Mismatch::Header(i) => write!(f, "headers[{i}] does not match"),
            Mismatch::Query(i) => write!(f, "query_parameters[{i}] does not match"),
            Mismatch::Cookie(i) => write!(f, "cookies[{i}] does not match"),
            Mismatch::Grpc => f.write_str("the request is not gRPC"),
            Mismatch::TlsContext => f.write_str("tls_context does not match the peer's certificate"),
            Mismatch::DynamicMetadata(i) => write!(f, "dynamic_metadata[{i}] does not match"),
            Mismatch::FilterState(i) => write!(f, "filter_state[{i}] does not match"),
            Mismatch::RuntimeFraction => f.write_str("the request is outside runtime_fraction"),
        }
    }
}

impl RouteMatch {
    /// Whether the request matches; its whole path counts.
    pub fn matches(&self, view: &RequestView<'_>) -> bool {
        self.check(view, view.path_only()).is_ok()
    }

    /// Checks every condition against `view`; `path` is the part of the path that counts for matching.
    pub fn check(&self, view: &RequestView<'_>, path: &str) -> Result<(), Mismatch> {
        if !self.path.matches(view.method, path) {
            return Err(Mismatch::Path);
        }
        if self.runtime_fraction.as_ref().is_some_and(|f| !f.value(view.runtime).hit(view.random)) {
            return Err(Mismatch::RuntimeFraction);
        }
        if self.grpc && !is_grpc(view.headers) {
            return Err(Mismatch::Grpc);
        }
        if let Some(i) = self.headers.iter().position(|m| !m.matches(view)) {
            return Err(Mismatch::Header(i));
        }
        if !self.query.is_empty() {
            let query = view.query();
            if let Some(i) = self.query.iter().position(|m| !m.matches(query)) {
                return Err(Mismatch::Query(i));
            }
        }
        let cookie_matches = |(name, matcher, invert): &(String, crate::matcher::string::StringMatcher, bool)| {
            cookie(view.headers, name).is_some_and(|v| matcher.is_match(v)) != *invert
        };
        if let Some(i) = self.cookies.iter().position(|m| !cookie_matches(m)) {
            return Err(Mismatch::Cookie(i));
        }
        if self.tls.is_some_and(|tls| !tls.matches(view.peer_certificate)) {
            return Err(Mismatch::TlsContext);
        }
        if let Some(i) = self.dynamic_metadata.iter().position(|m| !m.matches(view.metadata)) {
            return Err(Mismatch::DynamicMetadata(i));
        }
        let state_matches = |(key, matcher): &(crate::value::Name, crate::matcher::string::StringMatcher)| {
            view.filter_state.and_then(|state| state.get(key)).is_some_and(|text| matcher.is_match(text))
        };
        match self.filter_state.iter().position(|m| !state_matches(m)) {
            Some(i) => Err(Mismatch::FilterState(i)),
            None => Ok(()),
        }
    }
}

impl TlsMatch {
    fn matches(self, certificate: PeerCertificate) -> bool {
        let presented = certificate != PeerCertificate::Absent;
        let validated = certificate == PeerCertificate::Validated;
        self.presented.is_none_or(|p| p == presented) && self.validated.is_none_or(|v| v == validated)
    }
}
