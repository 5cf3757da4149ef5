//! RegistryService: sidecars announce their workload. A registration is a Workload object with a lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use sidemesh_proto::sidemesh::registry::v1alpha1 as api;
use sidemesh_proto::sidemesh::registry::v1alpha1::registry_service_server::RegistryService;
use tonic::{Request, Response, Status};

use crate::ca::token::{Use, random_id};
use crate::model::workload::{LEASE_ANNOTATION, WorkloadPort, WorkloadSpec};
use crate::model::{Key, Kind, Model, Name, document};
use crate::server::context::{Context, Counters, invalid, span};
use crate::server::guard::is_own_user;
use crate::server::lease::Leases;
use crate::server::objects::{self, Mode, Options};
use crate::source::{Expect, Store, StoreError, Write};

/// How often silent leases are looked for.
const SWEEP: Duration = Duration::from_millis(500);

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    context: Context,
    leases: Arc<Mutex<Leases>>,
    /// Without TLS on loopback this process's own user needs no credential.
    credential_required: bool,
}

impl Registry {
    /// Leases of earlier runs are taken up with their whole length.
    pub fn new(context: Context, ttl: Duration, credential_required: bool, model: &Model) -> Registry {
        let mut leases = Leases::new(ttl);
        let now = Instant::now();
        for workload in model.workloads.values() {
            if let Some(lease) = &workload.lease {
                leases.grant(lease.clone(), workload.name.clone(), now);
            }
        }
        Registry { context, leases: Arc::new(Mutex::new(leases)), credential_required }
    }

    pub fn live(&self) -> usize {
        self.leases().len()
    }

    /// Removes the endpoints of sidecars that went silent, until the process ends.
    pub async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let expired = self.leases().expired(Instant::now());
            for (id, workload) in expired {
                tracing::info!(workload = %workload, "silent for longer than its lease: removed");
                Counters::add(&self.context.counters.leases_expired);
                if let Err(e) = self.remove(workload.clone(), id.clone()).await {
                    tracing::warn!(workload = %workload, "not removed, tried again: {}", e.message());
                    self.leases().grant(id, workload, Instant::now());
                }
            }
        }
    }

    /// Deletes the Workload if this lease still owns it.
    async fn remove(&self, workload: Name, lease: String) -> Result<u64, Status> {
        let key = Key { kind: Kind::Workload, name: workload };
        self.context.blocking(move |store| remove(store, &key, &lease)).await
    }

    /// The caller must be who it says.
    fn authorize(&self, request: &api::RegisterRequest, namespace: &str, own_user: bool) -> Result<(), Status> {
        if request.credential.is_empty() {
            if self.credential_required || !own_user {
                return Err(Status::unauthenticated("no credential: send the renewal token of your certificate"));
            }
            return Ok(());
        }
        let tokens = self.context.ca.tokens();
        let claims = tokens.verify(Use::Renew, &request.credential, SystemTime::now()).map_err(|e| {
            Counters::add(&self.context.counters.tokens_refused);
            Status::unauthenticated(e.to_string())
        })?;
        let account = service_account(request);
        if claims.identity.namespace != namespace || claims.identity.service_account != account {
            let id = &claims.identity;
            return Err(Status::permission_denied(format!(
                "the credential is for ns/{}/sa/{}, the registration for ns/{namespace}/sa/{account}",
                id.namespace, id.service_account
            )));
        }
        Ok(())
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn register(
        &self,
        request: Request<api::RegisterRequest>,
    ) -> Result<Response<api::RegisterResponse>, Status> {
        let own_user = is_own_user(&request);
        let request = request.into_inner();
        let namespace = if request.namespace.is_empty() { "default" } else { &request.namespace }.to_owned();
        self.authorize(&request, &namespace, own_user)?;
        let lease = random_id();
        let body = workload(&request, &namespace, &lease);
        let document = document::check(body, &namespace).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            invalid(None, &errors, &lines.join("\n"))
        })?;
        let name = document.key.name.clone();
        let options =
            Options { mode: Mode::CreateOrReplace, dry_run: false, actor: format!("sidecar {}", request.node_id) };
        let applied = self.context.blocking(move |store| objects::apply(store, &document, &options)).await?;
        Counters::add(&self.context.counters.writes);
        let ttl = {
            let mut leases = self.leases();
            leases.grant(lease.clone(), name.clone(), Instant::now());
            leases.ttl()
        };
        tracing::info!(workload = %name, service = request.service, version = request.version, address = request.address, "registered");
        Ok(Response::new(api::RegisterResponse {
            lease_id: lease,
            ttl: span(ttl),
            heartbeat_interval: span(ttl / 3),
            revision: applied.revision,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<api::HeartbeatRequest>,
    ) -> Result<Response<api::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let (workload, ttl) = {
            let mut leases = self.leases();
            (leases.extend(&request.lease_id, Instant::now()), leases.ttl())
        };
        let Some(workload) = workload else {
            return Err(Status::not_found(format!("lease {} ended: register again", request.lease_id)));
        };
        let known = self.context.mesh().model.workloads.get(&workload).map(|w| w.ready);
        if known.is_some_and(|ready| ready == request.not_ready) {
            let ready = !request.not_ready;
            let key = Key { kind: Kind::Workload, name: workload };
            self.context.blocking(move |store| set_ready(store, &key, ready)).await?;
        }
        Ok(Response::new(api::HeartbeatResponse { ttl: span(ttl) }))
    }

    async fn deregister(
        &self,
        request: Request<api::DeregisterRequest>,
    ) -> Result<Response<api::DeregisterResponse>, Status> {
        let lease = request.into_inner().lease_id;
        let ended = self.leases().end(&lease);
        let revision = match ended {
            Some(workload) => {
                tracing::info!(workload = %workload, "deregistered");
                self.remove(workload, lease).await?
            }
            None => 0,
        };
        Ok(Response::new(api::DeregisterResponse { revision }))
    }
}

