//! Local rate limits (`local_ratelimit.v3.LocalRateLimit`): token buckets, shared by all workers of the process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rate_limit::LocalRateLimit as Config;
use sidemesh_config::value::Name;
use smallvec::SmallVec;

use super::ratelimit_descriptor::{Descriptor, descriptors};
use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::connection::ConnectionInfo;
use crate::http::names::*;
use crate::http::reply::LocalReply;
use crate::http::{forward, headers};
use crate::stats_group;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Scope;
use crate::token_bucket::Bucket;
use crate::worker::{SharedState, Worker};

stats_group! {
    /// Counted per `stat_prefix` (`<stat_prefix>.http_local_rate_limit.`).
    pub struct LocalStats {
        enabled: Counter,
        enforced: Counter,
        rate_limited: Counter,
        ok: Counter,
        shadow_mode: Counter,
    }
}

/// Buckets of dynamic descriptors kept per descriptor, those asked last, unless the configuration names another bound.
const MAX_DYNAMIC: usize = 20;

/// All buckets of one limit.
pub struct Buckets {
    default: Option<Bucket>,
    descriptors: Vec<Bucket>,
    /// Buckets of descriptors with wildcard values, by descriptor and values. Locked only where such are configured.
    dynamic: Mutex<Dynamic>,
}

/// The buckets of each descriptor by its values, with the time each was asked last, as a count.
#[derive(Default)]
struct Dynamic {
    asked: u64,
    buckets: HashMap<usize, HashMap<Vec<Name>, (Arc<Bucket>, u64)>>,
}

impl Buckets {
    fn new(config: &Config) -> Self {
        let start = tokio::time::Instant::now().into_std();
        Buckets {
            default: config.bucket.map(|b| Bucket::new(b, start)),
            descriptors: config.descriptors.iter().map(|d| Bucket::new(d.bucket, start)).collect(),
            dynamic: Mutex::default(),
        }
    }
}

/// One limit in force, on this worker.
struct Limit {
    config: Arc<Config>,
    buckets: SharedState<Buckets>,
    /// `local_rate_limit_per_downstream_connection`: a set of buckets for each connection that asked.
    connections: RefCell<HashMap<u64, (Weak<ConnectionInfo>, Rc<Buckets>)>>,
    stats: Arc<LocalStats>,
}

/// Connections remembered before those that are gone are forgotten.
const KEPT_CONNECTIONS: usize = 1024;

pub struct LocalRateLimit {
    own: Rc<Limit>,
    worker: Rc<Worker>,
    /// Routes' limits, by the address of their configuration, which the entry keeps.
    routes: RefCell<HashMap<usize, Rc<Limit>>>,
}

impl LocalRateLimit {
    pub fn new(config: Arc<Config>, worker: &Rc<Worker>, _stat_prefix: &Name) -> Self {
        LocalRateLimit { own: Rc::new(limit(config, worker)), worker: worker.clone(), routes: RefCell::default() }
    }

    fn in_force(&self, over: Option<&FilterOverride>) -> Rc<Limit> {
        let Some(FilterOverride::LocalRateLimit(config)) = over else { return self.own.clone() };
        let key = Arc::as_ptr(config).addr();
        let mut routes = self.routes.borrow_mut();
        if let Some(limit) = routes.get(&key) {
            return limit.clone();
        }
        // Configurations that are gone from the tables are held by their entry alone.
        routes.retain(|_, limit| Arc::strong_count(&limit.config) > 2);
        let made = Rc::new(limit(config.clone(), &self.worker));
        routes.insert(key, made.clone());
        made
    }

    pub fn on_request(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let limit = self.in_force(over);
        let config = &limit.config;
        if config.bucket.is_none() && config.descriptors.is_empty() {
            return Flow::Continue;
        }
        if !config.enabled.value(&x.config.runtime).hit(x.random) {
            return Flow::Continue;
        }
        limit.stats.enabled.inc();
        let now = x.now();
        let verdict = limit.ask(x, now);
        if let Some(headers) = verdict.headers {
            x.data.push((at, Data::RateLimit(Box::new(headers))));
        }
        if verdict.allowed {
            limit.stats.ok.inc();
            return Flow::Continue;
        }
        if verdict.shadow {
            limit.stats.shadow_mode.inc();
            return Flow::Continue;
        }
        limit.stats.rate_limited.inc();
        if !config.enforced.value(&x.config.runtime).hit(x.random.rotate_left(13)) {
            let edits = config.request_headers_when_not_enforced.clone();
            forward::edit_request(x, &edits);
            return Flow::Continue;
        }
        limit.stats.enforced.inc();
        Flow::Answer(limited(x, config, verdict.next))
    }
}

fn limit(config: Arc<Config>, worker: &Rc<Worker>) -> Limit {
    let buckets = worker.shared.state_of(&config, || Buckets::new(&config));
    let prefix = format!("{}.http_local_rate_limit", config.stat_prefix);
    Limit {
        stats: worker.stats().shard(Scope::Filter(prefix.into())),
        buckets,
        connections: RefCell::default(),
        config,
    }
}

/// What the buckets say.
struct Told {
    allowed: bool,
    /// The bucket that decided is only being tried.
    shadow: bool,
    /// `x-ratelimit-*` of the bucket that decided.
    headers: Option<HeaderMap>,
    /// When that bucket has a token again.
    next: Duration,
}

impl Limit {
    /// The buckets of the process, or of the connection.
    fn ask(&self, x: &Exchange, now: Instant) -> Told {
        if self.config.per_connection {
            let buckets = self.of_connection(&x.info.connection);
            return self.ask_of(&buckets, x, now);
        }
        self.ask_of(&self.buckets, x, now)
    }

