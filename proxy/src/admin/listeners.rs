//! `/listeners`.

use std::net::SocketAddr;

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
                let address =
                    |a: &SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
                let (first, more) = bind_addresses(l)
                    .split_first()
                    .map(|(a, more)| (address(a), more.iter().map(address).collect::<Vec<_>>()))?;
                let mut status = json!({"name": &*l.name, "local_address": first});
                if !more.is_empty() {
                    status["additional_local_addresses"] = more.into();
                }
                Some(status)
            })
            .collect();
        return Answer::json(&json!({"listener_statuses": statuses}));
    }
    let lines = listeners.iter().flat_map(|l| bind_addresses(l).into_iter().map(|a| format!("{}::{a}\n", l.name)));
    Answer::text(lines.collect::<String>())
}
