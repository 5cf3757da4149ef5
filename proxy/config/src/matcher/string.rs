//! `type.matcher.v3.StringMatcher` and `RegexMatcher`.

use regex::Regex;

use super::re2;

/// A compiled string matcher. Patterns of a case-ignoring matcher are kept lower-cased.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    Exact {
        value: String,
        ignore_case: bool,
    },
    Prefix {
        value: String,
        ignore_case: bool,
    },
    Suffix {
        value: String,
        ignore_case: bool,
    },
    Contains {
        value: String,
        ignore_case: bool,
    },
    /// Matches the whole value.
    Regex(FullRegex),
}

/// A regular expression in RE2 syntax that must match the whole text.
#[derive(Debug, Clone)]
pub struct FullRegex {
    source: String,
    regex: Regex,
}

impl FullRegex {
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        let regex = re2::compile_full(source)?;
        Ok(FullRegex { source: source.to_owned(), regex })
    }
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
    /// The capture groups of a match.
    pub fn captures<'t>(&self, text: &'t str) -> Option<regex::Captures<'t>> {
        self.regex.captures(text)
    }
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl PartialEq for StringMatcher {
    fn eq(&self, other: &Self) -> bool {
        use StringMatcher::{Contains, Exact, Prefix, Regex, Suffix};
        match (self, other) {
            (Exact { value: a, ignore_case: i }, Exact { value: b, ignore_case: j })
            | (Prefix { value: a, ignore_case: i }, Prefix { value: b, ignore_case: j })
            | (Suffix { value: a, ignore_case: i }, Suffix { value: b, ignore_case: j })
            | (Contains { value: a, ignore_case: i }, Contains { value: b, ignore_case: j }) => a == b && i == j,
            (Regex(a), Regex(b)) => a == b,
            _ => false,
        }
    }
}

impl StringMatcher {
    pub fn exact(value: impl Into<String>) -> Self {
        StringMatcher::Exact { value: value.into(), ignore_case: false }
    }

    pub fn is_match(&self, text: &str) -> bool {
        match self {
            StringMatcher::Exact { value, ignore_case: false } => text == value,
            StringMatcher::Exact { value, ignore_case: true } => text.eq_ignore_ascii_case(value),
            StringMatcher::Prefix { value, ignore_case: false } => text.starts_with(value.as_str()),
            StringMatcher::Prefix { value, ignore_case: true } => {
                text.get(..value.len()).is_some_and(|t| t.eq_ignore_ascii_case(value))
            }
            StringMatcher::Suffix { value, ignore_case: false } => text.ends_with(value.as_str()),
            StringMatcher::Suffix { value, ignore_case: true } => text
                .len()
                .checked_sub(value.len())
                .and_then(|at| text.get(at..))
                .is_some_and(|t| t.eq_ignore_ascii_case(value)),
            StringMatcher::Contains { value, ignore_case: false } => text.contains(value.as_str()),
            StringMatcher::Contains { value, ignore_case: true } => contains_ignore_case(text, value),
            StringMatcher::Regex(regex) => regex.is_match(text),
        }
    }
}

fn contains_ignore_case(text: &str, value: &str) -> bool {
    value.is_empty() || text.as_bytes().windows(value.len()).any(|w| w.eq_ignore_ascii_case(value.as_bytes()))
}
