//! External authorization (`ext_authz.v3.ExtAuthz`): a gRPC or HTTP service decides about the request.

mod check;
mod over_http;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};
use sidemesh_config::resource::core::HeaderTarget;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::ext_authz::{
    AuthzService, ExtAuthz as Config, ExtAuthzOverride, RequestBody,
};
use sidemesh_config::value::{Name, name};

use super::cluster_stats::{ByCluster, charge_cluster};
use super::{Data, Exchange, Flow, buffer};
use crate::body::Body;
use crate::http::headers::{Changes, Evaluated};
use crate::http::names::X_ENVOY_AUTH_FAILURE_MODE_ALLOWED;
use crate::http::reply::LocalReply;
use crate::http::{forward, handler, query};
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

/// Under which name the service's metadata is kept.
const METADATA: &str = "envoy.filters.http.ext_authz";
/// When the service has no timeout of its own.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

stats_group! {
    /// `http.<stat_prefix>.ext_authz.[<stat_prefix>.]`
    pub struct VerdictStats {
        ok: Counter,
        denied: Counter,
        error: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        invalid: Counter,
        ignored_dynamic_metadata: Counter,
        filter_state_name_collision: Counter,
    }
}

stats_group! {
    /// `cluster.<route's cluster>.ext_authz.[<stat_prefix>.]`
    pub struct ClusterStats {
        ok: Counter,
        denied: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
        invalid: Counter,
    }
}

/// What the service said.
#[derive(Default)]
pub struct Verdict {
    pub allowed: bool,
    /// The service could not decide, and says how to answer then.
    pub error: bool,
    /// Of a denial; zero: what the filter says.
    pub status: u16,
    pub body: String,
    /// To the upstream, of an allowed request.
    pub upstream: Vec<Change>,
    pub remove: Vec<HeaderName>,
    /// To the client: of the answer or of the denial.
    pub client: Vec<Change>,
    pub query_set: Vec<(String, String)>,
    pub query_remove: Vec<String>,
    pub metadata: Option<Map<String, Value>>,
    /// The service named a header that cannot be one.
    pub invalid: bool,
}

/// A header that the service sets.
pub struct Change {
    pub target: HeaderTarget,
    pub value: HeaderValue,
    pub how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Set,
    Add,
    /// Joined to the value that is there; nothing without one.
    Join,
    IfAbsent,
    IfPresent,
}

impl Change {
    pub fn header(name: HeaderName, value: HeaderValue, how: How) -> Self {
        Change { target: HeaderTarget::Header(name), value, how }
    }

    /// Applies it to headers; of pseudo-headers there are none here.
    fn apply(&self, headers: &mut HeaderMap) {
        let HeaderTarget::Header(name) = &self.target else { return };
        let present = headers.get(name);
        match (self.how, present) {
            (How::Join, Some(have)) => {
                let joined = [have.as_bytes(), b",", self.value.as_bytes()].concat();
                if let Ok(value) = HeaderValue::from_bytes(&joined) {
                    headers.insert(name.clone(), value);
                }
            }
            (How::Join | How::IfPresent, None) | (How::IfAbsent, Some(_)) => {}
            (How::Add, _) => {
                headers.append(name.clone(), self.value.clone());
            }
            (How::Set | How::IfAbsent | How::IfPresent, _) => {
                headers.insert(name.clone(), self.value.clone());
            }
        }
    }
}

pub struct ExtAuthz {
    config: Arc<Config>,
    stats: Arc<VerdictStats>,
    by_cluster: ByCluster<ClusterStats>,
}

impl ExtAuthz {
    pub fn new(config: Arc<Config>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let part = match config.stat_prefix.trim_end_matches('.') {
            "" => name("ext_authz"),
            own => name(&format!("ext_authz.{own}")),
        };
        let scope = Scope::HttpFilter { prefix: stat_prefix.clone(), filter: part.clone() };
        ExtAuthz { stats: worker.stats().shard(scope), by_cluster: ByCluster::new(part, worker), config }
    }

