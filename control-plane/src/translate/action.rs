//! What a route does: forward (to one cluster or by weight), redirect, or answer.

use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::route::v3 as xds;
use sidemesh_proto::envoy::r#type::matcher::v3 as matcher;
use sidemesh_proto::google;

use super::node::Flavor;
use super::retry::{Methods, Retry};
use super::route::targets;
use super::{cors, defaults, wire};
use crate::model::Model;
use crate::model::filter::{Filters, HeaderEdits, PathEdit, Redirect};
use crate::model::kind::Kind;
use crate::model::policy::{HashOn, Policy};
use crate::model::route::{PathMatch, Route};
use crate::model::service::{Protocol, Service};

/// Says which rule or limit made a response that no application made.
pub const ERROR_HEADER: &str = "x-sidemesh-error";
/// Named by a share of traffic whose backend cannot be used; no cluster has this name.
pub(super) const NO_CLUSTER: &str = "unresolved-backend";

/// A backend that cannot be used, and the code that clients get for it.
#[derive(Debug, Clone)]
pub(super) struct Unusable {
    pub(super) code: &'static str,
    pub(super) reason: String,
}

/// A backend with its cluster looked up.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) cluster: Result<String, Unusable>,
    pub(super) weight: u32,
    pub(super) filters: Filters,
    pub(super) mirrors: Vec<(String, u32)>,
}

/// A rule with its references looked up.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    filters: Filters,
    pub(super) backends: Vec<Backend>,
    /// Clusters, and how many in a million requests go there, too.
    pub(super) mirrors: Vec<(String, u32)>,
    pub(super) retry: Retry,
    /// Calls, which end when their callers say.
    pub(super) grpc: bool,
    /// `None`: our default. Zero: none at all.
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    hash_on: Option<HashOn>,
}

impl Rule {
    /// Everything to the service itself.
    pub(super) fn to_service(model: &Model, service: &Service, port: u16, cluster: &str) -> Rule {
        let mut rule = Rule::new(model, service, port, None);
        let cluster = Ok(cluster.to_owned());
        rule.backends.push(Backend { cluster, weight: 1, filters: Filters::default(), mirrors: Vec::new() });
        rule
    }

    /// One rule of a route, still without its backends.
    pub(super) fn of_route(
        model: &Model,
        service: &Service,
        port: u16,
        route: &Route,
        rule: &crate::model::route::Rule,
    ) -> Rule {
        let mut resolved = Rule::new(model, service, port, Some(route));
        resolved.retry = resolved.retry.with_rule(rule.retry.as_ref(), rule.backend_timeout);
        resolved.filters = rule.filters.clone();
        resolved.timeout = rule.request_timeout.or(resolved.timeout);
        resolved
    }

    fn new(model: &Model, service: &Service, port: u16, route: Option<&Route>) -> Rule {
        let targets = targets(service, route);
        let policies: Vec<&Policy> = targets.iter().filter_map(|t| model.policy_for(t)).map(|p| &**p).collect();
        let speaks_grpc = service.port(port).is_some_and(|p| p.protocol == Protocol::Grpc);
        Rule {
            filters: Filters::default(),
            backends: Vec::new(),
            mirrors: Vec::new(),
            retry: Retry::from_policies(&policies),
            grpc: route.map_or(speaks_grpc, |r| r.kind == Kind::GrpcRoute || speaks_grpc),
            timeout: policies.iter().find_map(|p| p.request_timeout),
            idle_timeout: policies.iter().find_map(|p| p.idle_timeout),
            hash_on: policies.iter().find_map(|p| p.hash_on.clone()),
        }
    }

    /// A rule whose backends have filters that xDS knows for routes alone becomes a rule for each backend: with the
    /// share of requests (in millionths, counted up) that go to it or to one before it. A request draws once for all.
    pub(super) fn split(self, flavor: Flavor) -> Vec<(Option<u32>, Rule)> {
        let used: Vec<&Backend> = self.backends.iter().filter(|b| b.weight > 0).collect();
        if flavor == Flavor::Grpc || used.iter().all(|b| b.filters.only_edit_headers()) {
            return vec![(None, self)];
        }
        let total: u64 = used.iter().map(|b| u64::from(b.weight)).sum();
        let mut sum = 0;
        let mut rules = Vec::new();
        for backend in &used {
            sum += u64::from(backend.weight);
            let share = u32::try_from(sum * 1_000_000 / total).unwrap_or(1_000_000);
            rules.push(((sum < total).then_some(share), self.to_one(backend)));
        }
        rules
    }

