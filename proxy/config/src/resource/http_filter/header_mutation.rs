//! `header_mutation.v3.HeaderMutation`.

use sidemesh_proto::envoy::config::common::mutation_rules::v3 as rules;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::filters::http::header_mutation::v3 as pb;
use sidemesh_proto::google::value::Kind;

use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::resource::core::{AppendAction, HeaderEdit};
use crate::resource::substitution;
use crate::wire::{enumeration, non_empty, required};

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

pub(super) fn parse(config: &pb::HeaderMutation) -> Result<HeaderMutation, Rejection> {
    let mut parsed = mutations(&config.mutations)?;
    parsed.most_specific_wins = config.most_specific_header_mutations_wins;
    Ok(parsed)
}

pub(super) fn parse_override(config: &pb::HeaderMutationPerRoute) -> Result<HeaderMutation, Rejection> {
    mutations(&config.mutations)
}

fn mutations(m: &Option<pb::Mutations>) -> Result<HeaderMutation, Rejection> {
    let Some(m) = m else { return Ok(HeaderMutation::default()) };
    let steps = |list: &[rules::HeaderMutation], field: &str| -> Result<Vec<_>, Rejection> {
        list.iter().enumerate().map(|(i, step)| mutation(step).within_index(field, i)).collect()
    };
    let query = m.query_parameter_mutations.iter().enumerate();
    let parsed = HeaderMutation {
        request: steps(&m.request_mutations, "request_mutations").within("mutations")?,
        response: steps(&m.response_mutations, "response_mutations").within("mutations")?,
        query: query
            .map(|(i, q)| query_mutation(q).within_index("query_parameter_mutations", i))
            .collect::<Result<_, _>>()
            .within("mutations")?,
        most_specific_wins: false,
    };
    match (m.request_trailers_mutations.is_empty(), m.response_trailers_mutations.is_empty()) {
        (true, true) => Ok(parsed),
        (false, _) => Err(Rejection::unsupported("mutations.request_trailers_mutations", "remove it")),
        (_, false) => Err(Rejection::unsupported("mutations.response_trailers_mutations", "remove it")),
    }
}

/// One step, of the filter, of a mirror, or of the connection manager's early mutations.
pub(in crate::resource) fn mutation(step: &rules::HeaderMutation) -> Result<Mutation, Rejection> {
    use rules::header_mutation::Action;
    match &step.action {
        Some(Action::Append(option)) => substitution::header_edit(option, "append").map(Mutation::Set),
        Some(Action::Remove(header)) => substitution::header_removal(header, "remove").map(Mutation::Remove),
        Some(Action::RemoveOnMatch(rule)) => {
            let keys = required(&rule.key_matcher, "key_matcher").within("remove_on_match")?;
            matcher::string(keys, "remove_on_match.key_matcher").map(Mutation::RemoveMatching)
        }
        None => Err(Rejection::invalid("", "needs one of append, remove, remove_on_match")),
    }
}

fn query_mutation(m: &core::KeyValueMutation) -> Result<QueryMutation, Rejection> {
    use core::key_value_append::KeyValueAppendAction as Wire;
    let append = match (&m.append, m.remove.as_str()) {
        (None, "") => return Err(Rejection::invalid("", "needs one of append, remove")),
        (None, key) => return Ok(QueryMutation::Remove(key.to_owned())),
        (Some(append), "") => append,
        (Some(_), _) => return Err(Rejection::invalid("remove", "excludes append; give one of them")),
    };
    if append.entry.is_some() {
        return Err(Rejection::unsupported("append.entry", "use record"));
    }
    let record = required(&append.record, "record").within("append")?;
    let text = match record.value.as_ref().and_then(|v| v.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => return Err(Rejection::invalid("append.record.value", "must be a string")),
    };
    Ok(QueryMutation::Append {
        key: non_empty(&record.key, "append.record.key")?.to_string(),
        value: substitution::field(text, "append.record.value")?,
        action: match enumeration(append.action, "append.action")? {
            Wire::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
            Wire::AddIfAbsent => AppendAction::AddIfAbsent,
            Wire::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
            Wire::OverwriteIfExists => AppendAction::OverwriteIfExists,
        },
    })
}
