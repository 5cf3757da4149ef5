//! `/clusters`: every cluster with its limits and hosts.

use std::fmt::Write;

use serde_json::{Value, json};
use sidemesh_config::resource::ResourceKind;
use sidemesh_config::resource::cluster::Cluster;
use sidemesh_config::value::{Address, Name};

use super::Handle;
use super::route::{Answer, Query};
use crate::upstream::{BreakerView, ClusterView, HostView, flag};

pub fn answer(handle: &Handle, query: &Query) -> Answer {
    let mut clusters = handle.upstream.clusters();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let resources = handle.resources.borrow();
    let via_api = |name: &str| {
        let accepted = resources.get(ResourceKind::Cluster, name).and_then(|e| e.accepted.as_ref());
        accepted.is_some_and(|a| !a.is_static)
    };
    if query.get("format").as_deref() == Some("json") {
        let statuses: Vec<Value> = clusters.iter().map(|c| as_json(c, via_api(&c.name))).collect();
        return Answer::json(&json!({"cluster_statuses": statuses}));
    }
    let mut page = String::new();
    for cluster in &clusters {
        text(cluster, via_api(&cluster.name), &mut page);
    }
    Answer::text(page)
}

fn text(cluster: &ClusterView, via_api: bool, page: &mut String) {
    let name = &cluster.name;
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "{name}::{key}::{value}");
    };
    line("observability_name", &cluster.entry.cluster.stat_name);
    if cluster.entry.cluster.outlier.is_some() {
        let [external, local] = cluster.success_rates;
        for (origin, (average, threshold)) in [("", external.unzip()), ("local_origin_", local.unzip())] {
            line(&format!("outlier::{origin}success_rate_average"), &rate(average));
            line(&format!("outlier::{origin}success_rate_ejection_threshold"), &rate(threshold));
        }
    }
    for (priority, view) in [("default", &cluster.default), ("high", &cluster.high)] {
        line(&format!("{priority}_priority::max_connections"), &view.limits.max_connections);
        line(&format!("{priority}_priority::max_pending_requests"), &view.limits.max_pending_requests);
        line(&format!("{priority}_priority::max_requests"), &view.limits.max_requests);
        line(&format!("{priority}_priority::max_retries"), &view.limits.max_retries);
    }
    line("added_via_api", &via_api);
    if let Some(service_name) = eds_service_name(&cluster.entry.cluster) {
        line("eds_service_name", service_name);
    }
    for host in &cluster.hosts {
        host_text(name, host, page);
    }
}

/// The name EDS is asked for, where it is not the cluster's own.
fn eds_service_name(cluster: &Cluster) -> Option<&Name> {
    cluster.eds_name().filter(|name| **name != cluster.name)
}

fn host_text(name: &str, host: &HostView, page: &mut String) {
    let address = &host.address;
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "{name}::{address}::{key}::{value}");
    };
    line("cx_active", &host.cx_active);
    line("cx_connect_fail", &host.cx_connect_fail);
    line("cx_total", &host.cx_total);
    line("rq_active", &host.rq_active);
    line("rq_error", &host.rq_error);
    // Requests wait at the cluster, never at a host.
    line("rq_pending_active", &0);
    line("rq_success", &host.rq_success);
    line("rq_timeout", &host.rq_timeout);
    line("rq_total", &host.rq_total);
    line("hostname", &host.hostname);
    line("health_flags", &host.health_flags());
    line("weight", &host.weight);
    line("region", &&*host.locality.region);
    line("zone", &&*host.locality.zone);
    line("sub_zone", &&*host.locality.sub_zone);
    line("canary", &host.is_canary());
    line("priority", &host.priority);
    line("success_rate", &rate(host.success_rate));
    line("local_origin_success_rate", &rate(host.local_origin_success_rate));
}

/// `-1` where there is no rate.
fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-1".to_owned(), |r| r.to_string())
}

