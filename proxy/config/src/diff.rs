//! Pure (old, new) → what changed, by pointer first and by value then, so that nothing unconcerned is touched.

use std::sync::Arc;

use crate::snapshot::{ByName, Snapshot};
use crate::value::Name;

/// Names by what happened to them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<Name>,
    pub changed: Vec<Name>,
    pub removed: Vec<Name>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    fn of<T: PartialEq>(old: &ByName<Arc<T>>, new: &ByName<Arc<T>>) -> Changes {
        let mut changes = Changes::default();
        for (name, value) in new {
            match old.get(name) {
                None => changes.added.push(name.clone()),
                Some(before) if Arc::ptr_eq(before, value) || before == value => {}
                Some(_) => changes.changed.push(name.clone()),
            }
        }
        changes.removed = old.keys().filter(|n| !new.contains_key(*n)).cloned().collect();
        changes.added.sort();
        changes.changed.sort();
        changes.removed.sort();
        changes
    }
}

/// What a new snapshot changes for the parts that hold live state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub listeners: Changes,
    pub clusters: Changes,
    pub secrets: Changes,
}

/// Compares two snapshots. Routes need no reconciling: they are looked up per request.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Diff {
    Diff {
        listeners: Changes::of(&old.listeners, &new.listeners),
        clusters: Changes::of(&old.clusters, &new.clusters),
        secrets: Changes::of(&old.secrets, &new.secrets),
    }
}
