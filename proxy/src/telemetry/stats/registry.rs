//! All shards of all groups, read together.
//!
//! Bounded by what is configured, however often it changes: a shard whose owner is gone keeps its counts and is handed to
//! the next owner of its kind in the scope, and scopes without any owner are forgotten as new ones come.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sidemesh_config::bootstrap::{StatsConfig, StatsMatcher};
use sidemesh_config::value::Name;

use super::scope::without_colons;
use super::{Group, HistogramValue, Scope, Visit};

/// Scopes without an owner are looked for when there are this many, and again whenever the number has doubled.
const SCOPES_BEFORE_PRUNING: usize = 1024;

/// Knows every shard. Shared by all threads; the lock is taken when a shard is made, dropped or read, never per request.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
    config: OnceLock<StatsConfig>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("scopes", &self.lock().shards.len()).finish()
    }
}

#[derive(Default)]
struct State {
    shards: BTreeMap<Scope, Vec<Arc<dyn Group>>>,
    /// What counters stood at when they were last reset, by full name.
    baseline: BTreeMap<String, u64>,
    /// How many scopes there may be before those without an owner are looked for; 0: [`SCOPES_BEFORE_PRUNING`].
    prune_at: usize,
}

impl State {
    /// A shard whose owner is gone.
    fn orphan<T: Group>(&self, scope: &Scope) -> Option<Arc<T>> {
        let shards = self.shards.get(scope)?;
        let found = shards.iter().filter(|s| is_orphan(s)).find_map(|s| {
            let any: Arc<dyn Any + Send + Sync> = s.clone();
            any.downcast::<T>().ok()
        })?;
        // The new owner goes on from what the old one, perhaps on another thread, wrote last.
        fence(Ordering::Acquire);
        Some(found)
    }

    fn prune(&mut self) {
        if self.shards.len() < self.prune_at.max(SCOPES_BEFORE_PRUNING) {
            return;
        }
        self.shards.retain(|scope, shards| {
            matches!(scope, Scope::Server | Scope::Fixed(_)) || shards.iter().any(|s| !is_orphan(s))
        });
        self.prune_at = self.shards.len() * 2;
    }
}

/// The registry alone still holds it. Nobody else can get at it: new references are made under the registry's lock.
fn is_orphan(shard: &Arc<dyn Group>) -> bool {
    Arc::strong_count(shard) == 1
}

/// A metric's value, summed over its shards.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram(Box<HistogramValue>),
    Text(Name),
}

/// One metric as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub scope: Scope,
    /// Below the scope's prefix.
    pub metric: String,
    pub value: Value,
    /// Something was counted, set or recorded, if only to go back to zero.
    pub used: bool,
}

impl Sample {
    /// A gauge's value as Envoy shows it: hashes of versions have no sign.
    pub fn level(&self, n: i64) -> i128 {
        match &*self.metric {
            "version" => i128::from(n.cast_unsigned()),
            _ => i128::from(n),
        }
    }

    /// `cluster.alpha.upstream_rq_total`.
    pub fn name(&self) -> String {
        format!("{}{}", without_colons(&self.scope.prefix()), self.metric)
    }
}

impl Registry {
    /// Under a configuration of its own.
    pub fn new(config: StatsConfig) -> Self {
        Registry { state: Mutex::default(), config: config.into() }
    }

    /// What the metrics are shown under.
    pub fn config(&self) -> &StatsConfig {
        self.config.get_or_init(StatsConfig::default)
    }

    /// A shard of a group, owned by the calling worker: one that its owner has let go of, or a new one.
    pub fn shard<T: Group + Default>(&self, scope: Scope) -> Arc<T> {
        let mut state = self.lock();
        if let Some(shard) = state.orphan(&scope) {
            return shard;
        }
        let shard = Arc::new(T::default());
        if !state.shards.contains_key(&scope) {
            state.prune();
        }
        state.shards.entry(scope).or_default().push(shard.clone());
        shard
    }

    /// Forgets a scope whose owner is gone from the configuration, so that removed clusters do not stay for ever.
    pub fn remove(&self, scope: &Scope) {
        self.lock().shards.remove(scope);
    }

    /// Counters read as zero from here on (`/reset_counters`); the workers' memory is not touched.
    pub fn reset_counters(&self) {
        let mut state = self.lock();
        let baseline = read(&state.shards)
            .into_iter()
            .filter_map(|s| match s.value {
                Value::Counter(n) => Some((s.name(), n)),
                _ => None,
            })
            .collect();
        state.baseline = baseline;
    }

    /// Every metric that the configuration admits, in the order of scopes and of fields.
    pub fn read(&self) -> Vec<Sample> {
        let state = self.lock();
        let mut samples = read(&state.shards);
        let matcher = &self.config().matcher;
        if *matcher != StatsMatcher::All {
            samples.retain(|s| matcher.admits(&s.name()));
        }
        if !state.baseline.is_empty() {
            for s in &mut samples {
                let name = s.name();
                if let (Value::Counter(n), Some(base)) = (&mut s.value, state.baseline.get(&name)) {
                    *n = n.saturating_sub(*base);
                }
            }
        }
        samples
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(shards: &BTreeMap<Scope, Vec<Arc<dyn Group>>>) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (scope, groups) in shards {
        let mut order: Vec<(String, Value, bool)> = Vec::new();
        let mut index: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
        for group in groups {
            group.visit(&mut |metric, value| {
                let at = *index.entry(metric.to_owned()).or_insert_with(|| {
                    order.push((metric.to_owned(), zero(&value), false));
                    order.len() - 1
                });
                order[at].2 |= used(&value);
                add(&mut order[at].1, &value);
            });
        }
        let sample = |(metric, value, used)| Sample { scope: scope.clone(), metric, value, used };
        samples.extend(order.into_iter().map(sample));
    }
    samples
}

fn used(value: &Visit<'_>) -> bool {
    match value {
        Visit::Counter(n) => *n > 0,
        Visit::Gauge(n) => n.is_some(),
        Visit::Text(text) => !text.is_empty(),
        Visit::Histogram(h) => h.is_used(),
    }
}

fn zero(like: &Visit<'_>) -> Value {
    match like {
        Visit::Counter(_) => Value::Counter(0),
        Visit::Gauge(_) => Value::Gauge(0),
        Visit::Text(_) => Value::Text(Name::from("")),
        Visit::Histogram(_) => Value::Histogram(Box::default()),
    }
}

fn add(total: &mut Value, part: &Visit<'_>) {
    match (total, part) {
        (Value::Counter(t), Visit::Counter(n)) => *t = t.wrapping_add(*n),
        (Value::Gauge(t), Visit::Gauge(n)) => *t = t.wrapping_add(n.unwrap_or(0)),
        // Texts are not added: one writer has it.
        (Value::Text(t), Visit::Text(n)) if !n.is_empty() => *t = n.clone(),
        (Value::Histogram(t), Visit::Histogram(h)) => h.add_to(t),
        _ => {}
    }
}