    pub fn on_request(&self, x: &mut Exchange) -> Flow {
        let config = &*self.config;
        let drawn = config.enabled.as_ref().is_none_or(|e| e.value(&x.config.runtime).hit(x.random.rotate_left(21)));
        let enabled = drawn && config.enabled_metadata.as_ref().is_none_or(|m| m.matches(Some(&x.info.metadata)));
        if enabled {
            return Flow::Wait;
        }
        self.stats.disabled.inc();
        let flag = config.deny_at_disable.as_ref();
        let deny = flag.is_some_and(|f| f.key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(f.default));
        if deny { Flow::Answer(failure(config)) } else { Flow::Continue }
    }

    pub async fn wait(&self, at: u16, x: &mut Exchange, filter: &str) -> Flow {
        let config = &*self.config;
        let over = overrides(x, filter);
        let wanted = match over.disable_request_body_buffering {
            true => None,
            false => over.with_request_body.as_ref().or(config.with_request_body.as_ref()),
        };
        if let Some(wanted) = wanted
            && let Err(reply) = take_body(x, wanted).await
        {
            return Flow::Answer(reply);
        }
        let asked = match over.service.as_ref().unwrap_or(&config.service) {
            AuthzService::Grpc(service) => {
                check::ask(config, x, service, &over, wanted, service.timeout.unwrap_or(DEFAULT_TIMEOUT)).await
            }
            AuthzService::Http(service) => over_http::ask(config, x, service, wanted).await,
        };
        match asked {
            Ok(verdict) if verdict.invalid && config.validate_mutations => {
                self.stats.invalid.inc();
                self.by_cluster.count(x, |s| s.invalid.inc());
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let reply = LocalReply::new(status, "ext_authz_invalid", "authz.invalid_mutation");
                Flow::Answer(reply.flags(&[ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE]))
            }
            Ok(verdict) if verdict.allowed => self.allow(at, x, verdict),
            Ok(verdict) if verdict.error => self.failed(x, Some(verdict)),
            Ok(verdict) => {
                self.stats.denied.inc();
                self.by_cluster.count(x, |s| s.denied.inc());
                if config.charge_cluster_response_stats {
                    charge_cluster(x, verdict.status);
                }
                Flow::Answer(self.denial(x, verdict))
            }
            Err(error) => {
                tracing::debug!(%error, "the authorization service gave no verdict");
                self.failed(x, None)
            }
        }
    }

    fn allow(&self, at: u16, x: &mut Exchange, verdict: Verdict) -> Flow {
        self.stats.ok.inc();
        self.by_cluster.count(x, |s| s.ok.inc());
        let changed = !verdict.upstream.is_empty() || !verdict.remove.is_empty();
        for name in &verdict.remove {
            // The framing and the authority are not the service's to take away.
            if *name != HOST {
                x.parts.headers.remove(name);
            }
        }
        for change in verdict.upstream {
            match change.target {
                HeaderTarget::Header(_) => change.apply(&mut x.parts.headers),
                target => {
                    let change = Evaluated { target, value: change.value, overwrite: true };
                    forward::apply(x, Changes::from_iter([change]));
                }
            }
        }
        if !verdict.query_set.is_empty() || !verdict.query_remove.is_empty() {
            query::edit(x, |query| {
                verdict.query_remove.iter().for_each(|name| query.remove(name));
                verdict.query_set.into_iter().for_each(|(name, value)| query.set(&name, value));
            });
        }
        self.ingest(x, verdict.metadata);
        if self.config.clear_route_cache && changed {
            handler::select_route(x);
        }
        if !verdict.client.is_empty() {
            x.data.push((at, Data::ExtAuthz(verdict.client)));
        }
        Flow::Continue
    }

    /// Makes the service's metadata the request's.
    fn ingest(&self, x: &mut Exchange, metadata: Option<Map<String, Value>>) {
        match metadata {
            Some(metadata) if self.config.ingests_metadata => x.info.metadata.merge(METADATA, metadata),
            Some(_) => self.stats.ignored_dynamic_metadata.inc(),
            None => {}
        }
    }

