//! HTTP filters: each in a file of its own, run in the configured order before the router and in reverse on the answer.
//!
//! Dispatch is by enum. A filter that is not configured costs nothing; one that is costs a call. A filter may answer by
//! itself, name itself in the response details, and leave [`Data`] for its response side. Only what must wait (a delay, an
//! authorization service, a body to come) is a boxed future. A route's override is the most specific one: weighted cluster,
//! route, virtual host, table.

mod buffer;
mod cluster_stats;
mod compressor;
mod cors;
mod csrf;
mod decompressor;
mod encoding;
mod ext_authz;
mod fault;
mod grpc_call;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod header_to_metadata;
mod health_check;
mod jwt_authn;
mod local_ratelimit;
mod on_demand;
mod rate_limit;
mod ratelimit_descriptor;
mod rbac;
mod set_filter_state;
mod set_metadata;
mod stateful_session;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::{Response, StatusCode};
use sidemesh_config::resource::http_filter::{self as config, FilterOverride, HttpFilterKind};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::Name;

use super::exchange::Exchange;
use super::finish::Answer;
use super::forward;
use super::guard::Patience;
use super::reply::LocalReply;
use crate::body::Body;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// A compiled chain, without its router.
#[derive(Default)]
pub struct Chain {
    entries: Vec<Entry>,
}

struct Entry {
    /// The name under which routes override it.
    name: Name,
    disabled: bool,
    filter: Source,
}

enum Source {
    Own(Rc<Filter>),
    /// ECDS: compiled when first seen, and again when it changes.
    Discovered {
        name: Name,
        default: Option<Rc<Filter>>,
        type_urls: Vec<Name>,
        current: RefCell<Option<(Arc<HttpFilterKind>, Found)>>,
        stat_prefix: Name,
    },
}

/// `Ok(None)`: the router; `Err`: no configuration that could run.
type Found = Result<Option<Rc<Filter>>, ()>;

/// One filter, compiled for a worker.
enum Filter {
    Buffer(config::buffer::Buffer),
    Compressor(compressor::Compressor),
    Decompressor(decompressor::Decompressor),
    Cors(Arc<cors::CorsStats>),
    Csrf(config::csrf::CsrfPolicy, Arc<csrf::CsrfStats>),
    ExtAuthz(ext_authz::ExtAuthz),
    Fault(fault::FaultFilter),
    GrpcStats(grpc_stats::GrpcStats),
    GrpcWeb(grpc_web::GrpcWeb),
    HeaderMutation(Arc<config::header_mutation::HeaderMutation>),
    HeaderToMetadata(Arc<config::header_to_metadata::HeaderToMetadata>),
    HealthCheck(health_check::HealthCheck),
    JwtAuthn(jwt_authn::JwtAuthn),
    LocalRateLimit(local_ratelimit::LocalRateLimit),
    RateLimit(rate_limit::RateLimit),
    Rbac(rbac::Rbac),
    SetFilterState(Arc<config::set_filter_state::SetFilterState>),
    SetMetadata(Arc<config::set_metadata::SetMetadata>),
    StatefulSession(stateful_session::StatefulSession),
    OnDemand,
}

/// What a filter leaves for its response side.
pub enum Data {
    Cors(cors::Allowed),
    Compress(Box<compressor::Offer>),
    ExtAuthz(Vec<ext_authz::Change>),
    Fault(fault::Active),
    GrpcWeb(grpc_web::Mode),
    RateLimit(Box<http::HeaderMap>),
    GrpcStats(grpc_stats::Call),
    Session(stateful_session::Told),
}

