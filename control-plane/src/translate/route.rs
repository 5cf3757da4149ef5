//! Route tables: the HTTPRoutes or GRPCRoutes of a service, merged by the Gateway API's precedence, over one virtual host.
//!
//! Without a route everything goes to the service itself. With one, what no rule matches is 404, as GAMMA says.
//! Routes in the service's own namespace are for everybody (producer routes); routes of another namespace are for
//! clients there, and then replace the producer's (consumer routes). Where a port has both kinds, the GRPCRoutes are used
//! (GEP-1294: the more specific kind).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sidemesh_proto::envoy::config::route::v3 as xds;

use super::action::{self, Backend, Unusable};
use super::cluster::outbound_name;
use super::node::Flavor;
use super::{retry, wire};
use crate::model::filter::Filters;
use crate::model::kind::Kind;
use crate::model::policy::Target;
use crate::model::route::{BackendTarget, Match, PathMatch, Route, Rule, ValueMatch};
use crate::model::service::Service;
use crate::model::{Key, Model, Name, status};

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

/// All routes by the services that they name as parents.
pub(super) fn by_parent(model: &Model) -> BTreeMap<&Name, Vec<&Route>> {
    let mut all: BTreeMap<&Name, Vec<&Route>> = BTreeMap::new();
    for route in model.routes.values() {
        let parents: BTreeSet<&Name> = route.parents.iter().filter_map(|p| p.service.as_ref()).collect();
        parents.into_iter().for_each(|service| all.entry(service).or_default().push(route));
    }
    all
}

/// Those among the routes that name a service which clients of `consumer` use for one of its ports.
pub(super) fn routes_for<'a>(
    model: &Model,
    routes: &[&'a Route],
    service: &Name,
    port: u16,
    consumer: &str,
) -> Vec<&'a Route> {
    let attached = |route: &&Route| {
        route.parents.iter().any(|parent| {
            parent.service.as_ref() == Some(service)
                && status::attached(model, route.kind, parent).is_ok_and(|(_, ports)| ports.contains(&port))
        })
    };
    let all: Vec<&Route> = routes.iter().copied().filter(attached).collect();
    let of =
        |namespace: &str| -> Vec<&'a Route> { all.iter().copied().filter(|r| r.name.namespace == namespace).collect() };
    let own = of(consumer);
    let mut used = if consumer != service.namespace && !own.is_empty() { own } else { of(&service.namespace) };
    if used.iter().any(|route| route.kind == Kind::GrpcRoute) {
        used.retain(|route| route.kind == Kind::GrpcRoute);
    }
    used
}

/// The namespaces other than the service's that have routes of their own for it.
pub(super) fn consumers<'a>(routes: &[&'a Route], service: &Name) -> BTreeSet<&'a str> {
    routes.iter().map(|r| r.name.namespace.as_str()).filter(|namespace| *namespace != service.namespace).collect()
}

pub(super) fn table(model: &Model, flavor: Flavor, service: &Service, port: u16, routes: &[&Route]) -> Table {
    let mut backends = BTreeSet::new();
    let name = outbound_name(&service.name, port);
    let mut list = Vec::new();
    if routes.is_empty() {
        backends.insert((service.name.clone(), port));
        let rule = action::Rule::to_service(model, service, port, &name);
        push(&mut list, &name, &Match::everything(), &rule, flavor);
    }
    for (route, i, rule, j, one) in in_precedence(routes) {
        let label = format!("{}/{}/rules[{i}]/matches[{j}]", route.name.namespace, route.name.name);
        let rule = resolve(model, service, port, (route, rule), &mut backends);
        for (share, rule) in rule.split(flavor) {
            let before = list.len();
            push(&mut list, &label, one, &rule, flavor);
            for route in &mut list[before..] {
                if let Some(matcher) = &mut route.r#match {
                    matcher.runtime_fraction = share.map(wire::millionths);
                }
            }
        }
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
    all.sort_by_key(|(_, _, _, _, m)| Reverse(m.rank()));
    all
}

