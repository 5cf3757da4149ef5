//! The providers' key sets: given, or fetched over HTTP and kept for a while.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Method;
use http::header::{HOST, HeaderValue};
use sidemesh_config::resource::http_connection_manager::HttpService;
use sidemesh_config::resource::http_filter::jwt_authn::{Jwks, JwtProvider};

use super::{JwtError, KeySet, Keys};
use crate::body::Body;
use crate::http::exchange::Exchange;
use crate::http::filter::grpc_call::{cluster, head, send};

/// Per provider, in the configuration's order.
pub struct KeyStore {
    slots: RefCell<Vec<Slot>>,
}

#[derive(Clone, Default)]
enum Slot {
    #[default]
    Empty,
    Kept {
        keys: Result<Rc<KeySet>, JwtError>,
        /// `None`: for ever.
        until: Option<Instant>,
    },
}

impl KeyStore {
    pub fn new(providers: usize) -> Self {
        KeyStore { slots: RefCell::new(vec![Slot::Empty; providers]) }
    }

    /// The keys, as far as they are known.
    pub fn get(&self, x: &Exchange, at: usize, provider: &JwtProvider) -> Keys {
        let now = x.manager.worker.local.clock.coarse();
        if let Some(Slot::Kept { keys, until }) = self.slots.borrow().get(at)
            && until.is_none_or(|t| now < t)
        {
            return match keys {
                Ok(keys) => Keys::Here(keys.clone()),
                Err(error) => Keys::Failed(*error),
            };
        }
        let Jwks::Local(source) = &provider.jwks else { return Keys::Away };
        let keys = x.manager.sources.bytes(source).ok_or(JwtError::Jwks).and_then(|b| KeySet::parse(&b)).map(Rc::new);
        self.keep(at, keys.clone(), None);
        match keys {
            Ok(keys) => Keys::Here(keys),
            Err(error) => Keys::Failed(error),
        }
    }

    fn keep(&self, at: usize, keys: Result<Rc<KeySet>, JwtError>, until: Option<Instant>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(at) {
            *slot = Slot::Kept { keys, until };
        }
    }

    /// Fetches the keys of a remote provider unless they are here.
    pub async fn fetch(&self, x: &Exchange, at: usize, provider: &JwtProvider) {
        let Jwks::Remote { service, cache_duration, failed_refetch, retry, .. } = &provider.jwks else { return };
        if !matches!(self.get(x, at, provider), Keys::Away) {
            return;
        }
        let local = &x.manager.worker.local;
        let mut tries = retry.map_or(0, |r| r.retries);
        let mut wait = retry.map_or(Duration::ZERO, |r| r.backoff.base);
        let keys = loop {
            match request(x, service).await {
                Err(_) if tries > 0 => {
                    tries -= 1;
                    local.timers.after(wait).await;
                    wait = (wait * 2).min(retry.map_or(wait, |r| r.backoff.max));
                }
                outcome => break outcome,
            }
        };
        let kept_for = if keys.is_ok() { *cache_duration } else { *failed_refetch };
        self.keep(at, keys.map(Rc::new), local.clock.now().checked_add(kept_for));
    }
}

async fn request(x: &Exchange, service: &HttpService) -> Result<KeySet, JwtError> {
    let rest = service.uri.split_once("://").map_or(&*service.uri, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let fetched = async {
        let mut asked = head(Method::GET, path)?;
        if let Ok(host) = HeaderValue::from_str(authority) {
            asked.headers.insert(HOST, host);
        }
        let cluster = cluster(x, &service.cluster)?;
        send(x, &cluster, asked, Body::empty(), service.timeout).await
    };
    match fetched.await {
        Ok(answer) if answer.status == 200 => KeySet::parse(&answer.body),
        Ok(_) | Err(_) => Err(JwtError::Fetch),
    }
}
