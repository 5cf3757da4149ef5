//! `/listeners`.

use serde_json::{Value, json};
use sidemesh_config::resource::listener::bind_addresses;

use super::Handle;
use super::route::{Answer, Query};

pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let snapshot = handle.shared.live.load();
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    if query.get("format").as_deref() == Some("json") {
        let statuses: Vec<Value> = listeners
            .iter()
            .filter_map(|l| {
                let address = *bind_addresses(l).first()?;
                Some(json!({"name": &*l.name, "local_address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}}}))
            })
            .collect();
        return Answer::json(&json!({"listener_statuses": statuses}));
    }
    let lines = listeners.iter().flat_map(|l| bind_addresses(l).into_iter().map(|a| format!("{}::{a}\n", l.name)));
    Answer::text(lines.collect::<String>())
}
