//! Where a request goes: the live matcher call and what follows from the route it finds (`route.v3.RouteConfiguration`).
//!
//! Everything here is callable without a connection: it reads a [`RequestView`] and the snapshot's tables and changes nothing.
//! Sending, retrying and answering are the business of `forward` and `reply`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use sidemesh_config::matcher::RequestView;
use sidemesh_config::matcher::header::HeaderName as AnyHeader;
use sidemesh_config::matcher::path::PathMatcher;
use sidemesh_config::resource::http_connection_manager::{RouteSource, ScopeExtract, ScopeKeyPart, ScopeSource};
use sidemesh_config::resource::route::{
    ClusterChoice, ClusterChoiceLeaf, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath, RequireTls, Route,
    RouteAction, RouteConfig, RouteStreamDuration, TemplatePiece, VirtualHost, WeightedCluster, WeightedClusters,
};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::{Name, Runtime};

use super::normalize::split_port;
use crate::codec::Scheme;

/// What the table says about a request.
#[derive(Debug, Clone)]
pub struct Selected {
    pub table: Arc<RouteConfig>,
    pub vhost: Option<Arc<VirtualHost>>,
    pub route: Option<Arc<Route>>,
    /// `require_tls`: answer 301 to https instead of anything else.
    pub to_https: bool,
    /// The branch of `weighted_clusters`.
    pub branch: Option<usize>,
}

impl Selected {
    pub fn forward(&self) -> Option<&Forward> {
        match &self.route.as_ref()?.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The chosen branch of `weighted_clusters`.
    pub fn weighted(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.cluster {
            ClusterChoice::Weighted(w) => w.clusters.get(self.branch?),
            _ => None,
        }
    }
}

/// The route table in force for a request, `None` when it has not arrived.
pub fn table<'a>(source: &'a RouteSource, snapshot: &'a Snapshot, headers: &HeaderMap) -> Option<&'a Arc<RouteConfig>> {
    match source {
        RouteSource::Inline(table) => Some(table),
        RouteSource::Rds { name, .. } => snapshot.route_config(name),
        RouteSource::Scoped { key, scopes, .. } => {
            let scopes = match scopes {
                ScopeSource::Inline(scopes) => scopes,
                ScopeSource::Srds { .. } => &snapshot.scopes,
            };
            let scope = scopes.get(&scope_key(key, headers)?)?;
            match &scope.inline {
                Some(table) => Some(table),
                None => snapshot.route_config(&scope.route_config_name),
            }
        }
    }
}

/// The key that a scoped route is found by; `None` when a fragment is absent.
fn scope_key(parts: &[ScopeKeyPart], headers: &HeaderMap) -> Option<Vec<String>> {
    parts
        .iter()
        .map(|part| {
            let value = headers.get(&part.header)?.to_str().ok()?;
            let mut elements = value.split(part.element_separator.as_str());
            match &part.extract {
                ScopeExtract::Index(i) if part.element_separator.is_empty() => (*i == 0).then(|| value.to_owned()),
                ScopeExtract::Index(i) => elements.nth(*i as usize).map(str::to_owned),
                ScopeExtract::Element { separator, key } => elements.find_map(|e| {
                    let (k, v) = e.split_once(separator.as_str())?;
                    (k == key).then(|| v.to_owned())
                }),
            }
        })
        .collect()
}

/// Runs the matcher.
pub fn select(table: Arc<RouteConfig>, view: &RequestView<'_>, internal: bool) -> Selected {
    let Some(vhost) = table.virtual_host_of(view).cloned() else {
        return Selected { table, vhost: None, route: None, to_https: false, branch: None };
    };
    let to_https = view.scheme != "https"
        && match vhost.require_tls {
            RequireTls::None => false,
            RequireTls::ExternalOnly => !internal,
            RequireTls::All => true,
        };
    let route = if to_https { None } else { vhost.select(view, table.ignore_path_parameters).cloned() };
    let branch = route.as_ref().and_then(|r| match &r.action {
        RouteAction::Forward(forward) => branch(forward, view),
        _ => None,
    });
    Selected { table, vhost: Some(vhost), route, to_https, branch }
}

/// Draws a branch of `weighted_clusters`.
fn branch(forward: &Forward, view: &RequestView<'_>) -> Option<usize> {
    let ClusterChoice::Weighted(weighted) = &forward.cluster else { return None };
    let given = weighted
        .random_value_header
        .as_ref()
        .and_then(|name| view.headers.get(name)?.to_str().ok()?.parse::<u64>().ok());
    // The low bits decided runtime fractions already.
    branch_at(weighted, given.unwrap_or(view.random >> 20), view.runtime)
}

/// The branch of `weighted_clusters` that `drawn` falls into.
pub fn branch_at(weighted: &WeightedClusters, drawn: u64, runtime: &Runtime) -> Option<usize> {
    let weight_of = |c: &WeightedCluster| match (&weighted.runtime_key_prefix, &c.cluster) {
        (Some(prefix), ClusterChoiceLeaf::Cluster(name)) => {
            runtime.number(&format!("{prefix}.{name}")).map_or(u64::from(c.weight), |n| n.max(0.0) as u64)
        }
        _ => u64::from(c.weight),
    };
    let total = match weighted.runtime_key_prefix {
        Some(_) => weighted.clusters.iter().map(weight_of).sum(),
        None => weighted.total_weight,
    };
    let mut point = drawn.checked_rem(total)?;
    weighted.clusters.iter().position(|c| {
        let weight = weight_of(c);
        let taken = point < weight;
        point = point.saturating_sub(weight);
        taken
    })
}

/// The cluster a request goes to; `None`: the header that names it is absent.
pub fn cluster_name<'a>(selected: &Selected, header: impl Fn(&AnyHeader) -> Option<&'a str>) -> Option<Name> {
    let forward = selected.forward()?;
    let by_header = |name: &AnyHeader| header(name).filter(|v| !v.is_empty()).map(Name::from);
    match &forward.cluster {
        ClusterChoice::Cluster(name) => Some(name.clone()),
        ClusterChoice::Header(name) => by_header(name),
        ClusterChoice::Weighted(_) => match &selected.weighted()?.cluster {
            ClusterChoiceLeaf::Cluster(name) => Some(name.clone()),
            ClusterChoiceLeaf::Header(name) => by_header(name),
        },
    }
}

