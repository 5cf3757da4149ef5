//! The walk over wire bytes.

use sidemesh_proto::type_url;
use sidemesh_proto::wire::{self, Broken, Value};
use smallvec::SmallVec;

use super::{Field, Hint, Kind, MESSAGES, Message, REFUSED_VALUES, Status};
use crate::rejection::Rejection;

/// Messages nested deeper than this are refused; also what the typed decoder allows.
const MAX_DEPTH: usize = 100;

/// The way from the root; becomes text only for a rejection or a hint.
#[derive(Clone, Copy, Default)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy, Default)]
enum Step<'a> {
    #[default]
    Root,
    Field(&'static str),
    Item(&'static str, usize),
    Entry(&'static str, &'a str),
}

impl<'a> Path<'a> {
    fn child<'b>(&'b self, step: Step<'b>) -> Path<'b> {
        Path { parent: Some(self), step, depth: self.depth + 1 }
    }

    fn text(&self) -> String {
        let mut text = self.parent.map(Path::text).unwrap_or_default();
        if !text.is_empty() && !matches!(self.step, Step::Root) {
            text.push('.');
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => text.push_str(name),
            Step::Item(name, index) => text.push_str(&format!("{name}[{index}]")),
            Step::Entry(name, key) => text.push_str(&format!("{name}[\"{key}\"]")),
        }
        text
    }

    /// Whether this is the configuration of one of a list of load-balancing policies.
    fn is_policy(&self) -> bool {
        let above = |path: &Self| path.parent.copied();
        let extension = above(self).filter(|p| matches!(p.step, Step::Field("typed_extension_config")));
        let list = extension.and_then(|p| above(&p));
        matches!(self.step, Step::Field("typed_config"))
            && list.is_some_and(|p| matches!(p.step, Step::Item("policies", _)))
    }

    fn malformed(&self, reason: &str) -> Rejection {
        Rejection::malformed(self.text(), reason)
    }
}

/// A scalar that equals its default counts as not set; an empty message is still set.
fn is_default(field: &Field, value: &Value<'_>) -> bool {
    matches!((value, field.kind), (Value::Number(0), _) | (Value::Bytes([]), Kind::Text))
}

fn next<'a>(bytes: &mut &'a [u8], path: &Path<'_>) -> Result<(u32, Value<'a>), Rejection> {
    wire::next(bytes).map_err(|e: Broken| path.malformed(&e.to_string()))
}

pub(super) fn message(
    message: &Message,
    mut bytes: &[u8],
    path: &Path<'_>,
    hints: &mut Vec<Hint>,
) -> Result<(), Rejection> {
    if path.depth > MAX_DEPTH {
        return Err(Rejection::invalid("", format!("nested more than {MAX_DEPTH} levels deep")));
    }
    let whole = bytes;
    // How often each repeated field has been seen: the index of the next item.
    let mut seen: SmallVec<[(u32, usize); 8]> = SmallVec::new();
    while !bytes.is_empty() {
        let (number, value) = next(&mut bytes, path)?;
        if value == Value::Group {
            let field = path.child(Step::Field("a group")).text();
            push_hint(
                hints,
                field,
                "no field of the API is a group: it is skipped, as protobuf says of fields that are not known",
            );
            continue;
        }
        let fields = message.fields();
        let Ok(found) = fields.binary_search_by_key(&number, |f| f.number) else {
            let reason = format!("field number {number} of {} is not supported", message.name.text());
            return Err(Rejection::unsupported(path.text(), reason));
        };
        let field = &fields[found];
        let name = field.name.text();
        let step = if field.repeated { Step::Item(name, index(&mut seen, number)) } else { Step::Field(name) };
        match field.status {
            Status::Supported if is_unknown_any(field, &value) && is_optional(message, whole) => {
                push_hint(
                    hints,
                    path.child(step).text(),
                    "the extension is not known, and marked as optional: it is left out",
                );
            }
            Status::Supported => supported(field, &value, path, step, hints)?,
            Status::Hint if is_default(field, &value) => {}
            Status::Hint => push_hint(hints, path.child(Step::Field(name)).text(), field.note.text()),
            Status::Rejected if is_default(field, &value) => {}
            Status::Rejected => return Err(rejected(message, field, &path.child(Step::Field(name)))),
        }
    }
    Ok(())
}

/// Whether the message says that an extension in it may be left out.
fn is_optional(message: &Message, mut bytes: &[u8]) -> bool {
    let mut set = false;
    while let (1.., Ok((number, value))) = (bytes.len(), wire::next(&mut bytes)) {
        if number == message.optional {
            set = !matches!(value, Value::Number(0));
        }
    }
    set
}

fn is_unknown_any(field: &Field, value: &Value<'_>) -> bool {
    let (Kind::Any, Value::Bytes(bytes)) = (field.kind, value) else { return false };
    string_and_bytes(bytes, &Path::default()).is_ok_and(|(url, _)| {
        let name = type_url::message_name(url);
        !name.is_empty() && !name.starts_with("google.protobuf.") && super::message(name).is_none()
    })
}

