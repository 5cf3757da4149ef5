//! One update → decoded, checked, handed to the assembler; what was refused and why becomes the NACK.
//!
//! Each resource stands on its own: an invalid one is refused by name and its last good version stays, the valid ones of
//! the same update are taken (gRFC-style partial acceptance, as Envoy does). Content that is byte for byte what is held
//! already is not decoded again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use sidemesh_config::bootstrap::StaticResource;
use sidemesh_config::resource::http_connection_manager::RouteSource;
use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::route::{ClusterChoice, ClusterChoiceLeaf, Forward, RouteAction, RouteConfig};
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::resource::{self, Resource, ResourceKind};
use sidemesh_config::value::Name;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;

use super::cascade::{self, Source};
use super::channel::Channel;
use super::filesystem;
use super::item::{Item, envelope, unwrap};
use super::manager::{Manager, StartError, clock};
use super::state::{Accepted, Rejected};
use super::stats::Outcome;
use super::stream::Response;
use crate::tls;

/// What became of an update.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) accepted: Vec<(Name, String)>,
    /// Name, and why not.
    pub(super) rejected: Vec<(String, String)>,
    /// Something was not there before.
    changed: bool,
    seen: BTreeSet<Name>,
}

impl Taken {
    /// The NACK text; `None` when all was taken.
    fn error(&self, kind: ResourceKind) -> Option<String> {
        let (first, rest) = self.rejected.split_first()?;
        let mut text = format!("Error adding/updating {} {}: {}", plural(kind), first.0, first.1);
        for (name, reason) in rest {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{name}: {reason}");
        }
        Some(text)
    }
}

impl Manager {
    /// Applies the static resources; the first error ends the start.
    pub(super) fn take_static(&mut self, mut resources: Vec<StaticResource>) -> Result<(), StartError> {
        // What others name comes first.
        resources.sort_by_key(|r| match ResourceKind::from_type_url(r.type_url) {
            Some(ResourceKind::Secret) => 0,
            Some(ResourceKind::Cluster) => 1,
            _ => 2,
        });
        for r in resources {
            let fail = |reason: String| StartError::Static { path: r.path.clone(), reason };
            let any = Any { type_url: r.type_url.to_owned(), value: r.bytes.into() };
            let kind = ResourceKind::from_type_url(r.type_url)
                .ok_or_else(|| fail(format!("unknown resource type {}", r.type_url)))?;
            let item = Item { name: r.name.to_string(), version: String::new(), any: Some(any), ttl: None };
            let taken = self.take(kind, &Source::Static, vec![item]);
            if let Some((_, reason)) = taken.rejected.into_iter().next() {
                return Err(fail(reason));
            }
        }
        Ok(())
    }

    /// Secrets of this proxy's own identity.
    pub(super) fn take_secrets(&mut self, secrets: Vec<Secret>) {
        for secret in secrets {
            self.assembler.handle_resource(Resource::Secret(secret.into()), &Source::Static);
        }
        self.dirty = true;
    }

    /// A response that came by a stream.
    pub(super) fn take_response(&mut self, channel: &mut Channel, source: &Source, response: Response) {
        match response {
            Response::StateOfTheWorld(r) => {
                let Some(kind) = self.expected(channel, &r.type_url) else { return };
                let items = r.resources.into_iter().map(|any| unwrap(any, &r.version_info)).collect();
                let error = self.take_whole(kind, source, items, &r.version_info);
                if let Some(subscription) = channel.subscription(kind) {
                    subscription.handle_response(&r.nonce, &r.version_info, error);
                }
            }
            Response::Delta(r) => {
                let Some(kind) = self.expected(channel, &r.type_url) else { return };
                let items: Vec<Item> = r.resources.into_iter().map(envelope).collect();
                let gone = |name: &Name| r.removed_resources.iter().any(|gone| **gone == **name);
                let taken = self.conflict(kind, &items, gone).unwrap_or_else(|| {
                    for name in &r.removed_resources {
                        self.take_removed(kind, source, name);
                    }
                    if kind == ResourceKind::Listener {
                        self.release_ports();
                    }
                    self.take(kind, source, items)
                });
                let error = self.conclude(kind, &taken, &r.system_version_info);
                if let Some(subscription) = channel.subscription(kind) {
                    let accepted = taken.accepted.iter().map(|(n, v)| (&**n, v.as_str()));
                    subscription.handle_delta(
                        &r.nonce,
                        accepted,
                        r.removed_resources.iter().map(String::as_str),
                        error,
                    );
                }
            }
        }
    }

