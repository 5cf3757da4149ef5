//! What one node should have, with versions: which resources are new, changed, or gone since it was last told.
//!
//! A version is `<revision>.<hash>`: the store's revision at which the resource last changed for this node, and a hash
//! of its content. After a restart of the control plane the revision of an unchanged resource may read differently;
//! comparisons use the hash alone, so nothing is sent again.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidemesh_proto::google;

use crate::translate::Resources;

/// One resource at one version.
#[derive(Debug, Clone)]
pub struct Versioned {
    pub body: Arc<google::Any>,
    pub version: Arc<str>,
    hash: u64,
}

impl Versioned {
    /// Is a version that a client reports the same content as this?
    pub fn same_as(&self, version: &str) -> bool {
        hash_of(version) == Some(self.hash)
    }
}

fn hash_of(version: &str) -> Option<u64> {
    u64::from_str_radix(version.split_once('.')?.1, 16).ok()
}

/// All resources of one type.
#[derive(Debug, Clone, Default)]
pub struct TypeSet {
    pub resources: BTreeMap<String, Versioned>,
    /// Of the set as a whole, for state of the world.
    pub version: Arc<str>,
}

/// All resources of one node at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub revision: u64,
    types: BTreeMap<&'static str, Arc<TypeSet>>,
}

impl Snapshot {
    /// The snapshot after `previous`. Unchanged resources keep their versions.
    pub fn next(previous: &Snapshot, revision: u64, resources: Resources) -> Snapshot {
        let types = resources.into_iter().map(|(type_url, fresh)| {
            let before = previous.types.get(type_url);
            let mut changed = before.is_none_or(|b| b.resources.len() != fresh.len());
            let mut combined = 0u64;
            let resources = fresh.into_iter().map(|(name, resource)| {
                let hash = resource.hash;
                combined = combined.rotate_left(5).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ hash;
                let kept = before.and_then(|b| b.resources.get(&name)).filter(|r| r.hash == hash);
                let versioned = kept.cloned().unwrap_or_else(|| {
                    changed = true;
                    let version = format!("{revision}.{hash:016x}").into();
                    Versioned { body: resource.body, version, hash }
                });
                (name, versioned)
            });
            let resources: BTreeMap<String, Versioned> = resources.collect();
            let set = match before {
                Some(before) if !changed => before.clone(),
                _ => Arc::new(TypeSet { resources, version: format!("{revision}.{combined:016x}").into() }),
            };
            (type_url, set)
        });
        Snapshot { revision, types: types.collect() }
    }

    pub fn get(&self, type_url: &str) -> Option<&Arc<TypeSet>> {
        self.types.get(type_url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::{Resource, TYPES};
    use sidemesh_proto::type_url;

    fn resources(list: &[(&str, &str)]) -> Resources {
        let any = |text: &str| google::Any { type_url: type_url::CLUSTER.into(), value: text.as_bytes().to_vec() };
        let set = list.iter().map(|(name, text)| ((*name).to_owned(), Resource::new(any(text)))).collect();
        Resources::from([(type_url::CLUSTER, set)])
    }

    /// The types whose content differs between the two.
    fn changed_types(now: &Snapshot, before: &Snapshot) -> Vec<&'static str> {
        let differs = |t: &&str| match (now.types.get(*t), before.types.get(*t)) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && a.version != b.version,
            (a, b) => a.is_some() != b.is_some(),
        };
        TYPES.into_iter().filter(differs).collect()
    }

    #[test]
    fn unchanged_resources_keep_their_versions() {
        let first = Snapshot::next(&Snapshot::default(), 7, resources(&[("a", "1"), ("b", "1")]));
        let second = Snapshot::next(&first, 9, resources(&[("a", "1"), ("b", "2")]));
        let versions = |s: &Snapshot| {
            let set = s.get(type_url::CLUSTER).expect("clusters");
            set.resources.values().map(|r| r.version.split('.').next().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(versions(&second), ["7", "9"]);
        assert_eq!(changed_types(&second, &first), [type_url::CLUSTER]);
        let third = Snapshot::next(&second, 10, resources(&[("a", "1"), ("b", "2")]));
        assert!(changed_types(&third, &second).is_empty());
        assert_eq!(
            third.get(type_url::CLUSTER).map(|s| s.version.clone()),
            second.get(type_url::CLUSTER).map(|s| s.version.clone())
        );
    }

    #[test]
    fn a_removed_resource_changes_the_set() {
        let first = Snapshot::next(&Snapshot::default(), 7, resources(&[("a", "1"), ("b", "1")]));
        let second = Snapshot::next(&first, 8, resources(&[("a", "1")]));
        assert_eq!(changed_types(&second, &first), [type_url::CLUSTER]);
    }

    #[test]
    fn versions_compare_by_content_across_restarts() {
        let before = Snapshot::next(&Snapshot::default(), 7, resources(&[("a", "1")]));
        let after = Snapshot::next(&Snapshot::default(), 12, resources(&[("a", "1")]));
        let version = |s: &Snapshot| s.get(type_url::CLUSTER).expect("clusters").resources["a"].version.clone();
        assert_ne!(version(&before), version(&after));
        assert!(after.get(type_url::CLUSTER).expect("clusters").resources["a"].same_as(&version(&before)));
    }
}
