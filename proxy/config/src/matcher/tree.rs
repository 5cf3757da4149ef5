//! The matching tree of `xds.type.matcher.v3.Matcher`, over inputs and actions of whoever uses it: predicates in order, or a map.
//! What fits leads to an action or to a further tree; a tree that finds nothing lets the search go on.

use std::borrow::Cow;
use std::collections::HashMap;

use prost::{Message, Name as _};
use sidemesh_proto::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;
use sidemesh_proto::xds::core::v3::TypedExtensionConfig;
use sidemesh_proto::xds::r#type::matcher::v3 as pb;

use pb::matcher::matcher_list::predicate::{MatchType, SinglePredicate, single_predicate};
use pb::matcher::matcher_list::{FieldMatcher, Predicate as WirePredicate};
use pb::matcher::matcher_tree::{MatchMap, TreeType};
use pb::matcher::{MatcherTree, MatcherType, OnMatch, on_match};

use super::parse;
use super::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::value::{Cidr, Name, name};
use crate::wire;

/// Trees in trees: the decoder bounds nesting as well.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Clone, PartialEq)]
pub struct Tree<I, A> {
    node: Node<I, A>,
    otherwise: Option<Box<Then<I, A>>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node<I, A> {
    List(Vec<(Predicate<I>, Then<I, A>)>),
    Exact(I, HashMap<Name, Then<I, A>>),
    /// Longest first.
    Prefix(I, Vec<(Name, Then<I, A>)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Then<I, A> {
    Action(A),
    Tree(Box<Tree<I, A>>),
}

#[derive(Debug, Clone, PartialEq)]
enum Predicate<I> {
    Single(I, StringMatcher),
    /// `input_matchers.ip.v3.Ip`.
    Within(I, Vec<Cidr>),
    Any(Vec<Predicate<I>>),
    All(Vec<Predicate<I>>),
    Not(Box<Predicate<I>>),
}

/// How inputs and actions are read from their extensions.
pub struct Reader<'a, I, A> {
    pub input: &'a dyn Fn(&Any) -> Result<I, Rejection>,
    pub action: &'a dyn Fn(&Any) -> Result<A, Rejection>,
}

impl<I, A> Tree<I, A> {
    /// The action for what `value` says of each input; an input without a value fits nothing.
    pub fn find<'t, 'v>(&'t self, value: &dyn Fn(&I) -> Option<Cow<'v, str>>) -> Option<&'t A> {
        let found = match &self.node {
            Node::List(list) => {
                list.iter().filter(|(predicate, _)| predicate.holds(value)).find_map(|(_, then)| then.find(value))
            }
            Node::Exact(input, map) => value(input).and_then(|text| map.get(&*text)).and_then(|then| then.find(value)),
            Node::Prefix(input, list) => value(input).and_then(|text| {
                list.iter().filter(|(prefix, _)| text.starts_with(&**prefix)).find_map(|(_, then)| then.find(value))
            }),
        };
        found.or_else(|| self.otherwise.as_ref().and_then(|then| then.find(value)))
    }
}

impl<I, A> Then<I, A> {
    fn find<'t, 'v>(&'t self, value: &dyn Fn(&I) -> Option<Cow<'v, str>>) -> Option<&'t A> {
        match self {
            Then::Action(action) => Some(action),
            Then::Tree(tree) => tree.find(value),
        }
    }
}

impl<I> Predicate<I> {
    fn holds<'v>(&self, value: &dyn Fn(&I) -> Option<Cow<'v, str>>) -> bool {
        match self {
            Predicate::Single(input, matcher) => value(input).is_some_and(|text| matcher.is_match(&text)),
            Predicate::Within(input, ranges) => {
                let ip = value(input).and_then(|text| text.parse().ok());
                ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)))
            }
            Predicate::Any(list) => list.iter().any(|p| p.holds(value)),
            Predicate::All(list) => list.iter().all(|p| p.holds(value)),
            Predicate::Not(one) => !one.holds(value),
        }
    }
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
            Some(TreeType::CustomMatch(_)) => {
                Err(Rejection::unsupported("custom_match", "use exact_match_map or prefix_match_map"))
            }
            None => Err(Rejection::invalid("", "needs exact_match_map or prefix_match_map")),
        }
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
                ranges(custom).map(|ranges| Predicate::Within(input, ranges)).within("custom_match")
            }
            None => Err(Rejection::invalid("value_match", "is required")),
        }
    }

    fn input(&self, wire: &Option<TypedExtensionConfig>) -> Result<I, Rejection> {
        let extension = wire::required(wire, "input")?;
        (self.input)(typed(extension).within("input")?).within("input.typed_config")
    }
}

/// The one matcher that is no string matcher: ranges of addresses.
fn ranges(custom: &TypedExtensionConfig) -> Result<Vec<Cidr>, Rejection> {
    let any = typed(custom)?;
    if type_url::message_name(&any.type_url) != Ip::full_name() {
        return Err(Rejection::unsupported("typed_config", "use value_match, or envoy…input_matchers.ip.v3.Ip"));
    }
    let ip: Ip = wire::unpack(any, "typed_config")?;
    if ip.cidr_ranges.is_empty() {
        return Err(Rejection::invalid("cidr_ranges", "must hold at least one range")).within("typed_config");
    }
    let range = |(i, range)| wire::cidr(range, &format!("cidr_ranges[{i}]"));
    ip.cidr_ranges.iter().enumerate().map(range).collect::<Result<_, _>>().within("typed_config")
}

fn typed(extension: &TypedExtensionConfig) -> Result<&Any, Rejection> {
    extension.typed_config.as_ref().ok_or_else(|| Rejection::invalid("typed_config", "is required"))
}
