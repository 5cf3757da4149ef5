//! `route.v3.HeaderMatcher`.
//!
//! Each value of a repeated header is tried on its own: one that matches suffices. A header that is not there matches
//! nothing, inverted or not, unless the matcher asks about presence or treats it as empty.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};

use super::RequestView;
use super::string::StringMatcher;

#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatcher {
    pub name: HeaderName,
    pub kind: HeaderMatch,
    pub invert: bool,
    pub treat_missing_as_empty: bool,
}

/// A header or one of the pseudo-headers a matcher may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderName {
    Header(http::HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
}

impl HeaderName {
    /// Reads a configured name; `host` is the authority, as in Envoy.
    pub fn parse(text: &str) -> Option<HeaderName> {
        Some(match text.to_ascii_lowercase().as_str() {
            ":method" => HeaderName::Method,
            ":path" => HeaderName::Path,
            ":authority" | "host" => HeaderName::Authority,
            ":scheme" => HeaderName::Scheme,
            other => HeaderName::Header(http::HeaderName::from_bytes(other.as_bytes()).ok()?),
        })
    }

    /// What the request has under the name: all values of a header, with commas between.
    pub fn joined<'v>(&self, view: &RequestView<'v>) -> Option<Cow<'v, str>> {
        Some(Cow::Borrowed(match self {
            HeaderName::Method => view.method.as_str(),
            HeaderName::Path => view.path,
            HeaderName::Authority => view.authority,
            HeaderName::Scheme => view.scheme,
            HeaderName::Header(name) => {
                return view.headers.get_all(name).iter().map(text).reduce(|all, next| all + "," + next);
            }
        }))
    }

    /// The name as it is written on the wire of HTTP/2.
    pub fn as_str(&self) -> &str {
        match self {
            HeaderName::Header(name) => name.as_str(),
            HeaderName::Method => ":method",
            HeaderName::Path => ":path",
            HeaderName::Authority => ":authority",
            HeaderName::Scheme => ":scheme",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum HeaderMatch {
    Value(StringMatcher),
    /// Half-open.
    Range(std::ops::Range<i64>),
    /// `true`: the header is there; `false`: it is not.
    Present(bool),
}

impl HeaderMatcher {
    pub fn matches(&self, view: &RequestView<'_>) -> bool {
        let pseudo = match &self.name {
            HeaderName::Header(name) => return self.matches_header(view.headers, name),
            HeaderName::Method => view.method.as_str(),
            HeaderName::Path => view.path,
            HeaderName::Authority => view.authority,
            HeaderName::Scheme => view.scheme,
        };
        let values = (!pseudo.is_empty()).then_some(Cow::Borrowed(pseudo));
        self.decide(values.into_iter())
    }

    /// Matches a header of any map (response headers of a retry policy, ...); pseudo-headers are absent there.
    pub fn matches_map(&self, headers: &HeaderMap) -> bool {
        match &self.name {
            HeaderName::Header(name) => self.matches_header(headers, name),
            _ => self.decide(std::iter::empty()),
        }
    }

    fn matches_header(&self, headers: &HeaderMap, name: &http::HeaderName) -> bool {
        self.decide(headers.get_all(name).iter().map(text))
    }

    fn decide<'v>(&self, values: impl Iterator<Item = Cow<'v, str>>) -> bool {
        let mut values = values.peekable();
        let found = values.peek().is_some();
        match &self.kind {
            HeaderMatch::Present(wanted) => (found == *wanted) != self.invert,
            _ if !found && !self.treat_missing_as_empty => false,
            _ if !found => self.value_matches("") != self.invert,
            _ => values.any(|v| self.value_matches(&v)) != self.invert,
        }
    }

    fn value_matches(&self, value: &str) -> bool {
        match &self.kind {
            HeaderMatch::Value(matcher) => matcher.is_match(value),
            HeaderMatch::Range(range) => value.parse::<i64>().is_ok_and(|n| range.contains(&n)),
            HeaderMatch::Present(wanted) => *wanted,
        }
    }
}

/// The value as text; bytes that are no UTF-8 are replaced, so that such a value can only match by accident of the rest.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}
