//! What kubectl users expect a write to do to an object: uid, creationTimestamp, generation, status kept.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An object ready to be written; `None`: the write would change nothing.
pub fn admit(before: Option<&Value>, document: &Value, now: SystemTime) -> Option<Value> {
    let mut body = document.clone();
    let old_metadata = before.map(|b| &b["metadata"]);
    let spec_changed = before.is_none_or(|b| spec(b) != spec(document));
    let generation = old_metadata.and_then(|m| m["generation"].as_i64()).unwrap_or(0) + i64::from(spec_changed);
    if let Some(object) = body.as_object_mut() {
        object.remove("status");
        if let Some(status) = before.and_then(|b| b.get("status")) {
            object.insert("status".into(), status.clone());
        }
    }
    let metadata = &mut body["metadata"];
    if let Some(fields) = metadata.as_object_mut() {
        for field in ["managedFields", "selfLink", "resourceVersion"] {
            fields.remove(field);
        }
        fields.retain(|_, value| !value.is_null());
    }
    metadata["generation"] = json!(generation);
    for (field, fresh) in [("uid", new_uid as fn(SystemTime) -> String), ("creationTimestamp", timestamp)] {
        let kept = old_metadata.and_then(|m| m[field].as_str()).map(str::to_owned);
        metadata[field] = Value::String(kept.unwrap_or_else(|| fresh(now)));
    }
    let unchanged = before.is_some_and(|b| without_version(b) == without_version(&body));
    (!unchanged).then_some(body)
}

/// Everything that counts for `generation`: all but metadata and status.
fn spec(body: &Value) -> Map<String, Value> {
    let mut spec = body.as_object().cloned().unwrap_or_default();
    spec.remove("metadata");
    spec.remove("status");
    spec
}

fn without_version(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    body
}

/// An object as its history keeps it: what may be applied again.
pub fn for_history(body: &Value) -> Value {
    let mut body = without_version(body);
    if let Some(object) = body.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("uid");
        metadata.remove("creationTimestamp");
    }
    body
}

/// RFC 3339, UTC, whole seconds.
pub fn timestamp(now: SystemTime) -> String {
    let at = OffsetDateTime::from(now);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// A random UUID, version 4.
fn new_uid(_: SystemTime) -> String {
    let mut bytes = [0u8; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return String::new();
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
