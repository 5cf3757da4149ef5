//! What the mapping knows of messages: static arrays without pointers, so that they cost neither memory nor start-up time.

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// A stretch of [`TEXT`]: start and length.
struct Span(u32, u16);

impl Span {
    fn text(&self) -> &'static str {
        &TEXT[self.0 as usize..][..usize::from(self.1)]
    }
}

pub(super) struct Message {
    name: Span,
    /// First of [`FIELDS`], and how many.
    fields: (u16, u16),
    pub(super) form: Form,
}

/// How a message looks in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An object of its fields.
    Fields,
    Any,
    Duration,
    Timestamp,
    Struct,
    Value,
    ListValue,
    Empty,
    /// The value of its one field.
    Wrapper,
}

pub(super) struct Field {
    name: Span,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// The oneof that it belongs to, from 1; 0 for none.
    pub(super) oneof: u8,
    /// Into [`MESSAGES`] or [`ENUMS`], as `kind` says.
    target: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the API need not use every kind that protobuf has")]
pub(super) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message,
    Bytes,
    Uint32,
    Enum,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not on the wire when it holds its default.
    Plain,
    /// On the wire whenever it is set.
    Optional,
    List,
    /// The message is the entry: key 1, value 2.
    Map,
}

pub(super) struct EnumValue {
    pub(super) number: i32,
    name: Span,
}

impl EnumValue {
    pub(super) fn name(&self) -> &'static str {
        self.name.text()
    }
}

impl Message {
    pub(super) fn find(full_name: &str) -> Option<&'static Message> {
        MESSAGES.binary_search_by(|m| m.name.text().cmp(full_name)).ok().map(|i| &MESSAGES[i])
    }

    pub(super) fn name(&self) -> &'static str {
        self.name.text()
    }

    /// Sorted by number.
    pub(super) fn fields(&self) -> &'static [Field] {
        &FIELDS[usize::from(self.fields.0)..][..usize::from(self.fields.1)]
    }

    /// The field with this name, as the .proto file or as JSON spells it.
    pub(super) fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields().iter().find(|f| f.name() == key || is_json_name(f.name(), key))
    }

    pub(super) fn number(&self, number: u32) -> Option<&'static Field> {
        self.fields().binary_search_by_key(&number, |f| f.number).ok().map(|i| &self.fields()[i])
    }
}

impl Field {
    pub(super) fn name(&self) -> &'static str {
        self.name.text()
    }

    /// The message of a field of that kind.
    pub(super) fn message(&self) -> &'static Message {
        &MESSAGES[usize::from(self.target)]
    }

    /// The values of an enum field.
    pub(super) fn values(&self) -> &'static [EnumValue] {
        let (start, count) = ENUMS[usize::from(self.target)];
        &VALUES[usize::from(start)..][..usize::from(count)]
    }
}

/// Whether `key` is `name` in lower camel case.
fn is_json_name(name: &str, key: &str) -> bool {
    let mut upper = false;
    let mut key = key.chars();
    for c in name.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let expected = if upper { c.to_ascii_uppercase() } else { c };
        upper = false;
        if key.next() != Some(expected) {
            return false;
        }
    }
    key.next().is_none()
}
