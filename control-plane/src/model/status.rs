//! The status of routes: the conditions `Accepted` and `ResolvedRefs` per parent, with the Gateway API's reasons.

use serde_json::{Value, json};

use super::kind::{Kind, Name};
use super::route::{BackendTarget, Parent, Route};
use super::service::Protocol;
use super::state::Model;

/// Our name in `status.parents[].controllerName`.
pub const CONTROLLER: &str = "sidemesh.dev/control-plane";

/// Why a backend cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The Gateway API's reason: `BackendNotFound`, `InvalidKind`, `RefNotPermitted`.
    pub reason: &'static str,
    pub message: String,
}

/// The port of a Service that a backend reference means, or why there is none.
pub fn resolve(model: &Model, route: &Route, target: &BackendTarget) -> Result<(Name, u16), Unresolved> {
    let (name, port) = match target {
        BackendTarget::Service { name, port } => (name, *port),
        BackendTarget::OtherKind { kind } => {
            let message = format!("backend kind {kind} is not supported: use a Service");
            return Err(Unresolved { reason: "InvalidKind", message });
        }
    };
    if name.namespace != route.name.namespace && !model.grants.values().any(|grant| grant.allows(route, name)) {
        let kind = route.kind.names().name;
        let message = format!(
            "service {name} is in another namespace: a ReferenceGrant there must allow {kind}s of {}",
            route.name.namespace
        );
        return Err(Unresolved { reason: "RefNotPermitted", message });
    }
    let not_found = |message: String| Unresolved { reason: "BackendNotFound", message };
    let Some(service) = model.services.get(name) else {
        return Err(not_found(format!("service {name} does not exist")));
    };
    match port {
        Some(port) if service.port(port).is_some() => Ok((name.clone(), port)),
        Some(port) => Err(not_found(format!("service {name} has no port {port}"))),
        // GAMMA lets a backend leave its port out only where there is no choice.
        None => match service.ports.as_slice() {
            [only] => Ok((name.clone(), only.port)),
            _ => Err(not_found(format!("service {name} has several ports: name one in backendRef.port"))),
        },
    }
}

/// The ports of an existing service that this parent reference attaches a route of this kind to.
pub fn attached(model: &Model, kind: Kind, parent: &Parent) -> Result<(Name, Vec<u16>), String> {
    let Some(service) = &parent.service else {
        return Err("only parents of kind Service are served by this mesh".into());
    };
    let Some(found) = model.services.get(service) else {
        return Err(format!("service {service} does not exist"));
    };
    let named = found
        .ports
        .iter()
        .filter(|p| parent.port.is_none_or(|port| port == p.port))
        .filter(|p| parent.section.is_none() || parent.section == p.name);
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return Err(format!("service {service} has no such port"));
    }
    let tcp = kind == Kind::TcpRoute;
    let ports: Vec<u16> = named.iter().filter(|p| (p.protocol == Protocol::Tcp) == tcp).map(|p| p.port).collect();
    if ports.is_empty() {
        let (spoken, cure) =
            if tcp { ("HTTP", "use an HTTPRoute") } else { ("TCP", "use a TCPRoute, or set the port's appProtocol") };
        return Err(format!("service {service} speaks {spoken} there: {cure}"));
    }
    Ok((service.clone(), ports))
}

/// Every backend of the route, mirrors included, that cannot be used; with its path.
pub fn unresolved(model: &Model, route: &Route) -> Vec<(String, Unresolved)> {
    let mut found = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        for (j, backend) in rule.backends.iter().enumerate() {
            if let Err(e) = resolve(model, route, &backend.target) {
                found.push((format!("spec.rules[{i}].backendRefs[{j}]"), e));
            }
        }
        for mirror in &rule.filters.mirrors {
            if let Err(e) = resolve(model, route, &mirror.target) {
                found.push((format!("spec.rules[{i}].filters"), e));
            }
        }
    }
    found
}

/// The `status` that the route should have; `None` when it has it already.
pub fn of_route(model: &Model, route: &Route, before: Option<&Value>, now: &str) -> Option<Value> {
    let unresolved = unresolved(model, route);
    let resolved = match unresolved.first() {
        None => ("True", "ResolvedRefs", String::new()),
        Some((_, first)) => {
            let all: Vec<&str> = unresolved.iter().map(|(_, e)| e.message.as_str()).collect();
            ("False", first.reason, all.join("; "))
        }
    };
    let parents: Vec<Value> = route
        .parents
        .iter()
        .map(|parent| {
            let accepted = match attached(model, route.kind, parent) {
                Ok(_) => ("True", "Accepted", String::new()),
                Err(message) => ("False", "NoMatchingParent", message),
            };
            let conditions = [("Accepted", &accepted), ("ResolvedRefs", &resolved)];
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|(kind, (status, reason, message))| {
                    json!({
                        "type": kind, "status": status, "reason": reason, "message": message,
                        "observedGeneration": route.generation,
                        "lastTransitionTime": transition(before, &parent.reference, kind, status, now),
                    })
                })
                .collect();
            json!({ "parentRef": parent.reference, "controllerName": CONTROLLER, "conditions": conditions })
        })
        .collect();
    let status = json!({ "parents": parents });
    (before != Some(&status)).then_some(status)
}

/// The time of the last change of a condition's status: kept while the status stays.
fn transition(before: Option<&Value>, parent: &Value, kind: &str, status: &str, now: &str) -> String {
    let parents = before.and_then(|b| b["parents"].as_array());
    let kept = parents
        .into_iter()
        .flatten()
        .filter(|p| p["parentRef"] == *parent)
        .flat_map(|p| p["conditions"].as_array().into_iter().flatten())
        .find(|c| c["type"] == kind && c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str());
    kept.unwrap_or(now).to_owned()
}
