//! Routes of the Gateway API attached to Services (GAMMA), reduced to rules: what HTTPRoute, GRPCRoute and TCPRoute
//! have in common. Each kind is read in a file of its own.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::filter::Filters;
use super::kind::{Kind, Name};
use super::strict::Errors;

/// Limits of the Gateway API.
pub(super) const MAX_RULES: usize = 16;
pub(super) const MAX_MATCHES: usize = 64;
const MAX_WEIGHT: i64 = 1_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `HttpRoute`, `GrpcRoute` or `TcpRoute`.
    pub kind: Kind,
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

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Empty for TCPRoutes, which match every connection.
    pub matches: Vec<Match>,
    pub filters: Filters,
    pub backends: Vec<Backend>,
    pub retry: Option<RuleRetry>,
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
}

/// `retry` of an HTTPRoute rule (GEP-1731).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleRetry {
    /// Empty: the defaults.
    pub codes: Vec<u32>,
    pub attempts: Option<u32>,
    pub backoff: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// Without a trailing slash, except for "/" itself.
    Prefix(String),
    Regex(String),
    /// `/service/method`, either of them left open.
    Rpc {
        service: Option<ValueMatch>,
        method: Option<ValueMatch>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Regex(String),
}

impl ValueMatch {
    fn len(&self) -> usize {
        match self {
            ValueMatch::Exact(text) | ValueMatch::Regex(text) => text.len(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub method: Option<String>,
}

impl Match {
    /// Every request.
    pub fn everything() -> Match {
        Match { path: PathMatch::Prefix("/".into()), headers: Vec::new(), query: Vec::new(), method: None }
    }

    /// Among matches of one kind of route the greatest goes first: exact paths, regular expressions, prefixes, longer
    /// ones first; for gRPC the longer service, then the longer method; then method, headers and query parameters.
    pub fn rank(&self) -> impl Ord + use<> {
        let (first, second) = match &self.path {
            PathMatch::Exact(path) => (2, path.len()),
            PathMatch::Regex(pattern) => (1, pattern.len()),
            PathMatch::Prefix(path) => (0, path.len()),
            PathMatch::Rpc { service, method } => {
                let length = |part: &Option<ValueMatch>| part.as_ref().map_or(0, ValueMatch::len);
                (length(service), length(method))
            }
        };
        (first, second, self.method.is_some(), self.headers.len(), self.query.len())
    }
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

/// What the kinds of routes have in common: everything but the rules.
pub(super) fn common(
    kind: Kind,
    name: &Name,
    body: &Value,
    hostnames: Option<&Vec<String>>,
    errors: &mut Errors,
) -> Route {
    let metadata = &body["metadata"];
    Route {
        kind,
        name: name.clone(),
        created: metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
        generation: metadata["generation"].as_i64().unwrap_or(0),
        parents: parents(name, body, errors),
        rules: Vec::new(),
        has_hostnames: hostnames.is_some_and(|h| !h.is_empty()),
    }
}

/// The number of rules, and of what is in them, that the Gateway API allows.
pub(super) fn limit(path: &str, what: &str, count: usize, most: usize, errors: &mut Errors) {
    if count > most {
        errors.push(path, format!("{count} {what}; at most {most} are allowed: split the route"));
    }
}

/// A parentRef; its shape, checked before, is the same in every kind of route.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawParent {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i64>,
    section_name: Option<String>,
}

fn parents(route: &Name, body: &Value, errors: &mut Errors) -> Vec<Parent> {
    let references = body["spec"]["parentRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if references.is_empty() {
        let message = "empty: name the Service whose traffic this routes (kind: Service, group: \"\")";
        errors.push("spec.parentRefs", message);
    }
    let parse = |(i, reference): (usize, &Value)| {
        let raw: RawParent = same_shape(reference)?;
        Some(parent(&format!("spec.parentRefs[{i}]"), route, raw, reference.clone(), errors))
    };
    references.iter().enumerate().filter_map(parse).collect()
}

fn parent(path: &str, route: &Name, raw: RawParent, reference: Value, errors: &mut Errors) -> Parent {
    // The defaults are those of the specification: a Gateway, unless said otherwise.
    let group = raw.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    let kind = raw.kind.as_deref().unwrap_or("Gateway");
    if kind == "Service" && !matches!(group, "" | "core") {
        errors.push(format!("{path}.group"), "a Service has the empty group: write group: \"\"");
    }
    let namespace = raw.namespace.unwrap_or_else(|| route.namespace.clone());
    Parent {
        reference,
        service: (kind == "Service").then(|| Name::new(namespace, raw.name)),
        port: raw.port.map(|p| errors.port(format!("{path}.port"), p)),
        section: raw.section_name,
    }
}

/// A reference to a backend, in a rule or in a mirror; its shape, too, is the same everywhere.
#[derive(Deserialize)]
struct RawBackend {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i64>,
    weight: Option<i64>,
}

/// The target of a reference, and its weight.
pub(super) fn backend_ref<T: Serialize>(
    path: &str,
    route: &Name,
    reference: &T,
    errors: &mut Errors,
) -> (BackendTarget, u32) {
    let Some(raw) = same_shape::<_, RawBackend>(reference) else {
        errors.push(path, "not a reference to a backend: give name and port");
        return (BackendTarget::OtherKind { kind: String::new() }, 0);
    };
    let (group, kind) = (raw.group.as_deref().unwrap_or(""), raw.kind.as_deref().unwrap_or("Service"));
    let port = raw.port.map(|p| errors.port(format!("{path}.port"), p));
    let weight = errors.range(format!("{path}.weight"), raw.weight.unwrap_or(1), 0, MAX_WEIGHT);
    if kind != "Service" || !matches!(group, "" | "core") {
        return (BackendTarget::OtherKind { kind: format!("{group}/{kind}") }, weight);
    }
    let namespace = raw.namespace.as_deref().unwrap_or(&route.namespace);
    (BackendTarget::Service { name: Name::new(namespace, raw.name), port }, weight)
}

/// The text of a header, parameter or path to compare with.
pub(super) fn value_match(path: String, regex: bool, text: &str, errors: &mut Errors) -> ValueMatch {
    if regex {
        errors.regex(path, text);
        return ValueMatch::Regex(text.to_owned());
    }
    ValueMatch::Exact(text.to_owned())
}

/// One generated type as another that has the same fields.
pub(super) fn same_shape<A: Serialize, B: DeserializeOwned>(value: &A) -> Option<B> {
    serde_json::to_value(value).and_then(serde_json::from_value).ok()
}
