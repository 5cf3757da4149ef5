//! One channel that resources come by (the aggregated stream, a stream for one type, a file) with its subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::Name;
use sidemesh_proto::envoy::config::core::v3::Node;
use sidemesh_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use sidemesh_proto::rpc::Status;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;

use super::cascade::Source;
use super::subscription::{Request, Subscription, Variant};

/// gRPC code INTERNAL, as Envoy answers a refused update.
const NACK_CODE: i32 = 13;

/// A request as the stream sends it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outgoing {
    StateOfTheWorld(Box<DiscoveryRequest>),
    Delta(Box<DeltaDiscoveryRequest>),
}

pub(super) struct Channel {
    pub(super) id: u64,
    pub(super) source: Source,
    /// The one type that comes by it; `None` for the aggregated stream.
    pub(super) kind: Option<ResourceKind>,
    variant: Variant,
    subscriptions: BTreeMap<ResourceKind, Subscription>,
    /// The open stream's sending end. Unbounded, but the manager sends one request per response and per change of names.
    requests: Option<UnboundedSender<Outgoing>>,
    node_on_first_only: bool,
    node_sent: bool,
    /// Whether the stream has answered since it was opened.
    pub(super) connected: bool,
    pub(super) _task: AbortOnDropHandle<()>,
}

impl Channel {
    pub(super) fn new(id: u64, source: Source, kind: Option<ResourceKind>, task: AbortOnDropHandle<()>) -> Self {
        let (delta, node_on_first_only) = match &source {
            Source::Grpc(grpc) => (grpc.delta, grpc.set_node_on_first_message_only),
            _ => (false, false),
        };
        Channel {
            id,
            source,
            kind,
            variant: if delta { Variant::Delta } else { Variant::StateOfTheWorld },
            subscriptions: BTreeMap::new(),
            requests: None,
            node_on_first_only,
            node_sent: false,
            connected: false,
            _task: task,
        }
    }

    /// The aggregated stream speaks as its `ads_config` says.
    pub(super) fn speaking(mut self, delta: bool, node_on_first_only: bool) -> Self {
        self.variant = if delta { Variant::Delta } else { Variant::StateOfTheWorld };
        self.node_on_first_only = node_on_first_only;
        self
    }

    pub(super) fn subscription(&mut self, kind: ResourceKind) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(&kind)
    }

    pub(super) fn is_subscribed(&self, kind: ResourceKind) -> bool {
        self.subscriptions.contains_key(&kind)
    }

    /// Asks for `names` of `kind` from now on; `wildcard` for everything. Returns what was not asked for before.
    pub(super) fn want(&mut self, kind: ResourceKind, names: BTreeSet<Name>, wildcard: bool) -> Vec<Name> {
        let fresh = wildcard && !self.is_subscribed(kind);
        let variant = self.variant;
        let subscription = self.subscriptions.entry(kind).or_insert_with(|| Subscription::new(variant, wildcard));
        if fresh { subscription.asked() } else { subscription.set_names(names) }
    }

    /// What is asked for.
    pub(super) fn asked(&self) -> Vec<(ResourceKind, Vec<Name>)> {
        self.subscriptions.iter().map(|(kind, subscription)| (*kind, subscription.asked())).collect()
    }

    /// Gives up the names of every kind that is not in `kinds`.
    pub(super) fn only(&mut self, kinds: &BTreeSet<ResourceKind>) {
        for (kind, subscription) in &mut self.subscriptions {
            if !kinds.contains(kind) {
                let _ = subscription.set_names(BTreeSet::new());
            }
        }
    }

    /// A new stream is open.
    pub(super) fn handle_opened(&mut self, requests: UnboundedSender<Outgoing>) {
        self.requests = Some(requests);
        self.node_sent = false;
        self.connected = false;
        self.subscriptions.values_mut().for_each(Subscription::handle_new_stream);
    }

    /// The stream is gone.
    pub(super) fn handle_closed(&mut self) {
        self.requests = None;
        self.connected = false;
    }

    /// Sends what is to be sent, kind by kind in the order of `ResourceKind`.
    pub(super) fn flush(&mut self, node: &Node) {
        let Some(requests) = self.requests.clone() else { return };
        let order: Vec<ResourceKind> = super::ORDER.into_iter().filter(|k| self.is_subscribed(*k)).collect();
        for kind in order {
            while let Some(request) = self.subscriptions.get_mut(&kind).and_then(Subscription::next_request) {
                let node = (!self.node_sent || !self.node_on_first_only).then(|| node.clone());
                self.node_sent = true;
                if requests.send(encode(kind, request, node)).is_err() {
                    return;
                }
            }
        }
    }
}

fn encode(kind: ResourceKind, request: Request, node: Option<Node>) -> Outgoing {
    let type_url = kind.type_url().to_owned();
    let detail = |error: Option<String>| error.map(|message| Status { code: NACK_CODE, message, details: Vec::new() });
    match request {
        Request::StateOfTheWorld { names, version, nonce, error } => {
            Outgoing::StateOfTheWorld(Box::new(DiscoveryRequest {
                version_info: version,
                node,
                resource_names: names,
                type_url,
                response_nonce: nonce,
                error_detail: detail(error),
                ..DiscoveryRequest::default()
            }))
        }
        Request::Delta { subscribe, unsubscribe, initial_versions, nonce, error } => {
            Outgoing::Delta(Box::new(DeltaDiscoveryRequest {
                node,
                type_url,
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: initial_versions.into_iter().collect(),
                response_nonce: nonce,
                error_detail: detail(error),
                ..DeltaDiscoveryRequest::default()
            }))
        }
    }
}
