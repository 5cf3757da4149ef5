//! Compression of responses (and requests) for those who accept it (`compressor.v3.Compressor`).

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    TRANSFER_ENCODING, VARY,
};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::compressor::{
    CompressionLibrary, Compressor as Config, ContentTypes, Direction,
};
use sidemesh_config::value::{Name, name};

use super::encoding::{CodingStats, compress};
use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::forwarded::append_joined;
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

stats_group! {
    /// Why a coding was chosen or not (`http.<stat_prefix>.compressor.<name>.<library>.`).
    pub struct ChoiceStats {
        no_accept_header: Counter,
        header_identity: Counter,
        header_compressor_used: Counter,
        header_compressor_overshadowed: Counter,
        header_wildcard: Counter,
        header_not_valid: Counter,
        not_compressed_etag: Counter,
    }
}

/// What one compressor may do for a request, noted before the header may be removed.
pub struct Offer {
    /// `accept-encoding` as it came; `None`: there was none.
    accepted: Option<HeaderValue>,
    enabled: bool,
    library: CompressionLibrary,
    config: Arc<Config>,
}

/// Media types compressed when none are listed.
const DEFAULT_TYPES: [&str; 9] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/ecmascript",
    "application/json",
    "application/xhtml+xml",
];
/// Two more of the default list that have structured suffixes.
const DEFAULT_XML: [&str; 2] = ["image/svg+xml", "text/xml"];

pub struct Compressor {
    config: Arc<Config>,
    choice: Arc<ChoiceStats>,
    request: Arc<CodingStats>,
    response: Arc<CodingStats>,
}

impl Compressor {
    pub fn new(config: Arc<Config>, worker: &Rc<Worker>, stat_prefix: &Name) -> Self {
        let scope = |tail: &str| Scope::HttpFilter {
            prefix: stat_prefix.clone(),
            filter: name(&format!("compressor.{}.{}{tail}", config.name, config.library.stat_name())),
        };
        let stats = worker.stats();
        let apart = if config.response_apart { ".response" } else { "" };
        let (choice, request, response) =
            (stats.shard(scope("")), stats.shard(scope(".request")), stats.shard(scope(apart)));
        Compressor { choice, request, response, config }
    }

    pub fn on_request(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let settings = &self.config.response;
        let (mut enabled, mut remove, mut library) =
            (is_on(&settings.direction, x), settings.remove_accept_encoding, self.config.library);
        if let Some(FilterOverride::Compressor(o)) = over {
            enabled = o.response_enabled.unwrap_or(enabled);
            remove = o.remove_accept_encoding.unwrap_or(remove);
            library = o.library.unwrap_or(library);
        }
        let accepted = x.parts.headers.get(ACCEPT_ENCODING).cloned();
        x.data.retain(|(i, _)| *i != at);
        x.data.push((at, Data::Compress(Box::new(Offer { accepted, enabled, library, config: self.config.clone() }))));
        if enabled && remove {
            x.parts.headers.remove(ACCEPT_ENCODING);
        }
        self.compress_request(x, library);
        Flow::Continue
    }

    fn compress_request(&self, x: &mut Exchange, library: CompressionLibrary) {
        let wanted = self.config.request.as_ref().filter(|d| is_on(d, x));
        let upload = x.upload.clone().filter(|_| x.upgrade.is_none());
        let (Some(direction), Some(upload)) = (wanted, upload) else { return self.request.not_compressed.inc() };
        if !long_enough(direction, &x.parts.headers, &self.request) || !fits(direction, &x.parts.headers) {
            return self.request.not_compressed.inc();
        }
        self.request.compressed.inc();
        let stats = self.request.clone();
        upload.map_source(|body| {
            compress(body, library, stats).unwrap_or_else(|_| Body::failed(crate::body::Error::Canceled))
        });
        let headers = &mut x.parts.headers;
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(library.token()));
    }

    pub fn on_response(&self, at: u16, x: &mut Exchange, response: &mut Response<Body>) {
        // The offer stays: the choice of the compressors before this one is among all of them.
        let noted = x.data.iter().find_map(|(i, data)| match data {
            Data::Compress(offer) if *i == at => Some((offer.enabled, offer.library)),
            _ => None,
        });
        let Some((enabled, library)) = noted else { return };
        let settings = &self.config.response;
        let long = enabled && long_enough(&settings.direction, response.headers(), &self.response);
        // An answer to HEAD has no body to code, whatever its length says.
        let whole = response.body().is_end() || x.parts.method == http::Method::HEAD;
        let chosen = long && !whole && self.choose(at, x, response.headers());
        let may =
            long && self.worth(response) && fits(&settings.direction, response.headers()) && !self.tagged(response);
        let coded = may && chosen && self.compress_response(library, response);
        if coded { &self.response.compressed } else { &self.response.not_compressed }.inc();
        if may {
            insert_vary(response.headers_mut());
        }
    }

    /// Has a tag that compression would make false.
    fn tagged(&self, response: &Response<Body>) -> bool {
        let tagged = self.config.response.disable_on_etag_header && response.headers().contains_key(ETAG);
        if tagged {
            self.choice.not_compressed_etag.inc();
        }
        tagged
    }

    /// Whether this compressor's coding is the one that the client likes best of those that the chain offers.
    fn choose(&self, at: u16, x: &Exchange, headers: &HeaderMap) -> bool {
        let offers = x.data.iter().filter_map(|(i, data)| match data {
            Data::Compress(offer) => Some((*i, offer)),
            _ => None,
        });
        let mut offers: Vec<_> = offers.collect();
        offers.sort_by_key(|(i, _)| *i);
        let Some((_, own)) = offers.iter().find(|(i, _)| *i == at) else { return false };
        let Some(accepted) = own.accepted.as_ref().and_then(|v| v.to_str().ok()) else {
            self.choice.no_accept_header.inc();
            return false;
        };
        // The last that asks to be first is.
        let mut codings: Vec<&str> = Vec::with_capacity(offers.len());
        for (_, offer) in offers.iter().filter(|(_, o)| listed(&o.config.response.direction, headers)) {
            let token = offer.library.token();
            if codings.contains(&token) {
                continue;
            }
            codings.insert(if offer.config.choose_first { 0 } else { codings.len() }, token);
        }
        let choice = choose(accepted, &codings);
        let own = own.library.token();
        match choice {
            Choice::Coding(coding) if coding == own => self.choice.header_compressor_used.inc(),
            Choice::Coding(_) => self.choice.header_compressor_overshadowed.inc(),
            Choice::Any(_) => self.choice.header_wildcard.inc(),
            Choice::Identity => self.choice.header_identity.inc(),
            Choice::Nothing => self.choice.header_not_valid.inc(),
        }
        matches!(choice, Choice::Coding(coding) | Choice::Any(coding) if coding == own)
    }

    /// Statuses whose bodies may be coded.
    fn worth(&self, response: &Response<Body>) -> bool {
        let status = response.status();
        status != StatusCode::SWITCHING_PROTOCOLS
            && !self.config.response.uncompressible_statuses.contains(&status.as_u16())
    }

    fn compress_response(&self, library: CompressionLibrary, response: &mut Response<Body>) -> bool {
        let body = std::mem::take(response.body_mut());
        let Ok(body) = compress(body, library, self.response.clone()) else { return false };
        *response.body_mut() = body;
        let headers = response.headers_mut();
        // A strong validator names the bytes, and these are other bytes.
        if let Some(tag) = headers.get(ETAG).filter(|e| !e.as_bytes().starts_with(b"W/")) {
            let weak = [b"W/", tag.as_bytes()].concat();
            match HeaderValue::from_bytes(&weak).ok().filter(|_| self.config.response.weaken_etag) {
                Some(weak) => headers.insert(ETAG, weak),
                None => headers.remove(ETAG),
            };
        }
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(library.token()));
        true
    }
}

