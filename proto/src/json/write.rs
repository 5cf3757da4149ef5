//! Message bytes to JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::table::{Field, Form, Kind, Message, Shape};
use super::{JsonError, MAX_DEPTH, well_known};
use crate::wire::{self, Broken, Value as Wire};
use crate::{google, type_url};

pub(super) fn message(message: &Message, bytes: &[u8], depth: usize) -> Result<Value, JsonError> {
    let broken = || JsonError::new("", format!("the bytes are no {}", message.name()));
    if depth > MAX_DEPTH {
        return Err(JsonError::new("", format!("nested more than {MAX_DEPTH} levels deep")));
    }
    match message.form {
        Form::Fields | Form::Empty => fields(message, bytes, depth).map(Value::Object),
        Form::Any => {
            let decoded = google::Any::decode(bytes).map_err(|_| broken())?;
            any(&decoded.type_url, &decoded.value, depth)
        }
        Form::Duration => {
            let duration = prost_types::Duration::decode(bytes).map_err(|_| broken())?;
            Ok(duration.to_string().into())
        }
        Form::Timestamp => {
            let timestamp = prost_types::Timestamp::decode(bytes).map_err(|_| broken())?;
            Ok(timestamp.to_string().into())
        }
        Form::Struct => google::Struct::decode(bytes).map(|s| well_known::from_struct(&s)).map_err(|_| broken()),
        Form::Value => google::Value::decode(bytes).map(|v| well_known::from_value(&v)).map_err(|_| broken()),
        Form::ListValue => {
            let list = google::ListValue::decode(bytes).map_err(|_| broken())?;
            Ok(list.values.iter().map(well_known::from_value).collect())
        }
        Form::Wrapper => {
            let mut map = fields(message, bytes, depth)?;
            let Some(field) = message.fields().first() else { return Err(broken()) };
            Ok(map.remove(field.name()).unwrap_or_else(|| default(field.kind)))
        }
    }
}

/// An `Any` whose type or bytes are not understood keeps them: it must not fail the whole answer.
pub(super) fn any(url: &str, bytes: &[u8], depth: usize) -> Result<Value, JsonError> {
    if url.is_empty() && bytes.is_empty() {
        return Ok(json!({}));
    }
    let raw = || json!({ "@type": url, "value": BASE64_STANDARD.encode(bytes) });
    let Some(inner) = Message::find(type_url::message_name(url)) else { return Ok(raw()) };
    Ok(match message(inner, bytes, depth + 1) {
        Ok(Value::Object(fields)) if inner.form == Form::Fields => {
            let mut map = Map::new();
            map.insert("@type".to_owned(), url.into());
            map.extend(fields);
            Value::Object(map)
        }
        Ok(value) => json!({ "@type": url, "value": value }),
        Err(_) => raw(),
    })
}

fn fields(message: &Message, mut bytes: &[u8], depth: usize) -> Result<Map<String, Value>, JsonError> {
    let broken = |_: Broken| JsonError::new("", format!("the bytes are no {}", message.name()));
    let mut map = Map::new();
    // Parts of one message add up, so they are joined before they are read.
    let mut parts: Vec<(&Field, Vec<u8>)> = Vec::new();
    while !bytes.is_empty() {
        let (number, value) = wire::next(&mut bytes).map_err(broken)?;
        let Some(field) = message.number(number) else { continue };
        if field.oneof != 0 {
            let others = message.fields().iter().filter(|f| f.oneof == field.oneof && f.number != number);
            for other in others {
                map.remove(other.name());
                parts.retain(|(part, _)| part.number != other.number);
            }
        }
        match (field.shape, field.kind, value) {
            (Shape::Map, _, Wire::Bytes(entry)) => {
                let (key, value) = map_entry(field, entry, depth)?;
                if let Value::Object(entries) = map.entry(field.name()).or_insert_with(|| json!({})) {
                    entries.insert(key, value);
                }
            }
            (Shape::List, _, value) => {
                if let Value::Array(list) = map.entry(field.name()).or_insert_with(|| json!([])) {
                    list_items(field, value, list, depth)?;
                }
            }
            (_, Kind::Message, Wire::Bytes(part)) => match parts.iter_mut().find(|(f, _)| f.number == number) {
                Some((_, joined)) => joined.extend_from_slice(part),
                None => parts.push((field, part.to_vec())),
            },
            (shape, _, value) => {
                let is_default = matches!(value, Wire::Number(0) | Wire::Bytes([]));
                if shape == Shape::Plain && is_default && message.form == Form::Fields {
                    map.remove(field.name());
                } else {
                    map.insert(field.name().to_owned(), one(field, value, depth)?);
                }
            }
        }
    }
    for (field, part) in parts {
        map.insert(field.name().to_owned(), self::message(field.message(), &part, depth + 1)?);
    }
    Ok(map)
}

