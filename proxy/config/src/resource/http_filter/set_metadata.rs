//! `set_metadata.v3.Config`: dynamic metadata with fixed values.

use serde_json::{Map, Value};
use sidemesh_proto::envoy::extensions::filters::http::set_metadata::v3 as pb;

use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{non_empty, struct_to_json};

/// In the order of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct SetMetadata {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub namespace: Name,
    pub fields: Map<String, Value>,
    /// Otherwise a namespace that has something is left alone.
    pub allow_overwrite: bool,
}

#[allow(deprecated)] // Envoy still takes the single entry.
pub(super) fn parse(config: &pb::Config) -> Result<SetMetadata, Rejection> {
    let fields = |value: &sidemesh_proto::google::Struct| match struct_to_json(value) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let mut entries = Vec::with_capacity(config.metadata.len() + 1);
    if let Some(value) = &config.value {
        let namespace = name(&config.metadata_namespace);
        entries.push(Entry { namespace, fields: fields(value), allow_overwrite: true });
    }
    for (i, entry) in config.metadata.iter().enumerate() {
        let namespace = non_empty(&entry.metadata_namespace, "metadata_namespace").within_index("metadata", i)?;
        if let Some(value) = &entry.value {
            entries.push(Entry { namespace, fields: fields(value), allow_overwrite: entry.allow_overwrite });
        }
    }
    Ok(SetMetadata { entries })
}
