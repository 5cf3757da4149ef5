//! Matcher messages of the wire → compiled matchers.
//!
//! As in [`crate::wire`], each function takes the name of the field that holds the message, the first part of the path in a
//! [`Rejection`]. The deprecated spellings that Envoy still takes (`exact_match`, `safe_regex_match`, ...) are read as well.

use sidemesh_proto::envoy::config::route::v3 as route;
use sidemesh_proto::envoy::r#type::matcher::v3 as wire;

use super::header::{HeaderMatch, HeaderMatcher, HeaderName};
use super::metadata::{MetadataMatcher, NumberMatcher, ValueMatcher};
use super::query::{QueryMatch, QueryMatcher};
use super::re2;
use super::string::{FullRegex, StringMatcher};
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{non_empty, required};

/// The most bytes a name of a parameter or cookie may have.
const MAX_NAME_BYTES: usize = 1024;

pub fn string(m: &wire::StringMatcher, field: &str) -> Result<StringMatcher, Rejection> {
    string_fields(m).within(field)
}

fn string_fields(m: &wire::StringMatcher) -> Result<StringMatcher, Rejection> {
    use wire::string_matcher::MatchPattern;
    let ignore_case = m.ignore_case;
    let text = |value: &str| if ignore_case { value.to_ascii_lowercase() } else { value.to_owned() };
    match &m.match_pattern {
        Some(MatchPattern::Exact(value)) => Ok(StringMatcher::Exact { value: text(value), ignore_case }),
        Some(MatchPattern::Prefix(value)) => {
            Ok(StringMatcher::Prefix { value: text(&non_empty(value, "prefix")?), ignore_case })
        }
        Some(MatchPattern::Suffix(value)) => {
            Ok(StringMatcher::Suffix { value: text(&non_empty(value, "suffix")?), ignore_case })
        }
        Some(MatchPattern::Contains(value)) => {
            Ok(StringMatcher::Contains { value: text(&non_empty(value, "contains")?), ignore_case })
        }
        Some(MatchPattern::SafeRegex(_)) if ignore_case => {
            Err(Rejection::invalid("ignore_case", "has no effect for safe_regex; write `(?i)` in the expression"))
        }
        Some(MatchPattern::SafeRegex(pattern)) => Ok(StringMatcher::Regex(regex(pattern, "safe_regex")?)),
        Some(MatchPattern::Custom(_)) => {
            Err(Rejection::unsupported("custom", "use exact, prefix, suffix, contains or safe_regex"))
        }
        None => Err(Rejection::invalid("", "needs one of exact, prefix, suffix, contains, safe_regex")),
    }
}

pub fn strings(list: &[wire::StringMatcher], field: &str) -> Result<Vec<StringMatcher>, Rejection> {
    list.iter().enumerate().map(|(i, m)| string_fields(m).within_index(field, i)).collect()
}

/// `ListStringMatcher`; not given means no pattern.
pub fn string_list(list: &Option<wire::ListStringMatcher>, field: &str) -> Result<Vec<StringMatcher>, Rejection> {
    list.as_ref().map_or(Ok(Vec::new()), |l| strings(&l.patterns, "patterns").within(field))
}

pub fn regex(m: &wire::RegexMatcher, field: &str) -> Result<FullRegex, Rejection> {
    let source = non_empty(&m.regex, "regex").within(field)?;
    FullRegex::new(&source).map_err(|e| bad_regex(&source, &e)).within(field)
}

/// `RegexMatchAndSubstitute`: the unanchored pattern, and its substitution with `\1` turned into `${1}`.
pub fn substitution(m: &wire::RegexMatchAndSubstitute, field: &str) -> Result<(regex::Regex, String), Rejection> {
    substitution_fields(m).within(field)
}

fn substitution_fields(m: &wire::RegexMatchAndSubstitute) -> Result<(regex::Regex, String), Rejection> {
    let source = required(&m.pattern, "pattern").and_then(|p| non_empty(&p.regex, "regex").within("pattern"))?;
    let pattern = re2::compile(&source).map_err(|e| bad_regex(&source, &e)).within("pattern")?;
    let mut text = String::with_capacity(m.substitution.len());
    let mut chars = m.substitution.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('$', _) => text.push_str("$$"),
            ('\\', Some('\\')) => text.push('\\'),
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                let group = digit as usize - '0' as usize;
                if group >= pattern.captures_len() {
                    let reason = format!("`\\{group}` names a group that the pattern does not have");
                    return Err(Rejection::invalid("substitution", reason));
                }
                text.push_str(&format!("${{{group}}}"));
            }
            ('\\', _) => {
                return Err(Rejection::invalid("substitution", "`\\` must be followed by a digit or `\\`"));
            }
            (other, _) => text.push(other),
        }
    }
    Ok((pattern, text))
}

