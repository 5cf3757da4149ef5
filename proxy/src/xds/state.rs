//! What was received and what became of it, per resource: for `/config_dump` and for telling a repeated resource from a new one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::Name;
use sidemesh_proto::google::Any;

/// A resource that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// `version_info` of the response (state of the world) or version of the resource (delta); empty for a static one.
    pub version: String,
    /// When this content was first taken.
    pub last_updated: SystemTime,
    pub raw: Any,
    /// From the bootstrap file.
    pub is_static: bool,
}

/// The last attempt that was refused, while it is newer than what is accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub version: String,
    pub details: String,
    pub last_update_attempt: SystemTime,
    pub raw: Any,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    pub accepted: Option<Accepted>,
    pub rejected: Option<Box<Rejected>>,
    /// Taken, and waiting for what it needs. An older version may be in force.
    pub warming: bool,
    /// The version in force while a newer one is warming.
    pub serving: Option<Box<Accepted>>,
}

/// All resources by kind and name.
#[derive(Debug, Default)]
pub struct Resources {
    by_kind: BTreeMap<ResourceKind, BTreeMap<Name, Entry>>,
    /// `version_info` of the last accepted response of each kind.
    versions: BTreeMap<ResourceKind, String>,
}

impl Resources {
    /// Every resource of a kind, by name.
    pub fn of(&self, kind: ResourceKind) -> impl Iterator<Item = (&Name, &Entry)> {
        self.by_kind.get(&kind).into_iter().flatten()
    }

    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&Entry> {
        self.by_kind.get(&kind)?.get(name)
    }

    /// Version of the last response of `kind` that was accepted whole.
    pub fn version(&self, kind: ResourceKind) -> Option<&str> {
        self.versions.get(&kind).map(String::as_str)
    }

    pub(super) fn set_version(&mut self, kind: ResourceKind, version: &str) {
        self.versions.insert(kind, version.to_owned());
    }

    /// Whether exactly this content was accepted before.
    pub(super) fn is_accepted(&self, kind: ResourceKind, name: &str, raw: &Any) -> bool {
        self.get(kind, name).and_then(|e| e.accepted.as_ref()).is_some_and(|a| a.raw == *raw)
    }

    pub(super) fn accept(&mut self, kind: ResourceKind, name: &Name, accepted: Accepted) {
        let entry = self.entry(kind, name);
        entry.rejected = None;
        match &mut entry.accepted {
            Some(before) if before.raw == accepted.raw => before.version = accepted.version,
            before => {
                let old = before.replace(accepted);
                if entry.serving.is_none() {
                    entry.serving = old.map(Box::new);
                }
            }
        }
    }

    pub(super) fn reject(&mut self, kind: ResourceKind, name: &Name, rejected: Rejected) {
        self.entry(kind, name).rejected = Some(Box::new(rejected));
    }

    pub(super) fn remove(&mut self, kind: ResourceKind, name: &str) {
        if let Some(of_kind) = self.by_kind.get_mut(&kind) {
            of_kind.remove(name);
        }
    }

    /// Forgets resources that were never taken and that the server does not send any more.
    pub(super) fn forget_rejected(&mut self, kind: ResourceKind, is_gone: impl Fn(&str) -> bool) {
        if let Some(of_kind) = self.by_kind.get_mut(&kind) {
            of_kind.retain(|name, entry| entry.accepted.is_some() || !is_gone(name));
        }
    }

    /// Marks what is warming among a kind's resources.
    pub(super) fn set_warming(&mut self, kind: ResourceKind, is_warming: impl Fn(&str) -> bool) {
        for (name, entry) in self.by_kind.entry(kind).or_default() {
            entry.warming = is_warming(name);
            if !entry.warming {
                entry.serving = None;
            }
        }
    }

    /// Forgets the resources of `kind` that nothing needs any more.
    pub(super) fn retain(&mut self, kind: ResourceKind, keep: impl Fn(&str) -> bool) {
        if let Some(of_kind) = self.by_kind.get_mut(&kind) {
            of_kind.retain(|name, _| keep(name));
        }
    }

    fn entry(&mut self, kind: ResourceKind, name: &Name) -> &mut Entry {
        self.by_kind.entry(kind).or_default().entry(name.clone()).or_default()
    }
}
