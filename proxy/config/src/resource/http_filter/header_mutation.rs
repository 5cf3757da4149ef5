//! `header_mutation.v3.HeaderMutation`.

use crate::matcher::string::StringMatcher;
use crate::resource::core::HeaderEdit;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderMutation {
    pub request: Vec<Mutation>,
    pub response: Vec<Mutation>,
    pub query: Vec<QueryMutation>,
    pub most_specific_wins: bool,
}

/// One step; steps run in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Mutation {
    Set(HeaderEdit),
    Remove(http::HeaderName),
    RemoveMatching(StringMatcher),
}

#[derive(Debug, Clone, PartialEq)]
pub enum QueryMutation {
    Append { key: String, value: std::sync::Arc<crate::format::Format>, action: crate::resource::core::AppendAction },
    Remove(String),
}
