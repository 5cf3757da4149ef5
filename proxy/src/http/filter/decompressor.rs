//! Decompression of coded bodies, either way (`decompressor.v3.Decompressor`).

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use sidemesh_config::resource::http_filter::compressor::{DecompressDirection, Decompressor as Config};
use sidemesh_config::value::{Name, name};

use super::encoding::{InflateStats, decompress};
use super::{Exchange, Flow};
use crate::body::{Body, Error};
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

fn is_on(direction: &DecompressDirection, x: &Exchange) -> bool {
    let flag = &direction.enabled;
    flag.key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(flag.default)
}

fn applies(config: &Config, direction: &DecompressDirection, x: &Exchange, headers: &HeaderMap) -> bool {
    let coded = headers
        .get(CONTENT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').next().is_some_and(|c| c.trim().eq_ignore_ascii_case(config.library.token())));
    let forbidden = !direction.ignore_no_transform
        && headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("no-transform"));
    is_on(direction, x) && coded && !forbidden
}

/// Takes the outermost coding off.
fn strip(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    let rest = headers
        .get(CONTENT_ENCODING)
        .and_then(|v| v.to_str().ok()?.split_once(','))
        .and_then(|(_, rest)| HeaderValue::from_str(rest.trim()).ok());
    match rest {
        Some(rest) => headers.insert(CONTENT_ENCODING, rest),
        None => headers.remove(CONTENT_ENCODING),
    };
}

pub struct Decompressor {
    config: Arc<Config>,
    request: Arc<InflateStats>,
    response: Arc<InflateStats>,
}

impl Decompressor {
    pub fn new(config: Arc<Config>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let scope = |direction: &str| Scope::HttpFilter {
            prefix: stat_prefix.clone(),
            filter: name(&format!("decompressor.{}.{}.{direction}", config.name, config.library.stat_name())),
        };
        let stats = worker.stats();
        Decompressor { request: stats.shard(scope("request")), response: stats.shard(scope("response")), config }
    }

    pub fn on_request(&self, x: &mut Exchange) -> Flow {
        let config = &*self.config;
        if config.advertise_accept_encoding && is_on(&config.response, x) {
            advertise(&mut x.parts.headers, config.library.token());
        }
        let Some(upload) = x.upload.clone().filter(|_| x.upgrade.is_none()) else { return Flow::Continue };
        if !applies(config, &config.request, x, &x.parts.headers) {
            self.request.not_decompressed.inc();
            return Flow::Continue;
        }
        self.request.decompressed.inc();
        let (library, stats) = (config.library, self.request.clone());
        upload.map_source(|body| decompress(body, library, stats).unwrap_or_else(|_| Body::failed(Error::Canceled)));
        strip(&mut x.parts.headers);
        Flow::Continue
    }

    pub fn on_response(&self, x: &mut Exchange, response: &mut Response<Body>) {
        if response.body().is_end() {
            return;
        }
        if !applies(&self.config, &self.config.response, x, response.headers()) {
            return self.response.not_decompressed.inc();
        }
        self.response.decompressed.inc();
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = decompress(body, self.config.library, self.response.clone())
            .unwrap_or_else(|_| Body::failed(Error::Canceled));
        strip(response.headers_mut());
    }
}

/// Adds `token` to what the upstream may code its answers with, in place of what the client says of it.
fn advertise(headers: &mut HeaderMap, token: &str) {
    let is_other = |part: &&str| !part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(token));
    let mut all = String::new();
    for part in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        if is_other(&part) && !part.trim().is_empty() {
            all.push_str(part.trim());
            all.push(',');
        }
    }
    all.push_str(token);
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(ACCEPT_ENCODING, value);
    }
}
