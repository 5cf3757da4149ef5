//! The status of routes and of BackendTLSPolicies: the conditions `Accepted` and `ResolvedRefs` per parent or target,
//! with the Gateway API's reasons.

use serde_json::{Value, json};

use super::backend_tls::{BackendTls, Target};
use super::kind::{Key, Kind, Name};
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

/// Why a parent does not send the route its traffic: the Gateway API's reason for `Accepted`, and words.
pub fn unaccepted(model: &Model, route: &Route, parent: &Parent) -> Option<(&'static str, String)> {
    let (service, ports) = match attached(model, route.kind, parent) {
        Ok(found) => found,
        Err(message) => return Some(("NoMatchingParent", message)),
    };
    let winner =
        (route.kind == Kind::HttpRoute).then(|| calls_first(model, &route.name, &service, &ports)).flatten()?;
    let message = format!("the GRPCRoute {winner} is attached there too, and GRPCRoutes are used before HTTPRoutes");
    Some(("Conflicted", message))
}

/// A GRPCRoute of the same namespace as an HTTPRoute that takes all of these ports from it.
fn calls_first<'m>(model: &'m Model, route: &Name, service: &Name, ports: &[u16]) -> Option<&'m Name> {
    let first = Key { kind: Kind::GrpcRoute, name: Name::new(route.namespace.clone(), "") };
    for (key, calls) in model.routes.range(first..) {
        if key.kind != Kind::GrpcRoute || key.name.namespace != route.namespace {
            break;
        }
        let parents = calls.parents.iter().filter(|p| p.service.as_ref() == Some(service));
        let attached = parents.filter_map(|p| attached(model, Kind::GrpcRoute, p).ok());
        let taken: Vec<u16> = attached.flat_map(|(_, ports)| ports).collect();
        if ports.iter().all(|port| taken.contains(port)) {
            return Some(&key.name);
        }
    }
    None
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

/// Where a kind keeps its conditions.
struct Place {
    list: &'static str,
    reference: &'static str,
}

const ROUTE: Place = Place { list: "parents", reference: "parentRef" };
const POLICY: Place = Place { list: "ancestors", reference: "ancestorRef" };

/// What a condition says.
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn holds(reason: &'static str) -> Verdict {
        Verdict { holds: true, reason, message: String::new() }
    }

    fn fails(reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict { holds: false, reason, message: message.into() }
    }
}

/// The `status` that the route should have; `None` when it has it already.
pub fn of_route<'r>(model: &Model, route: &'r Route, before: Option<&Value>, now: &str) -> Option<Value> {
    let unresolved = unresolved(model, route);
    let entry = |parent: &'r Parent| {
        let resolved = match unresolved.first() {
            None => Verdict::holds("ResolvedRefs"),
            Some((_, first)) => {
                let all: Vec<&str> = unresolved.iter().map(|(_, e)| e.message.as_str()).collect();
                Verdict::fails(first.reason, all.join("; "))
            }
        };
        let accepted = match unaccepted(model, route, parent) {
            None => Verdict::holds("Accepted"),
            Some((reason, message)) => Verdict::fails(reason, message),
        };
        (&parent.reference, [("Accepted", accepted), ("ResolvedRefs", resolved)])
    };
    of_object(&ROUTE, route.parents.iter().map(entry), route.generation, before, now)
}

/// The same of a BackendTLSPolicy.
pub fn of_backend_tls<'p>(model: &Model, policy: &'p BackendTls, before: Option<&Value>, now: &str) -> Option<Value> {
    let authorities = policy.authorities(&model.config_maps);
    let entry = |target: &'p Target| {
        let resolved = match &authorities {
            Ok(_) => Verdict::holds("ResolvedRefs"),
            Err(message) => Verdict::fails("InvalidCACertificateRef", message),
        };
        let port = target.port_name.as_deref();
        let winner = model.backend_tls_for(&target.service, port);
        let accepted = match (model.services.get(&target.service), winner, &authorities) {
            (None, _, _) => Verdict::fails("TargetNotFound", format!("service {} does not exist", target.service)),
            (Some(service), _, _) if port.is_some() && !service.ports.iter().any(|p| p.name.as_deref() == port) => {
                Verdict::fails("TargetNotFound", format!("service {} has no such port", target.service))
            }
            (_, Some(other), _) if other.name != policy.name => {
                Verdict::fails("Conflicted", format!("{} is older and has the same target", other.name))
            }
            (_, _, Err(message)) => Verdict::fails("NoValidCACertificate", message),
            _ => Verdict::holds("Accepted"),
        };
        (&target.reference, [("Accepted", accepted), ("ResolvedRefs", resolved)])
    };
    of_object(&POLICY, policy.targets.iter().map(entry), policy.generation, before, now)
}

fn of_object<'a>(
    place: &Place,
    entries: impl Iterator<Item = (&'a Value, [(&'static str, Verdict); 2])>,
    generation: i64,
    before: Option<&Value>,
    now: &str,
) -> Option<Value> {
    let list: Vec<Value> = entries
        .map(|(reference, conditions)| {
            let conditions = conditions.iter().map(|(kind, verdict)| {
                let status = if verdict.holds { "True" } else { "False" };
                json!({
                    "type": kind, "status": status, "reason": verdict.reason, "message": verdict.message,
                    "observedGeneration": generation,
                    "lastTransitionTime": transition(place, before, reference, kind, status, now),
                })
            });
            let conditions: Vec<Value> = conditions.collect();
            json!({ (place.reference): reference, "controllerName": CONTROLLER, "conditions": conditions })
        })
        .collect();
    let status = json!({ (place.list): list });
    (before != Some(&status)).then_some(status)
}

/// The time of the last change of a condition's status: kept while the status stays.
fn transition(place: &Place, before: Option<&Value>, reference: &Value, kind: &str, status: &str, now: &str) -> String {
    let entries = before.and_then(|b| b[place.list].as_array());
    let kept = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry[place.reference] == *reference)
        .flat_map(|entry| entry["conditions"].as_array().into_iter().flatten())
        .find(|c| c["type"] == kind && c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str());
    kept.unwrap_or(now).to_owned()
}
