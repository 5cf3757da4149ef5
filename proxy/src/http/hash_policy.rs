//! The request's hash for consistent balancing (`hash_policy` of a route): headers, cookies, the client's address, query
//! parameters. xxHash64, as Envoy computes it, so that affinity survives a mixed fleet.

use std::borrow::Cow;

use http::HeaderValue;
use sidemesh_config::matcher::cookie::cookie;
use sidemesh_config::matcher::header::HeaderName as AnyHeader;
use sidemesh_config::matcher::query::parameter;
use sidemesh_config::resource::route::{HashPolicy, HashSource};
use smallvec::SmallVec;

use super::exchange::Exchange;
use super::headers::set_cookie;
use crate::upstream::hash;

/// Combines the policies in order; a terminal one that finds something ends the list.
pub fn hash(x: &mut Exchange, policies: &[HashPolicy]) -> Option<u64> {
    let mut all = None;
    for policy in policies {
        if let Some(one) = of(x, &policy.source) {
            all = Some(hash::combine(all, one));
        }
        if policy.terminal && all.is_some() {
            break;
        }
    }
    all
}

fn of(x: &mut Exchange, source: &HashSource) -> Option<u64> {
    match source {
        HashSource::Header { name, rewrite } => of_header(x, name, rewrite.as_ref()),
        HashSource::Cookie { name, path, ttl, attributes } => {
            if let Some(value) = cookie(&x.parts.headers, name) {
                return Some(hash::of(value.as_bytes()));
            }
            let ttl = (*ttl)?;
            let value = format!("{:016x}", hash::of(connection_text(x).as_bytes()));
            x.hash_cookie = set_cookie(name, &value, ttl, path, attributes);
            Some(hash::of(value.as_bytes()))
        }
        HashSource::SourceIp => Some(hash::of(x.info.remote.ip().to_string().as_bytes())),
        HashSource::FilterState(key) => {
            let value = x.info.filter_state.value(key).filter(|v| v.hashable)?;
            Some(hash::of(value.text.as_bytes()))
        }
        HashSource::QueryParameter(name) => {
            let query = x.view().query()?;
            Some(hash::of(parameter(query, name)?.as_bytes()))
        }
    }
}

fn of_header(
    x: &Exchange,
    name: &AnyHeader,
    rewrite: Option<&(sidemesh_config::resource::route::RegexPattern, String)>,
) -> Option<u64> {
    let values: SmallVec<[&[u8]; 2]> = match name {
        AnyHeader::Header(name) => x.parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect(),
        pseudo => x.header(pseudo).into_iter().map(str::as_bytes).collect(),
    };
    let rewritten = |value: &'_ [u8]| -> Option<Vec<u8>> {
        let (pattern, with) = rewrite?;
        let text = std::str::from_utf8(value).ok()?;
        Some(pattern.0.replace_all(text, with.as_str()).into_owned().into_bytes())
    };
    let mut values: SmallVec<[Cow<'_, [u8]>; 2]> =
        values.into_iter().map(|v| rewritten(v).map_or(Cow::Borrowed(v), Cow::Owned)).collect();
    // Several values count whatever their order, each with the hash of those before it as its seed.
    values.sort_unstable();
    values.iter().fold(None, |seed, value| Some(hash::seeded(value, seed.unwrap_or(0))))
}

/// What a generated cookie is made from: both ends of the connection.
fn connection_text(x: &Exchange) -> String {
    let connection = &x.info.connection;
    format!("{}{}{:x}", connection.direct_remote, connection.direct_local, x.random)
}
