//! Accepted resources → [`Snapshot`]: warming, make before break, last good version. Pure: time is an argument.
//!
//! A cluster or listener is *staged*: its newest accepted version warms until everything it needs has arrived (or its
//! wait is over), and only then takes the place of the version in force. What it needs are *leaves*: endpoints, routes,
//! secrets, filter configurations. A leaf is kept while somebody needs it; a server's removal of a leaf is not acted on,
//! as in Envoy, since whoever named it still does.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use sidemesh_config::resource::cluster::{Cluster, Discovery};
use sidemesh_config::resource::endpoint::LoadAssignment;
use sidemesh_config::resource::http_filter::HttpFilterKind;
use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::route::{RouteConfig, ScopedRoute, VirtualHost};
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::resource::{Resource, ResourceKind};
use sidemesh_config::snapshot::{ByName, ClusterEntry, Snapshot};
use sidemesh_config::value::{Name, Runtime};

use super::cascade::{self, Need, Source};
use super::hosts::Hosts;
use super::leaf::Leaf;
use super::runtime;
use super::scopes::Scopes;
use crate::telemetry::stats::Scope;

/// A resource with what it needs.
#[derive(Debug, Clone)]
pub(super) struct Held<T> {
    pub(super) value: Arc<T>,
    pub(super) source: Source,
    needs: Vec<Need>,
}

/// The version in force, and the newer one that is warming.
#[derive(Debug)]
struct Staged<T> {
    active: Option<Held<T>>,
    warming: Option<Held<T>>,
}

impl<T> Staged<T> {
    fn newest(&self) -> Option<&Held<T>> {
        self.warming.as_ref().or(self.active.as_ref())
    }
    fn versions(&self) -> impl Iterator<Item = &Held<T>> {
        self.active.iter().chain(&self.warming)
    }
}

/// What is to be asked for by one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub kind: ResourceKind,
    pub source: Source,
    pub names: BTreeSet<Name>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Assembler {
    clusters: BTreeMap<Name, Staged<Cluster>>,
    listeners: BTreeMap<Name, Staged<Listener>>,
    endpoints: Leaf<LoadAssignment>,
    routes: Leaf<RouteConfig>,
    secrets: Leaf<Secret>,
    /// Secrets of the bootstrap and of this proxy's own identity: not fetched.
    static_secrets: BTreeMap<Name, Arc<Secret>>,
    extensions: Leaf<HttpFilterKind>,
    hosts: Hosts,
    scopes: Scopes,
    /// Whether the scoped routes have arrived: one pseudo-name stands for all.
    scopes_wait: Leaf<()>,
    runtime: runtime::Layers,
    /// Listeners warm only after the clusters' first round, as Envoy starts them.
    listeners_open: bool,
    /// Needed by the bootstrap itself: discovered runtime layers.
    roots: Vec<Need>,
    needs_changed: bool,
    wanted: Vec<Wanted>,
    /// Where updates of what is needed are counted.
    counted: BTreeMap<(ResourceKind, Name), Vec<Scope>>,
    /// `counted` is new.
    counted_anew: bool,
    entries: ByName<Arc<ClusterEntry>>,
}

impl Assembler {
    pub fn new(runtime: runtime::Layers, roots: Vec<Need>) -> Self {
        Assembler { runtime, roots, needs_changed: true, ..Assembler::default() }
    }

    /// Takes an accepted resource that came by `source`.
    pub fn handle_resource(&mut self, resource: Resource, source: &Source) {
        match resource {
            Resource::Cluster(c) => {
                let needs = cascade::of_cluster(&c, source);
                stage(&mut self.clusters, c.name.clone(), Held { value: c, source: source.clone(), needs });
                self.needs_changed = true;
            }
            Resource::Listener(l) => {
                let needs = cascade::of_listener(&l, source);
                stage(&mut self.listeners, l.name.clone(), Held { value: l, source: source.clone(), needs });
                self.needs_changed = true;
            }
            Resource::Endpoints(e) => self.endpoints.arrive(&e.cluster.clone(), e),
            Resource::Route(r) => {
                self.needs_changed |=
                    r.vhds.is_some() || self.routes.get(&r.name).is_some_and(|old| old.vhds.is_some());
                self.routes.arrive(&r.name.clone(), r);
            }
            Resource::Secret(s) if *source == Source::Static => {
                self.static_secrets.insert(s.name.clone(), s);
            }
            Resource::Secret(s) => self.secrets.arrive(&s.name.clone(), s),
            Resource::ExtensionConfig(name, e) => self.extensions.arrive(&name, e),
            Resource::ScopedRoute(s) => {
                self.scopes.put(s);
                self.needs_changed = true;
            }
            Resource::Runtime(name, r) => self.runtime.set(&name, r),
            // By the name it was sent under: see `handle_host`.
            Resource::VirtualHost(_) => {}
        }
    }