/// A leaf choice, as mirrors have it.
pub fn leaf_name<'a>(choice: &ClusterChoiceLeaf, header: impl Fn(&AnyHeader) -> Option<&'a str>) -> Option<Name> {
    match choice {
        ClusterChoiceLeaf::Cluster(name) => Some(name.clone()),
        ClusterChoiceLeaf::Header(name) => header(name).filter(|v| !v.is_empty()).map(Name::from),
    }
}

/// The rewritten `/path?query`, when the route rewrites it; `format` evaluates `path_rewrite`.
pub fn rewrite_path(
    route: &Route,
    target: &str,
    format: impl Fn(&sidemesh_config::format::Format) -> String,
) -> Option<String> {
    let RouteAction::Forward(forward) = &route.action else { return None };
    let rewrite = forward.path_rewrite.as_ref()?;
    let (path, query) = split_query(target);
    let new = match rewrite {
        PathRewrite::Prefix(prefix) => replace_prefix(&route.matcher.path, path, prefix),
        PathRewrite::Regex { pattern, substitution } => pattern.0.replace_all(path, substitution.as_str()).into_owned(),
        PathRewrite::Template { rewrite, from } => {
            let captures = from.regex.captures(path)?;
            rewrite.iter().fold(String::new(), |mut out: String, piece| {
                match piece {
                    TemplatePiece::Text(text) => out.push_str(text),
                    TemplatePiece::Variable(name) => out.push_str(captures.name(name).map_or("", |m| m.as_str())),
                }
                out
            })
        }
        PathRewrite::Format(f) => Some(format(f)).filter(|path| !path.is_empty())?,
    };
    Some(new + query)
}

/// Splits `/path?query`; the query keeps its question mark.
pub fn split_query(target: &str) -> (&str, &str) {
    target.find('?').map_or((target, ""), |at| target.split_at(at))
}