fn resolve(
    model: &Model,
    service: &Service,
    port: u16,
    (route, rule): (&Route, &Rule),
    backends: &mut BTreeSet<(Name, u16)>,
) -> action::Rule {
    let mut resolved = action::Rule::of_route(model, service, port, route, rule);
    let mut cluster_of = |target: &BackendTarget| match status::resolve(model, route, target) {
        Ok((name, port)) => {
            let cluster = outbound_name(&name, port);
            backends.insert((name, port));
            Ok(cluster)
        }
        Err(e) => Err(Unusable { code: code(e.reason), reason: e.message }),
    };
    // A mirror that cannot be resolved mirrors nowhere: the status says so, the request is served.
    let mirrors_of = |filters: &Filters, cluster_of: &mut dyn FnMut(&BackendTarget) -> Result<String, Unusable>| {
        let mirrors = filters.mirrors.iter();
        mirrors.filter_map(|m| Some((cluster_of(&m.target).ok()?, m.millionths))).collect::<Vec<_>>()
    };
    for backend in &rule.backends {
        let mirrors = mirrors_of(&backend.filters, &mut cluster_of);
        let cluster = cluster_of(&backend.target);
        resolved.backends.push(Backend { cluster, weight: backend.weight, filters: backend.filters.clone(), mirrors });
    }
    resolved.mirrors = mirrors_of(&rule.filters, &mut cluster_of);
    resolved
}

/// What a TCPRoute, or its absence, does with connections: clusters with weights, and the ports behind them.
pub(super) struct Split {
    pub(super) clusters: Vec<(String, u32)>,
    pub(super) backends: BTreeSet<(Name, u16)>,
}

pub(super) fn split(model: &Model, service: &Name, port: u16, routes: &[&Route]) -> Split {
    let mut split = Split { clusters: Vec::new(), backends: BTreeSet::new() };
    let mut routes = routes.to_vec();
    routes.sort_by_key(|r| (&r.created, &r.name));
    // Connections have nothing to tell routes apart by: the first has them all.
    let Some(route) = routes.first() else {
        split.clusters.push((outbound_name(service, port), 1));
        split.backends.insert((service.clone(), port));
        return split;
    };
    for backend in route.rules.iter().flat_map(|rule| &rule.backends).filter(|b| b.weight > 0) {
        match status::resolve(model, route, &backend.target) {
            Ok((name, port)) => {
                split.clusters.push((outbound_name(&name, port), backend.weight));
                split.backends.insert((name, port));
            }
            // No such cluster: its share of the connections is closed.
            Err(_) => split.clusters.push((action::NO_CLUSTER.to_owned(), backend.weight)),
        }
    }
    split
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
        // Calls are POST requests, all of them.
        (None, _, _) if rule.grpc => vec![(None, retry::Methods::Other)],
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
        PathMatch::Rpc { service, method } => rpc(service.as_ref(), method.as_ref()),
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

/// The path of a gRPC call is `/service/method`.
fn rpc(service: Option<&ValueMatch>, method: Option<&ValueMatch>) -> xds::route_match::PathSpecifier {
    use xds::route_match::PathSpecifier;
    match (service, method) {
        (None, None) => PathSpecifier::Prefix("/".to_owned()),
        (Some(ValueMatch::Exact(service)), None) => PathSpecifier::Prefix(format!("/{service}/")),
        (Some(ValueMatch::Exact(service)), Some(ValueMatch::Exact(method))) => {
            PathSpecifier::Path(format!("/{service}/{method}"))
        }
        _ => {
            let part = |part: Option<&ValueMatch>| match part {
                None => "[^/]+".to_owned(),
                Some(ValueMatch::Exact(text)) => regex::escape(text),
                Some(ValueMatch::Regex(pattern)) => format!("(?:{pattern})"),
            };
            PathSpecifier::SafeRegex(wire::regex(&format!("/{}/{}", part(service), part(method))))
        }
    }
}

fn header(name: &str, matcher: sidemesh_proto::envoy::r#type::matcher::v3::StringMatcher) -> xds::HeaderMatcher {
    xds::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(xds::header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}

/// The policies that speak of a route of a service: the route's own first, then the service's.
pub(super) fn targets(service: &Service, route: Option<&Route>) -> Vec<Target> {
    let own = route.map(|r| Target::Route(Key { kind: r.kind, name: r.name.clone() }));
    own.into_iter().chain([Target::Service(service.name.clone())]).collect()
}
