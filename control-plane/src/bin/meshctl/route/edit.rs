//! Reading a service's route, changing its weights, writing it back.

use std::process::ExitCode;

use serde_json::{Value, json};
use sidemesh_proto::sidemesh::admin::v1alpha1::ListRequest;

use super::Change;
use super::weights::Share;
use crate::apply;
use crate::client::{Failure, Server};
use crate::documents::Document;
use crate::get;
use crate::output::print;
use crate::wait;

/// The routes of a namespace (empty: of all), of every kind.
pub async fn routes(server: &Server, namespace: &str) -> Result<Vec<Value>, Failure> {
    let mut client = server.resources().await?;
    let mut found = Vec::new();
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        let request =
            ListRequest { kind: kind.to_owned(), namespace: namespace.to_owned(), label_selector: String::new() };
        for object in &client.list(request).await?.into_inner().objects {
            found.push(get::value(object)?);
        }
    }
    Ok(found)
}

/// The route whose parent is `service`, when there is one.
pub async fn route_of(server: &Server, service: &str) -> Result<Option<Value>, Failure> {
    let mut found = routes(server, &server.namespace).await?;
    let here = |parent: &Value| parent["namespace"].as_str().is_none_or(|namespace| namespace == server.namespace);
    let ours = |p: &Value| p["kind"] == "Service" && p["name"] == service && here(p);
    found.retain(|route| route["spec"]["parentRefs"].as_array().is_some_and(|parents| parents.iter().any(ours)));
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        n => Err(Failure::Usage(format!("{n} routes have the parent {service}: edit them with `meshctl apply`"))),
    }
}

/// Names of the versions of `service` that exist as services `SERVICE-VERSION`.
async fn versions_of(server: &Server, service: &str) -> Result<Vec<String>, Failure> {
    let request =
        ListRequest { kind: "Service".to_owned(), namespace: server.namespace.clone(), label_selector: String::new() };
    let objects = server.resources().await?.list(request).await?.into_inner().objects;
    let prefix = format!("{service}-");
    let names = objects.iter().filter_map(|o| o.r#ref.as_ref()).map(|r| r.name.as_str());
    Ok(names.filter_map(|n| n.strip_prefix(&prefix)).map(str::to_owned).collect())
}

/// How often a change is repeated because the object, or its status, was written meanwhile.
const CONFLICTS: usize = 5;

/// Applies `edit` to the shares of the service's route.
pub async fn change(
    server: &Server,
    service: &str,
    command: &str,
    change: &Change,
    edit: impl Fn(&[Share]) -> Result<Vec<Share>, String>,
) -> Result<ExitCode, Failure> {
    for _ in 0..CONFLICTS {
        match attempt(server, service, command, change, &edit).await {
            Err(Failure::Conflict(_)) => {}
            other => return other,
        }
    }
    attempt(server, service, command, change, &edit).await
}

async fn attempt(
    server: &Server,
    service: &str,
    command: &str,
    change: &Change,
    edit: &impl Fn(&[Share]) -> Result<Vec<Share>, String>,
) -> Result<ExitCode, Failure> {
    let versions = versions_of(server, service).await?;
    let mut route = match route_of(server, service).await? {
        Some(route) => route,
        None => fresh(server, service, &versions).await?,
    };
    let old = shares(&route, service)?;
    let new = edit(&old).map_err(Failure::Usage)?;
    for (version, percent) in &new {
        if *percent > 0 && !versions.contains(version) {
            let known = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
            return Err(Failure::Usage(format!(
                "{service} has no version {version} (service {service}-{version}); versions: {known}"
            )));
        }
    }
    set_shares(&mut route, service, &new);
    let said = format!("{service}: {} -> {}\n", words(&old), words(&new));
    write(server, route, command, change, &said).await
}

/// Applies the object, says so, and waits as asked.
pub async fn write(
    server: &Server,
    mut route: Value,
    command: &str,
    change: &Change,
    said: &str,
) -> Result<ExitCode, Failure> {
    if let Some(map) = route.as_object_mut() {
        map.remove("status");
    }
    let document = Document { origin: command.to_owned(), value: route };
    let mut client = server.resources().await?;
    let answer = apply::one(&mut client, &server.namespace, &document, change.dry_run, command).await?;
    print(said)?;
    for warning in &answer.warnings {
        eprintln!("warning: {}: {}", warning.path, warning.message);
    }
    if change.dry_run { Ok(ExitCode::SUCCESS) } else { wait::after(server, answer.revision, &change.wait).await }
}

/// `v1 80%, v2 20%`.
fn words(shares: &[Share]) -> String {
    shares.iter().map(|(v, p)| format!("{v} {p}%")).collect::<Vec<_>>().join(", ")
}

/// A route for a service that has none: everything evenly over its versions.
async fn fresh(server: &Server, service: &str, versions: &[String]) -> Result<Value, Failure> {
    if versions.is_empty() {
        return Err(Failure::NotFound(format!("versions of {service}: services named {service}-VERSION")));
    }
    let object = get::value(&get::one(server, "Service", service).await?)?;
    let port = object["spec"]["ports"][0]["port"].clone();
    let backends: Vec<Value> =
        versions.iter().map(|v| json!({"name": format!("{service}-{v}"), "port": port, "weight": 1})).collect();
    Ok(json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": service, "namespace": server.namespace},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service, "port": port}], "rules": [{"backendRefs": backends}]},
    }))
}