    /// The server removed a resource. `false`: it is kept, because it is named by a resource that stays.
    pub fn handle_removed(&mut self, kind: ResourceKind, name: &str) -> bool {
        self.needs_changed = true;
        match kind {
            ResourceKind::Cluster => self.clusters.remove(name).is_some(),
            ResourceKind::Listener => self.listeners.remove(name).is_some(),
            ResourceKind::ScopedRoute => self.scopes.remove(name),
            ResourceKind::ExtensionConfig => self.extensions.remove(name),
            ResourceKind::Runtime => self.runtime.remove(name),
            ResourceKind::VirtualHost => self.hosts.remove(name),
            _ => {
                self.handle_settled(kind, name);
                false
            }
        }
    }

    /// Nothing more will come for now: the resource was refused, does not exist, or came again unchanged.
    pub fn handle_settled(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Endpoints => self.endpoints.settle(name),
            ResourceKind::Route => self.routes.settle(name),
            ResourceKind::Secret => self.secrets.settle(name),
            ResourceKind::ExtensionConfig => self.extensions.settle(name),
            ResourceKind::ScopedRoute => self.scopes_wait.settle(""),
            ResourceKind::VirtualHost => self.hosts.settle(name),
            _ => {}
        }
    }

    /// Takes the virtual host that was sent as `<table>/<anything>`.
    pub fn handle_host(&mut self, name: &Name, host: Arc<VirtualHost>) {
        self.hosts.arrive(name, host);
    }

    /// A request asks for the virtual host `<table>/<host>`.
    pub fn handle_demand(&mut self, name: &Name) {
        self.needs_changed |= self.hosts.demand(name);
    }

    /// The clusters' first round is over.
    pub fn open_listeners(&mut self) {
        self.listeners_open = true;
    }

    /// Names of a kind that came by `source`: what a state-of-the-world response without them removes.
    pub fn names_from(&self, kind: ResourceKind, source: &Source) -> Vec<Name> {
        fn of<T>(all: &BTreeMap<Name, Staged<T>>, source: &Source) -> Vec<Name> {
            let from = |s: &Staged<T>| s.newest().is_some_and(|h| h.source == *source);
            all.iter().filter(|(_, s)| from(s)).map(|(n, _)| n.clone()).collect()
        }
        match kind {
            ResourceKind::Cluster => of(&self.clusters, source),
            ResourceKind::Listener => of(&self.listeners, source),
            ResourceKind::ScopedRoute => self.scopes.values().map(|s| s.name.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Where the newest accepted version of a cluster or listener came from.
    pub fn source_of(&self, kind: ResourceKind, name: &str) -> Option<&Source> {
        match kind {
            ResourceKind::Cluster => self.clusters.get(name)?.newest().map(|h| &h.source),
            ResourceKind::Listener => self.listeners.get(name)?.newest().map(|h| &h.source),
            _ => None,
        }
    }

    /// Clusters in force, by name.
    pub fn active_clusters(&self) -> Vec<Name> {
        self.clusters.iter().filter(|(_, s)| s.active.is_some()).map(|(n, _)| n.clone()).collect()
    }

    pub fn has_cluster(&self, name: &str) -> bool {
        self.clusters.contains_key(name)
    }

    /// Whether scoped routes would come from more than one source: there is one table of them.
    pub fn has_other_scopes(&self, listener: &Listener, needs: &[Need]) -> bool {
        let others = self.listeners.iter().filter(|(name, _)| **name != listener.name);
        let others = others.flat_map(|(_, staged)| staged.versions()).flat_map(|held| &held.needs);
        let mut sources = others.chain(needs).filter(|n| n.kind == ResourceKind::ScopedRoute).map(|n| &n.source);
        sources.next().is_some_and(|first| sources.any(|source| source != first))
    }

    pub(super) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    pub fn has_static_secret(&self, name: &str) -> bool {
        self.static_secrets.contains_key(name)
    }

    /// Whether anybody needs this resource.
    pub fn is_needed(&self, kind: ResourceKind, name: &str) -> bool {
        match kind {
            ResourceKind::Endpoints => self.endpoints.is_needed(name),
            ResourceKind::Route => self.routes.is_needed(name),
            ResourceKind::Secret => self.secrets.is_needed(name) || self.static_secrets.contains_key(name),
            ResourceKind::ExtensionConfig => self.extensions.is_needed(name),
            ResourceKind::VirtualHost => self.hosts.is_needed(name, &self.routes),
            _ => true,
        }
    }

    pub fn is_warming(&self, kind: ResourceKind, name: &str) -> bool {
        match kind {
            ResourceKind::Cluster => self.clusters.get(name).is_some_and(|s| s.warming.is_some()),
            ResourceKind::Listener => self.listeners.get(name).is_some_and(|s| s.warming.is_some()),
            _ => false,
        }
    }

    pub fn is_anything_warming(&self) -> bool {
        self.clusters.values().any(|s| s.warming.is_some()) || self.listeners.values().any(|s| s.warming.is_some())
    }

    pub fn warming(&self, kind: ResourceKind) -> usize {
        match kind {
            ResourceKind::Cluster => self.clusters.values().filter(|s| s.warming.is_some()).count(),
            ResourceKind::Listener => self.listeners.values().filter(|s| s.warming.is_some()).count(),
            _ => 0,
        }
    }

    /// Every accepted listener version, warming ones included: their ports are taken.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values().flat_map(Staged::versions).map(|h| &h.value)
    }

    /// When [`Assembler::handle_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let leaves = [self.endpoints.next_deadline(), self.routes.next_deadline(), self.secrets.next_deadline()];
        let rest = [self.extensions.next_deadline(), self.scopes_wait.next_deadline(), self.hosts.next_deadline()];
        leaves.into_iter().chain(rest).flatten().min()
    }

    /// Ends the waits that are over; returns what was waited for in vain.
    pub fn handle_time(&mut self, now: Instant) -> Vec<(ResourceKind, Name)> {
        let mut late = Vec::new();
        self.endpoints.expire(now, ResourceKind::Endpoints, &mut late);
        self.routes.expire(now, ResourceKind::Route, &mut late);
        self.secrets.expire(now, ResourceKind::Secret, &mut late);
        self.extensions.expire(now, ResourceKind::ExtensionConfig, &mut late);
        self.scopes_wait.expire(now, ResourceKind::ScopedRoute, &mut late);
        self.hosts.expire(now, &mut late);
        late
    }

    /// Works out what is needed and what is warm. Call after a batch of `handle_*`, before the other questions.
    pub fn refresh(&mut self, now: Instant) {
        if std::mem::take(&mut self.needs_changed) {
            self.collect(now);
        }
        if self.promote() {
            self.collect(now);
        }
    }

    /// What to ask for, by kind and channel.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// Where updates of a needed resource are counted.
    pub fn counted(&self, kind: ResourceKind, name: &Name) -> Vec<Scope> {
        self.counted.get(&(kind, name.clone())).cloned().unwrap_or_default()
    }

    /// All places where anything needed is counted, if these have changed since this was asked last.
    pub fn counted_anew(&mut self) -> Option<HashSet<&Scope>> {
        std::mem::take(&mut self.counted_anew).then(|| self.counted.values().flatten().collect())
    }

    fn collect(&mut self, now: Instant) {
        let mut all: BTreeMap<(ResourceKind, Name), Need> = BTreeMap::new();
        let mut counted: BTreeMap<(ResourceKind, Name), Vec<Scope>> = BTreeMap::new();
        let mut note = |need: &Need| {
            let scopes = counted.entry((need.kind, need.name.clone())).or_default();
            if !scopes.contains(&need.counted) {
                scopes.push(need.counted.clone());
            }
            all.entry((need.kind, need.name.clone())).or_insert_with(|| need.clone());
        };
        self.roots.iter().for_each(&mut note);
        for held in self.clusters.values().flat_map(Staged::versions) {
            held.needs.iter().for_each(&mut note);
        }
        for held in self.listeners.values().flat_map(Staged::versions) {
            held.needs.iter().for_each(&mut note);
            for need in scoped_needs(held, &self.scopes) {
                note(&need);
            }
        }
        let mut by_kind: BTreeMap<ResourceKind, Vec<&Need>> = BTreeMap::new();
        for need in all.values() {
            by_kind.entry(need.kind).or_default().push(need);
        }
        let none = Vec::new();
        let of = |kind| by_kind.get(&kind).unwrap_or(&none).iter().filter(|n| n.source != Source::Static).copied();
        self.endpoints.need(of(ResourceKind::Endpoints), now);
        self.routes.need(of(ResourceKind::Route), now);
        self.secrets.need(of(ResourceKind::Secret), now);
        self.extensions.need(of(ResourceKind::ExtensionConfig), now);
        self.scopes_wait.need(of(ResourceKind::ScopedRoute), now);
        let tables = self.routes.values();
        let hosts = self.hosts.needs(tables.values(), |table| counted_with(&counted, table));
        self.hosts.need(&hosts, now);
        for need in &hosts {
            counted.insert((need.kind, need.name.clone()), vec![need.counted.clone()]);
        }
        self.counted = counted;
        self.counted_anew = true;
        all.extend(hosts.into_iter().map(|need| ((need.kind, need.name.clone()), need)));
        self.wanted.clear();
        for need in all.values().filter(|n| n.source != Source::Static) {
            match self.wanted.iter_mut().find(|w| w.kind == need.kind && w.source == need.source) {
                Some(wanted) => drop(wanted.names.insert(need.name.clone())),
                None => self.wanted.push(Wanted {
                    kind: need.kind,
                    source: need.source.clone(),
                    names: BTreeSet::from([need.name.clone()]),
                }),
            }
        }
    }

    fn settled(&self, need: &Need) -> bool {
        match need.kind {
            ResourceKind::Secret if need.source == Source::Static => self.static_secrets.contains_key(&need.name),
            ResourceKind::Endpoints => self.endpoints.is_settled(&need.name),
            ResourceKind::Route => self.routes.is_settled(&need.name),
            ResourceKind::Secret => self.secrets.is_settled(&need.name),
            ResourceKind::ExtensionConfig => self.extensions.is_settled(&need.name),
            ResourceKind::ScopedRoute => self.scopes_wait.is_settled(&need.name),
            _ => true,
        }
    }

    /// Lets warm versions take over; whether any did.
    fn promote(&mut self) -> bool {
        let warm = |needs: &[Need]| needs.iter().all(|n| self.settled(n));
        let clusters: Vec<Name> = self
            .clusters
            .iter()
            .filter(|(_, s)| s.warming.as_ref().is_some_and(|h| warm(&h.needs)))
            .map(|(name, _)| name.clone())
            .collect();
        let listeners: Vec<Name> = self
            .listeners
            .iter()
            .filter(|_| self.listeners_open)
            .filter(|(_, s)| s.warming.as_ref().is_some_and(|h| warm(&h.needs) && warm(&scoped_needs(h, &self.scopes))))
            .map(|(name, _)| name.clone())
            .collect();
        let promoted = !clusters.is_empty() || !listeners.is_empty();
        for name in clusters {
            if let Some(staged) = self.clusters.get_mut(&name) {
                staged.active = staged.warming.take();
            }
        }
        for name in listeners {
            if let Some(staged) = self.listeners.get_mut(&name) {
                staged.active = staged.warming.take();
            }
        }
        promoted
    }

    /// The configuration in force.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut entries: ByName<Arc<ClusterEntry>> = ByName::default();
        for (name, staged) in &self.clusters {
            let Some(held) = &staged.active else { continue };
            let endpoints = self.endpoints_of(&held.value);
            let before = self.entries.get(name).filter(|e| {
                Arc::ptr_eq(&e.cluster, &held.value)
                    && match (&e.endpoints, &endpoints) {
                        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                        (a, b) => a.is_none() && b.is_none(),
                    }
            });
            let entry =
                before.cloned().unwrap_or_else(|| Arc::new(ClusterEntry { cluster: held.value.clone(), endpoints }));
            entries.insert(name.clone(), entry);
        }
        self.entries.clone_from(&entries);
        let active = |s: &Staged<Listener>| s.active.as_ref().map(|h| h.value.clone());
        let mut routes = self.routes.values();
        self.hosts.join(&mut routes);
        let mut secrets: ByName<Arc<Secret>> = self.secrets.values();
        secrets.extend(self.static_secrets.iter().map(|(n, s)| (n.clone(), s.clone())));
        Snapshot {
            generation: 0,
            revision: self.runtime.revision(),
            listeners: self.listeners.iter().filter_map(|(n, s)| Some((n.clone(), active(s)?))).collect(),
            clusters: entries,
            routes,
            scopes: self.scopes.by_key(),
            absent_hosts: Arc::new(self.hosts.absent()),
            secrets,
            extension_configs: self.extensions.values(),
            runtime: self.runtime(),
            runtime_layers: self.runtime.each(),
        }
    }

    /// Changes the admin's runtime layer.
    pub fn modify_runtime(&mut self, changes: Vec<(Name, Name)>) {
        self.runtime.modify(changes);
    }

    fn runtime(&mut self) -> Arc<Runtime> {
        self.runtime.merged()
    }

    fn endpoints_of(&self, cluster: &Cluster) -> Option<Arc<LoadAssignment>> {
        match &cluster.discovery {
            Discovery::Static(assignment) => Some(assignment.clone()),
            Discovery::Eds { service_name, .. } => self.endpoints.get(service_name).cloned(),
            Discovery::StrictDns(_)
            | Discovery::LogicalDns(_)
            | Discovery::OriginalDst(_)
            | Discovery::Aggregate(_) => None,
        }
    }
}