/// Replaces the part of `path` that the matcher took.
fn replace_prefix(matcher: &PathMatcher, path: &str, with: &str) -> String {
    let matched = match matcher {
        PathMatcher::Prefix { value, .. } | PathMatcher::SeparatedPrefix { value, .. } => value.len().min(path.len()),
        _ => path.len(),
    };
    format!("{with}{}", path.get(matched..).unwrap_or(""))
}

/// The rewritten host; `Auto` is decided when a host is chosen.
pub fn rewrite_host<'a>(
    selected: &'a Selected,
    headers: &'a HeaderMap,
    path: &str,
    format: impl Fn(&sidemesh_config::format::Format) -> String,
) -> Option<Cow<'a, str>> {
    if let Some(host) = selected.weighted().and_then(|w| w.host_rewrite.as_deref()) {
        return Some(Cow::Borrowed(host));
    }
    match selected.forward()?.host_rewrite.as_ref()? {
        HostRewrite::Literal(host) => Some(Cow::Borrowed(host)),
        HostRewrite::Auto => None,
        HostRewrite::Header(name) => headers.get(name)?.to_str().ok().filter(|v| !v.is_empty()).map(Cow::Borrowed),
        HostRewrite::PathRegex { pattern, substitution } => {
            let path = split_query(path).0;
            Some(Cow::Owned(pattern.0.replace_all(path, substitution.as_str()).into_owned()))
        }
        HostRewrite::Format(f) => Some(format(f)).filter(|h| !h.is_empty()).map(Cow::Owned),
    }
}

/// The request's `/path?query` as a redirect rewrites it; `None`: it does not.
pub fn redirect_target(redirect: &Redirect, route: &Route, target: &str) -> Option<String> {
    let (path, query) = split_query(target);
    let new = match &redirect.path {
        RedirectPath::Keep | RedirectPath::Path(_) => return None,
        RedirectPath::Prefix(new) => Cow::Owned(replace_prefix(&route.matcher.path, path, new)),
        RedirectPath::Regex { pattern, substitution } => pattern.0.replace_all(path, substitution.as_str()),
    };
    Some(new.into_owned() + query)
}

/// The `location` of a redirect of a request whose target is [`redirect_target`] already.
pub fn location(redirect: &Redirect, scheme: Scheme, host: &str, target: &str) -> String {
    let new_scheme: &str = match (&redirect.scheme, redirect.https) {
        (Some(scheme), _) => scheme,
        (None, true) => "https",
        (None, false) => scheme.as_str(),
    };
    let (name, port) = split_port(host);
    let mut out = format!("{new_scheme}://");
    match (&redirect.host, redirect.port) {
        (Some(new), Some(port)) => out += &format!("{new}:{port}"),
        (Some(new), None) => out += new,
        (None, Some(port)) => out += &format!("{name}:{port}"),
        // A scheme that changes takes its predecessor's default port away.
        (None, None) => {
            let default = match scheme {
                Scheme::Http => "80",
                Scheme::Https => "443",
            };
            let drop = new_scheme != scheme.as_str() && port == Some(default);
            out += if drop { name } else { host };
        }
    }
    let (path, query) = match &redirect.path {
        // A query of its own takes the request's place, and is never stripped.
        RedirectPath::Path(new) if new.contains('?') => (&**new, ""),
        RedirectPath::Path(new) if redirect.strip_query => (&**new, ""),
        RedirectPath::Path(new) => (&**new, split_query(target).1),
        _ if redirect.strip_query => (split_query(target).0, ""),
        _ => (target, ""),
    };
    if !path.starts_with('/') {
        out.push('/');
    }
    out + path + query
}

