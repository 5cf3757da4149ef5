//! `xds.type.matcher.v3.Matcher` → [`Tree`].

use std::collections::HashMap;

use prost::{Message, Name as _};
use sidemesh_proto::custom_matcher::ip_matcher::IpRangeMatcher;
use sidemesh_proto::custom_matcher::server_name_matcher::DomainMatcher;
use sidemesh_proto::custom_matcher::{IpMatcher, ServerNameMatcher};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::matching::input_matchers::consistent_hashing::v3::ConsistentHashing as WireHash;
use sidemesh_proto::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use sidemesh_proto::envoy::extensions::matching::input_matchers::runtime_fraction::v3::RuntimeFraction as WireFraction;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;
use sidemesh_proto::xds::core::v3::TypedExtensionConfig;
use sidemesh_proto::xds::r#type::matcher::v3 as pb;

use pb::matcher::matcher_list::predicate::{MatchType, SinglePredicate, single_predicate};
use pb::matcher::matcher_list::{FieldMatcher, Predicate as WirePredicate};
use pb::matcher::matcher_tree::{MatchMap, TreeType};
use pb::matcher::{MatcherTree, MatcherType, OnMatch, on_match};

use super::{Hosts, Node, Predicate, Range, Ranges, Then, Tree};
use crate::matcher::parse;
use crate::rejection::{Rejection, Within};
use crate::value::{Cidr, Name, name};
use crate::wire;

/// Trees in trees: the decoder bounds nesting as well.
const MAX_DEPTH: usize = 16;

/// How inputs and actions are read from their extensions.
pub struct Reader<'a, I, A> {
    pub input: &'a dyn Fn(&Any) -> Result<I, Rejection>,
    pub action: &'a dyn Fn(&Any) -> Result<A, Rejection>,
    /// There is a runtime where the tree is used.
    pub has_runtime: bool,
}

