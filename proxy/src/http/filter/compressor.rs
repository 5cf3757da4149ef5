//! Compression of responses (and requests) for those who accept it (`compressor.v3.Compressor`).

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    TRANSFER_ENCODING, VARY,
};
use http::{Method, Response, StatusCode};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::compressor::{Compressor, Direction};

use super::encoding::compress;
use super::{Data, Exchange, Flow};
use crate::body::Body;
use crate::http::forwarded::append_joined;

/// What the client accepts, noted before the header may be removed.
pub struct Accept {
    accepted: bool,
    enabled: bool,
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

pub fn on_request(config: &Compressor, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let (enabled, remove) = match over {
        Some(FilterOverride::Compressor(o)) => (
            o.response_enabled.unwrap_or_else(|| is_on(&config.response.direction, x)),
            o.remove_accept_encoding.unwrap_or(config.response.remove_accept_encoding),
        ),
        _ => (is_on(&config.response.direction, x), config.response.remove_accept_encoding),
    };
    let accepted = x
        .parts
        .headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| accepts(v, config.library.token()));
    x.data.push((at, Data::Compress(Accept { accepted, enabled })));
    if enabled && remove {
        x.parts.headers.remove(ACCEPT_ENCODING);
    }
    if let Some(direction) = &config.request
        && is_on(direction, x)
        && let Some(upload) = &x.upload
        && x.upgrade.is_none()
        && fits(direction, &x.parts.headers)
    {
        let library = config.library;
        upload
            .map_source(|body| compress(body, library).unwrap_or_else(|_| Body::failed(crate::body::Error::Canceled)));
        let headers = &mut x.parts.headers;
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(library.token()));
    }
    Flow::Continue
}

fn is_on(direction: &Direction, x: &Exchange) -> bool {
    direction.runtime_key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(direction.enabled)
}

pub fn on_response(config: &Compressor, at: u16, x: &mut Exchange, response: &mut Response<Body>) {
    let Some(Data::Compress(accept)) = super::take(x, at) else { return };
    let settings = &config.response;
    let tagged = settings.disable_on_etag_header && response.headers().contains_key(ETAG);
    if !accept.enabled || tagged || !fits(&settings.direction, response.headers()) || !worth(config, x, response) {
        return;
    }
    insert_vary(response.headers_mut());
    if !accept.accepted || response.body().is_end() {
        return;
    }
    let body = std::mem::take(response.body_mut());
    let Ok(body) = compress(body, config.library) else { return };
    *response.body_mut() = body;
    let headers = response.headers_mut();
    // A strong validator names the bytes, and these are other bytes.
    if headers.get(ETAG).is_some_and(|e| !e.as_bytes().starts_with(b"W/")) {
        headers.remove(ETAG);
    }
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(config.library.token()));
}

/// Statuses and methods whose bodies may be coded.
fn worth(config: &Compressor, x: &Exchange, response: &Response<Body>) -> bool {
    let status = response.status();
    x.parts.method != Method::HEAD
        && status != StatusCode::SWITCHING_PROTOCOLS
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
        && !config.response.uncompressible_statuses.contains(&status.as_u16())
}

/// Type, length, and that nobody coded it before.
fn fits(direction: &Direction, headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_ENCODING) || headers.contains_key(TRANSFER_ENCODING) {
        return false;
    }
    let no_transform = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("no-transform")));
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    !no_transform && length.is_none_or(|n| n >= u64::from(direction.min_content_length)) && listed(direction, headers)
}

fn listed(direction: &Direction, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return true };
    let media = value.split(';').next().unwrap_or("").trim();
    if direction.content_types.is_empty() {
        return DEFAULT_TYPES.iter().chain(&DEFAULT_XML).any(|t| media.eq_ignore_ascii_case(t));
    }
    direction.content_types.iter().any(|t| media.eq_ignore_ascii_case(t))
}

fn insert_vary(headers: &mut HeaderMap) {
    let present = headers
        .get_all(VARY)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("accept-encoding") || v.trim() == "*"));
    if !present {
        append_joined(headers, VARY, "Accept-Encoding", ", ");
    }
}

/// Whether an `accept-encoding` value takes `token`: by name, else by `*`; `q=0` refuses.
fn accepts(value: &str, token: &str) -> bool {
    let mut star = false;
    for part in value.split(',') {
        let mut fields = part.split(';');
        let name = fields.next().unwrap_or("").trim();
        let quality = fields
            .filter_map(|f| f.trim().strip_prefix("q=").or_else(|| f.trim().strip_prefix("Q=")))
            .find_map(|q| q.trim().parse::<f32>().ok())
            .unwrap_or(1.0);
        if name.eq_ignore_ascii_case(token) {
            return quality > 0.0;
        }
        star |= name == "*" && quality > 0.0;
    }
    star
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn quality_and_star_are_honoured() {
        assert!(accepts("gzip", "gzip"));
        assert!(accepts("br;q=0.1, *", "gzip"));
        assert!(!accepts("gzip;q=0, identity", "gzip"));
        assert!(!accepts("deflate", "gzip"));
        assert!(!accepts("*;q=0", "gzip"));
        assert!(!accepts("*, gzip;q=0", "gzip"));
    }
}
