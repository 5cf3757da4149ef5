//! Header and query edits (`header_mutation.v3.HeaderMutation`), of the filter and of every route level.

use http::Response;
use http::header::HeaderMap;
use sidemesh_config::resource::core::AppendAction;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::header_mutation::{HeaderMutation, Mutation, QueryMutation};
use smallvec::SmallVec;

use super::{Exchange, Flow};
use crate::body::Body;
use crate::http::headers::{self, Changes};
use crate::http::{forward, query};
use std::sync::Arc;

/// The filter's own edits and the levels', the least specific first; with `most_specific_wins` off the other way round.
fn levels(own: &Arc<HeaderMutation>, x: &Exchange, name: &str) -> SmallVec<[Arc<HeaderMutation>; 4]> {
    let mut levels: SmallVec<[Arc<HeaderMutation>; 4]> = x
        .filter_overrides(name)
        .into_iter()
        .filter_map(|o| match &**o {
            FilterOverride::HeaderMutation(m) => Some(m.clone()),
            _ => None,
        })
        .collect();
    if own.most_specific_wins {
        levels.reverse();
    }
    levels.insert(0, own.clone());
    levels
}

/// Runs request steps in order.
pub fn mutate(x: &mut Exchange, steps: &[Mutation]) {
    for step in steps {
        match step {
            Mutation::Set(edit) => {
                let change = headers::evaluate_one(edit, &x.parts.headers, &x.log_context());
                if let Some(change) = change {
                    forward::apply(x, Changes::from_iter([change]));
                }
            }
            step => remove(&mut x.parts.headers, step),
        }
    }
}

pub fn on_request(own: &Arc<HeaderMutation>, x: &mut Exchange, name: &str) -> Flow {
    for level in levels(own, x, name) {
        mutate(x, &level.request);
        for step in &level.query {
            edit_query(x, step);
        }
    }
    Flow::Continue
}

pub fn on_response(own: &Arc<HeaderMutation>, x: &mut Exchange, response: &mut Response<Body>, name: &str) {
    for level in levels(own, x, name) {
        for step in &level.response {
            match step {
                Mutation::Set(edit) => {
                    let held = std::mem::take(response.headers_mut());
                    let held = std::mem::replace(&mut x.response_headers, held);
                    let change = headers::evaluate_one(edit, &x.response_headers, &x.log_context());
                    *response.headers_mut() = std::mem::replace(&mut x.response_headers, held);
                    if let Some(change) = change {
                        headers::apply(Changes::from_iter([change]), response.headers_mut());
                    }
                }
                step => remove(response.headers_mut(), step),
            }
        }
    }
}

fn remove(headers: &mut HeaderMap, step: &Mutation) {
    match step {
        Mutation::Remove(name) => {
            headers.remove(name);
        }
        Mutation::RemoveMatching(matcher) => {
            let names: Vec<_> = headers.keys().filter(|n| matcher.is_match(n.as_str())).cloned().collect();
            headers::remove(headers, &names);
        }
        Mutation::Set(_) => {}
    }
}

fn edit_query(x: &mut Exchange, step: &QueryMutation) {
    match step {
        QueryMutation::Remove(key) => query::edit(x, |q| q.remove(key)),
        QueryMutation::Append { key, value, action } => {
            let value = x.format(value);
            let escaped = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC).to_string();
            query::edit(x, |q| match action {
                AppendAction::AddIfAbsent if q.has(key) => {}
                AppendAction::OverwriteIfExists if !q.has(key) => {}
                AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd => q.set(key, escaped),
                AppendAction::AppendIfExistsOrAdd | AppendAction::AddIfAbsent => q.add(key, escaped),
            });
        }
    }
}
