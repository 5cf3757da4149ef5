//! `route.v3.QueryParameterMatcher`: names and values are compared as they were sent, without percent-decoding; of a
//! parameter that is repeated the first one counts.

use super::string::StringMatcher;

#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatcher {
    pub name: String,
    pub kind: QueryMatch,
}

#[derive(Debug, Clone, PartialEq)]
pub enum QueryMatch {
    Value(StringMatcher),
    /// `true`: the parameter is there, whatever its value; `false`: it is not.
    Present(bool),
}

impl QueryMatcher {
    /// Matches the query of a request target (what follows `?`).
    pub fn matches(&self, query: Option<&str>) -> bool {
        let value = query.and_then(|q| parameter(q, &self.name));
        match &self.kind {
            QueryMatch::Value(matcher) => value.is_some_and(|v| matcher.is_match(v)),
            QueryMatch::Present(wanted) => value.is_some() == *wanted,
        }
    }
}

/// The first value of the parameter `name`; empty when it has no `=`.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(n, _)| *n == name).map(|(_, v)| v)
}