    fn of_connection(&self, connection: &Rc<ConnectionInfo>) -> Rc<Buckets> {
        let mut all = self.connections.borrow_mut();
        if all.len() >= KEPT_CONNECTIONS && !all.contains_key(&connection.id) {
            all.retain(|_, (connection, _)| connection.strong_count() > 0);
        }
        let make = || (Rc::downgrade(connection), Rc::new(Buckets::new(&self.config)));
        all.entry(connection.id).or_insert_with(make).1.clone()
    }

    /// Every descriptor that matches takes a token from its bucket, the slowest first; then the default bucket, if it is
    /// always consumed or nothing matched.
    fn ask_of(&self, buckets: &Buckets, x: &Exchange, now: Instant) -> Told {
        let config = &*self.config;
        let mut matched: SmallVec<[(usize, Held<'_>); 4]> = SmallVec::new();
        if !config.descriptors.is_empty() {
            for descriptor in &descriptors(x, &config.rate_limits, config.vh_rate_limits, config.stage) {
                let found = config.descriptors.iter().position(|d| descriptor.matches(&d.entries));
                matched.extend(found.and_then(|at| Some((at, self.bucket(buckets, at, descriptor, now)?))));
            }
            matched.sort_by_key(|(_, bucket)| std::cmp::Reverse(bucket.pace()));
        }
        for (at, bucket) in &matched {
            if !bucket.take(now) {
                let shadow = config.descriptors[*at].shadow;
                return Told { allowed: false, shadow, headers: self.tell(bucket, now), next: bucket.next(now) };
            }
        }
        let of_descriptor = matched.first().map(|(_, bucket)| &**bucket);
        let default = buckets.default.as_ref().filter(|_| matched.is_empty() || config.always_consume_default_bucket);
        let allowed = default.is_none_or(|bucket| bucket.take(now));
        let decisive = if allowed { of_descriptor.or(default) } else { default };
        let next = decisive.map_or(Duration::ZERO, |bucket| bucket.next(now));
        Told { allowed, shadow: false, headers: decisive.and_then(|bucket| self.tell(bucket, now)), next }
    }

    /// The bucket of a descriptor: its own, or that of its values where the configuration leaves some open.
    fn bucket<'a>(&self, buckets: &'a Buckets, at: usize, descriptor: &Descriptor, now: Instant) -> Option<Held<'a>> {
        let config = self.config.descriptors.get(at)?;
        if config.entries.iter().all(|(_, value)| !value.is_empty()) {
            return buckets.descriptors.get(at).map(Held::Fixed);
        }
        let values: Vec<Name> = descriptor.entries.iter().map(|(_, v)| v.clone()).collect();
        let mut dynamic = buckets.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = match self.config.max_dynamic_descriptors as usize {
            0 => MAX_DYNAMIC,
            bound => bound,
        };
        dynamic.asked += 1;
        let asked = dynamic.asked;
        let of_descriptor = dynamic.buckets.entry(at).or_default();
        if of_descriptor.len() >= bound && !of_descriptor.contains_key(&values) {
            let idle = of_descriptor.iter().min_by_key(|(_, (_, asked))| *asked).map(|(values, _)| values.clone());
            idle.and_then(|idle| of_descriptor.remove(&idle));
        }
        let held = of_descriptor.entry(values).or_insert_with(|| (Arc::new(Bucket::new(config.bucket, now)), asked));
        held.1 = asked;
        Some(Held::Dynamic(held.0.clone()))
    }

    /// `x-ratelimit-*` (draft-ietf-httpapi-ratelimit-headers-03), where they are wanted.
    fn tell(&self, bucket: &Bucket, now: Instant) -> Option<HeaderMap> {
        if !self.config.enable_x_ratelimit_headers {
            return None;
        }
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(bucket.max_tokens()));
        headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(bucket.left(now)));
        headers.insert(X_RATELIMIT_RESET, HeaderValue::from(bucket.next(now).as_secs_f64().ceil() as u64));
        Some(headers)
    }
}

/// A bucket of the configuration, or one made for values that came.
enum Held<'a> {
    Fixed(&'a Bucket),
    Dynamic(Arc<Bucket>),
}

impl std::ops::Deref for Held<'_> {
    type Target = Bucket;
    fn deref(&self) -> &Bucket {
        match self {
            Held::Fixed(bucket) => bucket,
            Held::Dynamic(bucket) => bucket,
        }
    }
}

fn limited(x: &mut Exchange, config: &Config, next: Duration) -> LocalReply {
    let status = StatusCode::from_u16(config.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut reply = LocalReply::new(status, "local_rate_limited", "ratelimit.local")
        .body("local_rate_limited")
        .flags(&[ResponseFlags::RATE_LIMITED]);
    if config.rate_limited_as_resource_exhausted {
        reply = reply.grpc(8);
    }
    let mut made = HeaderMap::new();
    if config.enable_retry_after && config.status == 429 {
        let seconds = (next.as_secs_f64().ceil() as u64).max(1);
        made.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let mut changes = headers::Changes::new();
    headers::evaluate(&config.response_headers.add, &made, &x.log_context(), &mut changes);
    headers::apply(changes, &mut made);
    reply.headers = Some(Box::new(made));
    reply
}

pub fn on_response(at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    if let Some(Data::RateLimit(told)) = super::take(x, at) {
        for (name, value) in told.iter() {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}
