//! Subsets: hosts whose `envoy.lb` metadata equals what the route asks for, balanced among themselves.
//!
//! What a request asks for counts only when a selector has exactly its keys; otherwise, and when no host matches, a fallback applies.

use sidemesh_config::resource::cluster::{SubsetConfig, SubsetFallback, SubsetSelector, SubsetSelectorFallback};
use sidemesh_config::value::Name;

use crate::upstream::host::Host;

/// Keys and values, sorted by key.
pub type Labels = [(Name, serde_json::Value)];

/// The key in a route's criteria that lists alternatives, tried in order.
const FALLBACK_LIST: &str = "fallback_list";

/// Which hosts a request may use.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// Every host.
    Any,
    /// Hosts with these labels.
    Labelled(Vec<(Name, serde_json::Value)>),
    Nobody,
}

/// How a choice came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The request's own criteria have hosts.
    Criteria,
    /// The fallback of a selector.
    Selector,
    /// The fallback of the whole configuration.
    Fallback,
    /// `panic_mode_any`: nothing else had a host.
    Panic,
}

/// Decides for `wanted`; `has_hosts` tells whether any host has the labels.
pub fn choose(config: &SubsetConfig, wanted: &Labels, has_hosts: &dyn Fn(&Labels) -> bool) -> (Choice, Via) {
    let decided = match wanted.iter().find(|(key, _)| &**key == FALLBACK_LIST) {
        Some((_, list)) if config.metadata_fallback_list => choose_from_list(config, wanted, list, has_hosts),
        _ => choose_once(config, wanted, has_hosts),
    };
    match decided {
        // As in Envoy: where there is a fallback and it has no host.
        (Choice::Nobody, Via::Fallback) if config.panic_mode_any && config.fallback != SubsetFallback::NoFallback => {
            (Choice::Any, Via::Panic)
        }
        decided => decided,
    }
}

fn choose_from_list(
    config: &SubsetConfig,
    wanted: &Labels,
    list: &serde_json::Value,
    has_hosts: &dyn Fn(&Labels) -> bool,
) -> (Choice, Via) {
    let base: Vec<_> = wanted.iter().filter(|(key, _)| &**key != FALLBACK_LIST).cloned().collect();
    for alternative in list.as_array().into_iter().flatten().filter_map(|v| v.as_object()) {
        let mut labels = base.clone();
        for (key, value) in alternative {
            labels.retain(|(k, _)| **k != **key);
            labels.push((Name::from(key.as_str()), value.clone()));
        }
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        if selector_for(config, &labels).is_some() && has_hosts(&labels) {
            return (Choice::Labelled(labels), Via::Criteria);
        }
    }
    choose_once(config, &base, has_hosts)
}

fn choose_once(config: &SubsetConfig, wanted: &Labels, has_hosts: &dyn Fn(&Labels) -> bool) -> (Choice, Via) {
    let Some(selector) = selector_for(config, wanted) else { return (fall_back(config, has_hosts), Via::Fallback) };
    if has_hosts(wanted) {
        return (Choice::Labelled(wanted.to_vec()), Via::Criteria);
    }
    let choice = match &selector.fallback {
        SubsetSelectorFallback::Inherit => return (fall_back(config, has_hosts), Via::Fallback),
        SubsetSelectorFallback::NoFallback => Choice::Nobody,
        SubsetSelectorFallback::AnyEndpoint => Choice::Any,
        SubsetSelectorFallback::DefaultSubset => default_subset(config, has_hosts),
        SubsetSelectorFallback::KeysSubset(keys) => {
            let fewer: Vec<_> = wanted.iter().filter(|(key, _)| keys.contains(key)).cloned().collect();
            // Keys of a fallback are a proper subset of the selector's own, so that this ends.
            if fewer.len() < wanted.len() {
                return choose_once(config, &fewer, has_hosts);
            }
            Choice::Nobody
        }
    };
    (choice, Via::Selector)
}

fn selector_for<'a>(config: &'a SubsetConfig, wanted: &Labels) -> Option<&'a SubsetSelector> {
    let same_keys =
        |s: &&SubsetSelector| s.keys.len() == wanted.len() && s.keys.iter().zip(wanted).all(|(k, (w, _))| k == w);
    config.selectors.iter().find(same_keys)
}

fn fall_back(config: &SubsetConfig, has_hosts: &dyn Fn(&Labels) -> bool) -> Choice {
    match config.fallback {
        SubsetFallback::NoFallback => Choice::Nobody,
        SubsetFallback::AnyEndpoint => Choice::Any,
        SubsetFallback::DefaultSubset => default_subset(config, has_hosts),
    }
}

fn default_subset(config: &SubsetConfig, has_hosts: &dyn Fn(&Labels) -> bool) -> Choice {
    if has_hosts(&config.default_subset) { Choice::Labelled(config.default_subset.clone()) } else { Choice::Nobody }
}

/// Whether `host` has all of `labels`; with `list_as_any` a list in the host's metadata matches when any of its values does.
pub fn matches(host: &Host, labels: &Labels, list_as_any: bool) -> bool {
    let lb = host.endpoint().metadata.as_deref().and_then(|m| m.0.get("envoy.lb"));
    labels.iter().all(|(key, wanted)| match lb.and_then(|lb| lb.get(&**key)) {
        Some(serde_json::Value::Array(values)) if list_as_any => values.contains(wanted),
        found => found == Some(wanted),
    })
}

/// A hash of `labels`, for looking them up.
pub fn fingerprint(labels: &Labels) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    for (key, value) in labels {
        hasher.write(key.as_bytes());
        match value {
            serde_json::Value::String(text) => hasher.write(text.as_bytes()),
            serde_json::Value::Bool(b) => hasher.write_u8(u8::from(*b)),
            serde_json::Value::Number(n) => hasher.write_u64(n.as_f64().unwrap_or_default().to_bits()),
            // Rare as labels: told apart by comparison alone.
            _ => hasher.write_u8(2),
        }
    }
    hasher.finish()
}
