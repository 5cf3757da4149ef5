//! Message bytes to JSON. Our own walk over the decoded message, because an `Any` of an unknown type must not fail the
//! whole answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, ReflectMessage, SerializeOptions, Value as Wire};
use serde_json::{Map, Value, json};

use super::{JsonError, MAX_DEPTH};
use crate::{google, pool, type_url};

pub(super) struct Printer {
    /// Grows by a pool when an `Any` holds a type that the pools so far lack.
    pools: Vec<DescriptorPool>,
    depth: usize,
}

impl Printer {
    pub(super) fn new(root: &str) -> Self {
        Printer { pools: vec![pool::with([root])], depth: 0 }
    }

    pub(super) fn message(&mut self, full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
        let Some(descriptor) = self.find(full_name) else {
            return Err(JsonError::new("", format!("there is no message type `{full_name}`")));
        };
        let message =
            DynamicMessage::decode(descriptor, bytes).map_err(|e| JsonError::new("", format!("{full_name}: {e}")))?;
        self.dynamic(&message)
    }

    pub(super) fn any(&mut self, url: &str, bytes: &[u8]) -> Result<Value, JsonError> {
        let name = type_url::message_name(url);
        let message = self.find(name).and_then(|d| DynamicMessage::decode(d, bytes).ok());
        let Some(message) = message else {
            return Ok(json!({ "@type": url, "value": BASE64_STANDARD.encode(bytes) }));
        };
        let mut map = Map::new();
        map.insert("@type".to_owned(), url.into());
        match self.dynamic(&message)? {
            Value::Object(fields) if !is_well_known(name) => map.extend(fields),
            value => {
                map.insert("value".to_owned(), value);
            }
        }
        Ok(Value::Object(map))
    }

    fn find(&mut self, full_name: &str) -> Option<prost_reflect::MessageDescriptor> {
        if let Some(found) = self.pools.iter().find_map(|p| p.get_message_by_name(full_name)) {
            return Some(found);
        }
        let pool = pool::with([full_name]);
        let found = pool.get_message_by_name(full_name)?;
        self.pools.push(pool);
        Some(found)
    }

    fn dynamic(&mut self, message: &DynamicMessage) -> Result<Value, JsonError> {
        if self.depth > MAX_DEPTH {
            return Err(JsonError::new("", format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let descriptor = message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            let any = google::Any::decode(message.encode_to_vec().as_slice())
                .map_err(|e| JsonError::new("", e.to_string()))?;
            if any.type_url.is_empty() {
                return Ok(json!({}));
            }
            self.depth += 1;
            let printed = self.any(&any.type_url, &any.value);
            self.depth -= 1;
            return printed;
        }
        if is_well_known(descriptor.full_name()) {
            let printed = message.serialize_with_options(
                serde_json::value::Serializer,
                &SerializeOptions::new().use_proto_field_name(true),
            );
            // A value outside the type's JSON range (a Duration of negative nanoseconds, say) still has to be shown.
            return Ok(printed.unwrap_or_else(|e| Value::String(format!("<{}: {e}>", descriptor.full_name()))));
        }
        self.depth += 1;
        let mut map = Map::new();
        for (field, value) in message.fields() {
            map.insert(field.name().to_owned(), self.value(&field.kind(), value)?);
        }
        self.depth -= 1;
        Ok(Value::Object(map))
    }

    fn value(&mut self, kind: &Kind, value: &Wire) -> Result<Value, JsonError> {
        Ok(match value {
            Wire::Bool(v) => (*v).into(),
            Wire::I32(v) => (*v).into(),
            Wire::U32(v) => (*v).into(),
            // JSON numbers lose 64-bit integers: the mapping makes them strings.
            Wire::I64(v) => v.to_string().into(),
            Wire::U64(v) => v.to_string().into(),
            Wire::F32(v) => float(f64::from(*v), || v.to_string().parse().unwrap_or(f64::from(*v))),
            Wire::F64(v) => float(*v, || *v),
            Wire::String(v) => v.as_str().into(),
            Wire::Bytes(v) => BASE64_STANDARD.encode(v).into(),
            Wire::EnumNumber(number) => match kind.as_enum().and_then(|e| e.get_value(*number)) {
                Some(known) => known.name().into(),
                None => (*number).into(),
            },
            Wire::Message(message) => self.dynamic(message)?,
            Wire::List(list) => Value::Array(list.iter().map(|v| self.value(kind, v)).collect::<Result<Vec<_>, _>>()?),
            Wire::Map(entries) => {
                let inner = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
                let mut map = Map::new();
                for (key, value) in entries {
                    map.insert(map_key(key), self.value(inner.as_ref().unwrap_or(kind), value)?);
                }
                Value::Object(map)
            }
        })
    }
}

fn is_well_known(full_name: &str) -> bool {
    full_name.starts_with("google.protobuf.")
}

/// `shortest` gives the number that prints with the fewest digits.
fn float(v: f64, shortest: impl FnOnce() -> f64) -> Value {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        shortest().into()
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}
