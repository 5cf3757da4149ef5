//! The filters of a rule, or of one of its backends. Those of a GRPCRoute are some of an HTTPRoute's.

use std::time::Duration;

use gateway_api::apis::experimental::httproutes as raw;
use serde::Serialize;

use super::kind::Name;
use super::route::{BackendTarget, backend_ref, same_shape};
use super::strict::Errors;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    pub request: HeaderEdits,
    pub response: HeaderEdits,
    pub mirrors: Vec<Mirror>,
    pub redirect: Option<Redirect>,
    pub rewrite: Option<Rewrite>,
    pub cors: Option<Cors>,
}

impl Filters {
    /// Header edits are what xDS can do for one backend of several; everything else belongs to a route.
    pub fn only_edit_headers(&self) -> bool {
        self.mirrors.is_empty() && self.redirect.is_none() && self.rewrite.is_none() && self.cors.is_none()
    }

    pub fn replaces_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|r| r.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|r| r.path.as_ref());
        [redirect, rewrite].into_iter().flatten().any(|path| matches!(path, PathEdit::Prefix(_)))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub target: BackendTarget,
    /// Of all requests, in millionths.
    pub millionths: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEdit {
    Full(String),
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<&'static str>,
    pub hostname: Option<String>,
    pub path: Option<PathEdit>,
    pub port: Option<u16>,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<String>,
    pub path: Option<PathEdit>,
}

/// Who else may read the answers (Fetch standard), as the Gateway API writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `https://*.example.com`, or `*`.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub credentials: bool,
    pub max_age: Duration,
}

const MILLION: u64 = 1_000_000;
/// The Gateway API's.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(5);

pub(super) fn parse(path: &str, route: &Name, list: &[raw::HttpRouteRulesFilters], errors: &mut Errors) -> Filters {
    let mut filters = Filters::default();
    let mut seen: Vec<&raw::HttpRouteRulesFiltersType> = Vec::new();
    for (i, filter) in list.iter().enumerate() {
        let at = format!("{path}[{i}]");
        if seen.contains(&&filter.r#type) && filter.r#type != raw::HttpRouteRulesFiltersType::RequestMirror {
            errors.push(format!("{at}.type"), format!("{:?} is there twice: put both into one filter", filter.r#type));
        }
        seen.push(&filter.r#type);
        one(&at, route, filter, &mut filters, errors);
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        errors.push(path, "a rule either redirects or rewrites: remove one of the two");
    }
    filters
}

fn one(at: &str, route: &Name, filter: &raw::HttpRouteRulesFilters, filters: &mut Filters, errors: &mut Errors) {
    use raw::HttpRouteRulesFiltersType as Type;
    match filter.r#type {
        Type::RequestHeaderModifier => {
            let at = format!("{at}.requestHeaderModifier");
            filters.request = required(&at, filter.request_header_modifier.as_ref(), errors)
                .map(|modifier| header_edits(&at, modifier, errors))
                .unwrap_or_default();
        }
        Type::ResponseHeaderModifier => {
            let at = format!("{at}.responseHeaderModifier");
            filters.response = required(&at, filter.response_header_modifier.as_ref(), errors)
                .and_then(same_shape)
                .map(|modifier| header_edits(&at, &modifier, errors))
                .unwrap_or_default();
        }
        Type::RequestMirror => {
            let at = format!("{at}.requestMirror");
            let mirror = required(&at, filter.request_mirror.as_ref(), errors);
            filters.mirrors.extend(mirror.map(|m| parse_mirror(&at, route, m, errors)));
        }
        Type::RequestRedirect => {
            let at = format!("{at}.requestRedirect");
            let redirect = required(&at, filter.request_redirect.as_ref(), errors);
            filters.redirect = redirect.map(|r| parse_redirect(&at, r, errors));
        }
        Type::UrlRewrite => {
            let at = format!("{at}.urlRewrite");
            let rewrite = required(&at, filter.url_rewrite.as_ref(), errors);
            filters.rewrite = rewrite.map(|r| {
                let path = r.path.as_ref().and_then(|p| {
                    path_edit(&at, p.replace_full_path.as_ref(), p.replace_prefix_match.as_ref(), errors)
                });
                Rewrite { hostname: r.hostname.clone(), path }
            });
        }
        Type::Cors => {
            let at = format!("{at}.cors");
            filters.cors = required(&at, filter.cors.as_ref(), errors).map(|cors| parse_cors(&at, cors, errors));
        }
        Type::ExtensionRef | Type::ExternalAuth => {
            let message = format!("{:?} is not supported: remove the filter", filter.r#type);
            errors.push(format!("{at}.type"), message);
        }
    }
}

/// Filters of a backendRef, or of a GRPCRoute: the generated types are twins of an HTTPRoute rule's, field by field.
pub(super) fn parse_twins<T: Serialize>(path: &str, route: &Name, list: Option<&[T]>, errors: &mut Errors) -> Filters {
    let twins: Vec<raw::HttpRouteRulesFilters> = list.unwrap_or_default().iter().filter_map(same_shape).collect();
    parse(path, route, &twins, errors)
}

fn required<'a, T>(at: &str, value: Option<&'a T>, errors: &mut Errors) -> Option<&'a T> {
    if value.is_none() {
        errors.push(at, "missing: the filter's type announces it");
    }
    value
}

fn header_edits(at: &str, raw: &raw::HttpRouteRulesFiltersRequestHeaderModifier, errors: &mut Errors) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for (i, header) in raw.set.iter().flatten().enumerate() {
        let at = format!("{at}.set[{i}]");
        let name = header_name(&format!("{at}.name"), &header.name, errors);
        edits.set.push((name, header_value(&format!("{at}.value"), &header.value, errors)));
    }
    for (i, header) in raw.add.iter().flatten().enumerate() {
        let at = format!("{at}.add[{i}]");
        let name = header_name(&format!("{at}.name"), &header.name, errors);
        edits.add.push((name, header_value(&format!("{at}.value"), &header.value, errors)));
    }
    for (i, name) in raw.remove.iter().flatten().enumerate() {
        edits.remove.push(header_name(&format!("{at}.remove[{i}]"), name, errors));
    }
    edits
}