/// Virtual hosts are counted with the connection manager that uses their table.
fn counted_with(counted: &BTreeMap<(ResourceKind, Name), Vec<Scope>>, table: &Name) -> Scope {
    let prefix =
        counted.get(&(ResourceKind::Route, table.clone())).into_iter().flatten().find_map(|scope| match scope {
            Scope::Rds { prefix, .. } => Some(prefix.clone()),
            _ => None,
        });
    Scope::HttpFilter { prefix: prefix.unwrap_or_else(|| "".into()), filter: format!("vhds.{table}").into() }
}

/// Puts a new version in the warming place; a version equal to the one in force ends the warming of another.
fn stage<T: PartialEq>(all: &mut BTreeMap<Name, Staged<T>>, name: Name, held: Held<T>) {
    let staged = all.entry(name).or_insert_with(|| Staged { active: None, warming: None });
    if staged.active.as_ref().is_some_and(|a| a.value == held.value) {
        staged.warming = None;
    } else {
        staged.warming = Some(held);
    }
}

/// The route tables that a listener's discovered scopes name.
fn scoped_needs(held: &Held<Listener>, scopes: &Scopes) -> Vec<Need> {
    use sidemesh_config::resource::http_connection_manager::{RouteSource, ScopeSource};
    let mut needs = Vec::new();
    for hcm in cascade::connection_managers(&held.value) {
        if let RouteSource::Scoped { scopes: ScopeSource::Srds { .. }, rds: Some(rds), .. } = &hcm.routes {
            let of = |s: &Arc<ScopedRoute>| cascade::of_scoped_route(s, rds, &held.source, &hcm.stat_prefix);
            needs.extend(scopes.values().filter_map(of));
        }
    }
    needs
}

#[cfg(test)]
mod tests;
