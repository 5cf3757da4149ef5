//! The providers' key sets: given by the configuration, or fetched over HTTP and kept for a while, for all workers.
//!
//! A request that needs keys which are not there fetches them in its own task; others of the same worker wait for that fetch
//! and take its outcome, so that one is under way at most. With `async_fetch` one worker fetches ahead and refreshes before the
//! keys run out.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, HOST, HeaderValue};
use sidemesh_config::resource::http_connection_manager::HttpService;
use sidemesh_config::resource::http_filter::jwt_authn::{Jwks, JwtProvider};
use sidemesh_config::resource::route::Priority;
use sidemesh_config::value::DataSource;
use tokio::sync::Mutex;

use super::JwtStats;
use super::error::JwtError;
use super::jwks::KeySet;
use super::token::Token;
use crate::body::Body;
use crate::codec::{Protocol, Scheme, SendOptions};
use crate::http::filter::grpc_call::head;
use crate::upstream::{AttemptInfo, AttemptOptions, PickContext, Upstream};
use crate::worker::{SharedState, Worker};

/// The longest key set that is read.
pub const MAX_JWKS_BYTES: usize = 1 << 20;
/// Tokens longer than this are not cached.
pub const MAX_CACHED_TOKEN_BYTES: usize = 4096;
/// How long before keys run out they are fetched again.
const REFETCH_BEFORE: Duration = Duration::from_secs(5);

/// A provider's keys, as far as they are known.
pub enum Keys {
    Here(Arc<KeySet>),
    /// They must be fetched first.
    Away,
    Failed(JwtError),
}

/// What all workers know of a provider's keys.
struct Known {
    keys: Result<Arc<KeySet>, JwtError>,
    /// `None`: for ever.
    until: Option<Instant>,
}

struct Slot {
    known: SharedState<ArcSwapOption<Known>>,
    /// Held while this worker fetches.
    fetching: Mutex<()>,
    /// Fetches that this worker has ended.
    fetched: Cell<u64>,
    tokens: RefCell<TokenCache>,
}

/// The oldest leave first.
#[derive(Default)]
struct TokenCache {
    tokens: HashMap<Box<str>, (Rc<Token>, Arc<KeySet>)>,
    order: VecDeque<Box<str>>,
}

pub struct KeyStore {
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
    providers: Vec<Arc<JwtProvider>>,
    slots: Vec<Slot>,
    stats: Arc<JwtStats>,
}

impl KeyStore {
    pub fn new(
        providers: &[Arc<JwtProvider>],
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
        stats: Arc<JwtStats>,
    ) -> Rc<Self> {
        let slot = |provider: &Arc<JwtProvider>| Slot {
            known: worker.shared.state_of(provider, || ArcSwapOption::new(local(provider).map(Arc::new))),
            fetching: Mutex::new(()),
            fetched: Cell::new(0),
            tokens: RefCell::default(),
        };
        let store = Rc::new(KeyStore {
            worker: worker.clone(),
            upstream: upstream.clone(),
            providers: providers.to_vec(),
            slots: providers.iter().map(slot).collect(),
            stats,
        });
        // One worker fetches ahead for all.
        if worker.index == 0 {
            for at in (0..providers.len()).filter(|at| refreshes(&providers[*at])) {
                tokio::task::spawn_local(keep_fresh(Rc::downgrade(&store), at));
            }
        }
        store
    }

    pub fn providers(&self) -> &[Arc<JwtProvider>] {
        &self.providers
    }

    pub fn get(&self, at: usize) -> Keys {
        let now = self.worker.local.clock.coarse();
        match &*self.slots[at].known.load() {
            Some(known) if known.until.is_none_or(|until| now < until) => match &known.keys {
                Ok(keys) => Keys::Here(keys.clone()),
                Err(error) => Keys::Failed(*error),
            },
            _ => Keys::Away,
        }
    }

    /// A token that was verified before, and the keys that did it.
    pub fn cached(&self, at: usize, token: &str) -> Option<(Rc<Token>, Arc<KeySet>)> {
        self.providers[at].cache_size?;
        self.slots[at].tokens.borrow().tokens.get(token).cloned()
    }

    /// Counts a token for which there are keys.
    pub fn count(&self, cached: bool) {
        match cached {
            true => self.stats.jwt_cache_hit.inc(),
            false => self.stats.jwt_cache_miss.inc(),
        }
    }

    pub fn remember(&self, at: usize, text: &str, token: &Rc<Token>, keys: &Arc<KeySet>) {
        let Some(size) = self.providers[at].cache_size else { return };
        if text.len() > MAX_CACHED_TOKEN_BYTES {
            return;
        }
        let mut cache = self.slots[at].tokens.borrow_mut();
        if cache.tokens.insert(text.into(), (token.clone(), keys.clone())).is_none() {
            cache.order.push_back(text.into());
        }
        while cache.order.len() > size as usize {
            if let Some(oldest) = cache.order.pop_front() {
                cache.tokens.remove(&oldest);
            }
        }
    }