    /// This rule for one of its backends, with that one's filters.
    fn to_one(&self, backend: &Backend) -> Rule {
        let mut rule = Rule { backends: Vec::new(), ..self.clone() };
        let mut only = backend.clone();
        rule.mirrors.append(&mut only.mirrors);
        rule.filters.redirect = only.filters.redirect.take().or(rule.filters.redirect);
        rule.filters.rewrite = only.filters.rewrite.take().or(rule.filters.rewrite);
        rule.filters.cors = only.filters.cors.take().or(rule.filters.cors);
        only.filters.mirrors.clear();
        rule.backends.push(only);
        rule
    }

    /// Does it send anything anywhere?
    pub(super) fn forwards(&self) -> bool {
        self.filters.redirect.is_none() && self.backends.iter().any(|b| b.cluster.is_ok() && b.weight > 0)
    }

    pub(super) fn route(&self, path: &PathMatch, methods: Methods, flavor: Flavor) -> xds::Route {
        let mut route = match &self.filters.redirect {
            Some(redirect) => with_action(xds::route::Action::Redirect(redirect_action(redirect, path))),
            None if self.forwards() => with_action(xds::route::Action::Route(self.forward(path, methods, flavor))),
            None => self.nowhere(),
        };
        let (add, remove) = header_edits(&self.filters.request);
        route.request_headers_to_add.extend(add);
        route.request_headers_to_remove.extend(remove);
        let (add, remove) = header_edits(&self.filters.response);
        route.response_headers_to_add.extend(add);
        route.response_headers_to_remove.extend(remove);
        if let Some(cors) = &self.filters.cors {
            route.typed_per_filter_config.insert(cors::FILTER.to_owned(), cors::policy(cors));
        }
        route
    }

    /// No backend that could be used: 500 with the reason, as the Gateway API says.
    fn nowhere(&self) -> xds::Route {
        let errors: Vec<&Unusable> = self.backends.iter().filter_map(|b| b.cluster.as_ref().err()).collect();
        match errors.first() {
            Some(first) => {
                let reasons: Vec<&str> = errors.iter().map(|e| e.reason.as_str()).collect();
                refuse(500, first.code, &reasons.join("; "))
            }
            None if self.backends.is_empty() => refuse(500, "no_backend", "the matching rule has no backendRefs"),
            None => refuse(500, "no_backend", "all backends of the matching rule have weight 0"),
        }
    }

    fn forward(&self, path: &PathMatch, methods: Methods, flavor: Flavor) -> xds::RouteAction {
        use xds::route_action as ra;
        let timeout = self.timeout.unwrap_or(if self.grpc { Duration::ZERO } else { defaults::REQUEST_TIMEOUT });
        let mut action = xds::RouteAction {
            cluster_specifier: Some(self.clusters()),
            cluster_not_found_response_code: ra::ClusterNotFoundResponseCode::InternalServerError.into(),
            timeout: wire::duration(timeout),
            idle_timeout: self.idle_timeout.and_then(wire::duration),
            retry_policy: self.retry.policy(methods),
            request_mirror_policies: self.mirrors.iter().map(|(c, m)| mirror(c, *m)).collect(),
            hash_policy: self.hash_on.iter().map(hash_policy).collect(),
            ..Default::default()
        };
        if self.grpc && flavor != Flavor::Grpc {
            // The caller's deadline (`grpc-timeout`), whatever it is.
            let any = Some(google::Duration::default());
            action.max_stream_duration =
                Some(ra::MaxStreamDuration { grpc_timeout_header_max: any, ..Default::default() });
        }
        if flavor == Flavor::Grpc {
            // gRPC reads this one; without a user's word its callers' own deadlines rule.
            action.max_stream_duration = self
                .timeout
                .filter(|t| !t.is_zero())
                .map(|t| ra::MaxStreamDuration { max_stream_duration: wire::duration(t), ..Default::default() });
        }
        if let Some(rewrite) = &self.filters.rewrite {
            if let Some(host) = &rewrite.hostname {
                action.host_rewrite_specifier = Some(ra::HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
            }
            match rewrite.path.as_ref().map(|edit| path_edit(edit, path)) {
                None => {}
                Some(PathRewrite::Prefix(prefix)) => action.prefix_rewrite = prefix,
                Some(PathRewrite::Regex(regex)) => action.regex_rewrite = Some(regex),
            }
        }
        action
    }

    fn clusters(&self) -> xds::route_action::ClusterSpecifier {
        use xds::route_action::ClusterSpecifier;
        let used: Vec<_> = self.backends.iter().filter(|b| b.weight > 0).collect();
        if let [Backend { cluster: Ok(only), filters, .. }] = used.as_slice()
            && *filters == Filters::default()
        {
            return ClusterSpecifier::Cluster(only.clone());
        }
        let clusters = used
            .into_iter()
            .map(|backend| {
                let (request_headers_to_add, request_headers_to_remove) = header_edits(&backend.filters.request);
                let (response_headers_to_add, response_headers_to_remove) = header_edits(&backend.filters.response);
                xds::weighted_cluster::ClusterWeight {
                    name: backend.cluster.as_ref().cloned().unwrap_or_else(|_| NO_CLUSTER.to_owned()),
                    weight: wire::u32_value(backend.weight),
                    request_headers_to_add,
                    request_headers_to_remove,
                    response_headers_to_add,
                    response_headers_to_remove,
                    ..Default::default()
                }
            })
            .collect();
        ClusterSpecifier::WeightedClusters(xds::WeightedCluster { clusters, ..Default::default() })
    }
}

/// An answer of our own, with its reason in the body and its code in a header.
pub(super) fn refuse(status: u32, code: &str, reason: &str) -> xds::Route {
    let body = wire::inline(&format!("{code}: {reason}\n"));
    let answer = xds::DirectResponseAction { status, body, ..Default::default() };
    xds::Route {
        response_headers_to_add: vec![wire::header(ERROR_HEADER, code, false)],
        ..with_action(xds::route::Action::DirectResponse(answer))
    }
}

fn with_action(action: xds::route::Action) -> xds::Route {
    xds::Route { action: Some(action), ..Default::default() }
}

fn header_edits(edits: &HeaderEdits) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    let set = edits.set.iter().map(|(n, v)| wire::header(n, v, false));
    let add = edits.add.iter().map(|(n, v)| wire::header(n, v, true));
    (set.chain(add).collect(), edits.remove.clone())
}

