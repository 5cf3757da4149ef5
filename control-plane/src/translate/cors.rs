//! CORS (Fetch standard): who else may read a route's answers, as Envoy's filter takes it.

use sidemesh_proto::envoy::extensions::filters::http::cors::v3 as xds;
use sidemesh_proto::google;

use super::wire;
use crate::model::filter::Cors;

/// The name of the filter, and of its policy in routes.
pub(super) const FILTER: &str = "envoy.filters.http.cors";
/// What `*` stands for where credentials are allowed: there it would be a method of that name.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT";

/// Acts where a route has a policy.
pub(super) fn filter() -> google::Any {
    wire::any(&xds::Cors::default())
}

pub(super) fn policy(cors: &Cors) -> google::Any {
    let every_method = cors.credentials && cors.methods.iter().any(|m| m == "*");
    wire::any(&xds::CorsPolicy {
        allow_origin_string_match: cors.origins.iter().map(|o| origin(o)).collect(),
        allow_methods: if every_method { METHODS.to_owned() } else { cors.methods.join(", ") },
        allow_headers: cors.headers.join(", "),
        expose_headers: cors.expose.join(", "),
        max_age: cors.max_age.as_secs().to_string(),
        allow_credentials: Some(google::BoolValue { value: cors.credentials }),
        // The answer to a preflight is ours, never the application's.
        forward_not_matching_preflights: Some(google::BoolValue { value: false }),
        ..Default::default()
    })
}

/// `*` stands for any number of labels, and alone for every origin.
fn origin(origin: &str) -> sidemesh_proto::envoy::r#type::matcher::v3::StringMatcher {
    if origin == "*" {
        return wire::matches(".*");
    }
    if !origin.contains('*') {
        return wire::exact(origin);
    }
    let parts: Vec<String> = origin.split('*').map(regex::escape).collect();
    wire::matches(&parts.join("[^/]+"))
}