    /// A file was read.
    pub(super) fn take_file(&mut self, kind: ResourceKind, source: &Source, update: filesystem::Update) {
        let items = update.resources.into_iter().map(|any| unwrap(any, &update.version)).collect();
        if let Some(error) = self.take_whole(kind, source, items, &update.version) {
            tracing::error!(%error, "a configuration file was taken in part; of what was refused the last good version stays");
        }
    }

    /// The kind of a response, if it was asked for.
    fn expected(&self, channel: &Channel, type_url: &str) -> Option<ResourceKind> {
        let kind = ResourceKind::from_type_url(type_url).filter(|kind| channel.is_subscribed(*kind));
        if kind.is_none() {
            tracing::warn!(type_url, "ignoring a response of a type that was not asked for");
        }
        kind
    }

    /// An update that holds everything of its kind (what is missing is removed, of the kinds where that is said so).
    fn take_whole(&mut self, kind: ResourceKind, source: &Source, items: Vec<Item>, version: &str) -> Option<String> {
        // Removal goes first, so that a new listener may take the address of one that goes.
        let there: BTreeSet<Name> = items.iter().map(Item::resource_name).collect();
        if let Some(refused) = self.conflict(kind, &items, |name| !there.contains(name)) {
            self.assembler.handle_settled(kind, "");
            return self.conclude(kind, &refused, version);
        }
        let mut removed = false;
        for name in self.assembler.names_from(kind, source) {
            if !there.contains(&name) {
                removed = true;
                self.take_removed(kind, source, &name);
            }
        }
        if matches!(kind, ResourceKind::Listener | ResourceKind::Cluster) {
            self.resources.borrow_mut().forget_rejected(kind, |name| !there.contains(name));
        }
        if kind == ResourceKind::Listener {
            self.release_ports();
        }
        let mut taken = self.take(kind, source, items);
        if kind == ResourceKind::ScopedRoute {
            taken.changed |= removed;
            self.assembler.handle_settled(kind, "");
        }
        self.conclude(kind, &taken, version)
    }

    /// An update that would leave two scoped routes with one key is refused whole.
    fn conflict(&self, kind: ResourceKind, items: &[Item], gone: impl Fn(&Name) -> bool) -> Option<Taken> {
        if kind != ResourceKind::ScopedRoute {
            return None;
        }
        let named = items.iter().map(|item| (item.resource_name(), item.scoped_route())).collect();
        let taken = self.assembler.scopes().admit(&named, gone).err()?;
        Some(Taken { rejected: vec![(taken.second.to_string(), taken.to_string())], ..Taken::default() })
    }

    /// Counts the update and makes its NACK text.
    fn conclude(&mut self, kind: ResourceKind, taken: &Taken, version: &str) -> Option<String> {
        self.answered.insert(kind);
        self.note_answer(kind);
        let error = taken.error(kind);
        if matches!(kind, ResourceKind::Cluster | ResourceKind::Listener | ResourceKind::ScopedRoute) {
            self.count_whole(
                kind,
                match &error {
                    None => Outcome::Accepted { version, changed: taken.changed },
                    Some(_) => Outcome::Rejected,
                },
            );
        }
        match &error {
            None => self.resources.borrow_mut().set_version(kind, version),
            Some(error) => tracing::warn!(version, "update rejected in part: {error}"),
        }
        error
    }

    pub(super) fn take(&mut self, kind: ResourceKind, source: &Source, items: Vec<Item>) -> Taken {
        let mut taken = Taken::default();
        // Content that is there already still ends a wait, which may warm what waited.
        let waiting = self.assembler.is_anything_warming();
        for item in items {
            let name = item.resource_name();
            self.renew(kind, &name, item.ttl);
            let Some(any) = item.any else {
                // Of a host that a request asked for: there is none.
                if kind == ResourceKind::VirtualHost {
                    self.take_removed(kind, source, &name);
                }
                taken.seen.insert(name);
                continue;
            };
            if !taken.seen.insert(name.clone()) {
                taken.rejected.push((name.to_string(), format!("duplicate {} in one update", singular(kind))));
                continue;
            }
            if !self.concerns_us(kind, source, &name) {
                continue;
            }
            self.dirty |= waiting;
            match self.take_one(kind, source, &name, &any, &item.version) {
                Ok(changed) => {
                    taken.changed |= changed;
                    self.count_leaf(kind, &name, Outcome::Accepted { version: &item.version, changed });
                    taken.accepted.push((name, item.version));
                }
                Err(reason) => {
                    self.assembler.handle_settled(kind, &name);
                    self.dirty = true;
                    self.count_leaf(kind, &name, Outcome::Rejected);
                    let now = SystemTime::now();
                    let details = reason.clone();
                    let rejected = Rejected { version: item.version, details, last_update_attempt: now, raw: any };
                    self.resources.borrow_mut().reject(kind, &name, rejected);
                    taken.rejected.push((name.to_string(), reason));
                }
            }
        }
        taken
    }

