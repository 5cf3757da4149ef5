//! Header compression (RFC 7541): from a header block to fields, and back.
//!
//! Fields are decoded into the types they are used as. What is repeated from message to message is in a table once, and taken from
//! there by a counted reference. Nothing is decided here about what a header list may hold: see [`super::head`].
mod table;
mod huffman;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub use decode::{Decoder, Error};
pub use encode::Encoder;

/// The size of both tables until something else is agreed on (RFC 9113, section 6.5.2).
pub const DEFAULT_TABLE_BYTES: u32 = 4096;
/// What an entry counts beside its name and value (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The pseudo-headers (RFC 9113, section 8.3; RFC 8441).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

impl Pseudo {
    fn as_str(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
        }
    }
}

/// One line of a header list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Pseudo(Pseudo, Bytes),
    Header(HeaderName, HeaderValue),
    /// It has a name or a value that HTTP does not allow. Compression does not mind; the message that has it is malformed.
    Invalid(Name),
}

/// Whose value a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Pseudo(Pseudo),
    Header(HeaderName),
    /// No name; it has so many bytes.
    Invalid(usize),
}

impl Name {
    /// A name from the wire: in lower case, or it is none.
    fn parse(name: &[u8]) -> Self {
        if name.first() != Some(&b':') {
            return HeaderName::from_lowercase(name).map_or(Self::Invalid(name.len()), Self::Header);
        }
        match name {
            b":method" => Self::Pseudo(Pseudo::Method),
            b":scheme" => Self::Pseudo(Pseudo::Scheme),
            b":authority" => Self::Pseudo(Pseudo::Authority),
            b":path" => Self::Pseudo(Pseudo::Path),
            b":protocol" => Self::Pseudo(Pseudo::Protocol),
            b":status" => Self::Pseudo(Pseudo::Status),
            _ => Self::Invalid(name.len()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Invalid(len) => *len,
            name => name.as_bytes().len(),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Pseudo(name) => name.as_str().as_bytes(),
            Self::Header(name) => name.as_str().as_bytes(),
            Self::Invalid(_) => &[],
        }
    }

    fn with(self, value: &[u8]) -> Field {
        match self {
            Self::Pseudo(name) => Field::Pseudo(name, Bytes::copy_from_slice(value)),
            Self::Header(name) => match HeaderValue::from_bytes(value) {
                Ok(value) => Field::Header(name, value),
                Err(_) => Field::Invalid(Self::Header(name)),
            },
            Self::Invalid(_) => Field::Invalid(self),
        }
    }
}

impl Field {
    fn name(&self) -> Name {
        match self {
            Self::Pseudo(name, _) => Name::Pseudo(*name),
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Invalid(name) => name.clone(),
        }
    }

    /// Bytes of name and value, as far as they are kept.
    pub(in crate::codec::h2) fn len(&self) -> usize {
        match self {
            Self::Pseudo(name, value) => name.as_str().len() + value.len(),
            Self::Header(name, value) => name.as_str().len() + value.len(),
            Self::Invalid(name) => name.len(),
        }
    }
}
