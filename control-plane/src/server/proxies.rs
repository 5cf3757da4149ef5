//! ProxyService: who is connected, what they were sent, what they said to it.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use sidemesh_proto::sidemesh::admin::v1alpha1 as api;
use sidemesh_proto::sidemesh::admin::v1alpha1::proxy_service_server::ProxyService;
use sidemesh_proto::sidemesh::admin::v1alpha1::type_status::State;
use sidemesh_proto::type_url;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::cache::Snapshot;
use crate::server::context::{Context, span, span_of, time};
use crate::server::fleet::{Answer, Mark, Proxy, TypeRecord};
use crate::server::session::Variant;
use crate::translate::TYPES;

const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The service.
pub struct Proxies {
    context: Context,
}

impl Proxies {
    pub fn new(context: Context) -> Proxies {
        Proxies { context }
    }
}

#[tonic::async_trait]
impl ProxyService for Proxies {
    async fn list_proxies(
        &self,
        request: Request<api::ListProxiesRequest>,
    ) -> Result<Response<api::ListProxiesResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let all = self.context.fleet.list();
        let chosen = all.iter().filter(|p| namespace.is_empty() || p.node.namespace == namespace);
        let proxies = chosen.map(proxy).collect();
        Ok(Response::new(api::ListProxiesResponse { proxies, revision: self.context.store.revision() }))
    }

    async fn get_proxy_config(
        &self,
        request: Request<api::GetProxyConfigRequest>,
    ) -> Result<Response<api::GetProxyConfigResponse>, Status> {
        let request = request.into_inner();
        let found = self.context.fleet.get(&request.node_id);
        let found = found.ok_or_else(|| {
            Status::not_found(format!("proxy {} is not connected and was not within the last hour", request.node_id))
        })?;
        let hypothetical = found.disconnected_at.is_some();
        let mesh = self.context.mesh();
        let snapshot = if hypothetical {
            Snapshot::next(&found.snapshot, mesh.model.revision, mesh.for_node(&found.node))
        } else {
            found.snapshot.clone()
        };
        let addresses = mesh.outbound_addresses(&found.node);
        let outbound = addresses.into_iter().map(|((name, port), at)| (format!("{name}:{port}"), at.to_string()));
        // Printing builds descriptors: not on the runtime's thread.
        let resources = tokio::task::spawn_blocking(move || config(&snapshot, &request.type_url)).await;
        let resources = resources.map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(api::GetProxyConfigResponse {
            hypothetical,
            revision: mesh.model.revision,
            resources,
            outbound: outbound.collect(),
        }))
    }

    type WatchAcksStream = Pin<Box<dyn Stream<Item = Result<api::WatchAcksResponse, Status>> + Send>>;

    async fn watch_acks(
        &self,
        request: Request<api::WatchAcksRequest>,
    ) -> Result<Response<Self::WatchAcksStream>, Status> {
        let request = request.into_inner();
        let now = self.context.store.revision();
        if request.revision > now {
            let text = format!("revision: {} is in the future, the store is at {now}", request.revision);
            return Err(Status::invalid_argument(text));
        }
        let wait = span_of("timeout", request.timeout)?.unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
        let (sender, receiver) = mpsc::channel(4);
        let context = self.context.clone();
        // Ends by itself, at the latest after `wait`.
        tokio::spawn(follow(context, request.revision, wait, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn follow(
    context: Context,
    revision: u64,
    wait: Duration,
    sender: mpsc::Sender<Result<api::WatchAcksResponse, Status>>,
) {
    let deadline = tokio::time::Instant::now() + wait;
    let mut changes = context.fleet.changes();
    let mut last: Option<api::WatchAcksResponse> = None;
    loop {
        changes.borrow_and_update();
        let mut state = acks(&context, revision);
        state.timed_out = !state.done && tokio::time::Instant::now() >= deadline;
        let over = state.done || state.timed_out;
        if last.as_ref() != Some(&state) && sender.send(Ok(state.clone())).await.is_err() {
            return;
        }
        if over {
            return;
        }
        last = Some(state);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(deadline) => {}
            () = sender.closed() => return,
        }
    }
}

/// The fleet's word on one revision, now.
fn acks(context: &Context, revision: u64) -> api::WatchAcksResponse {
    let answers = context.fleet.answers(revision, context.store.written_at(revision));
    let mut response = api::WatchAcksResponse { revision, ..Default::default() };
    let mut times: Vec<Duration> = Vec::new();
    for (node_id, answer, elapsed) in answers {
        let mut ack = api::ProxyAck { node_id, elapsed: elapsed.and_then(span), ..Default::default() };
        match answer {
            Answer::Unaffected => {
                response.unaffected += 1;
                continue;
            }
            Answer::Pending => ack.state = State::Pending.into(),
            Answer::Acked(_) => {
                response.acked += 1;
                times.extend(elapsed);
                ack.state = State::Acked.into();
            }
            Answer::Nacked { type_url, error, .. } => {
                response.nacked += 1;
                ack.state = State::Nacked.into();
                ack.type_url = type_url;
                ack.nack_error = error;
            }
        }
        response.total += 1;
        response.proxies.push(ack);
    }
    times.sort_unstable();
    response.fastest = times.first().copied().and_then(span);
    response.median = times.get(times.len() / 2).copied().and_then(span);
    response.slowest = times.last().copied().and_then(span);
    response.done = response.acked + response.nacked == response.total;
    response
}

fn proxy(from: &Proxy) -> api::Proxy {
    let order = |t: &str| TYPES.iter().position(|known| *known == t).unwrap_or(TYPES.len());
    let mut types: Vec<api::TypeStatus> = from.types.iter().map(|(t, record)| type_status(t, record)).collect();
    types.sort_by_key(|t| order(&t.type_url));
    api::Proxy {
        node_id: from.node.id.clone(),
        namespace: from.node.namespace.clone(),
        service: from.node.service.clone(),
        workload_version: from.node.version.clone(),
        user_agent: from.node.user_agent.clone(),
        peer: from.peer.clone(),
        connected: from.disconnected_at.is_none(),
        connected_at: time(from.connected_at),
        disconnected_at: from.disconnected_at.and_then(time),
        delta: from.variant == Variant::Delta,
        types,
    }
}

fn type_status(type_url: &str, record: &TypeRecord) -> api::TypeStatus {
    let state = match record {
        TypeRecord { sent: None, .. } => State::NotSent,
        TypeRecord { in_flight: true, .. } => State::Pending,
        TypeRecord { nacked: Some(_), .. } => State::Nacked,
        _ => State::Acked,
    };
    let at = |mark: Option<&Mark>| mark.and_then(|m| time(m.at));
    let revision = |mark: Option<&Mark>| mark.map_or(0, |m| m.revision);
    let version = |mark: Option<&Mark>| mark.map(|m| m.version.clone()).unwrap_or_default();
    let (sent, acked) = (record.sent.as_ref(), record.acked.as_ref());
    let nacked = record.nacked.as_ref().map(|(mark, _)| mark);
    api::TypeStatus {
        type_url: type_url.to_owned(),
        state: state.into(),
        sent_revision: revision(sent),
        sent_version: version(sent),
        sent_at: at(sent),
        acked_revision: revision(acked),
        acked_version: version(acked),
        acked_at: at(acked),
        nack_error: record.nacked.as_ref().map(|(_, error)| error.clone()).unwrap_or_default(),
        nacked_revision: revision(nacked),
        nacked_at: at(nacked),
        resource_count: u32::try_from(record.resources).unwrap_or(u32::MAX),
    }
}

fn config(snapshot: &Snapshot, only: &str) -> Result<Vec<api::ConfigResource>, Status> {
    let mut list = Vec::new();
    for type_url in TYPES.iter().filter(|t| only.is_empty() || only == **t) {
        let Some(set) = snapshot.get(type_url) else { continue };
        for (name, versioned) in &set.resources {
            let json = if *type_url == type_url::SECRET {
                // Keys are shown to nobody.
                serde_json::json!({ "@type": type_url, "name": name }).to_string()
            } else {
                let json = sidemesh_proto::json::any_to_json(&versioned.body);
                json.map_err(|e| Status::internal(format!("{name}: {e}")))?.to_string()
            };
            let version = versioned.version.to_string();
            list.push(api::ConfigResource { type_url: (*type_url).to_owned(), name: name.clone(), version, json });
        }
    }
    Ok(list)
}
