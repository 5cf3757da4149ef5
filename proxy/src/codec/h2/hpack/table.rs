//! The tables of header compression: the static one (RFC 7541, appendix A), and the decoder's dynamic one (section 2.3.2). The
//! encoder's is in [`super::encode`]: it is searched by content, this one by number.
use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{Field, Pseudo};

/// How many numbers the static table has; the dynamic one goes on from there.
pub(super) const STATIC_ENTRIES: usize = 61;

/// Number 1 is the first.
pub(super) static STATIC: [Field; STATIC_ENTRIES] = [
    pseudo(Pseudo::Authority, ""),
    pseudo(Pseudo::Method, "GET"),
    pseudo(Pseudo::Method, "POST"),
    pseudo(Pseudo::Path, "/"),
    pseudo(Pseudo::Path, "/index.html"),
    pseudo(Pseudo::Scheme, "http"),
    pseudo(Pseudo::Scheme, "https"),
    pseudo(Pseudo::Status, "200"),
    pseudo(Pseudo::Status, "204"),
    pseudo(Pseudo::Status, "206"),
    pseudo(Pseudo::Status, "304"),
    pseudo(Pseudo::Status, "400"),
    pseudo(Pseudo::Status, "404"),
    pseudo(Pseudo::Status, "500"),
    header(header::ACCEPT_CHARSET, ""),
    header(header::ACCEPT_ENCODING, "gzip, deflate"),
    header(header::ACCEPT_LANGUAGE, ""),
    header(header::ACCEPT_RANGES, ""),
    header(header::ACCEPT, ""),
    header(header::ACCESS_CONTROL_ALLOW_ORIGIN, ""),
    header(header::AGE, ""),
    header(header::ALLOW, ""),
    header(header::AUTHORIZATION, ""),
    header(header::CACHE_CONTROL, ""),
    header(header::CONTENT_DISPOSITION, ""),
    header(header::CONTENT_ENCODING, ""),
    header(header::CONTENT_LANGUAGE, ""),
    header(header::CONTENT_LENGTH, ""),
    header(header::CONTENT_LOCATION, ""),
    header(header::CONTENT_RANGE, ""),
    header(header::CONTENT_TYPE, ""),
    header(header::COOKIE, ""),
    header(header::DATE, ""),
    header(header::ETAG, ""),
    header(header::EXPECT, ""),
    header(header::EXPIRES, ""),
    header(header::FROM, ""),
    header(header::HOST, ""),
    header(header::IF_MATCH, ""),
    header(header::IF_MODIFIED_SINCE, ""),
    header(header::IF_NONE_MATCH, ""),
    header(header::IF_RANGE, ""),
    header(header::IF_UNMODIFIED_SINCE, ""),
    header(header::LAST_MODIFIED, ""),
    header(header::LINK, ""),
    header(header::LOCATION, ""),
    header(header::MAX_FORWARDS, ""),
    header(header::PROXY_AUTHENTICATE, ""),
    header(header::PROXY_AUTHORIZATION, ""),
    header(header::RANGE, ""),
    header(header::REFERER, ""),
    header(header::REFRESH, ""),
    header(header::RETRY_AFTER, ""),
    header(header::SERVER, ""),
    header(header::SET_COOKIE, ""),
    header(header::STRICT_TRANSPORT_SECURITY, ""),
    header(header::TRANSFER_ENCODING, ""),
    header(header::USER_AGENT, ""),
    header(header::VARY, ""),
    header(header::VIA, ""),
    header(header::WWW_AUTHENTICATE, ""),
];

const fn pseudo(name: Pseudo, value: &'static str) -> Field {
    Field::Pseudo(name, Bytes::from_static(value.as_bytes()))
}

const fn header(name: HeaderName, value: &'static str) -> Field {
    Field::Header(name, HeaderValue::from_static(value))
}

/// The number of the first static entry with this name.
pub(super) fn static_name(name: &str) -> Option<u32> {
    Some(match name {
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "transfer-encoding" => 57,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

/// What the peer had us remember, the newest first.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    entries: VecDeque<(Field, u32)>,
    bytes: usize,
    limit: usize,
}

impl Dynamic {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Number 0 is the newest.
    pub(super) fn get(&self, index: usize) -> Option<&Field> {
        self.entries.get(index).map(|(field, _)| field)
    }

    pub(super) fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink_to(limit);
    }

    /// `size` is what the field counts, also where it is invalid and not kept.
    pub(super) fn insert(&mut self, field: Field, size: usize) {
        self.shrink_to(self.limit.saturating_sub(size));
        // What is larger than the table empties it, and that is all (section 4.4).
        if size <= self.limit {
            self.entries.push_front((field, size as u32));
            self.bytes += size;
        }
    }

    fn shrink_to(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some((_, size)) = self.entries.pop_back() else { return };
            self.bytes -= size as usize;
        }
    }
}
