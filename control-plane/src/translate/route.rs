//! Route tables: the HTTPRoutes of a service, merged by the Gateway API's precedence, over one virtual host.
//!
//! Without an HTTPRoute everything goes to the service itself. With one, what no rule matches is 404, as GAMMA says.
//! Routes in the service's own namespace are for everybody (producer routes); routes of another namespace are for
//! clients there, and then replace the producer's (consumer routes).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use sidemesh_proto::envoy::config::route::v3 as xds;

use super::action::{self, Unusable};
use super::cluster::outbound_name;
use super::node::Flavor;
use super::{retry, wire};
use crate::model::policy::Target;
use crate::model::route::{Match, PathMatch, Route, Rule, ValueMatch};
use crate::model::service::Service;
use crate::model::{Model, Name, status};

/// A route table, and the service ports that it sends to.
pub(super) struct Table {
    pub(super) config: xds::RouteConfiguration,
    pub(super) backends: BTreeSet<(Name, u16)>,
}

/// Why a whole listener can only answer with an error.
pub(super) struct Refusal {
    pub(super) status: u32,
    pub(super) code: &'static str,
    pub(super) reason: String,
}

/// The HTTPRoutes that clients of `consumer` use for a port of a service.
pub(super) fn routes_for<'a>(model: &'a Model, service: &Name, port: u16, consumer: &str) -> Vec<&'a Route> {
    let attached = |route: &&Route| {
        route.parents.iter().any(|parent| {
            parent.service.as_ref() == Some(service)
                && status::attached(model, parent).is_ok_and(|(_, ports)| ports.contains(&port))
        })
    };
    let all: Vec<&Route> = model.routes.values().map(|r| &**r).filter(attached).collect();
    let of =
        |namespace: &str| -> Vec<&'a Route> { all.iter().copied().filter(|r| r.name.namespace == namespace).collect() };
    let own = of(consumer);
    if consumer != service.namespace && !own.is_empty() { own } else { of(&service.namespace) }
}

/// The namespaces other than the service's that have routes of their own for it.
pub(super) fn consumers<'a>(model: &'a Model, service: &Name) -> BTreeSet<&'a str> {
    let names = |route: &Route| route.parents.iter().any(|p| p.service.as_ref() == Some(service));
    let foreign = model.routes.values().filter(|r| r.name.namespace != service.namespace);
    foreign.filter(|r| names(r)).map(|r| r.name.namespace.as_str()).collect()
}

pub(super) fn table(model: &Model, flavor: Flavor, service: &Service, port: u16, routes: &[&Route]) -> Table {
    let mut backends = BTreeSet::new();
    let name = outbound_name(&service.name, port);
    let mut list = Vec::new();
    if routes.is_empty() {
        backends.insert((service.name.clone(), port));
        let everything =
            Match { path: PathMatch::Prefix("/".into()), headers: Vec::new(), query: Vec::new(), method: None };
        let rule = action::Rule::to_service(model, service, &name);
        push(&mut list, &name, &everything, &rule, flavor);
    }
    for (route, i, rule, j, one) in in_precedence(routes) {
        let label = format!("{}/{}/rules[{i}]/matches[{j}]", route.name.namespace, route.name.name);
        let rule = resolve(model, service, route, rule, &mut backends);
        push(&mut list, &label, one, &rule, flavor);
    }
    Table { config: config(&name, list), backends }
}

/// A table that answers everything with one error.
pub(super) fn refusal(name: &str, refusal: &Refusal) -> xds::RouteConfiguration {
    let route = xds::Route {
        name: refusal.code.to_owned(),
        r#match: Some(xds::RouteMatch {
            path_specifier: Some(xds::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        ..action::refuse(refusal.status, refusal.code, &refusal.reason)
    };
    config(name, vec![route])
}

fn config(name: &str, routes: Vec<xds::Route>) -> xds::RouteConfiguration {
    let host = xds::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    };
    xds::RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

/// All matches of all rules: most specific first; ties go to the older route, then by name, then as written.
fn in_precedence<'a>(routes: &[&'a Route]) -> Vec<(&'a Route, usize, &'a Rule, usize, &'a Match)> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|r| (&r.created, &r.name));
    let mut all = Vec::new();
    for route in routes {
        for (i, rule) in route.rules.iter().enumerate() {
            all.extend(rule.matches.iter().enumerate().map(|(j, m)| (route, i, rule, j, m)));
        }
    }
    // A stable sort: equal ones keep the order above.
    all.sort_by_key(|(_, _, _, _, m)| {
        let (kind, length) = match &m.path {
            PathMatch::Exact(path) => (2, path.len()),
            PathMatch::Regex(pattern) => (1, pattern.len()),
            PathMatch::Prefix(path) => (0, path.len()),
        };
        Reverse((kind, length, m.method.is_some(), m.headers.len(), m.query.len()))
    });
    all
}

