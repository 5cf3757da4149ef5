//! The one owner of the configuration's state: takes events, asks for what is needed, publishes, answers.
//!
//! The order of an update: apply every message that is there, refresh what is warm, publish one snapshot, and only then
//! answer. Start: static resources; then clusters and all they need; then listeners (Envoy's order).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidemesh_config::bootstrap::{Bootstrap, StaticResource};
use sidemesh_config::resource::ResourceKind;
use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::secret::Secret;
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::{ConfigSource, GrpcSource, Name};
use sidemesh_proto::envoy::config::core::v3::Node;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::assemble::Assembler;
use super::cascade::Source;
use super::channel::Channel;
use super::saved::{Restored, Saved};
use super::state::Resources;
use super::stats::{Outcome, Stats};
use super::stream::{self, Connect, Event};
use super::{filesystem, runtime};
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::stats::Registry;

/// Messages that wait for the manager at most; a stream that is ahead of it stops reading.
const QUEUED_EVENTS: usize = 64;
/// Virtual hosts that requests ask for; more are dropped, and asked for again by the next request.
const QUEUED_DEMANDS: usize = 1024;
/// Messages applied before a snapshot is published.
const BATCH: usize = 64;

/// What the manager asks of the rest of the process.
pub trait Host {
    /// Takes the ports that `listener` wants, without accepting yet. The error goes into the NACK.
    fn reserve(&mut self, listener: &Arc<Listener>) -> Result<(), String>;
    /// Gives up the ports that none of these listeners wants.
    fn retain(&mut self, listeners: &[Arc<Listener>]);
    /// Puts a snapshot in force.
    fn publish(&mut self, snapshot: Snapshot);
    /// Completes when these clusters have had their first DNS answer and health round.
    fn clusters_ready(&self, names: Vec<Name>) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// What the manager is made of.
pub struct Setup {
    pub bootstrap: Arc<Bootstrap>,
    pub statics: Vec<StaticResource>,
    /// As sent to management servers.
    pub node: Node,
    pub connect: Rc<Connect>,
    pub stats: Arc<Registry>,
    pub shutdown: Shutdown,
    pub resources: Rc<RefCell<Resources>>,
    /// Static secrets may arrive later (this proxy's own identity), so that naming an unknown one is no error.
    pub late_secrets: bool,
    /// The configuration of an earlier run, and where this one's is kept.
    pub saved: Option<Saved>,
}

/// Why the static resources cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path}: {reason}")]
    Static { path: String, reason: String },
}

/// What comes from outside the manager's channels.
pub(super) enum Input {
    Channel(u64, Event),
    File(u64, Result<filesystem::Update, String>),
    Secrets(Vec<Secret>),
    /// A request asks for the virtual host `<table>/<host>`.
    Demand(Name),
    /// Keys of the admin's runtime layer, and their values.
    Runtime(Vec<(Name, Name)>),
    ClustersReady,
}

/// How far the start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Waiting for the first answer to CDS, until the deadline.
    Clusters(Option<Instant>),
    /// Waiting for the upstream side to warm the clusters up.
    Warming,
    /// Waiting for the first answer to LDS.
    Listeners(Option<Instant>),
    Done,
}

/// See the module.
pub struct Manager {
    pub(super) assembler: Assembler,
    pub(super) host: Box<dyn Host>,
    pub(super) resources: Rc<RefCell<Resources>>,
    pub(super) stats: Stats,
    pub(super) late_secrets: bool,
    /// Resources with a time to live.
    pub(super) expiries: BTreeMap<(ResourceKind, Name), Instant>,
    /// Kinds of which a first answer has come.
    pub(super) answered: BTreeSet<ResourceKind>,
    pub(super) dirty: bool,
    pub(super) saved: Option<Saved>,
    pub(super) channels: Vec<Channel>,
    bootstrap: Arc<Bootstrap>,
    node: Node,
    connect: Rc<Connect>,
    shutdown: Shutdown,
    start: Start,
    next_channel: u64,
    events: mpsc::Sender<(u64, Event)>,
    received: mpsc::Receiver<(u64, Event)>,
    inputs: mpsc::Sender<Input>,
    other: mpsc::Receiver<Input>,
    demands: mpsc::Sender<Name>,
    demanded: mpsc::Receiver<Name>,
}