fn bad_regex(source: &str, error: &regex::Error) -> Rejection {
    let reason = match error {
        regex::Error::CompiledTooBig(_) => "is too large when compiled".to_owned(),
        // The library draws the expression over several lines; the last one says what is wrong.
        other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    Rejection::invalid("regex", format!("`{source}`: {reason}"))
}

pub fn header(m: &route::HeaderMatcher, field: &str) -> Result<HeaderMatcher, Rejection> {
    header_fields(m).within(field)
}

fn header_fields(m: &route::HeaderMatcher) -> Result<HeaderMatcher, Rejection> {
    use route::header_matcher::HeaderMatchSpecifier as Wire;
    let plain =
        |make: fn(String, bool) -> StringMatcher, value: &str| HeaderMatch::Value(make(value.to_owned(), false));
    let kind = match &m.header_match_specifier {
        None => HeaderMatch::Present(true),
        Some(Wire::PresentMatch(present)) => HeaderMatch::Present(*present),
        Some(Wire::StringMatch(matcher)) => HeaderMatch::Value(string(matcher, "string_match")?),
        Some(Wire::RangeMatch(range)) => HeaderMatch::Range(range.start..range.end),
        Some(Wire::ExactMatch(v)) => plain(|value, ignore_case| StringMatcher::Exact { value, ignore_case }, v),
        Some(Wire::SafeRegexMatch(m)) => HeaderMatch::Value(StringMatcher::Regex(regex(m, "safe_regex_match")?)),
        Some(Wire::PrefixMatch(v)) => {
            plain(|value, ignore_case| StringMatcher::Prefix { value, ignore_case }, &non_empty(v, "prefix_match")?)
        }
        Some(Wire::SuffixMatch(v)) => {
            plain(|value, ignore_case| StringMatcher::Suffix { value, ignore_case }, &non_empty(v, "suffix_match")?)
        }
        Some(Wire::ContainsMatch(v)) => {
            plain(|value, ignore_case| StringMatcher::Contains { value, ignore_case }, &non_empty(v, "contains_match")?)
        }
    };
    Ok(HeaderMatcher {
        name: match_name(&m.name, "name")?,
        kind,
        invert: m.invert_match,
        treat_missing_as_empty: m.treat_missing_header_as_empty,
    })
}

/// A header name that a matcher may name, pseudo-headers of requests among them.
pub fn match_name(text: &str, field: &str) -> Result<HeaderName, Rejection> {
    HeaderName::parse(&non_empty(text, field)?)
        .ok_or_else(|| Rejection::invalid(field, format!("`{text}` is no header name that can be matched")))
}

pub fn headers(list: &[route::HeaderMatcher], field: &str) -> Result<Vec<HeaderMatcher>, Rejection> {
    list.iter().enumerate().map(|(i, m)| header_fields(m).within_index(field, i)).collect()
}

pub fn queries(list: &[route::QueryParameterMatcher], field: &str) -> Result<Vec<QueryMatcher>, Rejection> {
    list.iter().enumerate().map(|(i, m)| query_fields(m).within_index(field, i)).collect()
}

fn query_fields(m: &route::QueryParameterMatcher) -> Result<QueryMatcher, Rejection> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Wire;
    let kind = match &m.query_parameter_match_specifier {
        None => QueryMatch::Present(true),
        Some(Wire::PresentMatch(present)) => QueryMatch::Present(*present),
        Some(Wire::StringMatch(matcher)) => QueryMatch::Value(string(matcher, "string_match")?),
    };
    Ok(QueryMatcher { name: bounded_name(&m.name, "name")?, kind })
}

/// `CookieMatcher`s: name, matcher of the value, inverted.
pub fn cookies(list: &[route::CookieMatcher], field: &str) -> Result<Vec<(String, StringMatcher, bool)>, Rejection> {
    let one = |m: &route::CookieMatcher| {
        let value = string(required(&m.string_match, "string_match")?, "string_match")?;
        Ok((bounded_name(&m.name, "name")?, value, m.invert_match))
    };
    list.iter().enumerate().map(|(i, m)| one(m).within_index(field, i)).collect()
}

fn bounded_name(text: &str, field: &str) -> Result<String, Rejection> {
    if text.len() > MAX_NAME_BYTES {
        return Err(Rejection::invalid(field, format!("has more than {MAX_NAME_BYTES} bytes")));
    }
    Ok(non_empty(text, field)?.to_string())
}

pub fn metadata(m: &wire::MetadataMatcher, field: &str) -> Result<MetadataMatcher, Rejection> {
    metadata_fields(m).within(field)
}

