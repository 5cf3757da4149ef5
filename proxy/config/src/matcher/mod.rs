//! Compiled matchers: pure predicates over a [`RequestView`], callable without a connection.

pub mod cookie;
pub mod domain;
pub mod header;
pub mod input;
pub mod metadata;
pub mod parse;
pub mod path;
pub mod query;
pub(crate) mod re2;
pub mod string;
pub mod tree;
#[cfg(test)]
mod tests;

/// What a matcher may look at. `path` is the path with its query, as it will be forwarded so far.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a http::Method,
    pub scheme: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    pub headers: &'a http::HeaderMap,
    /// TLS was terminated on the downstream connection.
    pub tls: bool,
    /// What the downstream peer proved on that connection.
    pub peer_certificate: PeerCertificate,
    pub metadata: Option<&'a crate::value::Metadata>,
    pub filter_state: Option<&'a crate::value::FilterState>,
    pub runtime: &'a crate::value::Runtime,
    /// 64 random bits of this request, for fractions and weighted choices.
    pub random: u64,
}

/// The certificate of the downstream peer, as `tls_context` of a route match sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerCertificate {
    #[default]
    Absent,
    /// Presented, but no trusted CA vouched for it.
    Presented,
    Validated,
}

impl<'a> RequestView<'a> {
    /// The path without its query.
    pub fn path_only(&self) -> &'a str {
        path_without_query(self.path)
    }

    pub fn query(&self) -> Option<&'a str> {
        let (_, query) = self.path.split_once('?')?;
        Some(query.split('#').next().unwrap_or(""))
    }
}

/// Whether the content type is gRPC's: `application/grpc` or `application/grpc+...`. gRPC-Web is not gRPC, and neither is a type
/// with parameters, as in Envoy.
pub fn is_grpc(headers: &http::HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// What of a request target comes before its query (or fragment).
pub fn path_without_query(path: &str) -> &str {
    path.find(['?', '#']).map_or(path, |at| &path[..at])
}
