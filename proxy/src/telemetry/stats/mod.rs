//! Counters, gauges and histograms with one writer each, summed over workers when somebody asks.
//!
//! A *group* is a struct of metrics that belong together (one cluster, one listener, one connection manager). Every
//! worker owns a shard of each group it uses and is the only writer of it, so that counting is a plain load and store on
//! memory no other thread writes. The [`Registry`] knows all shards; it is locked only when a shard is made and when the
//! figures are read. Names are Envoy's (`cluster.NAME.upstream_rq_total`), as are the Prometheus names and tags.

mod codes;
mod group;
mod histogram;
mod registry;
mod render;
mod scope;
mod shards;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use sidemesh_config::value::Name;

pub use codes::{Answers, ClassCounters, CodeCounters};
pub use group::{Group, Metric, Visit};
pub use histogram::{BUCKETS_MS, Histogram, HistogramValue};
pub use registry::{Registry, Sample, Value};
pub use render::{Texts, prometheus, text, text_with};
pub use scope::Scope;
pub use shards::Shards;

/// A count that only grows. One writer; any reader.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }
    /// Not an atomic addition: the calling thread must be the only writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count that is shown once it has counted something: of what most never see.
#[derive(Debug, Default)]
pub struct LazyCounter(Counter);

impl std::ops::Deref for LazyCounter {
    type Target = Counter;
    fn deref(&self) -> &Counter {
        &self.0
    }
}

/// Counts by name, of names that are few and come from this program (ciphers, groups); not for requests: it locks.
#[derive(Debug, Default)]
pub struct Named(Mutex<std::collections::BTreeMap<Name, u64>>);

impl Named {
    /// Names kept; further ones are not counted.
    const MOST: usize = 64;

    pub fn inc(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() < Self::MOST || counts.contains_key(name) {
            *counts.entry(name.into()).or_default() += 1;
        }
    }

    fn each(&self, prefix: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().for_each(|(name, n)| each(&format!("{prefix}.{name}"), Visit::Counter(*n)));
    }
}

/// Levels by name, set all together and rarely; of one owner.
#[derive(Debug, Default)]
pub struct Levels(Mutex<std::collections::BTreeMap<Name, i64>>);

impl Levels {
    pub fn set(&self, levels: std::collections::BTreeMap<Name, i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = levels;
    }

    /// `label` has a `*` where the name stands.
    fn each(&self, label: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        let levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        levels.iter().for_each(|(name, n)| each(&label.replace('*', name), Visit::Gauge(Some(*n))));
    }
}

/// A level: the sum of the shards is the value, so one shard may go below zero.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

/// Of a gauge that nobody has touched.
const UNTOUCHED: i64 = i64::MIN;

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicI64::new(UNTOUCHED))
    }
}

/// A short text, for versions. Written and read rarely.
#[derive(Debug, Default)]
pub struct TextReadout(Mutex<Name>);

impl TextReadout {
    pub fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }
    pub fn get(&self) -> Name {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Gauge {
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }
    /// Not an atomic addition: the calling thread must be the only writer.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.get().wrapping_add(n), Relaxed);
    }
    #[inline]
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.read().unwrap_or(0)
    }
    /// `None`: nobody has touched it.
    pub fn read(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|n| *n != UNTOUCHED)
    }
}
