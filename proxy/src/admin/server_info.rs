//! `/server_info` and `/memory`.

use serde_json::{Map, Value, json};

use super::Handle;
use super::route::{Answer, state};

pub fn answer(handle: &Handle) -> Answer {
    let uptime = format!("{}s", handle.started.elapsed().as_secs());
    let options: Map<String, Value> = handle.options.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let node = &handle.bootstrap.node;
    let own = &handle.shared.node;
    Answer::json(&json!({
        "version": format!("sidemesh-proxy/{}", env!("CARGO_PKG_VERSION")),
        "state": state(handle.shared.shutdown.phase()),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": options,
        "node": {
            "id": &*own.id,
            "cluster": &*own.cluster,
            "metadata": node.metadata,
            "locality": {"region": &*own.locality.region, "zone": &*own.locality.zone, "sub_zone": &*own.locality.sub_zone},
        },
    }))
}

/// Resident memory and its peak, from the kernel; zero where it does not say.
pub fn memory() -> Answer {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let (resident, peak) = (kib("VmRSS:") * 1024, kib("VmHWM:") * 1024);
    Answer::json(
        &json!({"allocated": resident.to_string(), "heap_size": resident.to_string(), "pageheap_unmapped": "0", "pageheap_free": "0", "total_thread_cache": "0", "total_physical_bytes": resident.to_string(), "peak_physical_bytes": peak.to_string()}),
    )
}
