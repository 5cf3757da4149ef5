//! Scoped routes (SRDS) as they are held: by name, and by key as requests look them up. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sidemesh_config::resource::route::{KeyTaken, ScopedRoute, ScopedRoutes};
use sidemesh_config::value::Name;

#[derive(Debug, Default)]
pub(super) struct Scopes {
    by_name: BTreeMap<Name, Arc<ScopedRoute>>,
    by_key: Arc<ScopedRoutes>,
}

impl Scopes {
    /// Whether an update leaves each key to one scope. `named` are the scopes that it names, with their new version unless that was
    /// refused; what is `gone` goes with it. Scopes may take each other's keys.
    pub(super) fn admit(
        &self,
        named: &BTreeMap<Name, Option<Arc<ScopedRoute>>>,
        gone: impl Fn(&Name) -> bool,
    ) -> Result<(), KeyTaken> {
        let stays = |name: &Name| !gone(name) && named.get(name).is_none_or(Option::is_none);
        let old = self.by_name.values().filter(|scope| stays(&scope.name));
        let mut taken: HashMap<&[String], &Name> = HashMap::new();
        for scope in old.chain(named.values().flatten()) {
            if let Some(first) = taken.insert(&scope.key, &scope.name) {
                return Err(KeyTaken { first: first.clone(), second: scope.name.clone() });
            }
        }
        Ok(())
    }

    /// Takes a version that was admitted.
    pub(super) fn put(&mut self, scope: Arc<ScopedRoute>) {
        let by_key = Arc::make_mut(&mut self.by_key);
        if let Some(old) = self.by_name.insert(scope.name.clone(), scope.clone()) {
            by_key.remove(&old.key, &old.name);
        }
        by_key.replace(scope);
    }

    /// Whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some_and(|old| {
            Arc::make_mut(&mut self.by_key).remove(&old.key, name);
            true
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<ScopedRoute>> {
        self.by_name.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn by_key(&self) -> Arc<ScopedRoutes> {
        self.by_key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(name: &str, key: &str) -> Arc<ScopedRoute> {
        let route_config_name = Name::from(format!("routes of {name}"));
        Arc::new(ScopedRoute { name: name.into(), route_config_name, inline: None, key: vec![key.to_owned()] })
    }

    fn named(scopes: &[(&str, &str)]) -> BTreeMap<Name, Option<Arc<ScopedRoute>>> {
        scopes.iter().map(|(name, key)| (Name::from(*name), Some(scope(name, key)))).collect()
    }

    fn held(scopes: &[(&str, &str)]) -> Scopes {
        let mut held = Scopes::default();
        scopes.iter().for_each(|(name, key)| held.put(scope(name, key)));
        held
    }

    fn found(scopes: &Scopes, key: &str) -> Option<String> {
        scopes.by_key().get(&[key.to_owned()]).map(|s| s.name.to_string())
    }

    #[test]
    fn scopes_take_each_others_keys() {
        let mut scopes = held(&[("a", "1"), ("b", "2")]);
        let update = named(&[("a", "2"), ("b", "1")]);
        assert_eq!(scopes.admit(&update, |_| false), Ok(()));
        update.into_values().flatten().for_each(|scope| scopes.put(scope));
        assert_eq!((found(&scopes, "1"), found(&scopes, "2")), (Some("b".to_owned()), Some("a".to_owned())));
        assert!(scopes.remove("a") && !scopes.remove("a"));
        assert_eq!((found(&scopes, "1"), found(&scopes, "2")), (Some("b".to_owned()), None));
    }

    #[test]
    fn a_key_is_one_scopes() {
        let scopes = held(&[("a", "1"), ("b", "2")]);
        let taken = |first: &str, second: &str| Err(KeyTaken { first: first.into(), second: second.into() });
        assert_eq!(scopes.admit(&named(&[("c", "2")]), |_| false), taken("b", "c"));
        assert_eq!(scopes.admit(&named(&[("c", "2")]), |name| **name == *"b"), Ok(()), "b goes with the update");
        assert_eq!(scopes.admit(&named(&[("c", "3"), ("d", "3")]), |_| false), taken("c", "d"));
        let mut refused = named(&[("c", "2")]);
        refused.insert("b".into(), None);
        assert_eq!(scopes.admit(&refused, |_| false), taken("b", "c"), "b stays as it is: its new version was refused");
    }
}
