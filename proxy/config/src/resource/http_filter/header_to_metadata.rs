//! `header_to_metadata.v3.Config`: dynamic metadata out of headers and cookies.

use sidemesh_proto::envoy::extensions::filters::http::header_to_metadata::v3 as pb;

use crate::matcher::header::HeaderName;
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::resource::route::RegexPattern;
use crate::value::{Name, name};
use crate::wire::{enumeration, non_empty, optional_name};

/// Where a rule that names no namespace puts its value.
const DEFAULT_NAMESPACE: &str = "envoy.filters.http.header_to_metadata";

#[derive(Debug, Clone, PartialEq)]
pub struct HeaderToMetadata {
    pub request: Vec<Rule>,
    pub response: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub source: Source,
    pub on_present: Option<Target>,
    pub on_missing: Option<Target>,
    /// The header goes once it is read.
    pub remove: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Header(HeaderName),
    Cookie(Name),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub namespace: Name,
    pub key: Name,
    /// In place of what the header holds.
    pub value: Option<Name>,
    pub rewrite: Option<(RegexPattern, String)>,
    pub kind: ValueKind,
    pub base64: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    Number,
    /// A serialized `google.protobuf.Value`.
    Protobuf,
}

pub(super) fn parse(config: &pb::Config) -> Result<HeaderToMetadata, Rejection> {
    let rules = |list: &[pb::config::Rule], field: &str| -> Result<Vec<Rule>, Rejection> {
        list.iter().enumerate().map(|(i, r)| rule(r).within_index(field, i)).collect()
    };
    if config.request_rules.is_empty() && config.response_rules.is_empty() {
        return Err(Rejection::invalid("request_rules", "there must be a rule here or in response_rules"));
    }
    Ok(HeaderToMetadata {
        request: rules(&config.request_rules, "request_rules")?,
        response: rules(&config.response_rules, "response_rules")?,
    })
}

fn rule(rule: &pb::config::Rule) -> Result<Rule, Rejection> {
    let source = match (rule.header.as_str(), rule.cookie.as_str()) {
        ("", "") => return Err(Rejection::invalid("", "needs one of header, cookie")),
        (header, "") => Source::Header(matcher::match_name(header, "header")?),
        ("", cookie) => Source::Cookie(name(cookie)),
        _ => return Err(Rejection::invalid("cookie", "excludes header; give one of them")),
    };
    if rule.remove && !matches!(source, Source::Header(HeaderName::Header(_))) {
        return Err(Rejection::invalid("remove", "a cookie or pseudo-header cannot be removed"));
    }
    let on_present = rule.on_header_present.as_ref().map(|t| target(t).within("on_header_present")).transpose()?;
    let on_missing = rule.on_header_missing.as_ref().map(|t| target(t).within("on_header_missing")).transpose()?;
    if on_present.is_none() && on_missing.is_none() {
        return Err(Rejection::invalid("", "needs one of on_header_present, on_header_missing"));
    }
    if on_missing.as_ref().is_some_and(|t| t.value.is_none()) {
        return Err(Rejection::invalid("on_header_missing.value", "is required"));
    }
    Ok(Rule { source, on_present, on_missing, remove: rule.remove })
}

fn target(t: &pb::config::KeyValuePair) -> Result<Target, Rejection> {
    use pb::config::{ValueEncode, ValueType};
    let rewrite = t.regex_value_rewrite.as_ref().map(|r| matcher::substitution(r, "regex_value_rewrite"));
    let rewrite = rewrite.transpose()?.map(|(pattern, text)| (RegexPattern(pattern), text));
    if rewrite.is_some() && !t.value.is_empty() {
        return Err(Rejection::invalid("regex_value_rewrite", "excludes value; give one of them"));
    }
    Ok(Target {
        namespace: match t.metadata_namespace.as_str() {
            "" => name(DEFAULT_NAMESPACE),
            namespace => name(namespace),
        },
        key: non_empty(&t.key, "key")?,
        value: optional_name(&t.value),
        rewrite,
        kind: match enumeration(t.r#type, "type")? {
            ValueType::String => ValueKind::Text,
            ValueType::Number => ValueKind::Number,
            ValueType::ProtobufValue => ValueKind::Protobuf,
        },
        base64: enumeration::<ValueEncode>(t.encode, "encode")? == ValueEncode::Base64,
    })
}
