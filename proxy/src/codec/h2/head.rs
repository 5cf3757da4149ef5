//! The head or the trailers of a message, as they come out of header compression: which fields may stand in them (RFC 9113, sections 8.1 to
//! 8.5), and how large they may be. What a proxy makes of a valid one is in [`super::translate`].
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::hpack::{Field, Pseudo};
use crate::codec::h1::{is_authority, is_connection_specific, parse_length};
use crate::codec::repeated::{self, Side};

/// Fields that most heads have room for at once.
const USUAL_FIELDS: usize = 12;

/// A list of fields. Pseudo-headers are apart from the others; the authority is among the others, as `host`.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) method: Option<Method>,
    pub(super) scheme: Option<Bytes>,
    pub(super) path: Option<Bytes>,
    /// Named by `:authority`; then `host` is the same.
    pub(super) authority: Option<HeaderValue>,
    pub(super) protocol: Option<Bytes>,
    pub(super) status: Option<StatusCode>,
    pub(super) headers: HeaderMap,
    /// `content-length`
    pub(super) length: Option<u64>,
    /// Names and values, without the overhead that compression counts: Envoy's size of a header list.
    pub(super) bytes: usize,
    /// Pseudo-headers count too, as in Envoy.
    fields: usize,
    /// Over a limit: the fields are not kept.
    pub(super) too_large: bool,
    /// Over the limit of fields.
    pub(super) too_many: bool,
    malformed: bool,
    /// A field that is no pseudo-header came.
    regular: bool,
    pub(super) cookies: u32,
    /// A field came twice.
    repeated: bool,
}

/// The message is not what HTTP allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// For one of its fields.
    Field,
    /// Its fields do not make a message.
    Message,
}

/// How large a list may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) fields: usize,
}

impl Head {
    /// The next field.
    pub(super) fn add(&mut self, field: Field, limits: &Limits) {
        self.bytes += field.len();
        self.fields += 1;
        self.too_many |= self.fields > limits.fields;
        self.too_large |= self.too_many || self.bytes > limits.bytes;
        match field {
            Field::Invalid(_) => self.malformed = true,
            Field::Pseudo(name, value) => self.pseudo(name, value),
            // Decoded all the same: the next message needs what this one adds to the table.
            Field::Header(..) if self.too_large => self.headers.clear(),
            Field::Header(name, value) => self.header(name, value),
        }
    }

    fn pseudo(&mut self, name: Pseudo, value: Bytes) {
        let ok = !self.regular
            && match name {
                Pseudo::Method => set(&mut self.method, Method::from_bytes(&value).ok()),
                Pseudo::Scheme => set(&mut self.scheme, Some(value)),
                Pseudo::Path => set(&mut self.path, Some(value)),
                Pseudo::Authority => set(&mut self.authority, HeaderValue::from_maybe_shared(value).ok()),
                Pseudo::Protocol => set(&mut self.protocol, Some(value)),
                Pseudo::Status => set(&mut self.status, StatusCode::from_bytes(&value).ok()),
            };
        self.malformed |= !ok;
    }

    fn header(&mut self, name: HeaderName, value: HeaderValue) {
        self.begin();
        if name == header::HOST {
            if self.authority.is_some() {
                return;
            }
        } else if name == header::COOKIE {
            self.cookies += 1;
        } else if name == header::CONTENT_LENGTH {
            // A second one is one too many, even if it says the same.
            let length = parse_length(value.as_bytes());
            self.malformed |= length.is_none() || self.length.is_some();
            self.length = length;
        } else if name == header::TE {
            self.malformed |= value != "trailers";
        } else if is_connection_specific(&name) {
            self.malformed |= name != "http2-settings";
            return;
        }
        match self.headers.try_append(name, value) {
            Ok(there) => self.repeated |= there,
            Err(_) => self.too_large = true,
        }
    }

    /// After the pseudo-headers, before the first field of the others.
    fn begin(&mut self) {
        if self.regular {
            return;
        }
        self.regular = true;
        self.headers = HeaderMap::with_capacity(USUAL_FIELDS);
        if let Some(authority) = &self.authority {
            self.headers.insert(header::HOST, authority.clone());
        }
    }

    /// Whether it is a request. `connect` says that extended CONNECT (RFC 8441) was allowed.
    pub(super) fn finish_request(&mut self, connect: bool) -> Result<(), Malformed> {
        self.begin();
        let authority = self.authority.as_ref().map(HeaderValue::as_bytes);
        // No user information either (RFC 9113, section 8.3.1).
        let named = authority.is_none_or(|host| !host.is_empty() && is_authority(host) && !host.contains(&b'@'));
        let fields = named
            && self.path.as_ref().is_none_or(|path| is_target(path))
            && self.scheme.as_ref().is_none_or(|scheme| is_scheme(scheme))
            && self.protocol.as_ref().is_none_or(|_| connect);
        if self.malformed || self.status.is_some() || !fields {
            return Err(Malformed::Field);
        }
        let reachable = authority.is_some() || self.headers.contains_key(header::HOST) || self.too_large;
        let target = match (&self.method, &self.protocol) {
            (Some(Method::CONNECT), None) => self.scheme.is_none() && self.path.is_none() && authority.is_some(),
            (Some(method), protocol) => {
                let path = self.path.as_ref().is_some_and(|path| is_path(path, method));
                let extended = *method == Method::CONNECT && authority.is_some();
                path && self.scheme.is_some() && (protocol.is_none() || extended)
            }
            (None, _) => false,
        };
        if self.repeated {
            repeated::join(&mut self.headers, Side::Request);
        }
        if target && reachable { Ok(()) } else { Err(Malformed::Message) }
    }

    /// Whether it is a response, and with which status.
    pub(super) fn finish_response(&mut self) -> Result<StatusCode, Malformed> {
        if self.malformed || self.has_request_fields() {
            return Err(Malformed::Field);
        }
        if self.repeated {
            repeated::join(&mut self.headers, Side::Response);
        }
        self.status.ok_or(Malformed::Message)
    }

    /// Whether it can be the end of a message.
    pub(super) fn finish_trailers(&mut self) -> Result<(), Malformed> {
        match self.malformed || self.status.is_some() || self.has_request_fields() {
            true => Err(Malformed::Field),
            false => Ok(()),
        }
    }

    fn has_request_fields(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.path.is_some()
            || self.authority.is_some()
            || self.protocol.is_some()
    }
}

/// Something without a space or a control character.
fn is_target(path: &[u8]) -> bool {
    !path.is_empty() && path.iter().all(|&b| b > b' ' && b != 0x7f)
}

/// A path, or the asterisk of OPTIONS.
fn is_path(path: &[u8], method: &Method) -> bool {
    path.first() == Some(&b'/') || (path == b"*" && *method == Method::OPTIONS)
}

/// RFC 3986, section 3.1.
fn is_scheme(scheme: &[u8]) -> bool {
    let [first, rest @ ..] = scheme else { return false };
    first.is_ascii_alphabetic() && rest.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
}

/// Sets what is not set yet.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    if place.is_some() {
        return false;
    }
    *place = value;
    place.is_some()
}