fn remove(store: &Store, key: &Key, lease: &str) -> Result<u64, StoreError> {
    let raw = key.raw();
    let Some(stored) = store.get(&raw)? else { return Ok(0) };
    // Somebody registered it again, or wrote it by hand: not ours any more.
    if stored.body["metadata"]["annotations"][LEASE_ANNOTATION].as_str() != Some(lease) {
        return Ok(0);
    }
    let write = Write { key: raw, body: None, expect: Expect::Revision(stored.revision), history: false };
    match store.commit(vec![write], "registry") {
        Ok(commit) => Ok(commit.revision),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(0),
        Err(e) => Err(e),
    }
}

fn set_ready(store: &Store, key: &Key, ready: bool) -> Result<(), StoreError> {
    let raw = key.raw();
    let Some(stored) = store.get(&raw)? else { return Ok(()) };
    let mut body = (*stored.body).clone();
    body["spec"]["ready"] = Value::Bool(ready);
    let write = Write { key: raw, body: Some(body), expect: Expect::Revision(stored.revision), history: false };
    match store.commit(vec![write], "registry") {
        // The next heartbeat tries again.
        Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

fn service_account(request: &api::RegisterRequest) -> &str {
    if request.service_account.is_empty() { &request.service } else { &request.service_account }
}

/// The Workload object of a registration.
fn workload(request: &api::RegisterRequest, namespace: &str, lease: &str) -> Value {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let ports = request.ports.iter().map(|p| WorkloadPort {
        port: p.port.into(),
        endpoint_port: (p.endpoint_port != 0).then(|| p.endpoint_port.into()),
        name: text(&p.name),
    });
    let spec = WorkloadSpec {
        service: request.service.clone(),
        service_account: Some(service_account(request).to_owned()),
        version: text(&request.version),
        address: request.address.clone(),
        ports: ports.collect(),
        ready: Some(!request.not_ready),
        plaintext: request.plaintext.then_some(true),
        egress: request.egress.clone(),
    };
    let mut labels: Map<String, Value> =
        request.labels.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
    labels.entry("app").or_insert_with(|| json!(request.service));
    if !request.version.is_empty() {
        labels.entry("version").or_insert_with(|| json!(request.version));
    }
    json!({
        "apiVersion": "sidemesh.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {
            "name": request.node_id,
            "namespace": namespace,
            "labels": labels,
            "annotations": { LEASE_ANNOTATION: lease },
        },
        // Strings, numbers and lists: always has a JSON form.
        "spec": serde_json::to_value(&spec).unwrap_or_default(),
    })
}