/// What a filter decides at once.
pub enum Flow {
    Continue,
    Answer(LocalReply),
    Respond(Response<Body>),
    /// It has to wait: the future decides.
    Wait,
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Flow> + 'a>>;

impl Chain {
    pub fn compile(
        filters: &[Arc<config::HttpFilter>],
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
        stat_prefix: &Name,
    ) -> Self {
        let entries = filters
            .iter()
            .filter_map(|f| {
                let filter = match &f.kind {
                    HttpFilterKind::Discovered { name, default, type_urls, .. } => Source::Discovered {
                        name: name.clone(),
                        type_urls: type_urls.clone(),
                        default: default
                            .as_ref()
                            .and_then(|d| Filter::compile(d, worker, upstream, stat_prefix))
                            .map(Rc::new),
                        current: RefCell::new(None),
                        stat_prefix: stat_prefix.clone(),
                    },
                    kind => Source::Own(Rc::new(Filter::compile(kind, worker, upstream, stat_prefix)?)),
                };
                Some(Entry { name: f.name.clone(), disabled: f.disabled, filter })
            })
            .collect();
        Chain { entries }
    }
}

impl Entry {
    /// The filter in force; `Err`: its configuration has not arrived, or is of a type that is not allowed.
    fn filter(&self, snapshot: &Snapshot, worker: &Rc<Worker>, upstream: &Rc<Upstream>) -> Found {
        let (name, default, type_urls, current, stat_prefix) = match &self.filter {
            Source::Own(filter) => return Ok(Some(filter.clone())),
            Source::Discovered { name, default, type_urls, current, stat_prefix } => {
                (name, default, type_urls, current, stat_prefix)
            }
        };
        let Some(kind) = snapshot.extension_configs.get(name) else {
            return default.clone().map(Some).ok_or(());
        };
        let mut current = current.borrow_mut();
        if let Some((have, found)) = &*current
            && Arc::ptr_eq(have, kind)
        {
            return found.clone();
        }
        let found = if kind.is_one_of(type_urls) {
            Ok(Filter::compile(kind, worker, upstream, stat_prefix).map(Rc::new))
        } else {
            tracing::warn!(filter = %name, given = kind.message(), "the configuration's type is not in type_urls");
            default.clone().map(Some).ok_or(())
        };
        *current = Some((kind.clone(), found.clone()));
        found
    }

    /// Whether the filter runs for the exchange, and under which override.
    fn applies(&self, x: &Exchange) -> Option<Option<Arc<FilterOverride>>> {
        match x.filter_override(&self.name) {
            Some(over) if matches!(**over, FilterOverride::Disabled) => None,
            Some(over) => Some(Some(over.clone())),
            None if self.disabled => None,
            None => Some(None),
        }
    }
}

impl Filter {
    /// `None`: the router.
    fn compile(
        kind: &HttpFilterKind,
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
        stat_prefix: &Name,
    ) -> Option<Self> {
        let scope = |filter: &str| Scope::HttpFilter { prefix: stat_prefix.clone(), filter: filter.into() };
        Some(match kind {
            HttpFilterKind::Router(_) | HttpFilterKind::Discovered { .. } => return None,
            HttpFilterKind::Buffer(c) => Filter::Buffer(*c),
            HttpFilterKind::Compressor(c) => {
                Filter::Compressor(compressor::Compressor::new(c.clone(), worker, stat_prefix))
            }
            HttpFilterKind::Decompressor(c) => {
                Filter::Decompressor(decompressor::Decompressor::new(c.clone(), worker, stat_prefix))
            }
            HttpFilterKind::Cors => Filter::Cors(worker.stats().shard(scope("cors"))),
            HttpFilterKind::Csrf(c) => Filter::Csrf(c.clone(), worker.stats().shard(scope("csrf"))),
            HttpFilterKind::ExtAuthz(c) => Filter::ExtAuthz(ext_authz::ExtAuthz::new(c.clone(), worker, stat_prefix)),
            HttpFilterKind::Fault(c) => Filter::Fault(fault::FaultFilter::new(c.clone(), worker, stat_prefix)),
            HttpFilterKind::GrpcStats(c) => Filter::GrpcStats(grpc_stats::GrpcStats::new(c)),
            HttpFilterKind::GrpcWeb => Filter::GrpcWeb(grpc_web::GrpcWeb::default()),
            HttpFilterKind::HeaderMutation(c) => Filter::HeaderMutation(c.clone()),
            HttpFilterKind::HeaderToMetadata(c) => Filter::HeaderToMetadata(c.clone()),
            HttpFilterKind::HealthCheck(c) => {
                Filter::HealthCheck(health_check::HealthCheck::new(c.clone(), worker, stat_prefix))
            }
            HttpFilterKind::JwtAuthn(c) => {
                Filter::JwtAuthn(jwt_authn::JwtAuthn::new(c.clone(), worker, upstream, stat_prefix))
            }
            HttpFilterKind::LocalRateLimit(c) => {
                Filter::LocalRateLimit(local_ratelimit::LocalRateLimit::new(c.clone(), worker, stat_prefix))
            }
            HttpFilterKind::RateLimit(c) => Filter::RateLimit(rate_limit::RateLimit::new(c.clone(), worker)),
            HttpFilterKind::Rbac(c) => Filter::Rbac(rbac::Rbac::new(c.clone(), worker, stat_prefix)),
            HttpFilterKind::SetFilterState(c) => Filter::SetFilterState(c.clone()),
            HttpFilterKind::SetMetadata(c) => Filter::SetMetadata(c.clone()),
            HttpFilterKind::StatefulSession(c) => {
                Filter::StatefulSession(stateful_session::StatefulSession::new(c.clone(), worker, stat_prefix))
            }
            HttpFilterKind::OnDemand => Filter::OnDemand,
        })
    }

