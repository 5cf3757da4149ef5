//! HTTPRoute (Gateway API v1, with the experimental `retry`), reduced to rules.
//!
//! Refused by name: the filters ExtensionRef and ExternalAuth, and `sessionPersistence`. `hostnames` have no effect on a
//! Service's route (the specification says so).

use gateway_api::apis::experimental::httproutes as raw;
use serde_json::Value;

use super::filter;
use super::kind::{Kind, Name};
use super::route::{self, Backend, MAX_MATCHES, MAX_RULES, Match, PathMatch, Route, Rule, RuleRetry, ValueMatch};
use super::strict::{Errors, FieldError, decode};

pub fn route(name: &Name, body: &Value) -> Result<Route, Vec<FieldError>> {
    let object: raw::HttpRoute = decode(body)?;
    let mut errors = Errors::default();
    let spec = object.spec;
    let mut route = route::common(Kind::HttpRoute, name, body, spec.hostnames.as_ref(), &mut errors);
    if spec.use_default_gateways.is_some() {
        errors.push("spec.useDefaultGateways", "there are no default Gateways here: name the parents in parentRefs");
    }
    // An absent list is one rule that matches everything, as the API server would fill in.
    let rules = spec.rules.unwrap_or_else(|| vec![raw::HttpRouteRules::default()]);
    route::limit("spec.rules", "rules", rules.len(), MAX_RULES, &mut errors);
    for (i, rule) in rules.iter().enumerate() {
        route.rules.push(parse_rule(&format!("spec.rules[{i}]"), name, rule, &mut errors));
    }
    errors.finish(route)
}

fn parse_rule(path: &str, route: &Name, raw: &raw::HttpRouteRules, errors: &mut Errors) -> Rule {
    let raw_matches = raw.matches.clone().unwrap_or_default();
    route::limit(&format!("{path}.matches"), "matches", raw_matches.len(), MAX_MATCHES, errors);
    let mut matches: Vec<Match> =
        raw_matches.iter().enumerate().map(|(i, m)| parse_match(&format!("{path}.matches[{i}]"), m, errors)).collect();
    if matches.is_empty() {
        matches.push(Match::everything());
    }
    let filters = filter::parse(&format!("{path}.filters"), route, raw.filters.as_deref().unwrap_or_default(), errors);
    let mut backends = Vec::new();
    for (i, backend) in raw.backend_refs.iter().flatten().enumerate() {
        backends.push(parse_backend(&format!("{path}.backendRefs[{i}]"), route, backend, errors));
    }
    let all_prefixes = matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_)));
    let of_backends = backends.iter().enumerate();
    let of_backends = of_backends.map(|(i, b)| (format!("{path}.backendRefs[{i}].filters"), &b.filters));
    for (at, filters) in [(format!("{path}.filters"), &filters)].into_iter().chain(of_backends) {
        if filters.replaces_prefix() && !all_prefixes {
            let message = "replacePrefixMatch needs matches of type PathPrefix in the same rule: change them, or use ReplaceFullPath";
            errors.push(at, message);
        }
    }
    if filters.redirect.is_some() && !backends.is_empty() {
        errors.push(format!("{path}.backendRefs"), "a rule that redirects has no backends: remove one of the two");
    }
    if raw.session_persistence.is_some() {
        let message = "not supported: use a TrafficPolicy with loadBalancing.algorithm RingHash and hashOn";
        errors.push(format!("{path}.sessionPersistence"), message);
    }
    let retry = raw.retry.as_ref().map(|r| parse_retry(&format!("{path}.retry"), r, errors));
    let mut rule = Rule { matches, filters, backends, retry, ..Rule::default() };
    if let Some(timeouts) = &raw.timeouts {
        parse_timeouts(&format!("{path}.timeouts"), timeouts, &mut rule, errors);
    }
    rule
}

fn parse_timeouts(path: &str, raw: &raw::HttpRouteRulesTimeouts, rule: &mut Rule, errors: &mut Errors) {
    rule.request_timeout = raw.request.as_ref().map(|t| errors.duration(format!("{path}.request"), t));
    rule.backend_timeout = raw.backend_request.as_ref().map(|t| errors.duration(format!("{path}.backendRequest"), t));
    if let (Some(request), Some(backend)) = (rule.request_timeout, rule.backend_timeout)
        && !request.is_zero()
        && backend > request
    {
        errors.push(format!("{path}.backendRequest"), "longer than timeouts.request: make it at most as long");
    }
}

fn parse_retry(path: &str, raw: &raw::HttpRouteRulesRetry, errors: &mut Errors) -> RuleRetry {
    let codes = raw.codes.iter().flatten().enumerate();
    let codes = codes.map(|(i, code)| errors.range(format!("{path}.codes[{i}]"), *code, 400, 599)).collect();
    RuleRetry {
        codes,
        attempts: raw.attempts.map(|n| errors.range(format!("{path}.attempts"), n, 0, 10)),
        backoff: raw.backoff.as_ref().map(|t| errors.positive(&format!("{path}.backoff"), t)),
    }
}

fn parse_match(path: &str, raw: &raw::HttpRouteRulesMatches, errors: &mut Errors) -> Match {
    let path_match = parse_path(&format!("{path}.path"), raw.path.as_ref(), errors);
    let mut headers: Vec<(String, ValueMatch)> = Vec::new();
    for (i, header) in raw.headers.iter().flatten().enumerate() {
        let at = format!("{path}.headers[{i}]");
        let name = filter::header_name(&format!("{at}.name"), &header.name, errors);
        let regex = header.r#type == Some(raw::HttpRouteRulesMatchesHeadersType::RegularExpression);
        let value = route::value_match(format!("{at}.value"), regex, &header.value, errors);
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
        let value = route::value_match(format!("{at}.value"), regex, &param.value, errors);
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

fn parse_backend(path: &str, route: &Name, raw: &raw::HttpRouteRulesBackendRefs, errors: &mut Errors) -> Backend {
    let (target, weight) = route::backend_ref(path, route, raw, errors);
    let filters = filter::parse_twins(&format!("{path}.filters"), route, raw.filters.as_deref(), errors);
    Backend { target, weight, filters }
}
