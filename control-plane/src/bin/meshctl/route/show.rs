//! `meshctl route list` and `get`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::edit;
use crate::client::{Failure, Server};
use crate::output::{Format, print, structured, table};

const HEADINGS: [&str; 7] = ["NAMESPACE", "KIND", "ROUTE", "PARENT", "MATCH", "BACKENDS", "STATE"];

pub async fn list(server: &Server, all_namespaces: bool, output: Option<Format>) -> Result<ExitCode, Failure> {
    let namespace = if all_namespaces { String::new() } else { server.namespace.clone() };
    let values = edit::routes(server, &namespace).await?;
    match output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            structured(format, &json!({"apiVersion": "v1", "kind": "List", "items": values}))?;
        }
        Some(Format::Name) => {
            for v in &values {
                print(&format!("{}/{}\n", text(&v["kind"]).to_lowercase(), text(&v["metadata"]["name"])))?;
            }
        }
        _ => {
            let rows: Vec<Vec<String>> = values.iter().flat_map(rows).collect();
            table(&HEADINGS, &rows)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn get(server: &Server, service: &str, output: Option<Format>) -> Result<ExitCode, Failure> {
    let route = edit::route_of(server, service)
        .await?
        .ok_or_else(|| Failure::NotFound(format!("a route whose parent is the service {service}")))?;
    match output {
        Some(format @ (Format::Json | Format::Yaml)) => structured(format, &route)?,
        _ => table(&HEADINGS, &rows(&route))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or("").to_owned()
}

/// A row for each rule.
fn rows(route: &Value) -> Vec<Vec<String>> {
    let items = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let parents: Vec<String> = items(&route["spec"]["parentRefs"])
        .iter()
        .map(|p| format!("{}/{}", p["kind"].as_str().unwrap_or("Gateway").to_lowercase(), text(&p["name"])))
        .collect();
    let conditions: Vec<Value> =
        items(&route["status"]["parents"]).iter().flat_map(|p| items(&p["conditions"])).collect();
    let state = conditions.iter().find(|c| c["status"] == "False").map_or("ok".to_owned(), |c| text(&c["reason"]));
    let rules = items(&route["spec"]["rules"]);
    rules
        .iter()
        .map(|rule| {
            let matches: Vec<String> = items(&rule["matches"]).iter().map(one_match).collect();
            let refs = items(&rule["backendRefs"]);
            let backends: Vec<String> =
                refs.iter().map(|b| format!("{}={}", text(&b["name"]), b["weight"].as_u64().unwrap_or(1))).collect();
            let backends = if backends.is_empty() { filters(rule) } else { backends.join(" ") };
            vec![
                text(&route["metadata"]["namespace"]),
                text(&route["kind"]),
                text(&route["metadata"]["name"]),
                parents.join(","),
                if matches.is_empty() { "any".to_owned() } else { matches.join(" or ") },
                backends,
                state.clone(),
            ]
        })
        .collect()
}

fn filters(rule: &Value) -> String {
    let list = rule["filters"].as_array().cloned().unwrap_or_default();
    list.iter().map(|f| text(&f["type"])).collect::<Vec<_>>().join(" ")
}

fn one_match(m: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(path) = m["path"]["value"].as_str() {
        parts.push(format!("{} {path}", m["path"]["type"].as_str().unwrap_or("PathPrefix")));
    }
    if let Some(method) = m["method"].as_str() {
        parts.push(method.to_owned());
    }
    if m["method"].is_object() {
        let part = |field: &str| m["method"][field].as_str().unwrap_or("*").to_owned();
        parts.push(format!("{}/{}", part("service"), part("method")));
    }
    for (key, sign) in [("headers", ":"), ("queryParams", "=")] {
        for h in m[key].as_array().cloned().unwrap_or_default() {
            parts.push(format!("{}{sign}{}", text(&h["name"]), text(&h["value"])));
        }
    }
    if parts.is_empty() { "any".to_owned() } else { parts.join(" ") }
}
