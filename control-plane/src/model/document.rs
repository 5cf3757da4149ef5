//! From the text that a user wrote to a checked object: format, type, metadata. The spec is checked per kind.

use serde_json::{Map, Value};

use super::kind::{Key, Kind};
use super::strict::{Errors, FieldError};

/// An object as applied: its key, and the document with its namespace filled in.
#[derive(Debug, Clone)]
pub struct Document {
    pub key: Key,
    pub body: Value,
    /// `metadata.resourceVersion` when the document has one.
    pub resource_version: Option<u64>,
}

/// Fields of metadata that a user may write; the rest belongs to the control plane and is replaced.
const USER_METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];
/// Fields of metadata that `get` prints and that may come back in an `apply`.
const SYSTEM_METADATA: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];

/// Reads one JSON or YAML document.
pub fn parse(text: &str, default_namespace: &str) -> Result<Document, Vec<FieldError>> {
    let one = |message: String| vec![FieldError { path: String::new(), message }];
    let body: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| one(format!("not JSON: {e}")))?
    } else {
        // By way of YAML's own value, which refuses keys that are there twice.
        let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|e| one(format!("not YAML: {e}")))?;
        serde_json::to_value(value).map_err(|e| one(format!("not YAML with text keys: {e}")))?
    };
    check(body, default_namespace)
}

/// Checks what every object has: apiVersion, kind, metadata.
pub fn check(mut body: Value, default_namespace: &str) -> Result<Document, Vec<FieldError>> {
    let mut errors = Errors::default();
    let Some(object) = body.as_object_mut() else {
        errors.push("", "not an object: write apiVersion, kind, metadata and spec");
        return Err(errors.into_vec());
    };
    let kind = type_of(object, &mut errors);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        errors.push("metadata", "missing: give the object at least a metadata.name");
        return Err(errors.into_vec());
    };
    let Some(kind) = kind else { return Err(errors.into_vec()) };
    let no_errors = errors.is_empty();
    let name = text_field(metadata, "name", &mut errors).unwrap_or_default();
    if name.is_empty() {
        if no_errors && errors.is_empty() {
            errors.push("metadata.name", "missing: give the object a name");
        }
    } else if matches!(kind, Kind::Service | Kind::Namespace) {
        errors.label("metadata.name", &name);
    } else {
        errors.subdomain("metadata.name", &name);
    }
    let namespace = text_field(metadata, "namespace", &mut errors).filter(|ns| !ns.is_empty());
    let namespace = match (kind.names().namespaced, namespace) {
        (false, Some(_)) => {
            let message = format!("{} objects belong to no namespace: remove it", kind.names().name);
            errors.push("metadata.namespace", message);
            String::new()
        }
        (false, None) => String::new(),
        (true, Some(given)) => given,
        (true, None) if default_namespace.is_empty() => "default".to_owned(),
        (true, None) => default_namespace.to_owned(),
    };
    if kind.names().namespaced {
        errors.label("metadata.namespace", &namespace);
        metadata.insert("namespace".into(), Value::String(namespace.clone()));
    }
    let resource_version = resource_version(metadata, &mut errors);
    check_maps(metadata, &mut errors);
    let key = Key::new(kind, &namespace, &name);
    errors.finish(Document { key, body, resource_version })
}

fn type_of(object: &mut Map<String, Value>, errors: &mut Errors) -> Option<Kind> {
    let Some(kind_text) = object.get("kind").and_then(Value::as_str) else {
        errors.push("kind", format!("missing: write one of {}", Kind::all()));
        return None;
    };
    let kind_text = &kind_text.to_owned();
    let Some(kind) = Kind::parse(kind_text).filter(|k| k.names().name == kind_text) else {
        errors.push("kind", format!("`{kind_text}` is not known: use one of {}", Kind::all()));
        return None;
    };
    let names = kind.names();
    let wanted = names.api_version;
    match object.get("apiVersion").and_then(Value::as_str) {
        Some(given) if names.serves(given) => drop(object.insert("apiVersion".into(), wanted.into())),
        Some(given) => errors.push("apiVersion", format!("`{given}` is not supported for {kind_text}: use {wanted}")),
        None => errors.push("apiVersion", format!("missing: write {wanted}")),
    }
    Some(kind)
}

fn text_field(metadata: &Map<String, Value>, field: &str, errors: &mut Errors) -> Option<String> {
    match metadata.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => {
            errors.push(format!("metadata.{field}"), format!("{other} is not a string: put it in quotes"));
            None
        }
    }
}

fn resource_version(metadata: &Map<String, Value>, errors: &mut Errors) -> Option<u64> {
    let text = text_field(metadata, "resourceVersion", errors)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        errors.push("metadata.resourceVersion", format!("`{text}` is not a revision: remove it to write anyway"));
    }
    parsed
}

fn check_maps(metadata: &Map<String, Value>, errors: &mut Errors) {
    for field in metadata.keys() {
        if !USER_METADATA.contains(&field.as_str()) && !SYSTEM_METADATA.contains(&field.as_str()) {
            errors.push(format!("metadata.{field}"), "unknown field: check the spelling, or remove it");
        }
    }
    for field in ["labels", "annotations"] {
        match metadata.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                for (key, value) in map.iter().filter(|(_, v)| !v.is_string()) {
                    let message = format!("{value} is not a string: put it in quotes");
                    errors.push(format!("metadata.{field}.{key}"), message);
                }
            }
            Some(_) => errors.push(format!("metadata.{field}"), "not a map of strings"),
        }
    }
}
