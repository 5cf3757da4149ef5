//! GRPCRoute (Gateway API v1), reduced to rules. A call is an HTTP/2 request for the path `/service/method`.
//!
//! Refused by name: the filter ExtensionRef. `hostnames` have no effect on a Service's route.

use gateway_api::apis::standard::grpcroutes as raw;
use serde_json::Value;

use super::filter;
use super::kind::{Kind, Name};
use super::route::{self, Backend, MAX_MATCHES, MAX_RULES, Match, PathMatch, Route, Rule, ValueMatch};
use super::strict::{Errors, FieldError, decode};

pub fn route(name: &Name, body: &Value) -> Result<Route, Vec<FieldError>> {
    let object: raw::GrpcRoute = decode(body)?;
    let mut errors = Errors::default();
    let spec = object.spec;
    let mut route = route::common(Kind::GrpcRoute, name, body, spec.hostnames.as_ref(), &mut errors);
    let rules = spec.rules.unwrap_or_default();
    route::limit("spec.rules", "rules", rules.len(), MAX_RULES, &mut errors);
    for (i, rule) in rules.iter().enumerate() {
        route.rules.push(parse_rule(&format!("spec.rules[{i}]"), name, rule, &mut errors));
    }
    errors.finish(route)
}

fn parse_rule(path: &str, route: &Name, raw: &raw::GrpcRouteRules, errors: &mut Errors) -> Rule {
    let given = raw.matches.as_deref().unwrap_or_default();
    route::limit(&format!("{path}.matches"), "matches", given.len(), MAX_MATCHES, errors);
    let mut matches: Vec<Match> =
        given.iter().enumerate().map(|(i, m)| parse_match(&format!("{path}.matches[{i}]"), m, errors)).collect();
    if matches.is_empty() {
        matches.push(Match { path: PathMatch::Rpc { service: None, method: None }, ..Match::everything() });
    }
    let filters = filter::parse_twins(&format!("{path}.filters"), route, raw.filters.as_deref(), errors);
    let mut backends = Vec::new();
    for (i, backend) in raw.backend_refs.iter().flatten().enumerate() {
        let path = format!("{path}.backendRefs[{i}]");
        let (target, weight) = route::backend_ref(&path, route, backend, errors);
        let filters = filter::parse_twins(&format!("{path}.filters"), route, backend.filters.as_deref(), errors);
        backends.push(Backend { target, weight, filters });
    }
    Rule { matches, filters, backends, ..Rule::default() }
}

fn parse_match(path: &str, raw: &raw::GrpcRouteRulesMatches, errors: &mut Errors) -> Match {
    let mut headers: Vec<(String, ValueMatch)> = Vec::new();
    for (i, header) in raw.headers.iter().flatten().enumerate() {
        let at = format!("{path}.headers[{i}]");
        let name = filter::header_name(&format!("{at}.name"), &header.name, errors);
        let regex = header.r#type == Some(raw::GrpcRouteRulesMatchesHeadersType::RegularExpression);
        let value = route::value_match(format!("{at}.value"), regex, &header.value, errors);
        // The first entry of a name counts, as the specification says.
        if !headers.iter().any(|(known, _)| *known == name) {
            headers.push((name, value));
        }
    }
    let method = raw.method.as_ref();
    let path = method
        .map_or(PathMatch::Rpc { service: None, method: None }, |m| parse_method(&format!("{path}.method"), m, errors));
    Match { path, headers, query: Vec::new(), method: None }
}

fn parse_method(path: &str, raw: &raw::GrpcRouteRulesMatchesMethod, errors: &mut Errors) -> PathMatch {
    let regex = raw.r#type == Some(raw::GrpcRouteRulesMatchesMethodType::RegularExpression);
    if raw.service.is_none() && raw.method.is_none() {
        errors.push(path, "empty: give service, method, or both");
    }
    let mut part = |field: &str, text: &Option<String>| {
        let text = text.as_ref().filter(|t| !t.is_empty())?;
        let at = format!("{path}.{field}");
        if !regex && text.contains('/') {
            errors.push(&at, format!("`{text}` contains a slash: service and method are separate fields"));
        }
        Some(route::value_match(at, regex, text, errors))
    };
    PathMatch::Rpc { service: part("service", &raw.service), method: part("method", &raw.method) }
}
