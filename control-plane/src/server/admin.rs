//! ResourceService: objects, as meshctl reads and writes them.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use serde_json::Value;
use sidemesh_proto::sidemesh::admin::v1alpha1 as api;
use sidemesh_proto::sidemesh::admin::v1alpha1::resource_service_server::ResourceService;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::model::kind::KINDS;
use crate::model::{FieldError, Key, Kind, admit, document};
use crate::server::context::{Context, Counters, Refusal, invalid, stopped};
use crate::server::objects::{self, Mode, Options, Outcome};
use crate::server::selector::Selector;
use crate::source::{Change, Commit, Stored};

/// Changes waiting for a slow watcher; when it is full the watcher waits, and may fall behind the store's own queue.
const QUEUE: usize = 64;

/// The service.
pub struct Resources {
    context: Context,
}

impl Resources {
    pub fn new(context: Context) -> Resources {
        Resources { context }
    }
}

pub fn object_ref(key: &Key) -> api::ObjectRef {
    let names = key.kind.names();
    api::ObjectRef {
        api_version: names.api_version.to_owned(),
        kind: names.name.to_owned(),
        namespace: key.name.namespace.clone(),
        name: key.name.name.clone(),
    }
}

pub fn field_error(error: &FieldError) -> api::FieldError {
    api::FieldError { path: error.path.clone(), message: error.message.clone() }
}

fn object(key: &Key, body: &Value) -> api::Object {
    let metadata = &body["metadata"];
    api::Object {
        r#ref: Some(object_ref(key)),
        json: body.to_string(),
        revision: metadata["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0),
        generation: metadata["generation"].as_i64().unwrap_or(0),
    }
}

fn parse_kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text)
        .ok_or_else(|| Status::invalid_argument(format!("kind: `{text}` is not known: use one of {}", Kind::all())))
}

fn key_of(reference: Option<api::ObjectRef>) -> Result<Key, Status> {
    let reference = reference.ok_or_else(|| Status::invalid_argument("ref: missing: name the object"))?;
    let kind = parse_kind(&reference.kind)?;
    if reference.name.is_empty() {
        return Err(Status::invalid_argument("ref.name: empty: name the object"));
    }
    if !reference.api_version.is_empty() && !kind.names().serves(&reference.api_version) {
        let wanted = kind.names().api_version;
        return Err(Status::invalid_argument(format!("ref.api_version: `{}`: use {wanted}", reference.api_version)));
    }
    Ok(Key::new(kind, &reference.namespace, &reference.name))
}

/// What a list or a watch is about.
#[derive(Clone)]
struct Scope {
    kind: Option<Kind>,
    namespace: String,
}

impl Scope {
    fn new(kind: &str, namespace: &str) -> Result<Scope, Status> {
        let kind = if kind.is_empty() { None } else { Some(parse_kind(kind)?) };
        Ok(Scope { kind, namespace: namespace.to_owned() })
    }

    fn prefix(&self) -> String {
        self.kind.map_or_else(String::new, |kind| format!("{}/", kind.names().name))
    }

    fn holds(&self, key: &Key) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && (self.namespace.is_empty() || key.name.namespace == self.namespace)
    }
}

fn actor(given: &str) -> String {
    if given.is_empty() { "unknown".to_owned() } else { given.chars().take(200).collect() }
}