impl Manager {
    /// Applies the bootstrap's static resources.
    pub fn new(setup: Setup, host: Box<dyn Host>, now: Instant) -> Result<Self, StartError> {
        let (events, received) = mpsc::channel(QUEUED_EVENTS);
        let (inputs, other) = mpsc::channel(QUEUED_EVENTS);
        let (demands, demanded) = mpsc::channel(QUEUED_DEMANDS);
        let (layers, roots) = runtime::layers(&setup.bootstrap);
        let mut manager = Manager {
            assembler: Assembler::new(layers, roots),
            host,
            resources: setup.resources,
            stats: Stats::new(setup.stats),
            late_secrets: setup.late_secrets,
            expiries: BTreeMap::new(),
            answered: BTreeSet::new(),
            dirty: true,
            saved: setup.saved,
            channels: Vec::new(),
            bootstrap: setup.bootstrap.clone(),
            node: setup.node,
            connect: setup.connect,
            shutdown: setup.shutdown,
            start: Start::Clusters(deadline(setup.bootstrap.dynamic.clusters.as_ref(), now)),
            next_channel: 0,
            events,
            received,
            inputs,
            other,
            demands,
            demanded,
        };
        let roots = manager.roots();
        if let Some(saved) = &mut manager.saved {
            saved.unanswered = roots.into_iter().map(|(kind, _)| kind).collect();
        }
        manager.take_static(setup.statics)?;
        Ok(manager)
    }

