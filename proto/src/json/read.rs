//! JSON to message bytes.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

use super::path::Path;
use super::table::{Field, Form, Kind, Message, Shape};
use super::{JsonError, MAX_DEPTH, well_known};
use crate::type_url;

type Outcome = Result<(), JsonError>;

/// Appends the fields of `message` that `value` holds.
pub(super) fn message(message: &Message, value: &Value, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    if path.depth > MAX_DEPTH {
        return Err(path.error(format!("nested more than {MAX_DEPTH} levels deep")));
    }
    match (message.form, value) {
        (Form::Fields, Value::Object(map)) => fields(message, map, false, path, out),
        (Form::Empty, Value::Object(map)) if map.is_empty() => Ok(()),
        (Form::Any, Value::Object(map)) => any(map, path, out),
        (Form::Struct, Value::Object(map)) => append(out, &well_known::to_struct(map)),
        (Form::Value, _) => append(out, &well_known::to_value(value)),
        (Form::ListValue, Value::Array(list)) => {
            append(out, &crate::google::ListValue { values: list.iter().map(well_known::to_value).collect() })
        }
        (Form::Duration, Value::String(text)) => match text.parse::<prost_types::Duration>() {
            Ok(duration) => append(out, &duration),
            Err(_) => Err(path.error(format!("`{text}` is no duration; write seconds, such as `1.5s`"))),
        },
        (Form::Timestamp, Value::String(text)) => match text.parse::<prost_types::Timestamp>() {
            Ok(timestamp) => append(out, &timestamp),
            Err(_) => Err(path.error(format!("`{text}` is no time; write it as `2024-01-31T12:00:00Z`"))),
        },
        (Form::Wrapper, _) => match message.fields() {
            [field] => whole_field(field, value, path, out),
            _ => Err(path.error("the wrapper has no value")),
        },
        (Form::Duration, _) => Err(expected("a duration such as \"1.5s\"", value, path)),
        (Form::Timestamp, _) => Err(expected("a time such as \"2024-01-31T12:00:00Z\"", value, path)),
        (Form::ListValue, _) => Err(expected("a list", value, path)),
        (Form::Empty, Value::Object(_)) => Err(path.error("must be empty: {}")),
        (Form::Fields | Form::Any | Form::Struct | Form::Empty, _) => {
            Err(expected(&format!("an object ({})", message.name()), value, path))
        }
    }
}

fn append(out: &mut Vec<u8>, message: &impl prost::Message) -> Outcome {
    out.extend(message.encode_to_vec());
    Ok(())
}

fn expected(what: &str, found: &Value, path: &Path<'_>) -> JsonError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text {s:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    path.error(format!("expected {what}, found {found}"))
}

fn any(map: &Map<String, Value>, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    if map.is_empty() {
        return Ok(());
    }
    let Some(url) = map.get("@type") else {
        return Err(path.error("an `Any` needs its `@type`"));
    };
    let at = path.field("@type");
    let Value::String(url) = url else { return Err(expected("a type URL", url, &at)) };
    let name = type_url::message_name(url);
    if !url.contains('/') {
        return Err(at.error(format!("`{url}` is no type URL; write `{}`", type_url::of(name))));
    }
    let Some(inner) = Message::find(name) else {
        return Err(at.error(format!("there is no message type `{name}`")));
    };
    let mut payload = Vec::new();
    if inner.form == Form::Fields {
        fields(inner, map, true, path, &mut payload)?;
    } else {
        if let Some(key) = map.keys().find(|k| *k != "@type" && *k != "value") {
            return Err(path.field(key).error(format!("{name} in an `Any` has only `value`")));
        }
        match map.get("value") {
            Some(value) => message(inner, value, &path.field("value"), &mut payload)?,
            None if inner.form == Form::Empty => {}
            None => return Err(path.error(format!("an `Any` of {name} needs its `value`"))),
        }
    }
    bytes_field(1, url.as_bytes(), out);
    bytes_field(2, &payload, out);
    Ok(())
}

fn fields(message: &Message, map: &Map<String, Value>, in_any: bool, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    let mut given: Vec<&Field> = Vec::with_capacity(map.len());
    for (key, value) in map {
        if in_any && key == "@type" {
            continue;
        }
        let Some(field) = message.field(key) else {
            return Err(path.field(key).error(unknown_field(message, key)));
        };
        let nothing = value.is_null() && !(field.kind == Kind::Message && field.message().form == Form::Value);
        if nothing {
            continue;
        }
        for other in &given {
            if other.number == field.number {
                return Err(path.field(field.name()).error("is given twice, in snake_case and in camelCase"));
            }
            if field.oneof != 0 && other.oneof == field.oneof {
                return Err(path.error(format!("only one of `{}` and `{}` may be given", other.name(), field.name())));
            }
        }
        given.push(field);
        whole_field(field, value, &path.field(key), out)?;
    }
    Ok(())
}

fn whole_field(field: &Field, value: &Value, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    match (field.shape, value) {
        (Shape::Plain, _) => {
            let start = out.len();
            one(field, value, path, out)?;
            // A default is not written: key, then a zero length or number.
            if is_default(&out[start..]) {
                out.truncate(start);
            }
            Ok(())
        }
        (Shape::Optional, _) => one(field, value, path, out),
        (Shape::List, Value::Array(list)) => {
            list.iter().enumerate().try_for_each(|(i, value)| one(field, value, &path.index(i), out))
        }
        (Shape::List, _) => Err(expected("a list", value, path)),
        (Shape::Map, Value::Object(map)) => {
            map.iter().try_for_each(|(key, value)| map_entry(field, key, value, &path.field(key), out))
        }
        (Shape::Map, _) => Err(expected("an object", value, path)),
    }
}

