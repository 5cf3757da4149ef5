//! `/config_dump`: what is in force, in Envoy's shape.

use std::time::SystemTime;

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};
use sidemesh_config::resource::ResourceKind;
use sidemesh_proto::json::any_to_json;

use super::Handle;
use super::route::{Answer, Query};
use crate::telemetry::format::Civil;
use crate::xds::state::{Accepted, Entry, Resources};

const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";

/// How one kind is shown.
struct Section {
    kind: ResourceKind,
    message: &'static str,
    /// Field of a static entry's list, and of the dynamic ones.
    static_list: &'static str,
    dynamic_list: &'static str,
    /// Field of the resource inside an entry.
    field: &'static str,
}

const SECTIONS: [Section; 5] = [
    Section {
        kind: ResourceKind::Cluster,
        message: "ClustersConfigDump",
        static_list: "static_clusters",
        dynamic_list: "dynamic_active_clusters",
        field: "cluster",
    },
    Section {
        kind: ResourceKind::Listener,
        message: "ListenersConfigDump",
        static_list: "static_listeners",
        dynamic_list: "dynamic_listeners",
        field: "listener",
    },
    Section {
        kind: ResourceKind::ScopedRoute,
        message: "ScopedRoutesConfigDump",
        static_list: "inline_scoped_route_configs",
        dynamic_list: "dynamic_scoped_route_configs",
        field: "scoped_route_config",
    },
    Section {
        kind: ResourceKind::Route,
        message: "RoutesConfigDump",
        static_list: "static_route_configs",
        dynamic_list: "dynamic_route_configs",
        field: "route_config",
    },
    Section {
        kind: ResourceKind::Secret,
        message: "SecretsConfigDump",
        static_list: "static_secrets",
        dynamic_list: "dynamic_active_secrets",
        field: "secret",
    },
];
const ENDPOINTS: Section = Section {
    kind: ResourceKind::Endpoints,
    message: "EndpointsConfigDump",
    static_list: "static_endpoint_configs",
    dynamic_list: "dynamic_endpoint_configs",
    field: "endpoint_config",
};
const EXTENSIONS: Section = Section {
    kind: ResourceKind::ExtensionConfig,
    message: "EcdsConfigDump",
    static_list: "",
    dynamic_list: "ecds_filters",
    field: "ecds_filter",
};

pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let name = match query.get("name_regex").map(|r| Regex::new(&r)).transpose() {
        Ok(name) => name,
        Err(e) => {
            return Answer::refused(StatusCode::BAD_REQUEST, format!("name_regex: invalid regular expression: {e}\n"));
        }
    };
    let resources = handle.resources.borrow();
    let mut configs = vec![bootstrap(handle)];
    configs.extend(SECTIONS.iter().map(|s| section(s, &resources, name.as_ref())));
    if query.has("include_eds") {
        configs.push(section(&ENDPOINTS, &resources, name.as_ref()));
    }
    if resources.of(ResourceKind::ExtensionConfig).next().is_some() {
        configs.push(section(&EXTENSIONS, &resources, name.as_ref()));
    }
    match query.get("resource") {
        None => Answer::json(&json!({"configs": configs})),
        Some(field) => match configs.iter_mut().find_map(|c| c.get_mut(&field).map(Value::take)) {
            Some(Value::Array(list)) => Answer::json(&json!({"configs": list})),
            Some(other) => Answer::json(&json!({"configs": [other]})),
            None => Answer::refused(StatusCode::NOT_FOUND, format!("{field} not found in config dump\n")),
        },
    }
}

fn bootstrap(handle: &Handle) -> Value {
    let text: Value = serde_yaml_ng::from_str(&handle.bootstrap_text).unwrap_or(Value::Null);
    json!({"@type": format!("{PREFIX}BootstrapConfigDump"), "bootstrap": redacted(text)})
}

