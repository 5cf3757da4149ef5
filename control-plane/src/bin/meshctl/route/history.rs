//! `meshctl route history` and `undo`.

use std::process::ExitCode;

use serde_json::Value;
use sidemesh_proto::sidemesh::admin::v1alpha1::{HistoryEntry, HistoryRequest, ObjectRef};

use super::{Change, edit};
use crate::client::{Failure, Server};
use crate::output::{age_of, table};

async fn entries(server: &Server, service: &str, limit: u32) -> Result<(String, Vec<HistoryEntry>), Failure> {
    let route = edit::route_of(server, service).await?;
    let name = route.as_ref().and_then(|r| r["metadata"]["name"].as_str()).unwrap_or(service).to_owned();
    let reference = ObjectRef {
        api_version: String::new(),
        kind: route.as_ref().and_then(|r| r["kind"].as_str()).unwrap_or("HTTPRoute").to_owned(),
        namespace: server.namespace.clone(),
        name: name.clone(),
    };
    let request = HistoryRequest { r#ref: Some(reference), limit };
    Ok((name, server.resources().await?.history(request).await?.into_inner().entries))
}

pub async fn show(server: &Server, service: &str, limit: u32) -> Result<ExitCode, Failure> {
    let (_, entries) = entries(server, service, limit).await?;
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|e| {
            vec![
                e.revision.to_string(),
                age_of(e.at.as_ref()),
                e.actor.clone(),
                if e.deleted { "deleted".to_owned() } else { what(&e.json) },
            ]
        })
        .collect();
    table(&["REVISION", "AGE", "BY", "BACKENDS"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// The backends of a route's rules with their weights.
fn what(json: &str) -> String {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let rules = value["spec"]["rules"].as_array().cloned().unwrap_or_default();
    let of_rule = |rule: &Value| {
        let refs = rule["backendRefs"].as_array().cloned().unwrap_or_default();
        let words: Vec<String> = refs
            .iter()
            .map(|r| format!("{}={}", r["name"].as_str().unwrap_or("?"), r["weight"].as_u64().unwrap_or(1)))
            .collect();
        words.join(" ")
    };
    rules.iter().map(of_rule).collect::<Vec<_>>().join("; ")
}

pub async fn undo(server: &Server, service: &str, to: Option<u64>, change: &Change) -> Result<ExitCode, Failure> {
    let (name, entries) = entries(server, service, 0).await?;
    let target = match to {
        Some(revision) => entries.iter().find(|e| e.revision == revision).ok_or_else(|| {
            Failure::NotFound(format!(
                "revision {revision} of route {name}; `meshctl route history {service}` lists them"
            ))
        })?,
        None => entries.get(1).ok_or_else(|| Failure::NotFound(format!("an earlier version of route {name}")))?,
    };
    if target.deleted {
        let what =
            format!("revision {} deleted the route: delete the route for that, with `meshctl delete`", target.revision);
        return Err(Failure::Usage(what));
    }
    let route: Value = serde_json::from_str(&target.json).map_err(|e| Failure::Failed(e.to_string()))?;
    let said = format!("{service}: back to revision {}: {}\n", target.revision, what(&target.json));
    edit::write(server, route, "route undo", change, &said).await
}
