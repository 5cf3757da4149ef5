//! The protobuf-JSON mapping, both ways, over every message this crate knows (Envoy's and ours), with `Any` expanded.
//!
//! Reading refuses what the message does not have, and says where. Writing prints field names as the .proto files spell
//! them, as Envoy's `/config_dump` does. The descriptors live only for the length of a call.

use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage};
use serde_json::Value;

use crate::{pool, type_url};

mod check;
mod print;
#[cfg(test)]
mod tests;

/// Deeper nesting than this is refused.
pub const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct JsonError {
    /// Path of the field, e.g. `static_resources.clusters[0].foo`; empty for the message itself.
    pub path: String,
    pub reason: String,
}

impl JsonError {
    fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        JsonError { path: path.into(), reason: reason.into() }
    }
}

/// Reads `value` as the message `full_name`, whose Rust type is `T`.
pub fn parse<T: Message + Default>(full_name: &str, value: &Value) -> Result<T, JsonError> {
    let bytes = to_bytes(full_name, value)?;
    T::decode(bytes.as_slice()).map_err(|e| JsonError::new("", format!("{full_name}: {e}")))
}

/// Reads `value` as the message `full_name` and encodes it.
pub fn to_bytes(full_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    let mut names = vec![full_name];
    check::type_names(value, &mut names);
    let pool = pool::with(names);
    let descriptor = pool
        .get_message_by_name(full_name)
        .ok_or_else(|| JsonError::new("", format!("there is no message type `{full_name}`")))?;
    check::message(&descriptor, value, &check::Path::default())?;

    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let mut track = serde_path_to_error::Track::new();
    let input = serde_path_to_error::Deserializer::new(value, &mut track);
    match DynamicMessage::deserialize_with_options(descriptor, input, &options) {
        Ok(message) => Ok(message.encode_to_vec()),
        Err(e) => {
            let path = track.path().to_string();
            Err(JsonError::new(if path == "." { String::new() } else { path }, e.to_string()))
        }
    }
}

/// Prints the encoded message `full_name`. An `Any` of a type that is not known is printed as its `@type` and the
/// base64 text of its `value`.
pub fn to_json(full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    print::Printer::new(full_name).message(full_name, bytes)
}

/// Reads the JSON form of an `Any` (`{"@type": …}`): its type URL and encoded value.
pub fn any_from_json(value: &Value) -> Result<crate::google::Any, JsonError> {
    let any = to_bytes("google.protobuf.Any", value)?;
    crate::google::Any::decode(any.as_slice()).map_err(|e| JsonError::new("", e.to_string()))
}

/// Prints an `Any` with its `@type` first-class beside the fields.
pub fn any_to_json(any: &crate::google::Any) -> Result<Value, JsonError> {
    print::Printer::new(type_url::message_name(&any.type_url)).any(&any.type_url, &any.value)
}
