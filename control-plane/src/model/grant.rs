//! ReferenceGrant (Gateway API v1): the owner of a namespace lets routes of another one send to its Services.

use gateway_api::apis::standard::referencegrants as raw;
use serde_json::Value;

use super::kind::{Kind, Name};
use super::route::Route;
use super::strict::{Errors, FieldError, decode};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub name: Name,
    from: Vec<(Kind, String)>,
    /// Services by name; `None` for all of the namespace.
    to: Vec<Option<String>>,
}

pub fn grant(name: &Name, body: &Value) -> Result<Grant, Vec<FieldError>> {
    let object: raw::ReferenceGrant = decode(body)?;
    let mut errors = Errors::default();
    let mut grant = Grant { name: name.clone(), from: Vec::new(), to: Vec::new() };
    for (i, from) in object.spec.from.into_iter().enumerate() {
        errors.label(format!("spec.from[{i}].namespace"), &from.namespace);
        // Other kinds may be granted something, too: by those who serve them.
        let route = Kind::parse(&from.kind).filter(|k| k.is_route() && k.names().name == from.kind);
        if from.group == "gateway.networking.k8s.io" {
            grant.from.extend(route.map(|kind| (kind, from.namespace)));
        }
    }
    for to in object.spec.to {
        if to.kind == "Service" && matches!(to.group.as_str(), "" | "core") {
            grant.to.push(to.name.filter(|n| !n.is_empty()));
        }
    }
    for (path, empty) in [
        ("spec.from", body["spec"]["from"] == serde_json::json!([])),
        ("spec.to", body["spec"]["to"] == serde_json::json!([])),
    ] {
        if empty {
            errors.push(path, "empty: name at least one");
        }
    }
    errors.finish(grant)
}

impl Grant {
    /// May `route` send to `service`?
    pub fn allows(&self, route: &Route, service: &Name) -> bool {
        self.name.namespace == service.namespace
            && self.from.iter().any(|(kind, namespace)| *kind == route.kind && *namespace == route.name.namespace)
            && self.to.iter().any(|to| to.as_ref().is_none_or(|name| *name == service.name))
    }
}
