//! `metrics.v3.StatsConfig`: which metrics there are, and what Prometheus tags they carry.

use sidemesh_proto::envoy::config::metrics::v3 as pb;

use crate::matcher::parse as matcher;
use crate::matcher::re2;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::resource::route::RegexPattern;
use crate::value::{Name, name};
use crate::wire::{flag, non_empty};

#[derive(Debug, Clone, PartialEq)]
pub struct StatsConfig {
    pub tags: Vec<Tag>,
    /// Envoy's own tags (cluster, listener, status, ...).
    pub default_tags: bool,
    pub matcher: StatsMatcher,
}

impl Default for StatsConfig {
    fn default() -> Self {
        StatsConfig { tags: Vec::new(), default_tags: true, matcher: StatsMatcher::All }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    pub name: Name,
    pub value: TagValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    Fixed(Name),
    /// Held against the dotted name: the second group, else the first, is the value; the first is left out of the name.
    Regex(RegexPattern),
}

/// Which metrics there are, by their dotted names.
#[derive(Debug, Clone, PartialEq)]
pub enum StatsMatcher {
    All,
    Nothing,
    Only(Vec<StringMatcher>),
    Without(Vec<StringMatcher>),
}

impl StatsMatcher {
    pub fn admits(&self, metric: &str) -> bool {
        match self {
            StatsMatcher::All => true,
            StatsMatcher::Nothing => false,
            StatsMatcher::Only(list) => list.iter().any(|m| m.is_match(metric)),
            StatsMatcher::Without(list) => !list.iter().any(|m| m.is_match(metric)),
        }
    }
}

pub(super) fn parse(config: &pb::StatsConfig) -> Result<StatsConfig, Rejection> {
    let tags = config.stats_tags.iter().enumerate().map(|(i, t)| tag(t).within_index("stats_tags", i));
    Ok(StatsConfig {
        tags: tags.collect::<Result<_, _>>()?,
        default_tags: flag(&config.use_all_default_tags, true),
        matcher: match &config.stats_matcher {
            Some(m) => stats_matcher(m).within("stats_matcher")?,
            None => StatsMatcher::All,
        },
    })
}

fn tag(tag: &pb::TagSpecifier) -> Result<Tag, Rejection> {
    use pb::tag_specifier::TagValue as Wire;
    let value = match &tag.tag_value {
        Some(Wire::FixedValue(value)) => TagValue::Fixed(name(value)),
        Some(Wire::Regex(source)) if !source.is_empty() => {
            // RE2 has no look-ahead; the customary `(?=\\.)` behind a prefix only asks for the dot that follows anyway.
            let source = source.replace("(?=\\.)", "");
            let pattern = re2::compile(&source).map_err(|e| Rejection::invalid("regex", format!("`{source}`: {e}")))?;
            if pattern.captures_len() < 2 {
                return Err(Rejection::invalid("regex", "must have a group"));
            }
            TagValue::Regex(RegexPattern(pattern))
        }
        _ => return Err(Rejection::invalid("", "needs one of regex, fixed_value")),
    };
    Ok(Tag { name: non_empty(&tag.tag_name, "tag_name")?, value })
}

fn stats_matcher(m: &pb::StatsMatcher) -> Result<StatsMatcher, Rejection> {
    use pb::stats_matcher::StatsMatcher as Wire;
    let list = |list: &sidemesh_proto::envoy::r#type::matcher::v3::ListStringMatcher, field: &str| {
        matcher::strings(&list.patterns, "patterns").within(field)
    };
    match &m.stats_matcher {
        Some(Wire::RejectAll(true)) => Ok(StatsMatcher::Nothing),
        Some(Wire::RejectAll(false)) => Ok(StatsMatcher::All),
        Some(Wire::InclusionList(only)) => list(only, "inclusion_list").map(StatsMatcher::Only),
        Some(Wire::ExclusionList(without)) => list(without, "exclusion_list").map(StatsMatcher::Without),
        None => Err(Rejection::invalid("", "needs one of reject_all, inclusion_list, exclusion_list")),
    }
}