    /// Fetches the keys of a remote provider, or waits for who does; `false`: they could not be had.
    pub async fn fetch(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let before = slot.fetched.get();
        let _fetching = slot.fetching.lock().await;
        if slot.fetched.get() != before || !matches!(self.get(at), Keys::Away) {
            return matches!(self.get(at), Keys::Here(_));
        }
        self.fetch_now(at).await
    }

    /// The caller holds `fetching`. Dropped with its request, it leaves the next one to fetch.
    async fn fetch_now(&self, at: usize) -> bool {
        let Jwks::Remote { service, cache_duration, async_fetch, retry, .. } = &self.providers[at].jwks else {
            return false;
        };
        let local = &self.worker.local;
        let mut tries = retry.map_or(0, |r| r.retries);
        let mut wait = retry.map_or(Duration::ZERO, |r| r.backoff.base);
        let fetched = loop {
            match self.request(service).await {
                Err(_) if tries > 0 => {
                    tries -= 1;
                    // Full jitter: many proxies lose their issuer at once.
                    local.timers.after(wait.mul_f64(local.random.fraction())).await;
                    wait = (wait * 2).min(retry.map_or(wait, |r| r.backoff.max));
                }
                outcome => break outcome,
            }
        };
        let slot = &self.slots[at];
        slot.fetched.set(slot.fetched.get() + 1);
        match fetched {
            Ok(keys) => {
                self.stats.jwks_fetch_success.inc();
                // Keys that are fetched ahead hold until the next ones come.
                let until = if *async_fetch { None } else { local.clock.now().checked_add(*cache_duration) };
                slot.known.store(Some(Arc::new(Known { keys: Ok(Arc::new(keys)), until })));
                true
            }
            Err(reason) => {
                self.stats.jwks_fetch_failed.inc();
                tracing::warn!(uri = %service.uri, cluster = %service.cluster, %reason, "JWKS not fetched");
                false
            }
        }
    }

    async fn request(&self, service: &HttpService) -> Result<KeySet, String> {
        let timers = &self.worker.local.timers;
        let answer = timers.timeout(service.timeout, self.exchange(service)).await;
        let bytes = answer.map_err(|_| format!("no answer within {:?}", service.timeout))??;
        KeySet::parse(&bytes).map_err(|error| error.to_string())
    }

    async fn exchange(&self, service: &HttpService) -> Result<Bytes, String> {
        let (scheme, rest) = match service.uri.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some((_, rest)) => (Scheme::Http, rest),
            None => (Scheme::Http, &*service.uri),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let mut asked = head(Method::GET, path).map_err(|e| e.to_string())?;
        asked.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
        asked.headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let config = self.worker.config();
        let cluster = self.upstream.cluster(&config, &service.cluster).ok_or("the cluster does not exist")?;
        let host = cluster.pick(&PickContext::default()).map_err(|e| e.to_string())?;
        let options = AttemptOptions {
            priority: Priority::Default,
            send: SendOptions { informational: None, upgrade: None, scheme },
            downstream: None,
            protocol: Some(Protocol::Http11),
            connection: None,
        };
        let info = AttemptInfo::default();
        let response = cluster.request(&host, &asked, Body::empty(), options, &info).await.map_err(|e| {
            cluster.charge_own(503, None);
            e.to_string()
        })?;
        let status = response.status().as_u16();
        cluster.charge_own(status, None);
        let body = response.into_body().collect(MAX_JWKS_BYTES).await;
        if status != 200 {
            return Err(format!("status {status}"));
        }
        body.map_err(|e| e.to_string())
    }
}

fn refreshes(provider: &JwtProvider) -> bool {
    matches!(provider.jwks, Jwks::Remote { async_fetch: true, .. })
}

/// The keys that the configuration itself gives; `None`: they are remote.
fn local(provider: &JwtProvider) -> Option<Known> {
    let Jwks::Local(source) = &provider.jwks else { return None };
    let bytes = match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::EnvironmentVariable(name) => {
            std::env::var(&**name).map(String::into_bytes).map_err(|e| e.to_string())
        }
        DataSource::File { path, .. } => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())),
    };
    let keys = bytes.and_then(|b| KeySet::parse(&b).map_err(|e| e.to_string())).map(Arc::new).map_err(|reason| {
        tracing::warn!(provider = %provider.name, %reason, "local_jwks gives no keys: every token of the provider is refused");
        JwtError::NoKeys
    });
    Some(Known { keys, until: None })
}

/// Fetches ahead until the filter is gone.
async fn keep_fresh(store: std::rc::Weak<KeyStore>, at: usize) {
    loop {
        let Some(held) = store.upgrade() else { return };
        let Jwks::Remote { cache_duration, failed_refetch, .. } = held.providers[at].jwks.clone() else { return };
        let ok = {
            let _fetching = held.slots[at].fetching.lock().await;
            held.fetch_now(at).await
        };
        let ahead = cache_duration.checked_sub(REFETCH_BEFORE).filter(|d| !d.is_zero()).unwrap_or(cache_duration);
        let pause = if ok { ahead } else { failed_refetch };
        let sleep = held.worker.local.timers.after(pause.max(Duration::from_millis(1)));
        drop(held);
        sleep.await;
    }
}
