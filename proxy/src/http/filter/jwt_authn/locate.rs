//! Where a request may carry a token: headers, query parameters, cookies.

use http::header::{AUTHORIZATION, HeaderName};
use sidemesh_config::matcher::cookie::cookie;
use sidemesh_config::matcher::query::parameter;
use sidemesh_config::resource::http_filter::jwt_authn::JwtProvider;

use crate::codec::set_path_and_query;
use crate::http::exchange::Exchange;
use crate::http::route::split_query;

/// A token and where it was found.
#[derive(Debug, Clone)]
pub struct Located {
    pub token: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Header(HeaderName),
    Parameter(String),
    Cookie,
}

/// The parameter that is looked at when a provider names no place.
const ACCESS_TOKEN: &str = "access_token";
const BEARER: &str = "Bearer ";

/// All tokens for the provider, in the order they are tried.
pub fn locate(x: &Exchange, provider: &JwtProvider) -> Vec<Located> {
    let mut found = Vec::new();
    let default =
        provider.from_headers.is_empty() && provider.from_params.is_empty() && provider.from_cookies.is_empty();
    if default {
        from_header(x, &AUTHORIZATION, BEARER, &mut found);
        from_parameter(x, ACCESS_TOKEN, &mut found);
    }
    for (header, prefix) in &provider.from_headers {
        from_header(x, header, prefix, &mut found);
    }
    for name in &provider.from_params {
        from_parameter(x, name, &mut found);
    }
    for name in &provider.from_cookies {
        if let Some(token) = cookie(&x.parts.headers, name) {
            found.push(Located { token: token.to_owned(), place: Place::Cookie });
        }
    }
    found
}

fn from_header(x: &Exchange, header: &HeaderName, prefix: &str, found: &mut Vec<Located>) {
    for value in x.parts.headers.get_all(header) {
        let Ok(text) = value.to_str() else { continue };
        let Some(at) = text.find(prefix) else { continue };
        let rest = &text[at + prefix.len()..];
        // The token ends where its alphabet does: `Bearer a.b.c, other`.
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '=');
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        found.push(Located { token: rest[..end].to_owned(), place: Place::Header(header.clone()) });
    }
}

fn from_parameter(x: &Exchange, name: &str, found: &mut Vec<Located>) {
    let view = x.view();
    if let Some(token) = view.query().and_then(|q| parameter(q, name)) {
        found.push(Located { token: token.to_owned(), place: Place::Parameter(name.to_owned()) });
    }
}

impl Located {
    /// Removes the token, so that nobody behind us sees it.
    pub fn take_away(&self, x: &mut Exchange) {
        match &self.place {
            Place::Header(name) => {
                x.parts.headers.remove(name);
            }
            Place::Parameter(name) => {
                let (path, query) = split_query(x.target());
                let rest: Vec<&str> = query
                    .strip_prefix('?')
                    .unwrap_or("")
                    .split('&')
                    .filter(|p| !p.is_empty() && p.split('=').next() != Some(name))
                    .collect();
                let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
                set_path_and_query(&mut x.parts, &target);
            }
            // Cookies are kept, as Envoy keeps them.
            Place::Cookie => {}
        }
    }
}
