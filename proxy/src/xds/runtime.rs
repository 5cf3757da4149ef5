//! Runtime layers: the bootstrap's, the discovered ones and the admin's, flattened so that the last layer wins. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidemesh_config::bootstrap::{Bootstrap, RuntimeOrigin};
use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::{Name, Runtime, RuntimeValue};

use super::cascade::{Need, Source};
use crate::telemetry::stats::Scope;

/// The runtime key by which a management server tells its revision.
const REVISION_KEY: &str = "sidemesh.revision";

/// The layers in the order of the bootstrap.
#[derive(Debug, Default)]
pub struct Layers {
    layers: Vec<(Name, Arc<Runtime>)>,
    /// The layer that the admin interface writes.
    admin: Option<Name>,
    merged: Option<Arc<Runtime>>,
}

impl Layers {
    /// `layers` in the order of the bootstrap; a discovered layer is empty until it arrives.
    pub fn new(layers: Vec<(Name, Arc<Runtime>)>, admin: Option<Name>) -> Self {
        Layers { layers, admin, merged: None }
    }

    /// Fills a discovered layer; one that the bootstrap does not name is dropped.
    pub fn set(&mut self, name: &str, runtime: Arc<Runtime>) {
        if let Some((_, layer)) = self.layers.iter_mut().find(|(n, _)| &**n == name) {
            *layer = runtime;
            self.merged = None;
        }
    }

    /// Sets values of the admin's layer; an empty one takes the key out.
    pub fn modify(&mut self, changes: Vec<(Name, Name)>) {
        let Some(admin) = self.admin.clone() else { return };
        let Some((_, layer)) = self.layers.iter().find(|(n, _)| *n == admin) else { return };
        let mut entries = layer.entries.clone();
        for (key, value) in changes {
            match value.is_empty() {
                true => entries.remove(&key),
                false => entries.insert(key, RuntimeValue::Text(value)),
            };
        }
        self.set(&admin, Arc::new(Runtime { entries }));
    }

    /// The layers one by one.
    pub fn each(&self) -> Vec<(Name, Arc<Runtime>)> {
        self.layers.clone()
    }

    /// Empties a layer; whether it held anything.
    pub fn remove(&mut self, name: &str) -> bool {
        let held = self.layers.iter().any(|(n, layer)| &**n == name && !layer.entries.is_empty());
        self.set(name, Arc::default());
        held
    }

    /// All layers as one.
    pub fn merged(&mut self) -> Arc<Runtime> {
        let layers = &self.layers;
        self.merged
            .get_or_insert_with(|| {
                let mut entries = BTreeMap::new();
                for (_, layer) in layers {
                    entries.extend(layer.entries.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
                Arc::new(Runtime { entries })
            })
            .clone()
    }

    /// The management server's revision, when a layer tells one.
    pub fn revision(&mut self) -> Option<Name> {
        match self.merged().entries.get(REVISION_KEY) {
            Some(RuntimeValue::Text(text)) => Some(text.clone()),
            Some(RuntimeValue::Number(n)) => Some(Name::from(n.to_string())),
            _ => None,
        }
    }
}

/// The bootstrap's runtime layers, and what is to be fetched for them.
pub(super) fn layers(bootstrap: &Bootstrap) -> (Layers, Vec<Need>) {
    let mut layers = Vec::new();
    let mut admin = None;
    let mut needs = Vec::new();
    for layer in &bootstrap.runtime {
        match &layer.origin {
            RuntimeOrigin::Static(entries) => {
                layers.push((layer.name.clone(), Arc::new(Runtime { entries: entries.clone() })));
            }
            RuntimeOrigin::Admin => {
                admin = Some(layer.name.clone());
                layers.push((layer.name.clone(), Arc::default()));
            }
            RuntimeOrigin::Discovered { resource, source } => {
                layers.push((resource.clone(), Arc::default()));
                needs.push(Need {
                    kind: ResourceKind::Runtime,
                    name: resource.clone(),
                    source: Source::of(source, &Source::Ads),
                    timeout: source.initial_fetch_timeout,
                    counted: Scope::Fixed("runtime"),
                });
            }
        }
    }
    (Layers::new(layers, admin), needs)
}
