//! Where a request may carry a token: headers, query parameters, cookies.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sidemesh_config::matcher::cookie::cookie;
use sidemesh_config::matcher::query::parameter;
use sidemesh_config::resource::http_filter::jwt_authn::JwtProvider;
use sidemesh_config::value::Name;

use crate::codec::set_path_and_query;
use crate::http::exchange::Exchange;
use crate::http::route::split_query;

/// The parameter that is looked at when a provider names no place.
const ACCESS_TOKEN: &str = "access_token";
const BEARER: &str = "Bearer ";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Header { name: HeaderName, prefix: String },
    Parameter(String),
    Cookie(String),
}

/// The places of one or more providers.
#[derive(Debug, Default)]
pub struct Extractor {
    places: Vec<(Place, Issuers)>,
}

/// Whose tokens a place may hold.
#[derive(Debug, Default)]
struct Issuers {
    any: bool,
    named: Vec<Name>,
}

/// A token where it was found.
pub struct Found<'x> {
    pub token: Cow<'x, str>,
    pub place: &'x Place,
    issuers: &'x Issuers,
}

impl Found<'_> {
    pub fn may_be_of(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.named.iter().any(|i| **i == *issuer)
    }
}

impl Extractor {
    pub fn of<'p>(providers: impl IntoIterator<Item = &'p JwtProvider>) -> Self {
        let mut extractor = Extractor::default();
        for provider in providers {
            let headers =
                provider.from_headers.iter().map(|(n, p)| Place::Header { name: n.clone(), prefix: p.clone() });
            let parameters = provider.from_params.iter().cloned().map(Place::Parameter);
            let cookies = provider.from_cookies.iter().cloned().map(Place::Cookie);
            let mut places: Vec<Place> = headers.chain(parameters).chain(cookies).collect();
            if places.is_empty() {
                places.push(Place::Header { name: AUTHORIZATION, prefix: BEARER.to_owned() });
                places.push(Place::Parameter(ACCESS_TOKEN.to_owned()));
            }
            places.into_iter().for_each(|place| extractor.add(place, &provider.issuer));
        }
        extractor
    }

    fn add(&mut self, place: Place, issuer: &Name) {
        let at = self.places.iter().position(|(p, _)| *p == place).unwrap_or_else(|| {
            self.places.push((place, Issuers::default()));
            self.places.len() - 1
        });
        let issuers = &mut self.places[at].1;
        match issuer.is_empty() {
            true => issuers.any = true,
            false => issuers.named.push(issuer.clone()),
        }
    }

    /// All tokens, in the order of headers, parameters, cookies.
    pub fn find<'x>(&'x self, headers: &'x HeaderMap, query: Option<&'x str>) -> Vec<Found<'x>> {
        let mut found = Vec::new();
        for (place, issuers) in &self.places {
            let mut take = |token: Cow<'x, str>| found.push(Found { token, place, issuers });
            match place {
                Place::Header { name, prefix } => {
                    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
                    values.filter_map(|v| after(v, prefix)).for_each(|token| take(token.into()));
                }
                Place::Parameter(name) => {
                    let value = query.and_then(|q| parameter(q, name));
                    value.map(|v| percent_decode_str(v).decode_utf8_lossy()).into_iter().for_each(&mut take);
                }
                Place::Cookie(name) => cookie(headers, name).into_iter().for_each(|token| take(token.into())),
            }
        }
        found
    }
}

/// What of a header comes after the prefix, wherever that stands; signs that no token starts with are skipped.
fn after<'v>(value: &'v str, prefix: &str) -> Option<&'v str> {
    if prefix.is_empty() {
        return Some(value);
    }
    let rest = &value[value.find(prefix)? + prefix.len()..];
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    Some(rest.find(is_token).map_or(value, |at| &rest[at..]))
}

impl Place {
    /// Removes the token, so that nobody behind us sees it. Cookies are kept, as Envoy keeps them.
    pub fn clear(&self, x: &mut Exchange) {
        match self {
            Place::Header { name, .. } => {
                x.parts.headers.remove(name);
            }
            Place::Parameter(name) => {
                let (path, query) = split_query(x.target());
                let pairs = query.strip_prefix('?').unwrap_or("").split('&');
                let rest: Vec<&str> = pairs.filter(|p| !p.is_empty() && p.split('=').next() != Some(name)).collect();
                let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
                set_path_and_query(&mut x.parts, &target);
            }
            Place::Cookie(_) => {}
        }
    }
}
