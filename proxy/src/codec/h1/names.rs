//! Common header names, found by one multiplication and one comparison: most of what messages carry, without lower-casing it
//! into a buffer, searching the standard names and allocating for the others.
use http::HeaderName;

/// Bits of the product that choose a slot.
const BITS: u32 = 10;
/// Found by trial: it gives every name a slot of its own (checked when this is compiled).
const FACTOR: u32 = 0xc8c7_e31f;
const SLOTS: usize = 1 << BITS;

/// The name, if it is one of the common ones, in whatever case it is written.
#[inline]
pub(super) fn known(name: &[u8]) -> Option<&'static HeaderName> {
    if name.is_empty() {
        return None;
    }
    let at = usize::from(INDEX[slot(name)]);
    is_same(name, TEXTS.get(at)?.as_bytes()).then(|| &NAMES[at])
}

/// A lower-case letter for an upper-case one. It leaves what else a name may have as it is, and no other byte becomes such.
const fn lower(byte: u8) -> u8 {
    byte | (byte & 0x40) >> 1
}

/// By its length and three of its letters.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    let key = [lower(name[0]), lower(name[len / 2]), lower(name[len * 3 / 4]), len as u8];
    (u32::from_le_bytes(key).wrapping_mul(FACTOR) >> (u32::BITS - BITS)) as usize
}

/// Whether `name` is `text`, which is in lower case, but for the case.
#[inline]
fn is_same(name: &[u8], text: &[u8]) -> bool {
    if name.len() != text.len() {
        return false;
    }
    let ends = (name.last_chunk(), text.last_chunk());
    let (Some(last), Some(expected)) = ends else {
        return name.iter().zip(text).all(|(&b, &t)| lower(b) == t);
    };
    let (eights, _) = name.as_chunks();
    let (texts, _) = text.as_chunks();
    eights.iter().zip(texts).all(|(b, t)| is_same_eight(b, t)) && is_same_eight(last, expected)
}

/// Eight bytes at once.
#[inline]
fn is_same_eight(name: &[u8; 8], text: &[u8; 8]) -> bool {
    let name = u64::from_le_bytes(*name);
    name | (name & 0x4040_4040_4040_4040) >> 1 == u64::from_le_bytes(*text)
}

/// Where in [`TEXTS`] and [`NAMES`] the name of a slot is; past its end for a slot without one.
static INDEX: [u8; SLOTS] = {
    let (mut index, mut at) = ([u8::MAX; SLOTS], 0);
    while at < TEXTS.len() {
        let slot = slot(TEXTS[at].as_bytes());
        assert!(index[slot] == u8::MAX, "two names in one slot");
        index[slot] = at as u8;
        at += 1;
    }
    index
};

macro_rules! common {
    ($($name:literal)*) => {
        const TEXTS: [&str; [$($name),*].len()] = [$($name),*];
        static NAMES: [HeaderName; TEXTS.len()] = [$(HeaderName::from_static($name)),*];
    };
}

common! {
    "accept"
    "accept-charset"
    "accept-encoding"
    "accept-language"
    "accept-ranges"
    "access-control-allow-credentials"
    "access-control-allow-headers"
    "access-control-allow-methods"
    "access-control-allow-origin"
    "access-control-expose-headers"
    "access-control-max-age"
    "access-control-request-headers"
    "access-control-request-method"
    "age"
    "allow"
    "alt-svc"
    "authorization"
    "b3"
    "baggage"
    "cache-control"
    "connection"
    "content-disposition"
    "content-encoding"
    "content-language"
    "content-length"
    "content-location"
    "content-range"
    "content-security-policy"
    "content-type"
    "cookie"
    "date"
    "dnt"
    "etag"
    "expect"
    "expires"
    "forwarded"
    "from"
    "grpc-accept-encoding"
    "grpc-encoding"
    "grpc-message"
    "grpc-status"
    "grpc-timeout"
    "host"
    "if-match"
    "if-modified-since"
    "if-none-match"
    "if-range"
    "if-unmodified-since"
    "keep-alive"
    "last-modified"
    "link"
    "location"
    "origin"
    "pragma"
    "proxy-authenticate"
    "proxy-authorization"
    "proxy-connection"
    "range"
    "referer"
    "referrer-policy"
    "retry-after"
    "sec-ch-ua"
    "sec-ch-ua-mobile"
    "sec-ch-ua-platform"
    "sec-fetch-dest"
    "sec-fetch-mode"
    "sec-fetch-site"
    "sec-fetch-user"
    "sec-websocket-accept"
    "sec-websocket-extensions"
    "sec-websocket-key"
    "sec-websocket-protocol"
    "sec-websocket-version"
    "server"
    "set-cookie"
    "strict-transport-security"
    "te"
    "traceparent"
    "tracestate"
    "trailer"
    "transfer-encoding"
    "upgrade"
    "upgrade-insecure-requests"
    "user-agent"
    "vary"
    "via"
    "www-authenticate"
    "x-b3-parentspanid"
    "x-b3-sampled"
    "x-b3-spanid"
    "x-b3-traceid"
    "x-client-trace-id"
    "x-content-type-options"
    "x-correlation-id"
    "x-envoy-attempt-count"
    "x-envoy-decorator-operation"
    "x-envoy-expected-rq-timeout-ms"
    "x-envoy-external-address"
    "x-envoy-internal"
    "x-envoy-max-retries"
    "x-envoy-original-path"
    "x-envoy-retry-on"
    "x-envoy-upstream-rq-timeout-ms"
    "x-envoy-upstream-service-time"
    "x-forwarded-client-cert"
    "x-forwarded-for"
    "x-forwarded-host"
    "x-forwarded-port"
    "x-forwarded-proto"
    "x-frame-options"
    "x-powered-by"
    "x-real-ip"
    "x-request-id"
    "x-requested-with"
    "x-xss-protection"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_found_in_any_case() {
        for (text, name) in TEXTS.iter().zip(&NAMES) {
            for spelled in [text.to_string(), text.to_uppercase(), text[..1].to_uppercase() + &text[1..]] {
                assert_eq!(known(spelled.as_bytes()), Some(name));
                assert_eq!(HeaderName::from_bytes(spelled.as_bytes()).ok().as_ref(), Some(name));
            }
        }
    }

    #[test]
    fn nothing_else_passes_for_one() {
        for text in TEXTS {
            for at in 0..text.len() {
                for byte in 0..=255 {
                    let mut other = text.as_bytes().to_vec();
                    other[at] = byte;
                    let expected = HeaderName::from_bytes(&other).ok().filter(|name| NAMES.contains(name));
                    assert_eq!(known(&other), expected.as_ref(), "{other:?}");
                }
            }
        }
        assert!([&b""[..], b"x", b"hos", b"host "].iter().all(|name| known(name).is_none()));
    }
}
