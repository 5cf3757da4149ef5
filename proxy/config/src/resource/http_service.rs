//! `core.v3.HttpUri` and `core.v3.HttpService` → [`HttpService`]: a service this proxy calls over HTTP.

use http::HeaderName;
use sidemesh_proto::envoy::config::core::v3 as core;

use crate::rejection::{Rejection, Within};
use crate::resource::core::HeaderTarget;
use crate::resource::http_connection_manager::HttpService;
use crate::resource::substitution;
use crate::value::{Name, name};
use crate::wire::{self, non_empty, required};

/// A URI with the cluster that serves it; `headers` go with each request.
pub fn http_uri(uri: &core::HttpUri, headers: Vec<(HeaderName, Name)>, field: &str) -> Result<HttpService, Rejection> {
    uri_fields(uri, headers).within(field)
}

fn uri_fields(uri: &core::HttpUri, headers: Vec<(HeaderName, Name)>) -> Result<HttpService, Rejection> {
    use core::http_uri::HttpUpstreamType;
    let text = non_empty(&uri.uri, "uri")?;
    if text.parse::<http::Uri>().is_err() {
        return Err(Rejection::invalid("uri", format!("`{text}` is no URI")));
    }
    let cluster = match &uri.http_upstream_type {
        Some(HttpUpstreamType::Cluster(cluster)) => non_empty(cluster, "cluster")?,
        None => return Err(Rejection::invalid("cluster", "is required")),
    };
    let timeout = wire::duration(required(&uri.timeout, "timeout")?, "timeout")?;
    Ok(HttpService { uri: text, cluster, timeout, headers })
}

/// A service with headers of fixed values.
pub fn http_service(service: &core::HttpService, field: &str) -> Result<HttpService, Rejection> {
    service_fields(service).within(field)
}

fn service_fields(service: &core::HttpService) -> Result<HttpService, Rejection> {
    let edits = substitution::header_additions(&service.request_headers_to_add, "request_headers_to_add")?;
    let fixed = |(i, edit): (usize, crate::resource::core::HeaderEdit)| match (edit.target, edit.value.as_static()) {
        (HeaderTarget::Header(header), Some(value)) => Ok((header, name(value))),
        _ => Err(Rejection::unsupported(format!("request_headers_to_add[{i}].header.value"), "must be plain text")),
    };
    let headers = edits.into_iter().enumerate().map(fixed).collect::<Result<_, _>>()?;
    http_uri(required(&service.http_uri, "http_uri")?, headers, "http_uri")
}