    /// The handle by which this proxy's own identity comes in.
    pub fn secrets(&self) -> impl Fn(Vec<Secret>) + 'static + use<> {
        let inputs = self.inputs.clone();
        move |secrets| {
            if inputs.try_send(Input::Secrets(secrets)).is_err() {
                tracing::error!("the configuration manager does not keep up: new identity certificates were dropped");
            }
        }
    }

    /// Where requests ask for virtual hosts.
    pub fn demands(&self) -> mpsc::Sender<Name> {
        self.demands.clone()
    }

    /// The handle by which the admin interface changes its runtime layer; `false`: too many changes wait.
    pub fn runtime_changes(&self) -> impl Fn(Vec<(Name, Name)>) -> bool + 'static + use<> {
        let inputs = self.inputs.clone();
        move |changes| inputs.try_send(Input::Runtime(changes)).is_ok()
    }

    /// Runs until the process ends.
    pub async fn run(mut self) {
        self.settle(clock());
        loop {
            let input = self.next_input().await;
            let now = clock();
            if let Some(input) = input {
                self.handle(input);
                self.drain_ready();
            }
            self.handle_time(now);
            self.settle(now);
        }
    }

    async fn next_input(&mut self) -> Option<Input> {
        let wake = self.next_deadline();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((id, event)) = self.received.recv() => Some(Input::Channel(id, event)),
            Some(input) = self.other.recv() => Some(input),
            Some(name) = self.demanded.recv() => Some(Input::Demand(name)),
            () = sleep => None,
        }
    }

    /// Applies what else has come already, up to a bound.
    fn drain_ready(&mut self) {
        for _ in 0..BATCH {
            match self.received.try_recv() {
                Ok((id, event)) => self.handle(Input::Channel(id, event)),
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Channel(id, event) => self.handle_event(id, event),
            Input::File(id, update) => self.handle_file(id, update),
            Input::Secrets(secrets) => self.take_secrets(secrets),
            Input::Demand(name) => self.assembler.handle_demand(&name),
            Input::Runtime(changes) => {
                self.assembler.modify_runtime(changes);
                self.dirty = true;
            }
            Input::ClustersReady => {
                if self.start == Start::Warming {
                    self.open_listeners(clock());
                }
            }
        }
    }

    fn handle_event(&mut self, id: u64, event: Event) {
        let Some(at) = self.channels.iter().position(|c| c.id == id) else { return };
        match event {
            Event::Opened(requests) => self.channels[at].handle_opened(requests),
            Event::Connected => {
                self.channels[at].connected = true;
                self.stats.control_plane.connected_state.set(1);
            }
            Event::Response(response) => {
                let source = self.channels[at].source.clone();
                let mut channel = self.channels.swap_remove(at);
                self.take_response(&mut channel, &source, response);
                self.channels.push(channel);
            }
            Event::Closed => {
                self.channels[at].handle_closed();
                let asked = self.channels[at].asked();
                self.count_failed(asked);
                let connected = self.channels.iter().any(|c| c.connected);
                self.stats.control_plane.connected_state.set(i64::from(connected));
                let lost = self.channels[at].source.clone();
                if self.roots().iter().any(|(_, config)| Source::of(config, &Source::Ads) == lost) {
                    self.fall_back(clock());
                }
            }
        }
    }

    fn handle_file(&mut self, id: u64, update: Result<filesystem::Update, String>) {
        let Some(channel) = self.channels.iter().find(|c| c.id == id) else { return };
        let source = channel.source.clone();
        let (Some(kind), asked) = (channel.kind, channel.asked()) else { return };
        match update {
            Ok(update) => self.take_file(kind, &source, update),
            Err(reason) => {
                tracing::error!(%reason, "a configuration file cannot be used; the last good one stays");
                self.count_failed(asked);
            }
        }
    }

    fn handle_time(&mut self, now: Instant) {
        for (kind, name) in self.assembler.handle_time(now) {
            tracing::warn!(kind = kind.type_url(), %name, "did not arrive within initial_fetch_timeout; going on without it");
            self.count(kind, &name, Outcome::TimedOut);
            self.dirty = true;
        }
        self.expire(now);
        self.save(now);
        let late = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.start {
            Start::Clusters(at) if late(at) && !self.answered.contains(&ResourceKind::Cluster) => {
                tracing::warn!("no answer to CDS within initial_fetch_timeout; going on without it");
                self.count_whole(ResourceKind::Cluster, Outcome::TimedOut);
                self.fall_back(now);
                self.answered.insert(ResourceKind::Cluster);
            }
            Start::Listeners(at) if late(at) && !self.answered.contains(&ResourceKind::Listener) => {
                tracing::warn!("no answer to LDS within initial_fetch_timeout; going on without it");
                self.count_whole(ResourceKind::Listener, Outcome::TimedOut);
                self.fall_back(now);
                self.answered.insert(ResourceKind::Listener);
            }
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let start = match self.start {
            Start::Clusters(at) if !self.answered.contains(&ResourceKind::Cluster) => at,
            Start::Listeners(at) if !self.answered.contains(&ResourceKind::Listener) => at,
            _ => None,
        };
        let save = self.saved.as_ref().and_then(Saved::next_deadline);
        [save, self.assembler.next_deadline(), self.expiries.values().min().copied(), start].into_iter().flatten().min()
    }

    /// Brings everything up to date with what was applied, and answers.
    fn settle(&mut self, now: Instant) {
        self.assembler.refresh(now);
        self.progress();
        if let Some(needed) = self.assembler.counted_anew() {
            self.stats.keep(&needed);
        }
        self.subscribe();
        if std::mem::take(&mut self.dirty) {
            self.publish();
            self.note_change(now);
        }
        for channel in &mut self.channels {
            channel.flush(&self.node);
        }
    }

    /// Moves the start on when a stage is complete.
    fn progress(&mut self) {
        let dynamic = &self.bootstrap.dynamic;
        if let Start::Clusters(_) = self.start
            && (dynamic.clusters.is_none() || self.answered.contains(&ResourceKind::Cluster))
            && self.assembler.warming(ResourceKind::Cluster) == 0
        {
            self.shutdown.advance(Phase::Initializing);
            self.start = Start::Warming;
            self.dirty = false;
            self.publish();
            let ready = self.host.clusters_ready(self.assembler.active_clusters());
            let inputs = self.inputs.clone();
            tokio::task::spawn_local(async move {
                ready.await;
                // The manager lives as long as the process.
                let _ = inputs.send(Input::ClustersReady).await;
            });
        }
        if let Start::Listeners(_) = self.start
            && (self.bootstrap.dynamic.listeners.is_none() || self.answered.contains(&ResourceKind::Listener))
            && self.assembler.warming(ResourceKind::Listener) == 0
        {
            self.start = Start::Done;
            self.dirty = false;
            self.publish();
            self.shutdown.advance(Phase::Live);
            tracing::info!("initialized: all listeners of the first configuration are warm");
        }
        if self.start != Start::Done && self.shutdown.phase() == Phase::PreInitializing && !self.roots().is_empty() {
            self.shutdown.advance(Phase::Initializing);
        }
    }

    fn open_listeners(&mut self, now: Instant) {
        self.start = Start::Listeners(deadline(self.bootstrap.dynamic.listeners.as_ref(), now));
        self.assembler.open_listeners();
        self.assembler.refresh(now);
        self.dirty = true;
    }

    /// Opens and closes channels and tells them what is wanted.
    fn subscribe(&mut self) {
        let mut asked: Vec<(u64, ResourceKind)> = Vec::new();
        let listeners_open = matches!(self.start, Start::Listeners(_) | Start::Done);
        for (kind, config) in self.roots().into_iter().filter(|(k, _)| listeners_open || *k != ResourceKind::Listener) {
            let at = self.channel(kind, &Source::of(&config, &Source::Ads));
            let fresh = self.channels[at].want(kind, BTreeSet::new(), true);
            asked.push((self.channels[at].id, kind));
            self.count_asked(at, kind, &fresh);
        }
        for wanted in self.assembler.wanted().to_vec() {
            let at = self.channel(wanted.kind, &wanted.source);
            let wildcard = wanted.kind == ResourceKind::ScopedRoute;
            let names = if wildcard { BTreeSet::new() } else { wanted.names };
            let fresh = self.channels[at].want(wanted.kind, names, wildcard);
            asked.push((self.channels[at].id, wanted.kind));
            self.count_asked(at, wanted.kind, &fresh);
        }
        self.channels.retain_mut(|channel| {
            let kinds: BTreeSet<ResourceKind> =
                asked.iter().filter(|(id, _)| *id == channel.id).map(|(_, kind)| *kind).collect();
            channel.only(&kinds);
            channel.kind.is_none() || !kinds.is_empty()
        });
    }

    /// What is asked for whole, and where: clusters and listeners.
    pub(super) fn roots(&self) -> Vec<(ResourceKind, ConfigSource)> {
        let dynamic = &self.bootstrap.dynamic;
        let roots = [(ResourceKind::Cluster, &dynamic.clusters), (ResourceKind::Listener, &dynamic.listeners)];
        roots.into_iter().filter_map(|(kind, config)| Some((kind, config.clone()?))).collect()
    }

    /// Opens the streams anew, so that the servers hear of what is held.
    pub(super) fn ask_anew(&mut self, held: Vec<Restored>) {
        self.channels.retain(|c| matches!(c.source, Source::Path { .. }));
        self.subscribe();
        for Restored { kind, source, versions } in held.into_iter().filter(|h| !h.versions.is_empty()) {
            let at = self.channel(kind, &source);
            if kind == ResourceKind::Listener {
                let _ = self.channels[at].want(kind, BTreeSet::new(), true);
            }
            self.channels[at].subscription(kind).into_iter().for_each(|s| s.hold(versions.clone()));
        }
    }

    /// The channel for `kind` from `source`, opened if need be.
    fn channel(&mut self, kind: ResourceKind, source: &Source) -> usize {
        let own_kind = if *source == Source::Ads { None } else { Some(kind) };
        if let Some(at) = self.channels.iter().position(|c| c.source == *source && c.kind == own_kind) {
            return at;
        }
        self.next_channel += 1;
        let id = self.next_channel;
        let channel = |task| Channel::new(id, source.clone(), own_kind, AbortOnDropHandle::new(task));
        let ads = self.bootstrap.dynamic.ads.clone();
        let channel = match (source, ads) {
            (Source::Path { path, watched_directory }, _) => {
                let watch = filesystem::watch(path.clone(), watched_directory.clone(), self.inputs.clone(), id);
                channel(tokio::task::spawn_local(watch))
            }
            (Source::Grpc(grpc), _) => channel(self.spawn_stream(grpc.clone(), own_kind, id)),
            (Source::Ads, Some(grpc)) => channel(self.spawn_stream(grpc.clone(), None, id))
                .speaking(grpc.delta, grpc.set_node_on_first_message_only),
            // The start-up check and the check of each resource keep such a source out; it would never answer.
            (Source::Ads | Source::Static, _) => channel(tokio::task::spawn_local(std::future::pending())),
        };
        self.channels.push(channel);
        self.channels.len() - 1
    }

    fn spawn_stream(&self, grpc: Arc<GrpcSource>, kind: Option<ResourceKind>, id: u64) -> tokio::task::JoinHandle<()> {
        tokio::task::spawn_local(stream::run(self.connect.clone(), grpc, kind, self.events.clone(), id))
    }

    fn publish(&mut self) {
        let snapshot = self.assembler.snapshot();
        {
            let mut resources = self.resources.borrow_mut();
            for kind in [ResourceKind::Cluster, ResourceKind::Listener] {
                resources.set_warming(kind, |name| self.assembler.is_warming(kind, name));
            }
            for kind in
                [ResourceKind::Endpoints, ResourceKind::Route, ResourceKind::Secret, ResourceKind::ExtensionConfig]
            {
                resources.retain(kind, |name| self.assembler.is_needed(kind, name));
            }
        }
        self.stats.clusters.active_clusters.set(snapshot.clusters.len() as i64);
        self.stats.clusters.warming_clusters.set(self.assembler.warming(ResourceKind::Cluster) as i64);
        self.stats.listeners.total_listeners_warming.set(self.assembler.warming(ResourceKind::Listener) as i64);
        self.host.publish(snapshot);
        self.release_ports();
    }

    /// Gives up the ports of listeners that are gone.
    pub(super) fn release_ports(&mut self) {
        let wanted: Vec<_> = self.assembler.listeners().cloned().collect();
        self.host.retain(&wanted);
    }

    pub(super) fn has_ads(&self) -> bool {
        self.bootstrap.dynamic.ads.is_some()
    }

    pub(super) fn bootstrap(&self) -> &Arc<Bootstrap> {
        &self.bootstrap
    }
}

/// The time, as tokio sees it (paused in tests).
pub(super) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn deadline(config: Option<&ConfigSource>, now: Instant) -> Option<Instant> {
    config.map(|c| c.initial_fetch_timeout).filter(|t| *t != Duration::ZERO).map(|t| now + t)
}
