//! What is looked at before the mapping proper, so that the refusal names the field: fields and types that do not exist,
//! the same field under both its names, and nesting that is too deep.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::{JsonError, MAX_DEPTH};
use crate::type_url;

/// The way from the root to a value; printed only for an error.
#[derive(Default)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Default)]
enum Step<'a> {
    #[default]
    Root,
    Field(&'a str),
    Index(usize),
}

impl Path<'_> {
    fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name), depth: self.depth + 1 }
    }

    fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index), depth: self.depth }
    }

    fn error(&self, reason: impl Into<String>) -> JsonError {
        JsonError::new(self.text(), reason)
    }

    fn text(&self) -> String {
        let before = self.parent.map(Path::text).unwrap_or_default();
        match self.step {
            Step::Root => before,
            Step::Field(name) if before.is_empty() => name.to_owned(),
            Step::Field(name) => format!("{before}.{name}"),
            Step::Index(index) => format!("{before}[{index}]"),
        }
    }
}

/// The message names of every `@type` in `value`.
pub(super) fn type_names<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(url)) = map.get("@type") {
                names.push(type_url::message_name(url));
            }
            map.values().for_each(|v| type_names(v, names));
        }
        Value::Array(list) => list.iter().for_each(|v| type_names(v, names)),
        _ => {}
    }
}

pub(super) fn message(descriptor: &MessageDescriptor, value: &Value, path: &Path<'_>) -> Result<(), JsonError> {
    if path.depth > MAX_DEPTH {
        return Err(path.error(format!("nested more than {MAX_DEPTH} levels deep")));
    }
    let Value::Object(map) = value else { return Ok(()) };
    match descriptor.full_name() {
        "google.protobuf.Any" => any(descriptor, map, path),
        name if name.starts_with("google.protobuf.") => Ok(()),
        _ => fields(descriptor, map, false, path),
    }
}

fn any(descriptor: &MessageDescriptor, map: &Map<String, Value>, path: &Path<'_>) -> Result<(), JsonError> {
    let Some(url) = map.get("@type") else {
        return Err(path.error("an `Any` needs its `@type`"));
    };
    let Some(url) = url.as_str() else {
        return Err(path.field("@type").error("must be a string"));
    };
    let name = type_url::message_name(url);
    if !url.contains('/') {
        return Err(path.field("@type").error(format!("`{url}` is no type URL; write `{}`", type_url::of(name))));
    }
    let Some(inner) = descriptor.parent_pool().get_message_by_name(name) else {
        return Err(path.field("@type").error(format!("there is no message type `{name}`")));
    };
    if inner.full_name().starts_with("google.protobuf.") {
        return match map.get("value") {
            Some(value) => message(&inner, value, &path.field("value")),
            None => Err(path.error(format!("an `Any` of {name} needs its `value`"))),
        };
    }
    fields(&inner, map, true, path)
}

fn fields(
    descriptor: &MessageDescriptor,
    map: &Map<String, Value>,
    in_any: bool,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    for (key, value) in map {
        if in_any && key == "@type" {
            continue;
        }
        let field = descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key));
        let Some(field) = field else {
            return Err(path.field(key).error(unknown_field(descriptor, key)));
        };
        if key != field.name() && map.contains_key(field.name()) {
            return Err(path.field(field.name()).error(format!("given twice, as `{}` and `{key}`", field.name())));
        }
        field_value(&field, value, &path.field(key))?;
    }
    Ok(())
}

fn field_value(field: &FieldDescriptor, value: &Value, path: &Path<'_>) -> Result<(), JsonError> {
    let Kind::Message(descriptor) = field.kind() else { return Ok(()) };
    if field.is_map() {
        let (Value::Object(map), Kind::Message(inner)) = (value, descriptor.map_entry_value_field().kind()) else {
            return Ok(());
        };
        return map.iter().try_for_each(|(key, value)| message(&inner, value, &path.field(key)));
    }
    match value {
        Value::Array(list) if field.is_list() => {
            list.iter().enumerate().try_for_each(|(i, value)| message(&descriptor, value, &path.index(i)))
        }
        _ => message(&descriptor, value, path),
    }
}

fn unknown_field(descriptor: &MessageDescriptor, key: &str) -> String {
    let name = descriptor.full_name();
    match descriptor.fields().map(|f| f.name().to_owned()).min_by_key(|f| distance(f, key)) {
        Some(near) if distance(&near, key) <= 1 + key.len() / 4 => {
            format!("{name} has no field `{key}`; did you mean `{near}`?")
        }
        _ => format!("{name} has no field `{key}`"),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