/// A repeated hint is told once.
fn push_hint(hints: &mut Vec<Hint>, path: String, why: &'static str) {
    if hints.iter().all(|h| h.path != path) {
        hints.push(Hint { path, why });
    }
}

fn index(seen: &mut SmallVec<[(u32, usize); 8]>, number: u32) -> usize {
    match seen.iter_mut().find(|(n, _)| *n == number) {
        Some((_, count)) => {
            *count += 1;
            *count
        }
        None => {
            seen.push((number, 0));
            0
        }
    }
}

fn rejected(message: &Message, field: &Field, path: &Path<'_>) -> Rejection {
    let mut reason = format!("field `{}` of {} is not supported", field.name.text(), message.name.text());
    if !field.note.text().is_empty() {
        reason = format!("{reason}: {}", field.note.text());
    }
    Rejection::unsupported(path.text(), reason)
}

fn supported(
    field: &Field,
    value: &Value<'_>,
    path: &Path<'_>,
    step: Step<'_>,
    hints: &mut Vec<Hint>,
) -> Result<(), Rejection> {
    let path = path.child(step);
    match (field.kind, value) {
        (Kind::Opaque | Kind::Text, _) => Ok(()),
        (Kind::Enum(first, count), _) => enum_values(first, count, value, &path),
        (Kind::Message(target), Value::Bytes(bytes)) => message(&MESSAGES[usize::from(target)], bytes, &path, hints),
        (Kind::Any, Value::Bytes(bytes)) => any(bytes, &path, hints),
        (Kind::MapMessage(_) | Kind::MapAny, Value::Bytes(bytes)) => map_entry(field, bytes, &path, hints),
        (_, Value::Number(_) | Value::Group) => Err(path.malformed("the field is no message on the wire")),
    }
}

/// One enum value, or many packed together.
fn enum_values(first: u16, count: u16, value: &Value<'_>, path: &Path<'_>) -> Result<(), Rejection> {
    let refused = &REFUSED_VALUES[usize::from(first)..][..usize::from(count)];
    let one = |number: u64| match refused.iter().find(|r| i64::from(r.number) as u64 == number) {
        Some(refused) => {
            let text = refused.note.text();
            let (name, why) = text.split_once(": ").map_or((text, String::new()), |(n, w)| (n, format!(": {w}")));
            Err(Rejection::unsupported(path.text(), format!("value {name} is not supported{why}")))
        }
        None => Ok(()),
    };
    match *value {
        Value::Group => Err(path.malformed("a group is no enum value")),
        Value::Number(number) => one(number),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                one(wire::varint(&mut packed).map_err(|_| path.malformed("the bytes are no list of enum values"))?)?;
            }
            Ok(())
        }
    }
}

fn any(bytes: &[u8], path: &Path<'_>, hints: &mut Vec<Hint>) -> Result<(), Rejection> {
    let (url, payload) = string_and_bytes(bytes, path)?;
    if url.is_empty() && payload.is_empty() {
        return Ok(());
    }
    let name = type_url::message_name(url);
    match super::message(name) {
        Some(found) => message(found, payload, path, hints),
        None if name.starts_with("google.protobuf.") => Ok(()),
        // Of a list of policies the first known one counts: the parser decides.
        None if path.is_policy() => Ok(()),
        None if name.ends_with(".TypedStruct") => Err(Rejection::unsupported(
            path.text(),
            format!("`{name}` is not supported; give the extension's own type"),
        )),
        None => Err(Rejection::unsupported(path.text(), format!("extension type `{name}` is not supported"))),
    }
}

/// The entry of a map with message values; `path` ends in the map's field.
fn map_entry(field: &Field, bytes: &[u8], path: &Path<'_>, hints: &mut Vec<Hint>) -> Result<(), Rejection> {
    let (key, value) = string_and_bytes(bytes, path)?;
    let Some(parent) = path.parent else { return Ok(()) };
    let path = parent.child(Step::Entry(field.name.text(), key));
    match field.kind {
        Kind::MapMessage(target) => message(&MESSAGES[usize::from(target)], value, &path, hints),
        _ => any(value, &path, hints),
    }
}

/// A message of a text (1) and bytes (2): what an `Any` and an entry of a map with text keys have in common.
fn string_and_bytes<'a>(mut bytes: &'a [u8], path: &Path<'_>) -> Result<(&'a str, &'a [u8]), Rejection> {
    let (mut text, mut payload) = (&[][..], &[][..]);
    while !bytes.is_empty() {
        match next(&mut bytes, path)? {
            (1, Value::Bytes(value)) => text = value,
            (2, Value::Bytes(value)) => payload = value,
            (1 | 2, Value::Number(_) | Value::Group) => return Err(path.malformed("the field has the wrong wire type")),
            _ => {}
        }
    }
    let text = std::str::from_utf8(text).map_err(|_| path.malformed("a text is no UTF-8"))?;
    Ok((text, payload))
}
