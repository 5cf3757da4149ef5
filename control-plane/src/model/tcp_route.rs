//! TCPRoute (Gateway API v1alpha2): every connection to a port, spread over backends by weight.

use gateway_api::apis::experimental::tcproutes as raw;
use serde_json::Value;

use super::filter::Filters;
use super::kind::{Kind, Name};
use super::route::{self, Backend, Route, Rule};
use super::strict::{Errors, FieldError, decode};

/// A connection has nothing to tell rules apart by.
const MAX_RULES: usize = 1;

pub fn route(name: &Name, body: &Value) -> Result<Route, Vec<FieldError>> {
    let object: raw::TcpRoute = decode(body)?;
    let mut errors = Errors::default();
    let spec = object.spec;
    let mut route = route::common(Kind::TcpRoute, name, body, None, &mut errors);
    if spec.use_default_gateways.is_some() {
        errors.push("spec.useDefaultGateways", "there are no default Gateways here: name the parents in parentRefs");
    }
    route::limit("spec.rules", "rules", spec.rules.len(), MAX_RULES, &mut errors);
    for (i, rule) in spec.rules.iter().enumerate() {
        let mut backends = Vec::new();
        for (j, backend) in rule.backend_refs.iter().enumerate() {
            let path = format!("spec.rules[{i}].backendRefs[{j}]");
            let (target, weight) = route::backend_ref(&path, name, backend, &mut errors);
            backends.push(Backend { target, weight, filters: Filters::default() });
        }
        route.rules.push(Rule { backends, ..Rule::default() });
    }
    errors.finish(route)
}
