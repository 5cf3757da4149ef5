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
    /// Field and message of a static entry's list, and of the dynamic ones.
    statics: (&'static str, &'static str),
    dynamics: (&'static str, &'static str),
    /// Field of the resource inside an entry.
    field: &'static str,
}

static SECTIONS: [Section; 7] = [
    Section {
        kind: ResourceKind::Cluster,
        message: "ClustersConfigDump",
        statics: ("static_clusters", "StaticCluster"),
        dynamics: ("dynamic_active_clusters", "DynamicCluster"),
        field: "cluster",
    },
    Section {
        kind: ResourceKind::Endpoints,
        message: "EndpointsConfigDump",
        statics: ("static_endpoint_configs", "StaticEndpointConfig"),
        dynamics: ("dynamic_endpoint_configs", "DynamicEndpointConfig"),
        field: "endpoint_config",
    },
    Section {
        kind: ResourceKind::Listener,
        message: "ListenersConfigDump",
        statics: ("static_listeners", "StaticListener"),
        dynamics: ("dynamic_listeners", "DynamicListener"),
        field: "listener",
    },
    Section {
        kind: ResourceKind::ScopedRoute,
        message: "ScopedRoutesConfigDump",
        statics: ("inline_scoped_route_configs", "InlineScopedRouteConfigs"),
        dynamics: ("dynamic_scoped_route_configs", "DynamicScopedRouteConfigs"),
        field: "scoped_route_config",
    },
    Section {
        kind: ResourceKind::Route,
        message: "RoutesConfigDump",
        statics: ("static_route_configs", "StaticRouteConfig"),
        dynamics: ("dynamic_route_configs", "DynamicRouteConfig"),
        field: "route_config",
    },
    Section {
        kind: ResourceKind::Secret,
        message: "SecretsConfigDump",
        statics: ("static_secrets", "StaticSecret"),
        dynamics: ("dynamic_active_secrets", "DynamicSecret"),
        field: "secret",
    },
    Section {
        kind: ResourceKind::ExtensionConfig,
        message: "EcdsConfigDump",
        statics: ("", ""),
        dynamics: ("ecds_filters", "EcdsFilterConfig"),
        field: "ecds_filter",
    },
];
const WARMING: &str = "dynamic_warming_clusters";

pub fn answer(handle: &Handle, query: &Query) -> Answer {
    // The whole name is matched, as everywhere in the API.
    let name = match query.get("name_regex").map(|r| Regex::new(&format!("^(?:{r})$"))).transpose() {
        Ok(name) => name,
        Err(e) => {
            let reason = format!("Error while parsing name_regex: {e}\n");
            return Answer::refused(StatusCode::BAD_REQUEST, reason);
        }
    };
    let mask = query.get("mask").map(|m| Mask::new(&m));
    let resources = handle.resources.borrow();
    let with_endpoints = query.has("include_eds");
    let shown = |s: &&Section| match s.kind {
        ResourceKind::Endpoints => with_endpoints,
        ResourceKind::ExtensionConfig => resources.of(ResourceKind::ExtensionConfig).next().is_some(),
        _ => true,
    };
    let sections = || SECTIONS.iter().filter(shown);
    let masked = |value: Value| match &mask {
        Some(mask) => mask.apply(value),
        None => value,
    };
    let configs: Vec<Value> = match query.get("resource") {
        None => {
            let first = bootstrap(handle);
            let all = sections().map(|s| section(s, &resources, name.as_ref()));
            std::iter::once(first).chain(all).map(masked).collect()
        }
        Some(field) if field == "bootstrap" => vec![masked(bootstrap(handle))],
        Some(field) => {
            let of_field = |s: &Section| [s.statics.0, s.dynamics.0, WARMING].contains(&&*field);
            let Some(found) = sections().find(|s| of_field(s)) else {
                return Answer::refused(StatusCode::NOT_FOUND, format!("{field} not found in config dump"));
            };
            let message = if field == found.statics.0 { found.statics.1 } else { found.dynamics.1 };
            let typed = |mut entry: Value| {
                entry["@type"] = json!(format!("{PREFIX}{}.{message}", found.message));
                masked(entry)
            };
            match section(found, &resources, name.as_ref()).get_mut(&field).map(Value::take) {
                Some(Value::Array(list)) => list.into_iter().map(typed).collect(),
                _ => Vec::new(),
            }
        }
    };
    // A mask that fits nothing leaves the types alone.
    if let Some(mask) = query.get("mask")
        && configs.iter().all(|config| config.as_object().is_none_or(|fields| fields.keys().all(|k| k == "@type")))
    {
        let reason = format!("FieldMask {mask} could not be successfully applied to any configs.");
        return Answer::refused(StatusCode::BAD_REQUEST, reason);
    }
    Answer::json(&json!({"configs": configs}))
}

/// `?mask=a.b,c`: a `google.protobuf.FieldMask` over each entry. Types stay, lists are gone through.
pub(super) struct Mask(Vec<Vec<String>>);