fn as_json(view: &ClusterView, via_api: bool) -> Value {
    let cluster: &Cluster = &view.entry.cluster;
    let mut status = json!({
        "name": &*view.name,
        "observability_name": &*cluster.stat_name,
        "host_statuses": view.hosts.iter().map(host_json).collect::<Vec<_>>(),
        "circuit_breakers": {"thresholds": [thresholds(&view.default, None), thresholds(&view.high, Some("HIGH"))]},
    });
    if via_api {
        status["added_via_api"] = json!(true);
    }
    if let Some(service_name) = eds_service_name(cluster) {
        status["eds_service_name"] = json!(&**service_name);
    }
    status
}

fn thresholds(view: &BreakerView, priority: Option<&str>) -> Value {
    let limits = &view.limits;
    let mut value = json!({
        "max_connections": limits.max_connections, "max_pending_requests": limits.max_pending_requests,
        "max_requests": limits.max_requests, "max_retries": limits.max_retries,
    });
    if let Some(priority) = priority {
        value["priority"] = json!(priority);
    }
    value
}

fn host_json(host: &HostView) -> Value {
    let address = match &host.address {
        Address::Socket(a) => json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}}),
        Address::Dns { host, port } => json!({"socket_address": {"address": &**host, "port_value": port}}),
        Address::Pipe(path) => json!({"pipe": {"path": path.display().to_string()}}),
    };
    let counter = |name: &str, value: u64| {
        if value == 0 { json!({"name": name}) } else { json!({"name": name, "value": value.to_string()}) }
    };
    let gauge = |name: &str, value: u64| {
        let mut entry = counter(name, value);
        entry["type"] = json!("GAUGE");
        entry
    };
    let mut status = json!({
        "address": address,
        "stats": [
            counter("cx_connect_fail", host.cx_connect_fail), counter("cx_total", host.cx_total),
            counter("rq_error", host.rq_error), counter("rq_success", host.rq_success),
            counter("rq_timeout", host.rq_timeout), counter("rq_total", host.rq_total),
            gauge("cx_active", host.cx_active), gauge("rq_active", host.rq_active),
            gauge("rq_pending_active", 0),
        ],
        "health_status": health(host.flags),
        "weight": host.weight,
    });
    if !host.hostname.is_empty() {
        status["hostname"] = json!(host.hostname);
    }
    let locality =
        [("region", &host.locality.region), ("zone", &host.locality.zone), ("sub_zone", &host.locality.sub_zone)];
    let named = locality.into_iter().filter(|(_, name)| !name.is_empty());
    status["locality"] =
        named.map(|(part, name)| (part.to_owned(), json!(&**name))).collect::<serde_json::Map<_, _>>().into();
    if host.priority > 0 {
        status["priority"] = json!(host.priority);
    }
    if let Some(rate) = host.success_rate {
        status["success_rate"] = json!({"value": rate});
    }
    status
}

/// `admin.v3.HostHealthStatus`.
fn health(flags: u32) -> Value {
    let set = |bit: u32| flags & bit != 0;
    let mut status = serde_json::Map::new();
    for (bit, key) in [
        (flag::FAILED_ACTIVE_HC, "failed_active_health_check"),
        (flag::FAILED_OUTLIER, "failed_outlier_check"),
        (flag::DEGRADED_ACTIVE_HC, "failed_active_degraded_check"),
        (flag::PENDING_REMOVAL, "pending_dynamic_removal"),
        (flag::PENDING_ACTIVE_HC, "pending_active_hc"),
        (flag::EXCLUDED_IMMEDIATE_HC, "excluded_via_immediate_hc_fail"),
        (flag::ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
    ] {
        if set(bit) {
            status.insert(key.to_owned(), json!(true));
        }
    }
    let eds = if set(flag::FAILED_EDS) {
        "UNHEALTHY"
    } else if set(flag::EDS_DRAINING) {
        "DRAINING"
    } else if set(flag::DEGRADED_EDS) {
        "DEGRADED"
    } else {
        "HEALTHY"
    };
    status.insert("eds_health_status".to_owned(), json!(eds));
    Value::Object(status)
}
