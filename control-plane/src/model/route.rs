//! HTTPRoute (Gateway API v1) attached to Services (GAMMA), reduced to rules.
//!
//! Refused by name: the filters CORS and ExtensionRef, and in a backendRef's filters everything but header modifiers
//! (xDS has no place for it). `hostnames` have no effect on a Service's route (the specification says so).

use std::time::Duration;

use gateway_api::apis::standard::httproutes as raw;
use serde_json::Value;

use super::filter::{self, Filters};
use super::kind::Name;
use super::strict::{Errors, FieldError, decode};

/// Limits of the Gateway API.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_WEIGHT: i64 = 1_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: Name,
    pub created: String,
    pub generation: i64,
    pub parents: Vec<Parent>,
    pub rules: Vec<Rule>,
    pub has_hostnames: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// The reference as written, for the status.
    pub reference: Value,
    /// `None`: not a Service (a Gateway, say): not ours.
    pub service: Option<Name>,
    pub port: Option<u16>,
    pub section: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub filters: Filters,
    pub backends: Vec<Backend>,
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// Without a trailing slash, except for "/" itself.
    Prefix(String),
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub method: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    pub target: BackendTarget,
    pub weight: u32,
    pub filters: Filters,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    Service {
        name: Name,
        port: Option<u16>,
    },
    /// A kind that this mesh does not know: accepted, answered with 500, and said in the status.
    OtherKind {
        kind: String,
    },
}

pub fn route(name: &Name, body: &Value) -> Result<Route, Vec<FieldError>> {
    let object: raw::HttpRoute = decode(body)?;
    let mut errors = Errors::default();
    let spec = object.spec;
    let references = body["spec"]["parentRefs"].as_array().cloned().unwrap_or_default();
    let mut parents = Vec::new();
    for (i, parent) in spec.parent_refs.unwrap_or_default().iter().enumerate() {
        let reference = references.get(i).cloned().unwrap_or(Value::Null);
        parents.push(parse_parent(&format!("spec.parentRefs[{i}]"), name, parent, reference, &mut errors));
    }
    if parents.is_empty() {
        errors
            .push("spec.parentRefs", "empty: name the Service whose traffic this routes (kind: Service, group: \"\")");
    }
    let rules = spec.rules.unwrap_or_default();
    if rules.len() > MAX_RULES {
        errors.push("spec.rules", format!("{} rules; at most {MAX_RULES} are allowed: split the route", rules.len()));
    }
    let rules = rules.iter().enumerate();
    let rules = rules.map(|(i, rule)| parse_rule(&format!("spec.rules[{i}]"), name, rule, &mut errors)).collect();
    errors.finish(Route {
        name: name.clone(),
        created: body["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
        generation: body["metadata"]["generation"].as_i64().unwrap_or(0),
        parents,
        rules,
        has_hostnames: spec.hostnames.is_some_and(|h| !h.is_empty()),
    })
}

fn parse_parent(
    path: &str,
    route: &Name,
    raw: &raw::HttpRouteParentRefs,
    reference: Value,
    errors: &mut Errors,
) -> Parent {
    // The defaults are those of the specification: a Gateway, unless said otherwise.
    let group = raw.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    let kind = raw.kind.as_deref().unwrap_or("Gateway");
    if kind == "Service" && !matches!(group, "" | "core") {
        errors.push(format!("{path}.group"), "a Service has the empty group: write group: \"\"");
    }
    let namespace = raw.namespace.clone().unwrap_or_else(|| route.namespace.clone());
    Parent {
        reference,
        service: (kind == "Service").then(|| Name::new(namespace, raw.name.clone())),
        port: raw.port.map(|p| errors.port(format!("{path}.port"), p.into())),
        section: raw.section_name.clone(),
    }
}

fn parse_rule(path: &str, route: &Name, raw: &raw::HttpRouteRules, errors: &mut Errors) -> Rule {
    let raw_matches = raw.matches.clone().unwrap_or_default();
    if raw_matches.len() > MAX_MATCHES {
        errors.push(format!("{path}.matches"), format!("more than {MAX_MATCHES} matches: split the rule"));
    }
    let mut matches: Vec<Match> =
        raw_matches.iter().enumerate().map(|(i, m)| parse_match(&format!("{path}.matches[{i}]"), m, errors)).collect();
    if matches.is_empty() {
        let path = PathMatch::Prefix("/".into());
        matches.push(Match { path, headers: Vec::new(), query: Vec::new(), method: None });
    }
    let filters = filter::parse(&format!("{path}.filters"), route, raw.filters.as_deref().unwrap_or_default(), errors);
    if filters.replaces_prefix() && !matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_))) {
        let message =
            "replacePrefixMatch needs matches of type PathPrefix in the same rule: change them, or use ReplaceFullPath";
        errors.push(format!("{path}.filters"), message);
    }
    let mut backends = Vec::new();
    for (i, backend) in raw.backend_refs.iter().flatten().enumerate() {
        backends.push(parse_backend(&format!("{path}.backendRefs[{i}]"), route, backend, errors));
    }
    if filters.redirect.is_some() && !backends.is_empty() {
        errors.push(format!("{path}.backendRefs"), "a rule that redirects has no backends: remove one of the two");
    }
    let timeouts = raw.timeouts.as_ref();
    let request = timeouts.and_then(|t| t.request.as_ref());
    let request_timeout = request.map(|t| errors.duration(format!("{path}.timeouts.request"), t));
    let backend = timeouts.and_then(|t| t.backend_request.as_ref());
    let backend_timeout = backend.map(|t| errors.duration(format!("{path}.timeouts.backendRequest"), t));
    if let (Some(request), Some(backend)) = (request_timeout, backend_timeout)
        && !request.is_zero()
        && backend > request
    {
        errors.push(format!("{path}.timeouts.backendRequest"), "longer than timeouts.request: make it at most as long");
    }
    Rule { matches, filters, backends, request_timeout, backend_timeout }
}