    fn on_request(&self, at: u16, x: &mut Exchange, name: &str, over: Option<&FilterOverride>) -> Flow {
        match self {
            Filter::Buffer(c) => buffer::on_request(c, x, over),
            Filter::Compressor(c) => c.on_request(at, x, over),
            Filter::Decompressor(c) => c.on_request(x),
            Filter::Cors(stats) => cors::on_request(stats, at, x, name),
            Filter::Csrf(c, stats) => csrf::on_request(c, stats, x, over),
            Filter::ExtAuthz(c) => c.on_request(x),
            Filter::Fault(c) => c.on_request(at, x, over),
            Filter::GrpcStats(c) => c.on_request(at, x),
            Filter::GrpcWeb(c) => c.on_request(at, x),
            Filter::HeaderMutation(c) => header_mutation::on_request(c, x, name),
            Filter::HeaderToMetadata(c) => header_to_metadata::on_request(c, x, over),
            Filter::HealthCheck(c) => c.on_request(x),
            Filter::JwtAuthn(c) => c.on_request(x, over),
            Filter::LocalRateLimit(c) => c.on_request(at, x, over),
            Filter::RateLimit(_) => Flow::Wait,
            Filter::Rbac(c) => c.on_request(x, over),
            Filter::SetFilterState(c) => set_filter_state::on_request(c, x, over),
            Filter::SetMetadata(c) => set_metadata::on_request(c, x),
            Filter::StatefulSession(c) => c.on_request(at, x, over),
            Filter::OnDemand => on_demand::on_request(x),
        }
    }

    /// What [`Flow::Wait`] waits for.
    fn wait<'a>(
        &'a self,
        at: u16,
        x: &'a mut Exchange,
        name: &'a str,
        over: Option<&'a FilterOverride>,
    ) -> Waiting<'a> {
        match self {
            Filter::Buffer(c) => Box::pin(buffer::wait(c, x, over)),
            Filter::ExtAuthz(c) => Box::pin(c.wait(at, x, name)),
            Filter::Fault(c) => Box::pin(c.wait(at, x, over)),
            Filter::JwtAuthn(c) => Box::pin(c.wait(x, over)),
            Filter::RateLimit(c) => Box::pin(c.wait(at, x, over)),
            Filter::OnDemand => Box::pin(on_demand::wait(x)),
            _ => Box::pin(std::future::ready(Flow::Continue)),
        }
    }

    fn on_response(
        &self,
        at: u16,
        x: &mut Exchange,
        response: &mut Response<Body>,
        name: &str,
        over: Option<&FilterOverride>,
    ) {
        match self {
            Filter::Compressor(c) => c.on_response(at, x, response),
            Filter::Decompressor(c) => c.on_response(x, response),
            Filter::Cors(_) => cors::on_response(at, x, response),
            Filter::ExtAuthz(_) => ext_authz::on_response(at, x, response),
            Filter::Fault(..) => fault::on_response(at, x, response),
            Filter::GrpcStats(c) => c.on_response(at, x, response),
            Filter::GrpcWeb(_) => grpc_web::on_response(at, x, response),
            Filter::HeaderMutation(c) => header_mutation::on_response(c, x, response, name),
            Filter::HeaderToMetadata(c) => header_to_metadata::on_response(c, x, response, over),
            Filter::HealthCheck(c) => c.on_response(x, response),
            Filter::LocalRateLimit(_) => local_ratelimit::on_response(at, x, response),
            Filter::RateLimit(_) => rate_limit::on_response(at, x, response),
            Filter::StatefulSession(c) => c.on_response(at, x, response),
            Filter::Buffer(_)
            | Filter::Csrf(..)
            | Filter::JwtAuthn(_)
            | Filter::Rbac(_)
            | Filter::SetFilterState(_)
            | Filter::SetMetadata(_)
            | Filter::OnDemand => {}
        }
    }
}