impl<I, A> Reader<'_, I, A> {
    pub fn tree(&self, wire: &pb::Matcher) -> Result<Tree<I, A>, Rejection> {
        self.tree_at(wire, 0)
    }

    /// A matcher that holds nothing finds nothing.
    pub fn tree_or_nothing(&self, wire: &pb::Matcher) -> Result<Tree<I, A>, Rejection> {
        match wire.matcher_type {
            Some(_) => self.tree(wire),
            None => {
                let otherwise = wire.on_no_match.as_ref().map(|then| self.then(then, 0)).transpose();
                Ok(Tree { node: Node::List(Vec::new()), otherwise: otherwise.within("on_no_match")?.map(Box::new) })
            }
        }
    }

    fn tree_at(&self, wire: &pb::Matcher, depth: usize) -> Result<Tree<I, A>, Rejection> {
        if depth > MAX_DEPTH {
            return Err(Rejection::invalid("", format!("more than {MAX_DEPTH} matchers in each other")));
        }
        let node = match &wire.matcher_type {
            Some(MatcherType::MatcherList(list)) => {
                let field = |m: &FieldMatcher| {
                    let predicate = self.predicate(wire::required(&m.predicate, "predicate")?).within("predicate")?;
                    Ok((predicate, self.then(wire::required(&m.on_match, "on_match")?, depth).within("on_match")?))
                };
                Node::List(wire::each(&list.matchers, "matchers", field).within("matcher_list")?)
            }
            Some(MatcherType::MatcherTree(tree)) => self.map(tree, depth).within("matcher_tree")?,
            None => return Err(Rejection::invalid("", "needs matcher_list or matcher_tree")),
        };
        let otherwise =
            wire.on_no_match.as_ref().map(|then| self.then(then, depth)).transpose().within("on_no_match")?;
        Ok(Tree { node, otherwise: otherwise.map(Box::new) })
    }

    fn map(&self, tree: &MatcherTree, depth: usize) -> Result<Node<I, A>, Rejection> {
        let input = self.input(&tree.input)?;
        let entries = |map: &MatchMap, field: &str| -> Result<Vec<(Name, Then<I, A>)>, Rejection> {
            let one = |(key, then): (&String, &OnMatch)| {
                Ok((name(key), self.then(then, depth).within(&format!("map[\"{key}\"]")).within(field)?))
            };
            map.map.iter().map(one).collect()
        };
        match &tree.tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                Ok(Node::Exact(input, entries(map, "exact_match_map")?.into_iter().collect()))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let mut list = entries(map, "prefix_match_map")?;
                list.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                Ok(Node::Prefix(input, list))
            }
            Some(TreeType::CustomMatch(custom)) => self.custom(input, custom, depth).within("custom_match"),
            None => Err(Rejection::invalid("", "needs exact_match_map, prefix_match_map or custom_match")),
        }
    }

    fn custom(&self, input: I, custom: &TypedExtensionConfig, depth: usize) -> Result<Node<I, A>, Rejection> {
        self.custom_node(input, typed(custom)?, depth).within("typed_config")
    }

    fn custom_node(&self, input: I, any: &Any, depth: usize) -> Result<Node<I, A>, Rejection> {
        match type_url::message_name(&any.type_url) {
            wanted if wanted == IpMatcher::full_name() => {
                let wire: IpMatcher = wire::unpack(any, "")?;
                Ok(Node::Addresses(input, self.addresses(&wire.range_matchers, depth)?))
            }
            wanted if wanted == ServerNameMatcher::full_name() => {
                let wire: ServerNameMatcher = wire::unpack(any, "")?;
                Ok(Node::Hosts(input, self.hosts(&wire.domain_matchers, depth)?))
            }
            _ => Err(Rejection::unsupported("", "use xds.type.matcher.v3.IPMatcher or ServerNameMatcher")),
        }
    }

    fn addresses(&self, wire: &[IpRangeMatcher], depth: usize) -> Result<Ranges<I, A>, Rejection> {
        let (mut list, mut thens) = (Vec::new(), Vec::new());
        for (at, one) in wire.iter().enumerate() {
            for (i, range) in one.ranges.iter().enumerate() {
                let range =
                    core::CidrRange { address_prefix: range.address_prefix.clone(), prefix_len: range.prefix_len };
                let cidr = wire::cidr(&range, &format!("ranges[{i}]")).within_index("range_matchers", at)?;
                list.push(Range { cidr, exclusive: one.exclusive, then: at });
            }
            let then = wire::required(&one.on_match, "on_match").and_then(|then| self.then(then, depth));
            thens.push(then.within_index("range_matchers", at)?);
        }
        // Stable: of equal lengths the first in the configuration counts.
        list.sort_by_key(|range| std::cmp::Reverse(range.cidr.prefix_len));
        Ok(Ranges { list, then: thens })
    }

    fn hosts(&self, wire: &[DomainMatcher], depth: usize) -> Result<Hosts<I, A>, Rejection> {
        let mut hosts = Hosts { exact: HashMap::new(), wildcards: HashMap::new(), then: Vec::new() };
        for (at, one) in wire.iter().enumerate() {
            for (i, domain) in one.domains.iter().enumerate() {
                let (map, key) = match domain.strip_prefix('*') {
                    Some(suffix) => (&mut hosts.wildcards, suffix),
                    None => (&mut hosts.exact, domain.as_str()),
                };
                let is_well = !domain.is_empty()
                    && !key.contains('*')
                    && (key == domain || key.is_empty() || key.starts_with('.'));
                let reason = match (is_well, map.contains_key(key)) {
                    (true, false) => None,
                    (true, true) => Some(format!("`{domain}` is there twice")),
                    (false, _) => Some(format!("`{domain}` is neither a name, nor `*.` and a name, nor `*`")),
                };
                if let Some(reason) = reason {
                    return Err(Rejection::invalid(format!("domains[{i}]"), reason))
                        .within_index("domain_matchers", at);
                }
                map.insert(name(key), at);
            }
            let then = wire::required(&one.on_match, "on_match").and_then(|then| self.then(then, depth));
            hosts.then.push(then.within_index("domain_matchers", at)?);
        }
        Ok(hosts)
    }

    fn then(&self, wire: &OnMatch, depth: usize) -> Result<Then<I, A>, Rejection> {
        if wire.keep_matching {
            return Err(Rejection::unsupported("keep_matching", "one action is taken"));
        }
        match &wire.on_match {
            Some(on_match::OnMatch::Matcher(tree)) => {
                Ok(Then::Tree(Box::new(self.tree_at(tree, depth + 1).within("matcher")?)))
            }
            Some(on_match::OnMatch::Action(action)) => {
                Ok(Then::Action((self.action)(typed(action)?).within("action.typed_config")?))
            }
            None => Err(Rejection::invalid("", "needs an action or a matcher")),
        }
    }

    fn predicate(&self, wire: &WirePredicate) -> Result<Predicate<I>, Rejection> {
        let all = |list: &[WirePredicate], field| wire::each(list, "predicate", |p| self.predicate(p)).within(field);
        match &wire.match_type {
            Some(MatchType::SinglePredicate(single)) => self.single(single).within("single_predicate"),
            Some(MatchType::OrMatcher(list)) => Ok(Predicate::Any(all(&list.predicate, "or_matcher")?)),
            Some(MatchType::AndMatcher(list)) => Ok(Predicate::All(all(&list.predicate, "and_matcher")?)),
            Some(MatchType::NotMatcher(one)) => {
                Ok(Predicate::Not(Box::new(self.predicate(one).within("not_matcher")?)))
            }
            None => Err(Rejection::invalid("", "needs single_predicate, or_matcher, and_matcher or not_matcher")),
        }
    }

    fn single(&self, wire: &SinglePredicate) -> Result<Predicate<I>, Rejection> {
        let input = self.input(&wire.input)?;
        match &wire.matcher {
            Some(single_predicate::Matcher::ValueMatch(matcher)) => {
                // The message of xds is Envoy's under another name, field by field.
                let bytes = matcher.encode_to_vec();
                let matcher = sidemesh_proto::envoy::r#type::matcher::v3::StringMatcher::decode(bytes.as_slice())
                    .map_err(|e| Rejection::malformed("value_match", e.to_string()))?;
                Ok(Predicate::Single(input, parse::string(&matcher, "value_match")?))
            }
            Some(single_predicate::Matcher::CustomMatch(custom)) => {
                self.extension(input, typed(custom).within("custom_match")?).within("custom_match.typed_config")
            }
            None => Err(Rejection::invalid("value_match", "is required")),
        }
    }

    /// A matcher that is no string matcher.
    fn extension(&self, input: I, any: &Any) -> Result<Predicate<I>, Rejection> {
        match type_url::message_name(&any.type_url) {
            wanted if wanted == Ip::full_name() => Ok(Predicate::Within(input, ranges(&wire::unpack(any, "")?)?)),
            wanted if wanted == WireFraction::full_name() && self.has_runtime => {
                let wire: WireFraction = wire::unpack(any, "")?;
                let fraction = wire::required(&wire.runtime_fraction, "runtime_fraction")?;
                let fraction = wire::runtime_fraction(fraction, "runtime_fraction")?;
                Ok(Predicate::Fraction { input, fraction, seed: wire.seed })
            }
            wanted if wanted == WireHash::full_name() => {
                let WireHash { threshold, modulo, seed } = wire::unpack(any, "")?;
                if modulo == 0 {
                    return Err(Rejection::invalid("modulo", "must be more than 0"));
                }
                Ok(Predicate::Hash { input, threshold, modulo, seed })
            }
            _ => Err(Rejection::unsupported("", "use value_match, or another of envoy…input_matchers")),
        }
    }

    fn input(&self, wire: &Option<TypedExtensionConfig>) -> Result<I, Rejection> {
        let extension = wire::required(wire, "input")?;
        (self.input)(typed(extension).within("input")?).within("input.typed_config")
    }
}

fn ranges(ip: &Ip) -> Result<Vec<Cidr>, Rejection> {
    if ip.cidr_ranges.is_empty() {
        return Err(Rejection::invalid("cidr_ranges", "must hold at least one range"));
    }
    let range = |(i, range)| wire::cidr(range, &format!("cidr_ranges[{i}]"));
    ip.cidr_ranges.iter().enumerate().map(range).collect()
}

fn typed(extension: &TypedExtensionConfig) -> Result<&Any, Rejection> {
    extension.typed_config.as_ref().ok_or_else(|| Rejection::invalid("typed_config", "is required"))
}