fn mirror(cluster: &str, millionths: u32) -> xds::route_action::RequestMirrorPolicy {
    xds::route_action::RequestMirrorPolicy {
        cluster: cluster.to_owned(),
        runtime_fraction: Some(wire::millionths(millionths)),
        trace_sampled: Some(google::BoolValue { value: false }),
        ..Default::default()
    }
}

fn hash_policy(on: &HashOn) -> xds::route_action::HashPolicy {
    use xds::route_action::hash_policy as hp;
    let specifier = match on {
        HashOn::Header(name) => {
            hp::PolicySpecifier::Header(hp::Header { header_name: name.clone(), ..Default::default() })
        }
        HashOn::SourceAddress => {
            hp::PolicySpecifier::ConnectionProperties(hp::ConnectionProperties { source_ip: true })
        }
    };
    xds::route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() }
}

enum PathRewrite {
    Prefix(String),
    Regex(matcher::RegexMatchAndSubstitute),
}

fn path_edit(edit: &PathEdit, path: &PathMatch) -> PathRewrite {
    let regex = |pattern: &str, substitution: &str| {
        PathRewrite::Regex(matcher::RegexMatchAndSubstitute {
            pattern: Some(wire::regex(pattern)),
            // A backslash would refer to a group.
            substitution: substitution.replace('\\', "\\\\"),
        })
    };
    match (edit, path) {
        (PathEdit::Full(full), _) => regex("^[^?]*", full),
        (PathEdit::Prefix(to), PathMatch::Prefix(from)) => match (from.as_str(), to.trim_end_matches('/')) {
            ("/", "") => PathRewrite::Prefix("/".into()),
            ("/", to) => PathRewrite::Prefix(format!("{to}/")),
            // Else `/from/x` would become `//x`.
            (from, "") => regex(&format!("^{}/*", regex::escape(from)), "/"),
            (_, to) => PathRewrite::Prefix(to.to_owned()),
        },
        // Validation lets a prefix edit pass with prefix matches only.
        (PathEdit::Prefix(to), _) => PathRewrite::Prefix(to.clone()),
    }
}

fn redirect_action(redirect: &Redirect, path: &PathMatch) -> xds::RedirectAction {
    use xds::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let path = redirect.path.as_ref().map(|edit| match (edit, path_edit(edit, path)) {
        (PathEdit::Full(full), _) => PathRewriteSpecifier::PathRedirect(full.clone()),
        (_, PathRewrite::Prefix(prefix)) => PathRewriteSpecifier::PrefixRewrite(prefix),
        (_, PathRewrite::Regex(regex)) => PathRewriteSpecifier::RegexRewrite(regex),
    });
    let code = match redirect.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    xds::RedirectAction {
        host_redirect: redirect.hostname.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, u32::from),
        response_code: code.into(),
        scheme_rewrite_specifier: redirect.scheme.map(|s| SchemeRewriteSpecifier::SchemeRedirect(s.to_owned())),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}