/// Runs the request side; an answer ends it.
pub async fn run_request(chain: &Rc<Chain>, x: &mut Exchange) -> Option<Answer> {
    let (worker, upstream) = (x.manager.worker.clone(), x.manager.upstream.clone());
    let config = x.config.clone();
    for (at, entry) in (0u16..).zip(&chain.entries) {
        let Some(over) = entry.applies(x) else { continue };
        let filter = match entry.filter(&config, &worker, &upstream) {
            Ok(Some(filter)) => filter,
            Ok(None) => continue,
            Err(()) => {
                let missing = LocalReply::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "filter_config_not_found",
                    "filter.config_missing",
                );
                return Some(Answer::Local(missing.flags(&[ResponseFlags::NO_FILTER_CONFIG_FOUND])));
            }
        };
        let flow = match filter.on_request(at, x, &entry.name, over.as_deref()) {
            Flow::Wait => {
                let mut patience = Patience::new(x);
                let mut waiting = filter.wait(at, x, &entry.name, over.as_deref());
                let waited = poll_fn(|cx| match waiting.as_mut().poll(cx) {
                    Poll::Ready(flow) => Poll::Ready(Ok(flow)),
                    Poll::Pending => patience.poll(cx).map(Err),
                });
                let waited = waited.await;
                drop(waiting);
                if let (Ok(Flow::Answer(_)), Some(upload)) = (&waited, &x.upload) {
                    // Meanwhile the request may have come to its end.
                    poll_fn(|cx| {
                        upload.poll_arrived(cx);
                        Poll::Ready(())
                    })
                    .await;
                }
                match waited {
                    Ok(flow) => flow,
                    Err(limit) => Flow::Answer(forward::out_of_time(x, limit)),
                }
            }
            flow => flow,
        };
        match flow {
            Flow::Continue | Flow::Wait => {}
            Flow::Answer(reply) => return Some(Answer::Local(reply)),
            Flow::Respond(response) => return Some(Answer::Own(response)),
        }
    }
    None
}

/// Runs the response side.
pub fn run_response(x: &mut Exchange, response: &mut Response<Body>) {
    let chain = match &x.chain {
        Some(chain) if !chain.entries.is_empty() => chain.clone(),
        _ => return,
    };
    let (worker, upstream) = (x.manager.worker.clone(), x.manager.upstream.clone());
    let config = x.config.clone();
    for (at, entry) in chain.entries.iter().enumerate().rev() {
        let at = at as u16;
        let Some(over) = entry.applies(x) else { continue };
        if let Ok(Some(filter)) = entry.filter(&config, &worker, &upstream) {
            filter.on_response(at, x, response, &entry.name, over.as_deref());
        }
    }
}

pub use grpc_web::whole_if_foreign;
pub use header_mutation::{mutate as mutate_request, remove as remove_by};

/// Takes what the filter at `at` left.
fn take(x: &mut Exchange, at: u16) -> Option<Data> {
    let found = x.data.iter().position(|(i, _)| *i == at)?;
    Some(x.data.swap_remove(found).1)
}
