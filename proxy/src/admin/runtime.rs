//! `/runtime` and `/runtime_modify`: the runtime layers, and the one that is changed here.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::{Map, Value, json};
use sidemesh_config::bootstrap::RuntimeOrigin;
use sidemesh_config::value::{Name, Runtime, RuntimeValue, name};

use super::Handle;
use super::route::{Answer, Query};

/// Changes the admin's layer: key and value, an empty one takes the key out. `false`: too many wait.
pub type Modify = Box<dyn Fn(Vec<(Name, Name)>) -> bool>;

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override";

/// Every key with its value in each layer and the one in force.
pub fn answer(handle: &Handle) -> Answer {
    let snapshot = handle.shared.live.load();
    let layers = &snapshot.runtime_layers;
    let shown = |runtime: &Runtime, key: &Name| runtime.entries.get(key).map(text).unwrap_or_default();
    let keys: BTreeSet<&Name> = layers.iter().flat_map(|(_, layer)| layer.entries.keys()).collect();
    let entry = |key: &Name| {
        let values: Vec<String> = layers.iter().map(|(_, layer)| shown(layer, key)).collect();
        json!({"final_value": shown(&snapshot.runtime, key), "layer_values": values})
    };
    let entries: Map<String, Value> = keys.into_iter().map(|key| (key.to_string(), entry(key))).collect();
    let names: Vec<&str> = layers.iter().map(|(name, _)| &**name).collect();
    Answer::json(&json!({"layers": names, "entries": entries}))
}

/// `?key=value`: sets keys of the admin's layer.
pub fn modify(handle: &Handle, query: &Query) -> Answer {
    let changes: Vec<(Name, Name)> = query.pairs().map(|(key, value)| (name(&key), name(&value))).collect();
    if changes.is_empty() {
        return Answer::refused(StatusCode::BAD_REQUEST, USAGE);
    }
    if !handle.bootstrap.runtime.iter().any(|layer| layer.origin == RuntimeOrigin::Admin) {
        return Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified");
    }
    match (handle.modify_runtime)(changes) {
        true => Answer::text("OK\n"),
        false => Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "too many changes wait; try again\n"),
    }
}

fn text(value: &RuntimeValue) -> String {
    match value {
        RuntimeValue::Bool(b) => b.to_string(),
        RuntimeValue::Number(n) => n.to_string(),
        RuntimeValue::Text(t) => t.to_string(),
        RuntimeValue::Fraction(f) => format!("{}/{}", f.numerator, f.denominator),
    }
}
