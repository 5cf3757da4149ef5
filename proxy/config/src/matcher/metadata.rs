//! `type.matcher.v3.MetadataMatcher` and `ValueMatcher`.

use serde_json::Value;

use super::string::StringMatcher;
use crate::value::{Metadata, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    pub filter: Name,
    pub path: Vec<Name>,
    pub value: ValueMatcher,
    pub invert: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    Null,
    Number(NumberMatcher),
    String(StringMatcher),
    Bool(bool),
    /// `false` matches nothing, as in Envoy.
    Present(bool),
    /// One element of a list matches.
    ListOneOf(Box<ValueMatcher>),
    Or(Vec<ValueMatcher>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum NumberMatcher {
    Exact(f64),
    Range(std::ops::Range<f64>),
}

impl MetadataMatcher {
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let value = metadata.and_then(|m| m.get(&self.filter, &self.path));
        self.value.matches(value) != self.invert
    }
}

impl ValueMatcher {
    /// `None`: there is no such value.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (ValueMatcher::Or(any), _) => any.iter().any(|m| m.matches(value)),
            (ValueMatcher::Present(wanted), _) => *wanted && value.is_some(),
            (ValueMatcher::Null, Some(Value::Null)) => true,
            (ValueMatcher::Number(matcher), Some(Value::Number(n))) => n.as_f64().is_some_and(|n| matcher.matches(n)),
            (ValueMatcher::String(matcher), Some(Value::String(s))) => matcher.is_match(s),
            (ValueMatcher::Bool(wanted), Some(Value::Bool(b))) => wanted == b,
            (ValueMatcher::ListOneOf(matcher), Some(Value::Array(list))) => {
                list.iter().any(|v| matcher.matches(Some(v)))
            }
            _ => false,
        }
    }
}

impl NumberMatcher {
    #[allow(clippy::float_cmp)] // The API asks for equality.
    fn matches(&self, n: f64) -> bool {
        match self {
            NumberMatcher::Exact(wanted) => n == *wanted,
            NumberMatcher::Range(range) => range.contains(&n),
        }
    }
}
