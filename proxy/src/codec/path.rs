//! The request target's exact bytes. `http::Uri` refuses a handful of characters that real clients send and Envoy passes on (`"`, `<`,
//! `>` and the backtick; on HTTP/2 also UTF-8): such a path is kept as it came in an extension, and `uri()` holds it with those characters
//! percent-encoded. What reads or writes the path goes through these two functions.
use bytes::{BufMut, Bytes, BytesMut};
use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;

/// The target as it came, where `uri()` could not hold it. Visible ASCII, or also the rest of UTF-8 where a codec lets that in.
#[derive(Clone, Debug)]
struct RawTarget(Bytes);

/// `/path?query`, exactly as received (or as set last).
pub fn path_and_query(parts: &Parts) -> &str {
    if !parts.extensions.is_empty()
        && let Some(raw) = parts.extensions.get::<RawTarget>()
    {
        // Checked when it was set.
        return std::str::from_utf8(&raw.0).unwrap_or("/");
    }
    parts.uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// Sets `/path?query`; `false` (and no change) when it is empty, or holds spaces, control characters or a fragment. As in Envoy it need not
/// start with a slash: the configuration says what an origin is asked for.
pub fn set_path_and_query(parts: &mut Parts, target: &str) -> bool {
    let bytes = Bytes::copy_from_slice(target.as_bytes());
    let parsed = match target.starts_with('/') {
        true => parse(bytes, true),
        false if target.is_empty() => None,
        false => parse([b"/", &bytes[..]].concat().into(), true).map(|(uri, _)| (uri, Some(RawTarget(bytes)))),
    };
    match parsed {
        Some((uri, raw)) => {
            parts.uri = uri;
            parts.extensions.remove::<RawTarget>();
            if let Some(raw) = raw {
                parts.extensions.insert(raw);
            }
            true
        }
        None => false,
    }
}

/// As [`set_path_and_query`], for a codec that holds shared bytes; `high`: with all of UTF-8.
pub(super) fn set_target(parts: &mut Parts, target: Bytes, high: bool) -> bool {
    match parse(target, high) {
        Some((uri, raw)) => {
            parts.uri = uri;
            if let Some(raw) = raw {
                parts.extensions.insert(raw);
            }
            true
        }
        None => false,
    }
}

fn parse(target: Bytes, high: bool) -> Option<(Uri, Option<RawTarget>)> {
    let allowed = |b: u8| (0x21..=0x7e).contains(&b) && b != b'#';
    if !target.starts_with(b"/") || !target.iter().all(|&b| allowed(b) || (high && b >= 0x80)) {
        return None;
    }
    let ascii = target.is_ascii();
    if !ascii && std::str::from_utf8(&target).is_err() {
        return None;
    }
    if ascii && let Ok(path) = PathAndQuery::from_maybe_shared(target.clone()) {
        return Some((path.into(), None));
    }
    let mut encoded = BytesMut::with_capacity(target.len() + 16);
    for &b in &target {
        match b {
            b'"' | b'<' | b'>' | b'`' | 0x80.. => {
                encoded.put_u8(b'%');
                encoded.put_u8(HEX[usize::from(b >> 4)]);
                encoded.put_u8(HEX[usize::from(b & 15)]);
            }
            _ => encoded.put_u8(b),
        }
    }
    let path = PathAndQuery::from_maybe_shared(encoded.freeze()).ok()?;
    Some((path.into(), Some(RawTarget(target))))
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";