impl Mask {
    pub(super) fn new(text: &str) -> Self {
        let paths = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        Mask(paths.map(|p| p.split('.').map(str::to_owned).collect()).collect())
    }

    pub(super) fn apply(&self, value: Value) -> Value {
        let paths: Vec<&[String]> = self.0.iter().map(Vec::as_slice).collect();
        keep(value, &paths)
    }
}

fn keep(value: Value, paths: &[&[String]]) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter_map(|(key, field)| {
                if key == "@type" {
                    return Some((key, field));
                }
                let below: Vec<&[String]> = paths.iter().filter(|p| p.first() == Some(&key)).map(|p| &p[1..]).collect();
                let whole = below.iter().any(|p| p.is_empty());
                (!below.is_empty()).then(|| (key, if whole { field } else { keep(field, &below) }))
            });
            Value::Object(kept.collect())
        }
        Value::Array(list) => list.into_iter().map(|v| keep(v, paths)).collect(),
        other => other,
    }
}

fn bootstrap(handle: &Handle) -> Value {
    let text: Value = serde_yaml_ng::from_str(&handle.bootstrap_text.text()).unwrap_or(Value::Null);
    let started = SystemTime::now().checked_sub(handle.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    json!({
        "@type": format!("{PREFIX}BootstrapConfigDump"),
        "bootstrap": redacted(text),
        "last_updated": time(started),
    })
}

fn section(section: &Section, resources: &Resources, name: Option<&Regex>) -> Value {
    let mut statics = Vec::new();
    let mut dynamics = Vec::new();
    let mut warming = Vec::new();
    // What was refused and never taken comes last.
    let mut refused = Vec::new();
    if section.kind == ResourceKind::Endpoints {
        statics.extend(static_endpoints(resources, name));
    }
    for (resource, entry) in resources.of(section.kind).filter(|(n, _)| name.is_none_or(|r| r.is_match(n))) {
        match &entry.accepted {
            Some(accepted) if accepted.is_static => statics.push(shown(section, accepted)),
            None => refused.push(failed(json!({"name": &**resource}), entry)),
            _ if section.kind == ResourceKind::Listener => dynamics.push(listener(section, resource, entry)),
            Some(accepted) if entry.warming => {
                warming.push(shown(section, accepted));
                dynamics.extend(entry.serving.as_ref().map(|s| shown(section, s)));
            }
            Some(accepted) => dynamics.push(failed(shown(section, accepted), entry)),
        }
    }
    dynamics.extend(refused);
    let mut dump = Map::new();
    dump.insert("@type".to_owned(), json!(format!("{PREFIX}{}", section.message)));
    if let Some(version) = resources
        .version(section.kind)
        .filter(|_| matches!(section.kind, ResourceKind::Cluster | ResourceKind::Listener))
    {
        dump.insert("version_info".to_owned(), json!(version));
    }
    for (list, entries) in [(section.statics.0, statics), (section.dynamics.0, dynamics), (WARMING, warming)] {
        if !entries.is_empty() {
            dump.insert(list.to_owned(), Value::Array(entries));
        }
    }
    Value::Object(dump)
}

fn shown(section: &Section, accepted: &Accepted) -> Value {
    let mut entry = Map::new();
    if section.kind == ResourceKind::Endpoints {
        let body = any_to_json(&accepted.raw).unwrap_or_else(|e| json!({"error": e.to_string()}));
        return json!({section.field: complete(body)});
    }
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

/// The assignments that static clusters hold themselves.
fn static_endpoints(resources: &Resources, name: Option<&Regex>) -> Vec<Value> {
    let own = |accepted: &Accepted| {
        let mut cluster = any_to_json(&accepted.raw).ok()?;
        let assignment = cluster.get_mut("load_assignment").map(Value::take)?;
        let mut assignment = complete(assignment);
        assignment["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
        Some(json!({"endpoint_config": assignment}))
    };
    resources
        .of(ResourceKind::Cluster)
        .filter(|(n, _)| name.is_none_or(|r| r.is_match(n)))
        .filter_map(|(_, entry)| own(entry.accepted.as_ref().filter(|a| a.is_static)?))
        .collect()
}

/// An assignment with its defaults written out, as they are in force.
fn complete(mut assignment: Value) -> Value {
    fn default(value: &mut Value, field: &str, of: Value) {
        if value[field].is_null() {
            value[field] = of;
        }
    }
    default(&mut assignment, "policy", json!({"overprovisioning_factor": 140}));
    for locality in assignment["endpoints"].as_array_mut().into_iter().flatten() {
        default(locality, "locality", json!({}));
        default(locality, "load_balancing_weight", json!(0));
        for endpoint in locality["lb_endpoints"].as_array_mut().into_iter().flatten() {
            default(endpoint, "health_status", json!("HEALTHY"));
            default(endpoint, "load_balancing_weight", json!(1));
            if endpoint["endpoint"].is_object() {
                default(&mut endpoint["endpoint"], "health_check_config", json!({}));
            }
        }
    }
    assignment
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