    /// Static resources are not changed by a server, and leaves that nobody named are not kept.
    fn concerns_us(&self, kind: ResourceKind, source: &Source, name: &Name) -> bool {
        if *source == Source::Static {
            return true;
        }
        if self.assembler.source_of(kind, name) == Some(&Source::Static) {
            tracing::warn!(%name, "ignoring an update of a {} of the bootstrap's static_resources", singular(kind));
            return false;
        }
        self.assembler.is_needed(kind, name)
    }

    /// Whether it was new.
    fn take_one(
        &mut self,
        kind: ResourceKind,
        source: &Source,
        name: &Name,
        any: &Any,
        version: &str,
    ) -> Result<bool, String> {
        let same = self.resources.borrow().is_accepted(kind, name, any);
        self.dirty |= !same;
        if same {
            self.assembler.handle_settled(kind, name);
        } else {
            let decoded = resource::decode(any);
            for hint in &decoded.hints {
                tracing::info!(%name, "{}: accepted and not acted on: {}", hint.path, hint.why);
            }
            let resource = decoded.result.map_err(|rejection| rejection.to_string())?;
            if resource.kind() != kind {
                return Err(format!("is a {}, expected a {}", singular(resource.kind()), singular(kind)));
            }
            tls::check(&resource).map_err(|rejection| rejection.to_string())?;
            self.check(&resource, source)?;
            if let Resource::ExtensionConfig(name, filter) = &resource {
                cascade::admits(self.assembler.listeners(), name, filter)?;
            }
            let known = self.assembler.source_of(kind, name).is_some();
            if kind == ResourceKind::Cluster {
                let stats = &self.stats.clusters;
                if known { &stats.cluster_modified } else { &stats.cluster_added }.inc();
            }
            match resource {
                Resource::VirtualHost(host) => self.assembler.handle_host(name, host),
                resource => self.assembler.handle_resource(resource, source),
            }
        }
        let is_static = *source == Source::Static;
        let accepted =
            Accepted { version: version.to_owned(), last_updated: SystemTime::now(), raw: any.clone(), is_static };
        self.resources.borrow_mut().accept(kind, name, accepted);
        Ok(!same)
    }

    /// What needs more than the resource itself to judge.
    fn check(&mut self, resource: &Resource, source: &Source) -> Result<(), String> {
        match resource {
            Resource::Listener(listener) => {
                let needs = cascade::of_listener(listener, source);
                self.check_needs(&needs)?;
                if self.assembler.has_other_scopes(listener, &needs) {
                    return Err(
                        "scoped_routes: scoped_rds names another source than one in use; scoped routes come from one"
                            .to_owned(),
                    );
                }
                self.check_tables(listener)?;
                self.host.reserve(listener)
            }
            Resource::Cluster(cluster) => self.check_needs(&cascade::of_cluster(cluster, source)),
            Resource::Route(table) => self.check_clusters(table),
            _ => Ok(()),
        }
    }

