//! Resources that others need: kept by name while needed, with a wait for each that has not arrived. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::snapshot::ByName;
use sidemesh_config::value::Name;

use super::cascade::Need;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// `None`: for ever.
    Until(Option<Instant>),
    /// It came, was refused, or did not come in time.
    Settled,
}

/// The needed resources of one kind.
#[derive(Debug)]
pub(super) struct Leaf<T> {
    needed: BTreeMap<Name, (Wait, Option<Arc<T>>)>,
}

impl<T> Default for Leaf<T> {
    fn default() -> Self {
        Leaf { needed: BTreeMap::new() }
    }
}

impl<T> Leaf<T> {
    /// What is needed from now on: new names begin to be waited for, the others are forgotten.
    pub(super) fn need<'a>(&mut self, needs: impl Iterator<Item = &'a Need>, now: Instant) {
        let mut before = std::mem::take(&mut self.needed);
        for need in needs {
            let fresh = || (Wait::Until((need.timeout != Duration::ZERO).then(|| now + need.timeout)), None);
            let kept = before.remove(&need.name).unwrap_or_else(fresh);
            self.needed.insert(need.name.clone(), kept);
        }
    }

    /// Takes a value; one that nobody needs is not kept.
    pub(super) fn arrive(&mut self, name: &Name, value: Arc<T>) {
        if let Some(slot) = self.needed.get_mut(name) {
            *slot = (Wait::Settled, Some(value));
        }
    }

    /// Ends the wait and keeps what there is.
    pub(super) fn settle(&mut self, name: &str) {
        if let Some((wait, _)) = self.needed.get_mut(name) {
            *wait = Wait::Settled;
        }
    }

    /// Ends the wait and drops the value; whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.needed.get_mut(name).is_some_and(|slot| {
            slot.0 = Wait::Settled;
            slot.1.take().is_some()
        })
    }

    pub(super) fn is_needed(&self, name: &str) -> bool {
        self.needed.contains_key(name)
    }

    pub(super) fn is_settled(&self, name: &str) -> bool {
        self.needed.get(name).is_some_and(|(wait, _)| *wait == Wait::Settled)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.needed.get(name)?.1.as_ref()
    }

    pub(super) fn values(&self) -> ByName<Arc<T>> {
        self.needed.iter().filter_map(|(n, (_, v))| Some((n.clone(), v.clone()?))).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |wait: &Wait| match wait {
            Wait::Until(at) => *at,
            Wait::Settled => None,
        };
        self.needed.values().filter_map(|(wait, _)| deadline(wait)).min()
    }

    /// Gives up what did not come by `now`.
    pub(super) fn expire(&mut self, now: Instant, kind: ResourceKind, late: &mut Vec<(ResourceKind, Name)>) {
        for (name, (wait, _)) in &mut self.needed {
            if matches!(wait, Wait::Until(Some(at)) if *at <= now) {
                *wait = Wait::Settled;
                late.push((kind, name.clone()));
            }
        }
    }
}