/// One item, or many numbers packed together.
fn list_items(field: &Field, value: Wire<'_>, list: &mut Vec<Value>, depth: usize) -> Result<(), JsonError> {
    let (Wire::Bytes(mut packed), false) = (value, matches!(field.kind, Kind::Message | Kind::String | Kind::Bytes))
    else {
        list.push(one(field, value, depth)?);
        return Ok(());
    };
    while !packed.is_empty() {
        let number = match field.kind {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => wire::fixed64(&mut packed),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => wire::fixed32(&mut packed),
            _ => wire::varint(&mut packed),
        };
        let number = number.map_err(|e| JsonError::new(field.name(), e.to_string()))?;
        list.push(one(field, Wire::Number(number), depth)?);
    }
    Ok(())
}

fn map_entry(field: &Field, entry: &[u8], depth: usize) -> Result<(String, Value), JsonError> {
    let descriptor = field.message();
    let mut map = fields(descriptor, entry, depth + 1)?;
    let mut take = |number| {
        let part = descriptor.number(number);
        let value = part.and_then(|f| map.remove(f.name()));
        value.or_else(|| part.map(|f| absent(f, depth))).unwrap_or(Value::Null)
    };
    let key = match take(1) {
        Value::String(key) => key,
        key => key.to_string(),
    };
    Ok((key, take(2)))
}

/// What a field of a map entry holds when it is not on the wire.
fn absent(field: &Field, depth: usize) -> Value {
    match field.kind {
        Kind::Message => message(field.message(), &[], depth + 1).unwrap_or(Value::Null),
        Kind::Enum => field.values().first().map_or(Value::Null, |v| v.name().into()),
        kind => default(kind),
    }
}

fn default(kind: Kind) -> Value {
    match kind {
        Kind::String | Kind::Bytes => "".into(),
        Kind::Bool => false.into(),
        Kind::Int64 | Kind::Uint64 | Kind::Fixed64 | Kind::Sfixed64 | Kind::Sint64 => "0".into(),
        _ => 0.into(),
    }
}

fn one(field: &Field, value: Wire<'_>, depth: usize) -> Result<Value, JsonError> {
    let wrong = || JsonError::new(field.name(), "the field has the wrong wire type");
    let number = match value {
        Wire::Number(number) => number,
        Wire::Group => return Err(wrong()),
        Wire::Bytes(bytes) => {
            return match field.kind {
                Kind::Message => message(field.message(), bytes, depth + 1),
                Kind::String => Ok(String::from_utf8_lossy(bytes).into()),
                Kind::Bytes => Ok(BASE64_STANDARD.encode(bytes).into()),
                _ => Err(wrong()),
            };
        }
    };
    Ok(match field.kind {
        Kind::Message | Kind::String | Kind::Bytes => return Err(wrong()),
        Kind::Bool => (number != 0).into(),
        Kind::Int32 | Kind::Sfixed32 => (number as i32).into(),
        Kind::Uint32 | Kind::Fixed32 => (number as u32).into(),
        Kind::Sint32 => (unzigzag(number) as i32).into(),
        // JSON numbers lose 64-bit integers: the mapping makes them texts.
        Kind::Int64 | Kind::Sfixed64 => (number as i64).to_string().into(),
        Kind::Uint64 | Kind::Fixed64 => number.to_string().into(),
        Kind::Sint64 => unzigzag(number).to_string().into(),
        Kind::Double => float(f64::from_bits(number)),
        Kind::Float => {
            let v = f32::from_bits(number as u32);
            // Through its shortest text, so that 0.1 does not print as 0.10000000149011612.
            float(v.to_string().parse().unwrap_or_else(|_| f64::from(v)))
        }
        Kind::Enum => match field.values().iter().find(|v| v.number == number as i32) {
            Some(known) => known.name().into(),
            None => (number as i32).into(),
        },
    })
}

fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

fn float(v: f64) -> Value {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        v.into()
    }
}
