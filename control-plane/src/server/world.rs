//! Keeps the mesh up to date: follows the store, rebuilds what all nodes share, writes the status of routes and policies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::model::admit::timestamp;
use crate::model::backend_tls::BackendTls;
use crate::model::route::Route;
use crate::model::{Key, Kind, Model, status};
use crate::source::{Commit, Expect, Store, StoreError, Write};
use crate::translate::{Mesh, Settings};

/// Writes within this time are translated together.
const GATHER: Duration = Duration::from_millis(3);
const ACTOR: &str = "sidemesh-control-plane";

/// Reads the store's whole content. Objects that no longer pass validation (after an upgrade) are left out and named.
pub fn load(store: &Store) -> Result<(Model, Vec<String>), StoreError> {
    let (objects, revision) = store.list("")?;
    let mut model = Model { revision, ..Model::default() };
    let mut refused = Vec::new();
    for object in objects {
        refused.extend(take_in(&mut model, &object.key, Some(&object.body)));
    }
    Ok((model, refused))
}

fn take_in(model: &mut Model, raw: &str, body: Option<&Value>) -> Option<String> {
    let Some(key) = Key::from_raw(raw) else { return Some(format!("{raw}: unknown kind")) };
    let errors = model.apply(&key, body).err()?;
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Some(format!("{raw}: {}", text.join("; ")))
}

/// Follows the store until it is closed.
pub struct World {
    store: Arc<Store>,
    settings: Settings,
    model: Model,
    publish: watch::Sender<Arc<Mesh>>,
}

impl World {
    pub fn new(store: Arc<Store>, settings: Settings) -> Result<(World, watch::Receiver<Arc<Mesh>>), StoreError> {
        let (model, refused) = load(&store)?;
        for line in refused {
            tracing::error!("stored object left out: {line}");
        }
        let mesh = Arc::new(Mesh::new(Arc::new(model.clone()), settings.clone()));
        let (publish, receiver) = watch::channel(mesh);
        Ok((World { store, settings, model, publish }, receiver))
    }

    pub async fn run(mut self) {
        loop {
            let (missed, mut changes) = match self.store.watch(self.model.revision) {
                Ok(watch) => watch,
                Err(_) => match self.reload() {
                    Ok(()) => continue,
                    Err(e) => {
                        tracing::error!("{e}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            missed.iter().for_each(|commit| self.apply(commit));
            self.rebuild().await;
            if !self.follow(&mut changes).await {
                return;
            }
        }
    }

    /// False: the store is gone. True: the watch fell behind and must begin again.
    async fn follow(&mut self, changes: &mut broadcast::Receiver<Arc<Commit>>) -> bool {
        loop {
            match changes.recv().await {
                Ok(commit) => self.apply(&commit),
                Err(broadcast::error::RecvError::Lagged(_)) => return true,
                Err(broadcast::error::RecvError::Closed) => return false,
            }
            tokio::time::sleep(GATHER).await;
            loop {
                match changes.try_recv() {
                    Ok(commit) => self.apply(&commit),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => return true,
                    Err(_) => break,
                }
            }
            self.rebuild().await;
        }
    }

    fn reload(&mut self) -> Result<(), StoreError> {
        let (model, refused) = load(&self.store)?;
        refused.iter().for_each(|line| tracing::error!("stored object left out: {line}"));
        self.model = model;
        Ok(())
    }

    fn apply(&mut self, commit: &Commit) {
        if commit.revision <= self.model.revision {
            return;
        }
        if commit.revision > self.model.revision + 1 {
            // A write was not announced (see `Store::begin`): read everything.
            match self.reload() {
                Ok(()) => return,
                Err(e) => tracing::error!("{e}"),
            }
        }
        for change in &commit.changes {
            if let Some(line) = take_in(&mut self.model, &change.key, change.now.as_deref()) {
                tracing::error!("stored object left out: {line}");
            }
        }
        self.model.revision = commit.revision;
    }

    async fn rebuild(&mut self) {
        let (model, settings) = (Arc::new(self.model.clone()), self.settings.clone());
        let built = tokio::task::spawn_blocking(move || Mesh::new(model, settings)).await;
        match built {
            Ok(mesh) => drop(self.publish.send_replace(Arc::new(mesh))),
            Err(e) => tracing::error!("translation failed, proxies keep what they have: {e}"),
        }
        let (store, model) = (self.store.clone(), self.model.clone());
        let written = tokio::task::spawn_blocking(move || write_status(&store, &model)).await;
        if let Ok(Err(e)) = written {
            tracing::warn!("status of objects not written: {e}");
        }
    }
}

/// What has a status.
enum Subject<'a> {
    Route(&'a Route),
    BackendTls(&'a BackendTls),
}

/// Writes the status of every object whose status is not what it should be.
fn write_status(store: &Store, model: &Model) -> Result<(), StoreError> {
    let now = timestamp(SystemTime::now());
    let mut writes = Vec::new();
    let routes = model.routes.iter().map(|(key, route)| (key.clone(), Subject::Route(route)));
    let policies = model.backend_tls.values().map(|policy| {
        let key = Key { kind: Kind::BackendTlsPolicy, name: policy.name.clone() };
        (key, Subject::BackendTls(policy))
    });
    for (key, subject) in routes.chain(policies) {
        let Some(stored) = store.get(&key.raw())? else { continue };
        let before = stored.body.get("status");
        let status = match subject {
            Subject::Route(route) => status::of_route(model, route, before, &now),
            Subject::BackendTls(policy) => status::of_backend_tls(model, policy, before, &now),
        };
        let Some(status) = status else { continue };
        let mut body = (*stored.body).clone();
        body["status"] = status;
        writes.push(Write {
            key: key.raw(),
            body: Some(body),
            expect: Expect::Revision(stored.revision),
            history: false,
        });
    }
    if writes.is_empty() {
        return Ok(());
    }
    match store.commit(writes, ACTOR) {
        // Somebody wrote meanwhile; that write brings us here again.
        Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}