fn section(section: &Section, resources: &Resources, name: Option<&Regex>) -> Value {
    let mut statics = Vec::new();
    let mut dynamics = Vec::new();
    let mut warming = Vec::new();
    for (resource, entry) in resources.of(section.kind).filter(|(n, _)| name.is_none_or(|r| r.is_match(n))) {
        match &entry.accepted {
            Some(accepted) if accepted.is_static => statics.push(shown(section, accepted)),
            _ if section.kind == ResourceKind::Listener => dynamics.push(listener(section, resource, entry)),
            Some(accepted) if entry.warming => {
                warming.push(shown(section, accepted));
                dynamics.extend(entry.serving.as_ref().map(|s| shown(section, s)));
            }
            Some(accepted) => dynamics.push(failed(shown(section, accepted), entry)),
            None => dynamics.push(failed(json!({"name": &**resource}), entry)),
        }
    }
    let mut dump = Map::new();
    dump.insert("@type".to_owned(), json!(format!("{PREFIX}{}", section.message)));
    if let Some(version) = resources
        .version(section.kind)
        .filter(|_| matches!(section.kind, ResourceKind::Cluster | ResourceKind::Listener))
    {
        dump.insert("version_info".to_owned(), json!(version));
    }
    for (list, entries) in
        [(section.static_list, statics), (section.dynamic_list, dynamics), ("dynamic_warming_clusters", warming)]
    {
        if !entries.is_empty() {
            dump.insert(list.to_owned(), Value::Array(entries));
        }
    }
    Value::Object(dump)
}

fn shown(section: &Section, accepted: &Accepted) -> Value {
    let mut entry = Map::new();
    if !accepted.is_static {
        entry.insert("version_info".to_owned(), json!(accepted.version));
    }
    let body = any_to_json(&accepted.raw).unwrap_or_else(|e| json!({"error": e.to_string()}));
    if section.kind == ResourceKind::Secret {
        entry.insert("name".to_owned(), body["name"].clone());
    }
    entry.insert(section.field.to_owned(), redacted(body));
    entry.insert("last_updated".to_owned(), json!(time(accepted.last_updated)));
    Value::Object(entry)
}

fn listener(section: &Section, name: &str, entry: &Entry) -> Value {
    let mut shape = Map::new();
    shape.insert("name".to_owned(), json!(name));
    match (&entry.accepted, entry.warming) {
        (Some(accepted), false) => {
            shape.insert("active_state".to_owned(), shown(section, accepted));
        }
        (Some(accepted), true) => {
            shape.insert("warming_state".to_owned(), shown(section, accepted));
            if let Some(serving) = &entry.serving {
                shape.insert("active_state".to_owned(), shown(section, serving));
            }
        }
        (None, _) => {}
    }
    failed(Value::Object(shape), entry)
}

/// Adds the last refused update.
fn failed(mut shown: Value, entry: &Entry) -> Value {
    if let Some(rejected) = &entry.rejected {
        shown["error_state"] = json!({
            "version_info": rejected.version,
            "details": rejected.details,
            "last_update_attempt": time(rejected.last_update_attempt),
            "failed_configuration": redacted(any_to_json(&rejected.raw).unwrap_or(Value::Null)),
        });
    }
    shown
}

fn time(at: SystemTime) -> String {
    Civil::of(at).iso_millis()
}

/// Private keys, passwords and ticket keys never leave the process.
fn redacted(mut value: Value) -> Value {
    const SECRET: [&str; 4] = ["private_key", "password", "session_ticket_keys", "generic_secret"];
    match &mut value {
        Value::Object(map) => {
            for (key, field) in map.iter_mut() {
                *field = if SECRET.contains(&key.as_str()) { hidden(field.take()) } else { redacted(field.take()) };
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| *v = redacted(v.take())),
        _ => {}
    }
    value
}

/// File names stay, contents go.
fn hidden(value: Value) -> Value {
    match value {
        Value::Object(map) if map.contains_key("filename") => Value::Object(map),
        Value::Null => Value::Null,
        _ => json!({"inline_string": "[redacted]"}),
    }
}
