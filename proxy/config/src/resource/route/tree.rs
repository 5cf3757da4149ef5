//! `VirtualHost.matcher`: a matching tree over headers and filter state that leads to routes, of which the first that matches counts.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use prost::Name as _;
use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use sidemesh_proto::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;
use sidemesh_proto::xds::r#type::matcher::v3::Matcher;

use super::Route;
use super::parse::{Limits, route};
use crate::matcher::header::HeaderName;
use crate::matcher::tree::{Facts, Reader, Tree};
use crate::matcher::{RequestView, input};
use crate::rejection::{Rejection, Within};
use crate::value::Name;
use crate::wire;

/// What the tree may ask, as in Envoy.
#[derive(Debug, Clone, PartialEq)]
enum Input {
    Header(HeaderName),
    FilterState(Name),
}

/// Leads to positions in the virtual host's list of routes.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTree(Tree<Input, Range<usize>>);

impl RouteTree {
    /// The positions of the routes that may take the request; none where the tree finds nothing.
    pub fn find(&self, view: &RequestView<'_>) -> Range<usize> {
        let value = |input: &Input| match input {
            Input::Header(name) => name.joined(view),
            Input::FilterState(key) => Some(Cow::Borrowed(&**view.filter_state?.get(key)?)),
        };
        self.0.find(&Facts { value: &value, runtime: Some(view.runtime) }).cloned().unwrap_or(0..0)
    }
}

/// The tree and the routes of all its actions.
pub(super) fn parse(wire: &Matcher, limits: Limits) -> Result<(RouteTree, Vec<Arc<Route>>), Rejection> {
    let routes = RefCell::new(Vec::new());
    let action = |any: &Any| {
        let found = action(any, limits)?;
        let mut routes = routes.borrow_mut();
        let first = routes.len();
        routes.extend(found.into_iter().map(Arc::new));
        Ok(first..routes.len())
    };
    let tree = Reader { input: &input_of, action: &action, has_runtime: true }.tree_or_nothing(wire)?;
    Ok((RouteTree(tree), routes.into_inner()))
}

fn input_of(any: &Any) -> Result<Input, Rejection> {
    match type_url::message_name(&any.type_url) {
        wanted if wanted == HttpRequestHeaderMatchInput::full_name() => input::header(any).map(Input::Header),
        wanted if wanted == FilterStateInput::full_name() => input::filter_state(any).map(Input::FilterState),
        wanted => Err(Rejection::unsupported(
            "",
            format!("`{wanted}`: routes are found by HttpRequestHeaderMatchInput or FilterStateInput"),
        )),
    }
}

fn action(any: &Any, limits: Limits) -> Result<Vec<Route>, Rejection> {
    match type_url::message_name(&any.type_url) {
        wanted if wanted == pb::Route::full_name() => Ok(vec![route(&wire::unpack(any, "")?, limits)?]),
        wanted if wanted == pb::RouteList::full_name() => {
            let list: pb::RouteList = wire::unpack(any, "")?;
            let routes = list.routes.iter().enumerate();
            routes.map(|(i, r)| route(r, limits).within_index("routes", i)).collect()
        }
        wanted => Err(Rejection::unsupported(
            "",
            format!("`{wanted}` is no action of a route matcher: give envoy.config.route.v3.Route or RouteList"),
        )),
    }
}