/// Lower case; xDS does not let anybody edit `host` or pseudo headers through a header modifier.
pub(super) fn header_name(path: &str, name: &str, errors: &mut Errors) -> String {
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        errors.push(path, format!("`{name}` is not a header name"));
    }
    name.to_ascii_lowercase()
}

fn header_value(path: &str, value: &str, errors: &mut Errors) -> String {
    if http::HeaderValue::from_str(value).is_err() {
        errors.push(path, "not a header value: control characters are not allowed");
    }
    // `%` begins a command in xDS header values; the Gateway API knows none.
    value.replace('%', "%%")
}

fn parse_mirror(at: &str, route: &Name, raw: &raw::HttpRouteRulesFiltersRequestMirror, errors: &mut Errors) -> Mirror {
    let (target, _) = backend_ref(&format!("{at}.backendRef"), route, &raw.backend_ref, errors);
    let millionths = match (&raw.percent, &raw.fraction) {
        (None, None) => MILLION,
        (Some(percent), None) => u64::from(errors.range(format!("{at}.percent"), (*percent).into(), 0, 100)) * 10_000,
        (None, Some(fraction)) => {
            let denominator = i64::from(fraction.denominator.unwrap_or(100));
            let bottom = errors.range(format!("{at}.fraction.denominator"), denominator, 1, i64::from(i32::MAX));
            let numerator = i64::from(fraction.numerator);
            let top = errors.range(format!("{at}.fraction.numerator"), numerator, 0, denominator);
            u64::from(top) * MILLION / u64::from(bottom.max(1))
        }
        (Some(_), Some(_)) => {
            errors.push(at, "give percent or fraction, not both");
            0
        }
    };
    Mirror { target, millionths: u32::try_from(millionths).unwrap_or(0) }
}

fn parse_cors(at: &str, raw: &raw::HttpRouteRulesFiltersCors, errors: &mut Errors) -> Cors {
    let list = |given: &Option<Vec<String>>| given.clone().unwrap_or_default();
    for (i, origin) in raw.allow_origins.iter().flatten().enumerate() {
        if origin != "*" && !origin.contains("://") {
            let message =
                format!("`{origin}` is no origin: write it as https://example.com, https://*.example.com or *");
            errors.push(format!("{at}.allowOrigins[{i}]"), message);
        }
    }
    for (field, names) in [("allowHeaders", &raw.allow_headers), ("exposeHeaders", &raw.expose_headers)] {
        for (i, name) in names.iter().flatten().enumerate().filter(|(_, name)| *name != "*") {
            header_name(&format!("{at}.{field}[{i}]"), name, errors);
        }
    }
    Cors {
        origins: list(&raw.allow_origins),
        methods: list(&raw.allow_methods),
        headers: list(&raw.allow_headers),
        expose: list(&raw.expose_headers),
        credentials: raw.allow_credentials.unwrap_or(false),
        max_age: raw.max_age.map_or(DEFAULT_MAX_AGE, |seconds| {
            Duration::from_secs(errors.range(format!("{at}.maxAge"), seconds.into(), 1, i32::MAX.into()).into())
        }),
    }
}

fn parse_redirect(at: &str, raw: &raw::HttpRouteRulesFiltersRequestRedirect, errors: &mut Errors) -> Redirect {
    let status = raw.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        errors.push(format!("{at}.statusCode"), format!("{status} is no redirect: use 301, 302, 303, 307 or 308"));
    }
    let path = raw
        .path
        .as_ref()
        .and_then(|p| path_edit(at, p.replace_full_path.as_ref(), p.replace_prefix_match.as_ref(), errors));
    Redirect {
        scheme: raw.scheme.as_ref().map(|s| match s {
            raw::HttpRouteRulesFiltersRequestRedirectScheme::Http => "http",
            raw::HttpRouteRulesFiltersRequestRedirectScheme::Https => "https",
        }),
        hostname: raw.hostname.clone(),
        path,
        port: raw.port.map(|p| errors.port(format!("{at}.port"), p.into())),
        status: u16::try_from(status).unwrap_or(302),
    }
}

fn path_edit(at: &str, full: Option<&String>, prefix: Option<&String>, errors: &mut Errors) -> Option<PathEdit> {
    match (full, prefix) {
        (Some(full), None) => Some(PathEdit::Full(full.clone())),
        (None, Some(prefix)) => Some(PathEdit::Prefix(prefix.clone())),
        _ => {
            errors
                .push(format!("{at}.path"), "give exactly one of replaceFullPath and replacePrefixMatch, as type says");
            None
        }
    }
}