#[tonic::async_trait]
impl ResourceService for Resources {
    async fn apply(&self, request: Request<api::ApplyRequest>) -> Result<Response<api::ApplyResponse>, Status> {
        let request = request.into_inner();
        let mode = match request.mode() {
            api::apply_request::Mode::Unspecified => Mode::CreateOrReplace,
            api::apply_request::Mode::Create => Mode::Create,
            api::apply_request::Mode::Replace => Mode::Replace,
        };
        let document = document::parse(&request.document, &request.default_namespace).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            invalid(None, &errors, &lines.join("\n"))
        })?;
        let options = Options { mode, dry_run: request.dry_run, actor: actor(&request.actor) };
        let applied = self.context.blocking(move |store| objects::apply(store, &document, &options)).await;
        let applied = applied.inspect_err(|_| Counters::add(&self.context.counters.writes_failed))?;
        Counters::add(&self.context.counters.writes);
        let outcome = match applied.outcome {
            Outcome::Created => api::apply_response::Outcome::Created,
            Outcome::Configured => api::apply_response::Outcome::Configured,
            Outcome::Unchanged => api::apply_response::Outcome::Unchanged,
        };
        let warnings = objects::warnings(&self.context.mesh().model, &applied.key, &applied.body);
        Ok(Response::new(api::ApplyResponse {
            object: Some(object(&applied.key, &applied.body)),
            outcome: outcome.into(),
            revision: applied.revision,
            warnings: warnings.iter().map(field_error).collect(),
        }))
    }

    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let key = key_of(request.into_inner().r#ref)?;
        let stored = self.context.store.get(&key.raw()).map_err(|e| Refusal::from(e).0)?;
        let stored = stored.ok_or_else(|| Status::not_found(format!("{key} does not exist")))?;
        Ok(Response::new(api::GetResponse { object: Some(object(&key, &stored.body)) }))
    }

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<api::ListResponse>, Status> {
        let request = request.into_inner();
        let scope = Scope::new(&request.kind, &request.namespace)?;
        let selector = Selector::parse(&request.label_selector)
            .map_err(|e| Status::invalid_argument(format!("label_selector: {e}")))?;
        let (stored, revision) = self.context.store.list(&scope.prefix()).map_err(|e| Refusal::from(e).0)?;
        let chosen = stored.iter().filter_map(|s| Some((Key::from_raw(&s.key)?, s)));
        let chosen = chosen.filter(|(key, s)| scope.holds(key) && selector.matches(&s.body["metadata"]["labels"]));
        let objects = chosen.map(|(key, s)| object(&key, &s.body)).collect();
        Ok(Response::new(api::ListResponse { objects, revision }))
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<api::DeleteResponse>, Status> {
        let request = request.into_inner();
        let key = key_of(request.r#ref)?;
        let expected = (request.expected_revision != 0).then_some(request.expected_revision);
        let (target, who, dry_run) = (key.clone(), actor(&request.actor), request.dry_run);
        let deleted =
            self.context.blocking(move |store| objects::delete(store, &target, expected, dry_run, &who)).await;
        let (before, revision) = deleted.inspect_err(|_| Counters::add(&self.context.counters.writes_failed))?;
        Counters::add(&self.context.counters.writes);
        Ok(Response::new(api::DeleteResponse { object: Some(object(&key, &before.body)), revision }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<api::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let scope = Scope::new(&request.kind, &request.namespace)?;
        let mut first = Vec::new();
        let mut from = request.from_revision;
        if from == 0 {
            let (stored, revision) = self.context.store.list(&scope.prefix()).map_err(|e| Refusal::from(e).0)?;
            first = stored;
            from = revision;
        }
        let (missed, changes) = self.context.store.watch(from).map_err(|e| Refusal::from(e).0)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let watcher = Watcher { scope, sender, sent: from };
        let mut stopping = self.context.stopping.clone();
        // Ends by itself: when the receiver goes, falls behind, or the process stops.
        tokio::spawn(async move {
            let gone = watcher.sender.clone();
            tokio::select! {
                () = watcher.run(first, missed, changes) => {}
                () = gone.closed() => {}
                () = stopped(&mut stopping) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn history(&self, request: Request<api::HistoryRequest>) -> Result<Response<api::HistoryResponse>, Status> {
        let request = request.into_inner();
        let key = key_of(request.r#ref)?;
        let mut versions = self.context.store.history(&key.raw()).map_err(|e| Refusal::from(e).0)?;
        if versions.is_empty() {
            return Err(Status::not_found(format!("{key} never existed, or its history is no longer kept")));
        }
        if request.limit != 0 {
            versions.truncate(request.limit as usize);
        }
        let entries = versions.into_iter().map(|version| {
            let body = version.body.as_ref();
            api::HistoryEntry {
                revision: version.revision,
                generation: body.and_then(|b| b["metadata"]["generation"].as_i64()).unwrap_or(0),
                at: Some(sidemesh_proto::google::Timestamp {
                    seconds: i64::try_from(version.at_unix_ms / 1000).unwrap_or(i64::MAX),
                    nanos: i32::try_from(version.at_unix_ms % 1000).unwrap_or(0) * 1_000_000,
                }),
                actor: version.actor,
                deleted: body.is_none(),
                json: body.map(|b| admit::for_history(b).to_string()).unwrap_or_default(),
            }
        });
        Ok(Response::new(api::HistoryResponse { entries: entries.collect() }))
    }

    async fn list_kinds(
        &self,
        _request: Request<api::ListKindsRequest>,
    ) -> Result<Response<api::ListKindsResponse>, Status> {
        let kinds = KINDS.iter().map(|names| api::Kind {
            api_version: names.api_version.to_owned(),
            kind: names.name.to_owned(),
            plural: names.plural.to_owned(),
            short_names: names.short.iter().map(|s| (*s).to_owned()).collect(),
            namespaced: names.namespaced,
        });
        Ok(Response::new(api::ListKindsResponse { kinds: kinds.collect() }))
    }
}

struct Watcher {
    scope: Scope,
    sender: mpsc::Sender<Result<api::WatchResponse, Status>>,
    sent: u64,
}

impl Watcher {
    async fn run(
        mut self,
        first: Vec<Stored>,
        missed: Vec<Arc<Commit>>,
        mut changes: broadcast::Receiver<Arc<Commit>>,
    ) {
        let existing = first.iter().filter_map(|s| Some((Key::from_raw(&s.key)?, s)));
        for (key, stored) in existing.filter(|(key, _)| self.scope.holds(key)).collect::<Vec<_>>() {
            let event = event(api::watch_response::Type::Added, &key, &stored.body, stored.revision);
            if self.sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        let bookmark = api::WatchResponse {
            r#type: api::watch_response::Type::Bookmark.into(),
            object: None,
            revision: self.sent,
        };
        if self.sender.send(Ok(bookmark)).await.is_err() {
            return;
        }
        for commit in missed {
            if !self.commit(&commit).await {
                return;
            }
        }
        loop {
            match changes.recv().await {
                Ok(commit) => {
                    if !self.commit(&commit).await {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    let text = format!("the watcher is {count} changes behind: list again and watch from there");
                    let _receiver_gone = self.sender.send(Err(Status::out_of_range(text))).await;
                    return;
                }
            }
        }
    }

    async fn commit(&mut self, commit: &Commit) -> bool {
        // The list and the watch may overlap.
        if commit.revision <= self.sent {
            return true;
        }
        if commit.revision > self.sent + 1 {
            let text = format!("changes after revision {} are not known: list again and watch from there", self.sent);
            let _receiver_gone = self.sender.send(Err(Status::out_of_range(text))).await;
            return false;
        }
        self.sent = commit.revision;
        for change in &commit.changes {
            let Some(key) = Key::from_raw(&change.key).filter(|key| self.scope.holds(key)) else { continue };
            let Some(event) = change_event(&key, change, commit.revision) else { continue };
            if self.sender.send(Ok(event)).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn change_event(key: &Key, change: &Change, revision: u64) -> Option<api::WatchResponse> {
    use api::watch_response::Type;
    match (&change.before, &change.now) {
        (None, Some(now)) => Some(event(Type::Added, key, now, revision)),
        (Some(_), Some(now)) => Some(event(Type::Modified, key, now, revision)),
        (Some(before), None) => Some(event(Type::Deleted, key, before, revision)),
        (None, None) => None,
    }
}

fn event(kind: api::watch_response::Type, key: &Key, body: &Value, revision: u64) -> api::WatchResponse {
    api::WatchResponse { r#type: kind.into(), object: Some(object(key, body)), revision }
}