/// Whether one encoded scalar field holds zero or nothing.
fn is_default(encoded: &[u8]) -> bool {
    let mut rest = encoded;
    matches!(crate::wire::next(&mut rest), Ok((_, crate::wire::Value::Number(0) | crate::wire::Value::Bytes([]))))
}

fn map_entry(field: &Field, key: &str, value: &Value, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    let entry = field.message();
    let (Some(key_field), Some(value_field)) = (entry.number(1), entry.number(2)) else {
        return Err(path.error("the map has no entries"));
    };
    let mut bytes = Vec::new();
    let key = match key_field.kind {
        Kind::Bool => Value::Bool(key.parse().map_err(|_| path.error(format!("the key `{key}` is no boolean")))?),
        _ => Value::String(key.to_owned()),
    };
    one(key_field, &key, path, &mut bytes)?;
    one(value_field, value, path, &mut bytes)?;
    bytes_field(field.number, &bytes, out);
    Ok(())
}

/// Appends one value of the field with its key.
fn one(field: &Field, value: &Value, path: &Path<'_>, out: &mut Vec<u8>) -> Outcome {
    let number = field.number;
    match field.kind {
        Kind::Message => {
            let mut payload = Vec::new();
            message(field.message(), value, path, &mut payload)?;
            bytes_field(number, &payload, out);
        }
        Kind::String => match value {
            Value::String(text) => bytes_field(number, text.as_bytes(), out),
            _ => return Err(expected("a text", value, path)),
        },
        Kind::Bytes => bytes_field(number, &base64(value, path)?, out),
        Kind::Bool => match value {
            Value::Bool(b) => varint_field(number, u64::from(*b), out),
            _ => return Err(expected("true or false", value, path)),
        },
        Kind::Enum => varint_field(number, i64::from(enum_number(field, value, path)?) as u64, out),
        Kind::Double => fixed_field(number, &float(value, path)?.to_bits().to_le_bytes(), out),
        Kind::Float => {
            let v = float(value, path)?;
            if v.is_finite() && v.abs() > f64::from(f32::MAX) {
                return Err(path.error(format!("{v} is out of range")));
            }
            fixed_field(number, &(v as f32).to_bits().to_le_bytes(), out);
        }
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {
            varint_field(number, integer(field.kind, value, path)? as u64, out);
        }
        Kind::Sint32 | Kind::Sint64 => {
            let v = integer(field.kind, value, path)? as i64;
            varint_field(number, ((v << 1) ^ (v >> 63)) as u64, out);
        }
        Kind::Fixed32 | Kind::Sfixed32 => {
            fixed_field(number, &(integer(field.kind, value, path)? as u32).to_le_bytes(), out);
        }
        Kind::Fixed64 | Kind::Sfixed64 => {
            fixed_field(number, &(integer(field.kind, value, path)? as u64).to_le_bytes(), out);
        }
    }
    Ok(())
}

fn varint_field(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn fixed_field(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    let wire_type = if bytes.len() == 4 { WireType::ThirtyTwoBit } else { WireType::SixtyFourBit };
    encode_key(number, wire_type, out);
    out.extend_from_slice(bytes);
}

fn bytes_field(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A whole number in the range of `kind`, written as a number or as a text.
fn integer(kind: Kind, value: &Value, path: &Path<'_>) -> Result<i128, JsonError> {
    let of_float = |f: f64| (f.fract() == 0.0 && f.abs() < 1e19).then_some(f as i128);
    let found = match value {
        Value::Number(n) => n.as_i64().map(i128::from).or(n.as_u64().map(i128::from)).or(n.as_f64().and_then(of_float)),
        Value::String(s) => s.parse::<i128>().ok().or(s.parse::<f64>().ok().and_then(of_float)),
        _ => None,
    };
    let Some(found) = found else { return Err(expected("a whole number", value, path)) };
    let (least, most) = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
        Kind::Uint32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
        Kind::Uint64 | Kind::Fixed64 => (0, i128::from(u64::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    if (least..=most).contains(&found) {
        Ok(found)
    } else {
        Err(path.error(format!("{found} is not between {least} and {most}")))
    }
}

fn float(value: &Value, path: &Path<'_>) -> Result<f64, JsonError> {
    let found = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            s => s.parse().ok().filter(|f: &f64| f.is_finite()),
        },
        _ => None,
    };
    found.ok_or_else(|| expected("a number", value, path))
}

fn enum_number(field: &Field, value: &Value, path: &Path<'_>) -> Result<i32, JsonError> {
    match value {
        Value::String(name) => match field.values().iter().find(|v| v.name() == name) {
            Some(found) => Ok(found.number),
            None => {
                let known: Vec<&str> = field.values().iter().take(20).map(|v| v.name()).collect();
                Err(path.error(format!("there is no value `{name}`; there are {}", known.join(", "))))
            }
        },
        Value::Number(_) => Ok(integer(Kind::Int32, value, path)? as i32),
        _ => Err(expected("the name of a value", value, path)),
    }
}

fn base64(value: &Value, path: &Path<'_>) -> Result<Vec<u8>, JsonError> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let Value::String(text) = value else { return Err(expected("a base64 text", value, path)) };
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).map_err(|e| path.error(format!("is no base64 text: {e}")))
}

fn unknown_field(message: &Message, key: &str) -> String {
    let name = message.name();
    let near = message.fields().iter().map(|f| (distance(f.name(), key), f.name())).min();
    match near {
        Some((distance, near)) if distance <= 1 + key.len() / 4 => {
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
