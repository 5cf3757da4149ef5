//! The protobuf-JSON mapping (<https://protobuf.dev/programming-guides/json/>), both ways, over every message this crate
//! knows (Envoy's and ours), with `Any` expanded.
//!
//! Reading refuses what the message does not have, and says where. Writing prints field names as the .proto files spell
//! them, as Envoy's `/config_dump` does. The mapping works from static tables instead of a descriptor pool: a pool of these
//! messages leaves about 12 MiB behind in the allocator, more than the whole proxy may use.

use prost::Message;
use serde_json::Value;

use crate::{google, type_url};

mod path;
mod read;
mod table;
#[cfg(test)]
mod tests;
pub mod well_known;
mod write;

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
    let mut bytes = Vec::new();
    read::message(find(full_name)?, value, &path::Path::default(), &mut bytes)?;
    Ok(bytes)
}

/// Prints the encoded message `full_name`. An `Any` of a type that is not known is printed as its `@type` and the
/// base64 text of its `value`.
pub fn to_json(full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    write::message(find(full_name)?, bytes, 0)
}

/// Reads the JSON form of an `Any` (`{"@type": …}`): its type URL and encoded value.
pub fn any_from_json(value: &Value) -> Result<google::Any, JsonError> {
    parse("google.protobuf.Any", value)
}

/// Prints an `Any`: its `@type` and the fields of its message.
pub fn any_to_json(any: &google::Any) -> Result<Value, JsonError> {
    write::any(&any.type_url, &any.value, 0)
}

/// Whether the mapping knows the message `full_name`.
pub fn knows(full_name: &str) -> bool {
    table::Message::find(type_url::message_name(full_name)).is_some()
}

fn find(full_name: &str) -> Result<&'static table::Message, JsonError> {
    table::Message::find(full_name).ok_or_else(|| JsonError::new("", format!("there is no message type `{full_name}`")))
}