/// `grpc-timeout`: digits and a unit (gRPC over HTTP/2, "Requests").
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(super::names::GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        // Whole milliseconds, rounded up.
        "u" => Duration::from_millis(n.div_ceil(1_000)),
        "n" => Duration::from_millis(n.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// `grpc-timeout`: milliseconds as long as eight digits hold them, then seconds.
pub fn grpc_timeout_text(limit: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match limit.as_millis() {
        millis if millis <= MOST => format!("{millis}m"),
        _ => format!("{}S", u128::from(limit.as_secs()).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999S"))
}

/// How long the whole stream may last: `max_stream_duration` of the route with `grpc-timeout` taken into account, else the
/// connection manager's.
pub fn max_duration(
    limits: Option<RouteStreamDuration>,
    own: Option<Duration>,
    headers: &HeaderMap,
) -> Option<Duration> {
    let Some(limits) = limits else {
        return own.filter(|d| !d.is_zero());
    };
    let asked = grpc_timeout(headers);
    match (asked, limits.grpc_timeout_header_max) {
        (Some(mut timeout), Some(max)) => {
            if !max.is_zero() {
                timeout = timeout.min(max);
            }
            // A caller that asks for no more than the offset is out of time at once.
            Some(timeout.saturating_sub(limits.grpc_timeout_header_offset.unwrap_or_default()))
        }
        _ => limits.max_stream_duration.or(own).filter(|d| !d.is_zero()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_units() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(super::super::names::GRPC_TIMEOUT, http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(parse("400m"), Some(Duration::from_millis(400)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("1500u"), Some(Duration::from_millis(2)));
        assert_eq!(parse("m"), None);
        assert_eq!(parse("999999999m"), None);
        assert_eq!(parse("5x"), None);
    }

    #[test]
    fn grpc_timeouts_are_written_in_eight_digits() {
        assert_eq!(grpc_timeout_text(Duration::from_secs(10)), "10000m");
        assert_eq!(grpc_timeout_text(Duration::from_secs(120_000)), "120000S");
    }

    #[test]
    fn a_grpc_timeout_within_the_offset_is_over_at_once() {
        let limits = RouteStreamDuration {
            grpc_timeout_header_max: Some(Duration::from_secs(2)),
            grpc_timeout_header_offset: Some(Duration::from_millis(300)),
            ..RouteStreamDuration::default()
        };
        let limit = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(super::super::names::GRPC_TIMEOUT, HeaderValue::from_static(text));
            max_duration(Some(limits), None, &headers)
        };
        assert_eq!(limit("800m"), Some(Duration::from_millis(500)));
        assert_eq!(limit("5S"), Some(Duration::from_millis(1700)));
        assert_eq!(limit("200m"), Some(Duration::ZERO));
    }

    #[test]
    fn a_stripped_query_is_stripped_from_what_replaces_the_path() {
        let table = sidemesh_proto::json::parse::<sidemesh_proto::envoy::config::route::v3::RouteConfiguration>(
            "envoy.config.route.v3.RouteConfiguration",
            &serde_json::json!({ "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [
                { "match": { "prefix": "/a" }, "redirect": { "prefix_rewrite": "/b?x=1", "strip_query": true } },
                { "match": { "prefix": "/a" }, "redirect": { "path_redirect": "/b?x=1", "strip_query": true } },
                { "match": { "prefix": "/a" }, "redirect": { "prefix_rewrite": "/b" } },
            ] }] }),
        );
        let table = sidemesh_config::resource::route::parse(&table.unwrap()).unwrap();
        let locations = table.virtual_hosts[0].routes.iter().map(|route| match &route.action {
            RouteAction::Redirect(redirect) => {
                let target = redirect_target(redirect, route, "/a/t?q");
                location(redirect, Scheme::Http, "h", target.as_deref().unwrap_or("/a/t?q"))
            }
            _ => String::new(),
        });
        assert_eq!(locations.collect::<Vec<_>>(), ["http://h/b", "http://h/b?x=1", "http://h/b/t?q"]);
    }

    #[test]
    fn a_prefix_is_replaced_where_it_matched() {
        let prefix = PathMatcher::Prefix { value: "/old".into(), case_sensitive: true };
        let exact = PathMatcher::Exact { value: "/old".into(), case_sensitive: true };
        assert_eq!(replace_prefix(&prefix, "/older", "/new"), "/newer");
        assert_eq!(replace_prefix(&exact, "/old", "/new"), "/new");
    }
}
