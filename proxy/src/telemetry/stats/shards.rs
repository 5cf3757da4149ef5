//! The shards of groups that are named by what requests bring: a cluster, a policy, a method, a caller.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::{Group, Registry, Scope};

/// One worker's shards, each made at its first use and kept: the registry, and its lock, is asked once per name.
#[derive(Debug)]
pub struct Shards<K, G> {
    most: usize,
    groups: RefCell<HashMap<K, Arc<G>>>,
}

impl<K: Eq + Hash + Clone, G: Group + Default> Shards<K, G> {
    /// Keeps `most` shards: a bound for names that come without end.
    pub fn new(most: usize) -> Self {
        Shards { most, groups: RefCell::default() }
    }

    /// The shard under `key`, counted in `scope`. `None`: it would be one too many.
    pub fn admit(&self, registry: &Registry, key: &K, scope: impl FnOnce(&K) -> Scope) -> Option<Arc<G>> {
        let mut groups = self.groups.borrow_mut();
        if let Some(group) = groups.get(key) {
            return Some(group.clone());
        }
        if groups.len() >= self.most {
            return None;
        }
        let group: Arc<G> = registry.shard(scope(key));
        groups.insert(key.clone(), group.clone());
        Some(group)
    }

    /// The same for names that the configuration gives: where it would be one too many all are forgotten first, as a
    /// configuration that changes for ever brings ever new ones. Their figures stay in the registry.
    pub fn get(&self, registry: &Registry, key: &K, scope: impl Fn(&K) -> Scope) -> Arc<G> {
        if let Some(group) = self.admit(registry, key, &scope) {
            return group;
        }
        self.groups.borrow_mut().clear();
        let group: Arc<G> = registry.shard(scope(key));
        self.groups.borrow_mut().insert(key.clone(), group.clone());
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats_group;

    stats_group! {
        struct Calls {
            calls: Counter,
        }
    }

    fn shards(most: usize) -> (Registry, Shards<&'static str, Calls>) {
        (Registry::default(), Shards::new(most))
    }

    fn scope(name: &&str) -> Scope {
        Scope::Filter((*name).into())
    }

    fn totals(registry: &Registry) -> Vec<String> {
        registry.read().iter().map(|s| format!("{} {:?}", s.name(), s.value)).collect()
    }

    #[test]
    fn a_name_has_one_shard() {
        let (registry, shards) = shards(8);
        for name in ["a", "b", "a"] {
            shards.get(&registry, &name, scope).calls.inc();
        }
        assert_eq!(totals(&registry), ["a.calls Counter(2)", "b.calls Counter(1)"]);
    }

    #[test]
    fn what_is_forgotten_stays_counted() {
        let (registry, shards) = shards(1);
        for name in ["a", "b", "a"] {
            shards.get(&registry, &name, scope).calls.inc();
        }
        assert_eq!(totals(&registry), ["a.calls Counter(2)", "b.calls Counter(1)"]);
    }

    #[test]
    fn one_too_many_is_not_admitted() {
        let (registry, shards) = shards(1);
        assert!(shards.admit(&registry, &"a", scope).is_some());
        assert!(shards.admit(&registry, &"b", scope).is_none());
        assert!(shards.admit(&registry, &"a", scope).is_some());
    }
}