    fn check_needs(&self, needs: &[cascade::Need]) -> Result<(), String> {
        for need in needs {
            match &need.source {
                Source::Grpc(grpc) => {
                    let bootstrap = self.bootstrap();
                    let is_static = |name: &Name| bootstrap.static_names(type_url::CLUSTER).any(|n| n == name);
                    if let Some(service) = grpc.services.iter().find(|s| !is_static(&s.cluster)) {
                        return Err(format!(
                            "{} `{}`: api_config_source names the cluster `{}`, which is not in the bootstrap's static_resources",
                            singular(need.kind),
                            need.name,
                            service.cluster
                        ));
                    }
                }
                Source::Ads if !self.has_ads() => {
                    let what = singular(need.kind);
                    return Err(format!(
                        "{what} `{}`: config_source.ads, but the bootstrap has no dynamic_resources.ads_config",
                        need.name
                    ));
                }
                Source::Static if need.kind != ResourceKind::Secret => {
                    return Err(format!(
                        "{} `{}`: a static resource has no source of its own",
                        singular(need.kind),
                        need.name
                    ));
                }
                Source::Static if !self.late_secrets && !self.assembler.has_static_secret(&need.name) => {
                    return Err(format!(
                        "secret `{}`: no sds_config, and static_resources.secrets has no such secret",
                        need.name
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_tables(&self, listener: &Listener) -> Result<(), String> {
        for hcm in cascade::connection_managers(listener) {
            if let RouteSource::Inline(table) = &hcm.routes {
                self.check_clusters(table).map_err(|reason| format!("route_config: {reason}"))?;
            }
        }
        Ok(())
    }

    /// `validate_clusters`: every cluster named must be known.
    fn check_clusters(&self, table: &RouteConfig) -> Result<(), String> {
        if !table.validate_clusters {
            return Ok(());
        }
        let routes = table.virtual_hosts.iter().flat_map(|host| &host.routes);
        for route in routes {
            if let RouteAction::Forward(forward) = &route.action
                && let Some(missing) = named_clusters(forward).find(|name| !self.assembler.has_cluster(name))
            {
                return Err(format!("route: unknown cluster '{missing}' (validate_clusters is on)"));
            }
        }
        Ok(())
    }

    fn take_removed(&mut self, kind: ResourceKind, source: &Source, name: &str) {
        self.dirty = true;
        if self.assembler.source_of(kind, name).is_some_and(|s| s != source) {
            return;
        }
        if self.assembler.handle_removed(kind, name) {
            self.resources.borrow_mut().remove(kind, name);
            if kind == ResourceKind::Cluster {
                self.stats.clusters.cluster_removed.inc();
            }
        } else {
            self.resources.borrow_mut().forget_rejected(kind, |gone| gone == name);
        }
        self.expiries.remove(&(kind, Name::from(name)));
    }

    /// Counts an update of a resource that has a subscription of its own.
    fn count_leaf(&mut self, kind: ResourceKind, name: &Name, outcome: Outcome<'_>) {
        if !matches!(kind, ResourceKind::Cluster | ResourceKind::Listener | ResourceKind::ScopedRoute) {
            self.count(kind, name, outcome);
        }
    }

    fn renew(&mut self, kind: ResourceKind, name: &Name, ttl: Option<std::time::Duration>) {
        match ttl {
            Some(ttl) => self.expiries.insert((kind, name.clone()), clock() + ttl),
            None => self.expiries.remove(&(kind, name.clone())),
        };
    }

    /// Removes what has outlived its time to live, as if the server had: what others name stays.
    pub(super) fn expire(&mut self, now: Instant) {
        let over: Vec<_> = self.expiries.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for (kind, name) in over {
            self.expiries.remove(&(kind, name.clone()));
            let what = singular(kind);
            if self.assembler.handle_removed(kind, &name) {
                tracing::warn!(%name, "the time to live of a {what} is over: removed");
                self.resources.borrow_mut().remove(kind, &name);
                self.dirty = true;
            } else {
                tracing::warn!(%name, "the time to live of a {what} is over: it stays, as it is named by another resource");
            }
        }
    }
}

fn named_clusters(forward: &Forward) -> impl Iterator<Item = &Name> {
    let one = match &forward.cluster {
        ClusterChoice::Cluster(name) => Some(name),
        ClusterChoice::Header(_) | ClusterChoice::Weighted(_) => None,
    };
    let weighted = match &forward.cluster {
        ClusterChoice::Weighted(w) => w.clusters.as_slice(),
        _ => &[],
    };
    one.into_iter().chain(weighted.iter().filter_map(|w| match &w.cluster {
        ClusterChoiceLeaf::Cluster(name) => Some(name),
        ClusterChoiceLeaf::Header(_) => None,
    }))
}

fn singular(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Listener => "listener",
        ResourceKind::Cluster => "cluster",
        ResourceKind::Endpoints => "load assignment",
        ResourceKind::Route => "route configuration",
        ResourceKind::ScopedRoute => "scoped route",
        ResourceKind::VirtualHost => "virtual host",
        ResourceKind::Secret => "secret",
        ResourceKind::Runtime => "runtime layer",
        ResourceKind::ExtensionConfig => "extension configuration",
    }
}

/// As Envoy writes it: `listener(s)`, `cluster(s)`.
fn plural(kind: ResourceKind) -> String {
    format!("{}(s)", singular(kind))
}
