//! Decompression of coded bodies, either way (`decompressor.v3.Decompressor`).

use http::Response;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use sidemesh_config::resource::http_filter::compressor::{DecompressDirection, Decompressor};

use super::encoding::decompress;
use super::{Exchange, Flow};
use crate::body::{Body, Error};
use crate::http::forwarded::append_joined;

fn applies(config: &Decompressor, direction: &DecompressDirection, x: &Exchange, headers: &HeaderMap) -> bool {
    let flag = &direction.enabled;
    let on = flag.key.as_ref().and_then(|k| x.config.runtime.boolean(k)).unwrap_or(flag.default);
    let coded = headers
        .get(CONTENT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').next().is_some_and(|c| c.trim().eq_ignore_ascii_case(config.library.token())));
    let forbidden = !direction.ignore_no_transform
        && headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("no-transform"));
    on && coded && !forbidden
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

pub fn on_request(config: &Decompressor, x: &mut Exchange) -> Flow {
    if config.advertise_accept_encoding {
        append_joined(&mut x.parts.headers, ACCEPT_ENCODING, config.library.token(), ",");
    }
    if x.upgrade.is_some() || !applies(config, &config.request, x, &x.parts.headers) {
        return Flow::Continue;
    }
    if let Some(upload) = &x.upload {
        let library = config.library;
        upload.map_source(|body| decompress(body, library).unwrap_or_else(|_| Body::failed(Error::Canceled)));
        strip(&mut x.parts.headers);
    }
    Flow::Continue
}

pub fn on_response(config: &Decompressor, x: &mut Exchange, response: &mut Response<Body>) {
    if response.body().is_end() || !applies(config, &config.response, x, response.headers()) {
        return;
    }
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = decompress(body, config.library).unwrap_or_else(|_| Body::failed(Error::Canceled));
    strip(response.headers_mut());
}