    fn denial(&self, x: &mut Exchange, verdict: Verdict) -> LocalReply {
        self.ingest(x, verdict.metadata);
        let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::FORBIDDEN);
        let mut body = verdict.body;
        if self.config.max_denied_body > 0 && body.len() > self.config.max_denied_body {
            body.truncate(body.floor_char_boundary(self.config.max_denied_body));
        }
        let (details, code) =
            if verdict.error { ("ext_authz_error", "authz.unavailable") } else { ("ext_authz_denied", "authz.denied") };
        let mut reply =
            LocalReply::new(status, details, code).body(body).flags(&[ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE]);
        for change in &verdict.client {
            change.apply(reply.headers.get_or_insert_default());
        }
        reply
    }

    /// The service gave no verdict; it may have said how to answer then.
    fn failed(&self, x: &mut Exchange, said: Option<Verdict>) -> Flow {
        self.stats.error.inc();
        self.by_cluster.count(x, |s| s.error.inc());
        if !self.config.failure_mode_allow {
            return Flow::Answer(match said {
                Some(mut verdict) => {
                    if verdict.status == 0 {
                        verdict.status = self.config.status_on_error;
                    }
                    self.denial(x, verdict)
                }
                None => failure(&self.config),
            });
        }
        self.stats.failure_mode_allowed.inc();
        self.by_cluster.count(x, |s| s.failure_mode_allowed.inc());
        if self.config.failure_mode_allow_header_add {
            x.parts.headers.insert(X_ENVOY_AUTH_FAILURE_MODE_ALLOWED, HeaderValue::from_static("true"));
        }
        Flow::Continue
    }
}

/// What the levels say: context extensions of all, everything else of the most specific.
fn overrides(x: &Exchange, filter: &str) -> ExtAuthzOverride {
    let levels = x.filter_overrides(filter);
    let mut levels = levels.iter().filter_map(|o| if let FilterOverride::ExtAuthz(o) = &***o { Some(o) } else { None });
    let mut all = levels.next().cloned().unwrap_or_default();
    for level in levels {
        for (key, value) in &level.context_extensions {
            if !all.context_extensions.iter().any(|(have, _)| have == key) {
                all.context_extensions.push((key.clone(), value.clone()));
            }
        }
    }
    all
}

/// Waits for as much of the body as the service shall see.
async fn take_body(x: &Exchange, wanted: &RequestBody) -> Result<(), LocalReply> {
    let Some(upload) = x.upload.clone() else { return Ok(()) };
    if x.upgrade.is_some() {
        return Ok(());
    }
    upload.keep(wanted.max_request_bytes as usize);
    match poll_fn(|cx| upload.poll_fill(cx)).await {
        Err(crate::body::Error::TooLarge(_)) if !wanted.allow_partial_message => {
            x.manager.stats.downstream_rq_too_large.inc();
            Err(buffer::too_large(x))
        }
        _ => Ok(()),
    }
}

/// What the service sees of the body, and whether that is not all of it; `None`: it sees none.
fn seen_body(x: &Exchange, wanted: Option<&RequestBody>) -> Option<(bytes::Bytes, bool)> {
    let (wanted, upload) = (wanted?, x.upload.as_ref()?);
    let bytes = upload.kept(wanted.max_request_bytes as usize);
    let partial = upload.ended().is_none() || upload.kept_bytes() > bytes.len();
    Some((bytes, partial))
}

fn failure(config: &Config) -> LocalReply {
    let status = StatusCode::from_u16(config.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
    LocalReply::new(status, "ext_authz_error", "authz.unavailable")
        .flags(&[ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE])
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    if let Some(Data::ExtAuthz(changes)) = super::take(x, at) {
        changes.iter().for_each(|change| change.apply(response.headers_mut()));
    }
}
