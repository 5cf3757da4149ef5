//! `set_filter_state.v3.Config`: texts for filters, matchers and logs, made from formats.

use sidemesh_proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
use sidemesh_proto::envoy::extensions::filters::http::set_filter_state::v3 as pb;

use crate::rejection::{Rejection, Within};
use crate::resource::http_connection_manager::BodyFormat;
use crate::resource::substitution;
use crate::value::{Name, name};
use crate::wire::{enumeration, non_empty, required};

#[derive(Debug, Clone, PartialEq)]
pub struct SetFilterState {
    pub entries: Vec<Entry>,
    pub clear_route_cache: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: Name,
    pub format: BodyFormat,
    pub hashable: bool,
    /// An empty text is not set.
    pub skip_if_empty: bool,
}

/// The factories of objects, and whether a hash policy may read what they make.
const FACTORIES: [(&str, bool); 2] = [("envoy.string", false), ("envoy.hashable_string", true)];

pub(super) fn parse(config: &pb::Config) -> Result<SetFilterState, Rejection> {
    let entries = config.on_request_headers.iter().enumerate();
    Ok(SetFilterState {
        entries: entries.map(|(i, e)| entry(e).within_index("on_request_headers", i)).collect::<Result<_, _>>()?,
        clear_route_cache: config.clear_route_cache,
    })
}

/// One value, of the HTTP filter or the network filter.
fn entry(value: &common::FilterStateValue) -> Result<Entry, Rejection> {
    use common::filter_state_value::{Key, SharedWithUpstream, Value};
    let Some(Key::ObjectKey(key)) = &value.key else {
        return Err(Rejection::invalid("object_key", "is required"));
    };
    let factory = if value.factory_key.is_empty() { key } else { &value.factory_key };
    let hashable = FACTORIES.iter().find(|(known, _)| known == factory).map(|(_, hashable)| *hashable);
    let hashable = hashable.ok_or_else(|| {
        let known: Vec<&str> = FACTORIES.iter().map(|(name, _)| *name).collect();
        Rejection::unsupported("factory_key", format!("`{factory}` makes nothing here; use {}", known.join(" or ")))
    })?;
    enumeration::<SharedWithUpstream>(value.shared_with_upstream, "shared_with_upstream")?;
    let Value::FormatString(format) = required(&value.value, "format_string")?;
    non_empty(key, "object_key")?;
    Ok(Entry {
        key: name(key),
        format: substitution::body_format(format, "format_string")?,
        hashable,
        skip_if_empty: value.skip_if_empty,
    })
}