fn is_on(direction: &Direction, x: &Exchange) -> bool {
    direction.runtime_key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(direction.enabled)
}

/// An unknown length is long enough.
fn long_enough(direction: &Direction, headers: &HeaderMap, stats: &CodingStats) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let short = length.is_some_and(|n| n < u64::from(direction.min_content_length));
    if short {
        stats.content_length_too_small.inc();
    }
    !short
}

/// Type, and that nobody coded it before.
fn fits(direction: &Direction, headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_ENCODING) || headers.contains_key(TRANSFER_ENCODING) {
        return false;
    }
    let no_transform = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("no-transform")));
    !no_transform && listed(direction, headers)
}

fn listed(direction: &Direction, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return true };
    let media = value.split(';').next().unwrap_or("").trim();
    match &direction.content_types {
        ContentTypes::Listed(list) if list.is_empty() => {
            DEFAULT_TYPES.iter().chain(&DEFAULT_XML).any(|t| media.eq_ignore_ascii_case(t))
        }
        ContentTypes::Listed(list) => list.iter().any(|t| media.eq_ignore_ascii_case(t)),
        ContentTypes::Matching(matchers) => matchers.iter().any(|m| m.is_match(media)),
    }
}

fn insert_vary(headers: &mut HeaderMap) {
    let present = headers
        .get_all(VARY)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("accept-encoding")));
    if !present {
        append_joined(headers, VARY, b"Accept-Encoding", ", ");
    }
}

/// What an `accept-encoding` value makes of the codings on offer.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    Coding(&'a str),
    /// By `*`.
    Any(&'a str),
    /// The client would rather have it uncoded.
    Identity,
    Nothing,
}

/// The coding with the highest quality; of equals the one that is offered first. `*` stands for the first coding that is
/// not named. Names are compared exactly, as Envoy does.
fn choose<'a>(accepted: &str, offered: &[&'a str]) -> Choice<'a> {
    let entries: Vec<(&str, f32)> = accepted.split(',').filter_map(entry).collect();
    let named = |token: &str| entries.iter().find(|(name, _)| *name == token).map(|(_, quality)| *quality);
    let mut best: Option<(f32, Choice<'a>)> = None;
    let mut consider = |quality: f32, choice: Choice<'a>| {
        if quality > 0.0 && best.as_ref().is_none_or(|(have, _)| quality > *have) {
            best = Some((quality, choice));
        }
    };
    for token in offered {
        if let Some(quality) = named(token) {
            consider(quality, Choice::Coding(token));
        }
    }
    if let (Some(quality), Some(token)) = (named("*"), offered.iter().find(|t| named(t).is_none())) {
        consider(quality, Choice::Any(token));
    }
    if let Some(quality) = named("identity") {
        consider(quality, Choice::Identity);
    }
    best.map_or(Choice::Nothing, |(_, choice)| choice)
}

/// One member of `accept-encoding`; one whose quality is no number does not count.
fn entry(member: &str) -> Option<(&str, f32)> {
    let mut fields = member.split(';');
    let token = fields.next()?.trim();
    let quality = fields.find_map(|f| f.trim().strip_prefix("q=").or_else(|| f.trim().strip_prefix("Q=")));
    Some((token, quality.map_or(Ok(1.0), |q| q.trim().parse()).ok()?))
}
