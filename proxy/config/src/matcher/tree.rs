//! The matching tree of `xds.type.matcher.v3.Matcher`, over inputs and actions of whoever uses it: predicates in order, or a map.
//! What fits leads to an action or to a further tree; a tree that finds nothing lets the search go on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use xxhash_rust::xxh64::xxh64;

mod read;
#[cfg(test)]
mod tests;

pub use read::Reader;

use super::string::StringMatcher;
use crate::value::{Cidr, Name, Runtime, RuntimeFraction};

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
    Addresses(I, Ranges<I, A>),
    Hosts(I, Hosts<I, A>),
}

/// `IPMatcher`: the longest prefix first, then in the order of the configuration.
#[derive(Debug, Clone, PartialEq)]
struct Ranges<I, A> {
    list: Vec<Range>,
    then: Vec<Then<I, A>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Range {
    cidr: Cidr,
    exclusive: bool,
    then: usize,
}

/// `ServerNameMatcher`: case counts, as in Envoy; a wildcard is kept without its `*`, so that the one for any host is empty.
#[derive(Debug, Clone, PartialEq)]
struct Hosts<I, A> {
    exact: HashMap<Name, usize>,
    wildcards: HashMap<Name, usize>,
    then: Vec<Then<I, A>>,
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
    /// `input_matchers.runtime_fraction.v3.RuntimeFraction`.
    Fraction {
        input: I,
        fraction: RuntimeFraction,
        seed: u64,
    },
    /// `input_matchers.consistent_hashing.v3.ConsistentHashing`.
    Hash {
        input: I,
        threshold: u32,
        modulo: u32,
        seed: u64,
    },
    Any(Vec<Predicate<I>>),
    All(Vec<Predicate<I>>),
    Not(Box<Predicate<I>>),
}

/// What a tree is held against.
pub struct Facts<'f, 'v, I> {
    /// What is known of an input; an input without a value fits nothing.
    pub value: &'f dyn Fn(&I) -> Option<Cow<'v, str>>,
    /// `None`: fractions are those of the configuration.
    pub runtime: Option<&'f Runtime>,
}

impl<I, A> Tree<I, A> {
    /// The action that the facts lead to.
    pub fn find<'t>(&'t self, facts: &Facts<'_, '_, I>) -> Option<&'t A> {
        let value = facts.value;
        let found = match &self.node {
            Node::List(list) => {
                list.iter().filter(|(predicate, _)| predicate.holds(facts)).find_map(|(_, then)| then.find(facts))
            }
            Node::Exact(input, map) => value(input).and_then(|text| map.get(&*text)).and_then(|then| then.find(facts)),
            Node::Prefix(input, list) => value(input).and_then(|text| {
                list.iter().filter(|(prefix, _)| text.starts_with(&**prefix)).find_map(|(_, then)| then.find(facts))
            }),
            Node::Addresses(input, ranges) => {
                value(input).and_then(|text| text.parse().ok()).and_then(|ip| ranges.find(ip, facts))
            }
            Node::Hosts(input, hosts) => value(input).and_then(|text| hosts.find(&text, facts)),
        };
        found.or_else(|| self.otherwise.as_ref().and_then(|then| then.find(facts)))
    }
}

impl<I, A> Ranges<I, A> {
    fn find<'t>(&'t self, ip: IpAddr, facts: &Facts<'_, '_, I>) -> Option<&'t A> {
        let fitting = self.list.iter().filter(|range| range.cidr.contains(ip)).enumerate();
        let mut tried = fitting.filter(|(nth, range)| *nth == 0 || !range.exclusive);
        tried.find_map(|(_, range)| self.then.get(range.then)?.find(facts))
    }
}

impl<I, A> Hosts<I, A> {
    fn find<'t>(&'t self, host: &str, facts: &Facts<'_, '_, I>) -> Option<&'t A> {
        let then = |at: Option<&usize>| at.and_then(|at| self.then.get(*at)).and_then(|then| then.find(facts));
        let suffixes = host.match_indices('.').map(|(dot, _)| &host[dot..]).chain([""]);
        then(self.exact.get(host)).or_else(|| suffixes.into_iter().find_map(|s| then(self.wildcards.get(s))))
    }
}

impl<I, A> Then<I, A> {
    fn find<'t>(&'t self, facts: &Facts<'_, '_, I>) -> Option<&'t A> {
        match self {
            Then::Action(action) => Some(action),
            Then::Tree(tree) => tree.find(facts),
        }
    }
}

impl<I> Predicate<I> {
    fn holds(&self, facts: &Facts<'_, '_, I>) -> bool {
        let value = facts.value;
        match self {
            Predicate::Single(input, matcher) => value(input).is_some_and(|text| matcher.is_match(&text)),
            Predicate::Within(input, ranges) => {
                let ip = value(input).and_then(|text| text.parse().ok());
                ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)))
            }
            Predicate::Fraction { input, fraction, seed } => value(input).is_some_and(|text| {
                let fraction = facts.runtime.map_or(fraction.default, |runtime| fraction.value(runtime));
                fraction.hit(xxh64(text.as_bytes(), *seed))
            }),
            Predicate::Hash { input, threshold, modulo, seed } => value(input).is_some_and(|text| {
                // The modulus is not zero: the parser checks it.
                xxh64(text.as_bytes(), *seed).checked_rem((*modulo).into()).is_some_and(|n| n >= (*threshold).into())
            }),
            Predicate::Any(list) => list.iter().any(|p| p.holds(facts)),
            Predicate::All(list) => list.iter().all(|p| p.holds(facts)),
            Predicate::Not(one) => !one.holds(facts),
        }
    }
}
