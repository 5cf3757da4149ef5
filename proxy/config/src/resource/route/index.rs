//! Narrows the routes of a virtual host to those whose path can match, without changing their order.
//!
//! Exact paths and plain prefixes are found by hash: one look-up for the path, one for each distinct prefix length. Routes
//! with any other path condition are always candidates. Small tables are scanned instead.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::Route;
use crate::matcher::path::PathMatcher;

/// Fewer routes than this are scanned.
const MIN_INDEXED_ROUTES: usize = 12;

type Positions = HashMap<Box<str>, Vec<u32>, RandomState>;

/// Positions in the list of routes, each list ascending.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteIndex {
    enabled: bool,
    exact: Positions,
    /// By length of the prefix.
    prefixes: Vec<(usize, Positions)>,
    others: Vec<u32>,
}

impl RouteIndex {
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut index = RouteIndex::default();
        if routes.len() < MIN_INDEXED_ROUTES {
            return index;
        }
        index.enabled = true;
        for (at, route) in (0u32..).zip(routes) {
            match &route.matcher.path {
                PathMatcher::Exact { value, case_sensitive: true } => push(&mut index.exact, value, at),
                PathMatcher::Prefix { value, case_sensitive: true }
                | PathMatcher::SeparatedPrefix { value, case_sensitive: true } => {
                    push(index.prefixes_of_length(value.len()), value, at);
                }
                _ => index.others.push(at),
            }
        }
        index
    }

    fn prefixes_of_length(&mut self, length: usize) -> &mut Positions {
        let at = match self.prefixes.binary_search_by_key(&length, |(l, _)| *l) {
            Ok(at) => at,
            Err(at) => {
                self.prefixes.insert(at, (length, Positions::default()));
                at
            }
        };
        &mut self.prefixes[at].1
    }

    /// Offers the candidates among `total` routes in order, until one is taken.
    pub fn candidates<T>(&self, path: &str, total: usize, mut take: impl FnMut(usize) -> Option<T>) -> Option<T> {
        if !self.enabled {
            return (0..total).find_map(take);
        }
        let mut lists: SmallVec<[&[u32]; 16]> = SmallVec::new();
        lists.push(&self.others);
        lists.extend(self.exact.get(path).map(Vec::as_slice));
        for (length, positions) in &self.prefixes {
            let Some(prefix) = path.as_bytes().get(..*length) else { break };
            let Ok(prefix) = std::str::from_utf8(prefix) else { continue };
            lists.extend(positions.get(prefix).map(Vec::as_slice));
        }
        // Merges the ascending lists: the least head is the next route in order.
        loop {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let at = next[0];
            *next = &next[1..];
            if let Some(taken) = take(at as usize) {
                return Some(taken);
            }
        }
    }
}

fn push(positions: &mut Positions, path: &str, at: u32) {
    match positions.get_mut(path) {
        Some(list) => list.push(at),
        None => {
            positions.insert(path.into(), vec![at]);
        }
    }
}
