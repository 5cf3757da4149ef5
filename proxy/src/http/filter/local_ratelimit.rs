//! Local rate limits (`local_ratelimit.v3.LocalRateLimit`): token buckets, shared by all workers of the process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use http::{HeaderValue, Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::rate_limit::{LocalRateLimit as Config, TokenBucket};
use sidemesh_config::value::Name;

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
use crate::worker::{SharedState, Worker};

stats_group! {
    /// Counted per `stat_prefix` (`<stat_prefix>.http_local_rate_limit.`).
    pub struct LocalStats {
        enabled: Counter,
        enforced: Counter,
        rate_limited: Counter,
        ok: Counter,
    }
}

/// Buckets of dynamic descriptors kept per limit, unless the configuration names another bound.
const MAX_DYNAMIC: usize = 20;

/// One bucket: tokens come in lumps, as `token_bucket` says. Lock-free: one word holds the fill's number and what is taken.
pub struct Bucket {
    config: TokenBucket,
    start: Instant,
    /// Fill interval number (high half), tokens left (low half).
    state: AtomicU64,
}

impl Bucket {
    pub fn new(config: TokenBucket, start: Instant) -> Self {
        Bucket { config, start, state: AtomicU64::new(u64::from(config.max_tokens)) }
    }

    /// Takes a token.
    pub fn take(&self, now: Instant) -> bool {
        self.update(now, 1).is_some()
    }

    /// Tokens left.
    pub fn left(&self, now: Instant) -> u32 {
        self.update(now, 0).unwrap_or(0)
    }

    fn update(&self, now: Instant, take: u32) -> Option<u32> {
        let interval = self.config.fill_interval.as_nanos().max(1);
        let fill = (now.saturating_duration_since(self.start).as_nanos() / interval).min(u128::from(u32::MAX)) as u64;
        let mut result = None;
        let _ = self.state.fetch_update(Relaxed, Relaxed, |state| {
            let (last, left) = (state >> 32, state as u32);
            let added = fill.saturating_sub(last).saturating_mul(u64::from(self.config.tokens_per_fill));
            let left = (u64::from(left) + added).min(u64::from(self.config.max_tokens)) as u32;
            result = left.checked_sub(take);
            Some((fill.max(last) << 32) | u64::from(result.unwrap_or(left)))
        });
        result
    }
}

/// All buckets of one limit.
pub struct Buckets {
    default: Option<Bucket>,
    descriptors: Vec<Bucket>,
    /// Buckets of descriptors with wildcard values, by descriptor and values. Locked only where such are configured.
    dynamic: Mutex<HashMap<(usize, Vec<Name>), Arc<Bucket>>>,
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
        if config.enable_x_ratelimit_headers
            && let Some(told) = verdict.told
        {
            x.data.push((at, Data::RateLimit(Box::new(told))));
        }
        if verdict.allowed {
            limit.stats.ok.inc();
            return Flow::Continue;
        }
        limit.stats.rate_limited.inc();
        if !config.enforced.value(&x.config.runtime).hit(x.random.rotate_left(13)) {
            let edits = config.request_headers_when_not_enforced.clone();
            forward::edit_request(x, &edits);
            return Flow::Continue;
        }
        limit.stats.enforced.inc();
        Flow::Answer(limited(x, config))
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

struct Told {
    allowed: bool,
    told: Option<http::HeaderMap>,
}

impl Limit {
    /// The most specific descriptor's bucket decides; without one the default bucket.
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

    fn ask_of(&self, buckets: &Buckets, x: &Exchange, now: Instant) -> Told {
        if !self.config.descriptors.is_empty() {
            let (vh, stage) = (self.config.vh_rate_limits, self.config.stage);
            let made = descriptors(x, &self.config.rate_limits, vh, stage);
            for descriptor in &made {
                let Some(at) = self.config.descriptors.iter().position(|d| descriptor.matches(&d.entries)) else {
                    continue;
                };
                let allowed = self.take(buckets, at, descriptor, now);
                let shadow = self.config.descriptors[at].shadow;
                if !allowed && !shadow {
                    return Told { allowed: false, told: None };
                }
                if let (true, Some(bucket)) = (self.config.always_consume_default_bucket, &buckets.default)
                    && !bucket.take(now)
                {
                    return Told { allowed: false, told: None };
                }
                return Told { allowed: true, told: None };
            }
        }
        match &buckets.default {
            Some(bucket) => {
                let allowed = bucket.take(now);
                Told { allowed, told: self.config.enable_x_ratelimit_headers.then(|| tell(bucket, now)) }
            }
            None => Told { allowed: true, told: None },
        }
    }

    fn take(&self, buckets: &Buckets, at: usize, descriptor: &Descriptor, now: Instant) -> bool {
        let Some(config) = self.config.descriptors.get(at) else { return true };
        if config.entries.iter().all(|(_, value)| !value.is_empty()) {
            return buckets.descriptors.get(at).is_none_or(|b| b.take(now));
        }
        let values = descriptor.entries.iter().map(|(_, v)| v.clone()).collect();
        let mut dynamic = buckets.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = match self.config.max_dynamic_descriptors as usize {
            0 => MAX_DYNAMIC,
            bound => bound,
        };
        if dynamic.len() >= bound && !dynamic.contains_key(&(at, Vec::clone(&values))) {
            // The fullest bucket was idle the longest: forgetting it forgets the least.
            let idle = dynamic.iter().max_by_key(|(_, b)| b.left(now)).map(|(k, _)| k.clone());
            if let Some(idle) = idle {
                dynamic.remove(&idle);
            }
        }
        let bucket = dynamic.entry((at, values)).or_insert_with(|| Arc::new(Bucket::new(config.bucket, now))).clone();
        drop(dynamic);
        bucket.take(now)
    }
}

/// `x-ratelimit-*` (draft-ietf-httpapi-ratelimit-headers-03).
fn tell(bucket: &Bucket, now: Instant) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    let interval = bucket.config.fill_interval.as_nanos().max(1);
    let into = now.saturating_duration_since(bucket.start).as_nanos() % interval;
    headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(bucket.config.max_tokens));
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(bucket.left(now)));
    headers.insert(X_RATELIMIT_RESET, HeaderValue::from(((interval - into) / 1_000_000_000) as u64));
    headers
}

fn limited(x: &mut Exchange, config: &Config) -> LocalReply {
    let status = StatusCode::from_u16(config.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut reply = LocalReply::new(status, "local_rate_limited", "ratelimit.local")
        .body("local_rate_limited")
        .flags(&[ResponseFlags::RATE_LIMITED]);
    if config.rate_limited_as_resource_exhausted {
        reply = reply.grpc(8);
    }
    let mut made = http::HeaderMap::new();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_come_back_with_each_fill() {
        let start = Instant::now();
        let config = TokenBucket { max_tokens: 3, tokens_per_fill: 2, fill_interval: Duration::from_secs(1) };
        let bucket = Bucket::new(config, start);
        let taken = |at| (0..5).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 3);
        assert_eq!(taken(start + Duration::from_millis(900)), 0);
        assert_eq!(taken(start + Duration::from_secs(1)), 2);
        assert_eq!(taken(start + Duration::from_secs(10)), 3);
    }
}