/// The shares in percent that the route's first rule with versions gives.
fn shares(route: &Value, service: &str) -> Result<Vec<Share>, Failure> {
    let prefix = format!("{service}-");
    let rules = route["spec"]["rules"].as_array().cloned().unwrap_or_default();
    for rule in &rules {
        let refs = rule["backendRefs"].as_array().cloned().unwrap_or_default();
        let weighted: Vec<(String, u64)> = refs
            .iter()
            .filter_map(|r| {
                Some((r["name"].as_str()?.strip_prefix(&prefix)?.to_owned(), r["weight"].as_u64().unwrap_or(1)))
            })
            .collect();
        let total: u64 = weighted.iter().map(|(_, w)| w).sum();
        if !weighted.is_empty() {
            let percent = |w: u64| (w * 100).checked_div(total).unwrap_or(0) as u32;
            return Ok(weighted.into_iter().map(|(v, w)| (v, percent(w))).collect());
        }
    }
    Err(Failure::Usage(format!(
        "the route of {service} sends nothing to services named {service}-VERSION: edit it with `meshctl apply`"
    )))
}

/// Writes the shares into every rule that sends to versions of the service.
fn set_shares(route: &mut Value, service: &str, shares: &[Share]) {
    let prefix = format!("{service}-");
    let Some(rules) = route["spec"]["rules"].as_array_mut() else { return };
    for rule in rules {
        let Some(refs) = rule["backendRefs"].as_array_mut() else { continue };
        let Some(model) = refs.iter().find(|r| r["name"].as_str().is_some_and(|n| n.starts_with(&prefix))).cloned()
        else {
            continue;
        };
        for (version, percent) in shares {
            let name = format!("{prefix}{version}");
            match refs.iter_mut().find(|r| r["name"] == name.as_str()) {
                Some(existing) => existing["weight"] = json!(percent),
                None => {
                    let mut added = model.clone();
                    added["name"] = json!(name);
                    added["weight"] = json!(percent);
                    refs.push(added);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_with_versions_is_changed_and_others_are_left() {
        let mut route = json!({"spec": {"rules": [
            {"backendRefs": [{"name": "product-v1", "port": 80, "weight": 9}, {"name": "product-v2", "port": 80, "weight": 1}]},
            {"backendRefs": [{"name": "other", "port": 80}]},
            {"backendRefs": [{"name": "product-v1", "port": 80}]}]}});
        assert_eq!(shares(&route, "product").expect("shares"), [("v1".to_owned(), 90), ("v2".to_owned(), 10)]);
        set_shares(&mut route, "product", &[("v1".to_owned(), 80), ("v2".to_owned(), 20)]);
        let weights = |rule: usize| -> Vec<String> {
            route["spec"]["rules"][rule]["backendRefs"]
                .as_array()
                .expect("refs")
                .iter()
                .map(|r| format!("{}={}", r["name"], r["weight"]))
                .collect()
        };
        assert_eq!(weights(0), ["\"product-v1\"=80", "\"product-v2\"=20"]);
        assert_eq!(weights(1), ["\"other\"=null"]);
        assert_eq!(weights(2), ["\"product-v1\"=80", "\"product-v2\"=20"]);
    }
}