fn parse_match(path: &str, raw: &raw::HttpRouteRulesMatches, errors: &mut Errors) -> Match {
    let path_match = parse_path(&format!("{path}.path"), raw.path.as_ref(), errors);
    let mut headers: Vec<(String, ValueMatch)> = Vec::new();
    for (i, header) in raw.headers.iter().flatten().enumerate() {
        let at = format!("{path}.headers[{i}]");
        let name = filter::header_name(&format!("{at}.name"), &header.name, errors);
        let regex = header.r#type == Some(raw::HttpRouteRulesMatchesHeadersType::RegularExpression);
        let value = value_match(&at, regex, &header.value, errors);
        // The first entry of a name counts, as the specification says.
        if !headers.iter().any(|(known, _)| *known == name) {
            headers.push((name, value));
        }
    }
    let mut query: Vec<(String, ValueMatch)> = Vec::new();
    for (i, param) in raw.query_params.iter().flatten().enumerate() {
        let at = format!("{path}.queryParams[{i}]");
        if param.name.is_empty() {
            errors.push(format!("{at}.name"), "empty: name the parameter");
        }
        let regex = param.r#type == Some(raw::HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        let value = value_match(&at, regex, &param.value, errors);
        if !query.iter().any(|(known, _)| *known == param.name) {
            query.push((param.name.clone(), value));
        }
    }
    let method = raw.method.as_ref().map(method_text);
    Match { path: path_match, headers, query, method }
}

fn method_text(method: &raw::HttpRouteRulesMatchesMethod) -> String {
    format!("{method:?}").to_ascii_uppercase()
}

fn parse_path(path: &str, raw: Option<&raw::HttpRouteRulesMatchesPath>, errors: &mut Errors) -> PathMatch {
    let value = raw.and_then(|p| p.value.clone()).unwrap_or_else(|| "/".into());
    let kind = raw.and_then(|p| p.r#type.clone()).unwrap_or(raw::HttpRouteRulesMatchesPathType::PathPrefix);
    let at = format!("{path}.value");
    if kind == raw::HttpRouteRulesMatchesPathType::RegularExpression {
        errors.regex(at, &value);
        return PathMatch::Regex(value);
    }
    if !value.starts_with('/') {
        errors.push(at, format!("`{value}` does not begin with a slash: write /{value}"));
    } else if let Some(bad) = ["//", "/./", "/../", "%2f", "%2F", "#", "?"].iter().find(|bad| value.contains(**bad)) {
        errors.push(at, format!("`{value}` contains `{bad}`, which no normalised path has: remove it"));
    } else if value.ends_with("/.") || value.ends_with("/..") {
        errors.push(at, format!("`{value}` ends with dots, which no normalised path has: remove them"));
    }
    match kind {
        raw::HttpRouteRulesMatchesPathType::Exact => PathMatch::Exact(value),
        _ if value.len() > 1 => PathMatch::Prefix(value.trim_end_matches('/').to_owned()),
        _ => PathMatch::Prefix(value),
    }
}

fn value_match(path: &str, regex: bool, value: &str, errors: &mut Errors) -> ValueMatch {
    if regex {
        errors.regex(format!("{path}.value"), value);
        return ValueMatch::Regex(value.to_owned());
    }
    ValueMatch::Exact(value.to_owned())
}

fn parse_backend(path: &str, route: &Name, raw: &raw::HttpRouteRulesBackendRefs, errors: &mut Errors) -> Backend {
    let reference = Reference {
        group: raw.group.as_deref(),
        kind: raw.kind.as_deref(),
        name: &raw.name,
        namespace: raw.namespace.as_deref(),
        port: raw.port,
    };
    let target = reference.resolve(path, route, errors);
    let weight = errors.range(format!("{path}.weight"), raw.weight.unwrap_or(1).into(), 0, MAX_WEIGHT);
    let filters = filter::parse_backend(&format!("{path}.filters"), route, raw.filters.as_deref(), errors);
    Backend { target, weight, filters }
}

/// A reference to a backend, in a rule or in a mirror.
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) port: Option<i32>,
}

impl Reference<'_> {
    pub(super) fn resolve(&self, path: &str, route: &Name, errors: &mut Errors) -> BackendTarget {
        let (group, kind) = (self.group.unwrap_or(""), self.kind.unwrap_or("Service"));
        let port = self.port.map(|p| errors.port(format!("{path}.port"), p.into()));
        if kind != "Service" || !matches!(group, "" | "core") {
            return BackendTarget::OtherKind { kind: format!("{group}/{kind}") };
        }
        let namespace = self.namespace.unwrap_or(&route.namespace);
        BackendTarget::Service { name: Name::new(namespace, self.name), port }
    }
}