fn metadata_fields(m: &wire::MetadataMatcher) -> Result<MetadataMatcher, Rejection> {
    use wire::metadata_matcher::path_segment::Segment;
    if m.path.is_empty() {
        return Err(Rejection::invalid("path", "must name at least one key"));
    }
    let path = m.path.iter().enumerate().map(|(i, segment)| match &segment.segment {
        Some(Segment::Key(key)) => non_empty(key, "key").within_index("path", i),
        None => Err(Rejection::invalid(format!("path[{i}].key"), "is required")),
    });
    Ok(MetadataMatcher {
        filter: non_empty(&m.filter, "filter")?,
        path: path.collect::<Result<Vec<Name>, _>>()?,
        value: value(required(&m.value, "value")?, "value")?,
        invert: m.invert,
    })
}

/// How deep list and or-matchers may nest.
const MAX_VALUE_DEPTH: usize = 16;

pub fn value(m: &wire::ValueMatcher, field: &str) -> Result<ValueMatcher, Rejection> {
    value_fields(m, MAX_VALUE_DEPTH).within(field)
}

fn value_fields(m: &wire::ValueMatcher, depth: usize) -> Result<ValueMatcher, Rejection> {
    use wire::value_matcher::MatchPattern as Wire;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Rejection::invalid("", format!("nests deeper than {MAX_VALUE_DEPTH} levels")));
    };
    match &m.match_pattern {
        None => Err(Rejection::invalid("", "needs a match pattern")),
        Some(Wire::NullMatch(_)) => Ok(ValueMatcher::Null),
        Some(Wire::DoubleMatch(number)) => number_fields(number).within("double_match"),
        Some(Wire::StringMatch(matcher)) => Ok(ValueMatcher::String(string(matcher, "string_match")?)),
        Some(Wire::BoolMatch(wanted)) => Ok(ValueMatcher::Bool(*wanted)),
        Some(Wire::PresentMatch(wanted)) => Ok(ValueMatcher::Present(*wanted)),
        Some(Wire::ListMatch(list)) => match &list.match_pattern {
            Some(wire::list_matcher::MatchPattern::OneOf(inner)) => {
                Ok(ValueMatcher::ListOneOf(Box::new(value_fields(inner, depth).within("list_match.one_of")?)))
            }
            None => Err(Rejection::invalid("list_match.one_of", "is required")),
        },
        Some(Wire::OrMatch(or)) if or.value_matchers.len() < 2 => {
            Err(Rejection::invalid("or_match.value_matchers", "needs at least two matchers"))
        }
        Some(Wire::OrMatch(or)) => {
            let one = |(i, m)| value_fields(m, depth).within_index("value_matchers", i);
            Ok(ValueMatcher::Or(
                or.value_matchers.iter().enumerate().map(one).collect::<Result<_, _>>().within("or_match")?,
            ))
        }
    }
}

fn number_fields(m: &wire::DoubleMatcher) -> Result<ValueMatcher, Rejection> {
    use wire::double_matcher::MatchPattern as Wire;
    match &m.match_pattern {
        Some(Wire::Exact(n)) => Ok(ValueMatcher::Number(NumberMatcher::Exact(*n))),
        Some(Wire::Range(range)) => Ok(ValueMatcher::Number(NumberMatcher::Range(range.start..range.end))),
        None => Err(Rejection::invalid("", "needs one of exact, range")),
    }
}

/// The keys of a `MetadataKey`: the filter, and the path below it.
pub fn metadata_key(
    m: &sidemesh_proto::envoy::r#type::metadata::v3::MetadataKey,
    field: &str,
) -> Result<(Name, Vec<Name>), Rejection> {
    use sidemesh_proto::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    let one =
        |(i, segment): (usize, &sidemesh_proto::envoy::r#type::metadata::v3::metadata_key::PathSegment)| match &segment
            .segment
        {
            Some(Segment::Key(key)) => non_empty(key, "key").within_index("path", i),
            Some(Segment::Index(_)) => Err(Rejection::unsupported(format!("path[{i}].index"), "use a key")),
            None => Err(Rejection::invalid(format!("path[{i}].key"), "is required")),
        };
    let path = m.path.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().within(field)?;
    Ok((name(&non_empty(&m.key, "key").within(field)?), path))
}

/// `FilterStateMatcher` of a text.
pub fn filter_state(m: &wire::FilterStateMatcher) -> Result<(crate::value::Name, StringMatcher), Rejection> {
    use wire::filter_state_matcher::Matcher;
    let key = crate::wire::non_empty(&m.key, "key")?;
    match &m.matcher {
        Some(Matcher::StringMatch(m)) => Ok((key, string(m, "string_match")?)),
        Some(_) => Err(Rejection::unsupported("address_match", "use string_match")),
        None => Err(Rejection::invalid("string_match", "is required")),
    }
}