fn resolve(
    model: &Model,
    service: &Service,
    route: &Route,
    rule: &Rule,
    backends: &mut BTreeSet<(Name, u16)>,
) -> action::Rule {
    let mut resolved = action::Rule::of_route(model, service, route, rule);
    for backend in &rule.backends {
        let target = status::resolve(model, &route.name, &backend.target);
        let cluster = match target {
            Ok((name, port)) => {
                let cluster = outbound_name(&name, port);
                backends.insert((name, port));
                Ok(cluster)
            }
            Err(e) => Err(Unusable { code: code(e.reason), reason: e.message }),
        };
        resolved.backends.push((cluster, backend.weight, backend.filters.clone()));
    }
    for mirror in &rule.filters.mirrors {
        // A mirror that cannot be resolved mirrors nowhere: the status says so, the request is served.
        if let Ok((name, port)) = status::resolve(model, &route.name, &mirror.target) {
            resolved.mirrors.push((outbound_name(&name, port), mirror.millionths));
            backends.insert((name, port));
        }
    }
    resolved
}

fn code(reason: &str) -> &'static str {
    match reason {
        "InvalidKind" => "invalid_backend_kind",
        "RefNotPermitted" => "backend_not_permitted",
        _ => "backend_not_found",
    }
}

/// One match becomes one route, or two where methods that may be repeated are retried more readily than the others.
fn push(list: &mut Vec<xds::Route>, label: &str, one: &Match, rule: &action::Rule, flavor: Flavor) {
    let variants = match (&one.method, rule.forwards(), flavor) {
        (_, false, _) | (_, _, Flavor::Grpc) => vec![(None, retry::Methods::Other)],
        (Some(method), _, _) => vec![(None, retry::Methods::of(method))],
        (None, _, _) if rule.retry.same_for_all_methods() => vec![(None, retry::Methods::Idempotent)],
        (None, _, _) => {
            vec![(Some(retry::idempotent_methods()), retry::Methods::Idempotent), (None, retry::Methods::Other)]
        }
    };
    for (methods, class) in variants {
        let mut route = rule.route(&one.path, class, flavor);
        route.name = label.to_owned();
        let mut matcher = route_match(one);
        matcher.headers.extend(methods.map(|pattern| header(":method", wire::matches(&pattern))));
        route.r#match = Some(matcher);
        list.push(route);
    }
}

fn route_match(one: &Match) -> xds::RouteMatch {
    use xds::route_match::PathSpecifier;
    let path = match &one.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(path) if path == "/" => PathSpecifier::Prefix(path.clone()),
        PathMatch::Prefix(path) => PathSpecifier::PathSeparatedPrefix(path.clone()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(wire::regex(pattern)),
    };
    let value = |v: &ValueMatch| match v {
        ValueMatch::Exact(text) => wire::exact(text),
        ValueMatch::Regex(pattern) => wire::matches(pattern),
    };
    let mut headers: Vec<xds::HeaderMatcher> = one.headers.iter().map(|(n, v)| header(n, value(v))).collect();
    headers.extend(one.method.as_ref().map(|method| header(":method", wire::exact(method))));
    let query_parameters = one
        .query
        .iter()
        .map(|(name, v)| xds::QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(
                xds::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(value(v)),
            ),
        })
        .collect();
    xds::RouteMatch { path_specifier: Some(path), headers, query_parameters, ..Default::default() }
}

fn header(name: &str, matcher: sidemesh_proto::envoy::r#type::matcher::v3::StringMatcher) -> xds::HeaderMatcher {
    xds::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(xds::header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}

/// The policies that speak of a route of a service: the HTTPRoute's own first, then the service's.
pub(super) fn targets(service: &Service, route: Option<&Route>) -> Vec<Target> {
    let own = route.map(|r| Target::Route(r.name.clone()));
    own.into_iter().chain([Target::Service(service.name.clone())]).collect()
}
