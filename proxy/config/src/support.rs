//! Honest configuration: the support table, and the walk over a resource's wire bytes that holds it.
//!
//! Generated message types drop what they do not know and cannot tell "set" from "ignored". So before a resource is decoded
//! into its type, [`check`] walks its bytes, nested messages and `Any` included, against `support/table.txt`: a field that
//! the table does not list as supported (or as a hint that may be ignored) is refused by its exact path. The build script
//! compiles the table into arrays without pointers; nothing is built in memory at run time.

use sidemesh_proto::type_url;

use crate::rejection::Rejection;

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;
mod walk;

include!(concat!(env!("OUT_DIR"), "/support.rs"));

/// A field that is accepted and not acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Path of the field from the resource's root.
    pub path: String,
    pub why: &'static str,
}

/// A stretch of [`TEXT`]: start and length.
#[derive(Clone, Copy)]
pub(super) struct Span(u32, u16);

impl Span {
    fn text(self) -> &'static str {
        &TEXT[self.0 as usize..][..usize::from(self.1)]
    }
}

pub(super) struct Message {
    name: Span,
    /// First of [`FIELDS`], and how many.
    fields: (u16, u16),
    /// The number of the field `is_optional`, when it has one.
    optional: u32,
}

pub(super) struct Field {
    number: u32,
    name: Span,
    status: Status,
    note: Span,
    kind: Kind,
    repeated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Supported,
    Hint,
    Rejected,
}

/// What the walk does with a supported field.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Nothing: a scalar, a well-known type, or a map of scalars.
    Opaque,
    /// Nothing: a text or bytes.
    Text,
    /// Compares with the refused values: first of [`REFUSED_VALUES`], and how many.
    Enum(u16, u16),
    /// Descends into that one of [`MESSAGES`].
    Message(u16),
    Any,
    /// A map whose values are messages, or `Any`.
    MapMessage(u16),
    MapAny,
}

pub(super) struct RefusedValue {
    number: i32,
    note: Span,
}

impl Message {
    fn fields(&self) -> &'static [Field] {
        &FIELDS[usize::from(self.fields.0)..][..usize::from(self.fields.1)]
    }
}

fn message(full_name: &str) -> Option<&'static Message> {
    MESSAGES.binary_search_by(|m| m.name.text().cmp(full_name)).ok().map(|found| &MESSAGES[found])
}

/// Holds the encoded message `name` (a full name or a type URL) against the table.
pub fn check(name: &str, bytes: &[u8]) -> Result<Vec<Hint>, Rejection> {
    let full_name = type_url::message_name(name);
    let message =
        message(full_name).ok_or_else(|| Rejection::unsupported("", format!("type `{full_name}` is not supported")))?;
    let mut hints = Vec::new();
    walk::message(message, bytes, &walk::Path::default(), &mut hints)?;
    Ok(hints)
}

/// Whether resources or extensions of the message `full_name` are supported at all.
pub fn knows(full_name: &str) -> bool {
    message(full_name).is_some()
}
