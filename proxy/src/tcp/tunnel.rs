//! The request that opens a tunnel (`tcp_proxy.v3.TcpProxy.TunnelingConfig`): CONNECT (RFC 9110, 9.3.6), or POST.

use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri, header};
use sidemesh_config::resource::core::{AppendAction, HeaderTarget};
use sidemesh_config::resource::tcp_proxy::Tunneling;

use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, StreamInfo};

/// The head of the request. A host that is no authority is asked for as it is, in the header.
pub(super) fn head(config: &Tunneling, info: &StreamInfo, now: Instant) -> Parts {
    let context = LogContext::of(info, now);
    let host = format::to_string(&config.host, &context, "-");
    let (mut head, ()) = Request::new(()).into_parts();
    match &config.post_path {
        None => {
            head.method = Method::CONNECT;
            head.uri = host.parse().unwrap_or_else(|_| Uri::from_static("*"));
        }
        Some(path) => {
            head.method = Method::POST;
            head.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        }
    }
    if let Ok(value) = HeaderValue::try_from(host) {
        head.headers.insert(header::HOST, value);
    }
    for edit in &config.headers.add {
        let HeaderTarget::Header(name) = &edit.target else { continue };
        let text = format::to_string(&edit.value, &context, "");
        let Ok(value) = HeaderValue::try_from(text) else { continue };
        if value.is_empty() && !edit.keep_empty_value {
            continue;
        }
        match edit.action {
            AppendAction::AddIfAbsent if head.headers.contains_key(name) => {}
            AppendAction::OverwriteIfExists if !head.headers.contains_key(name) => {}
            AppendAction::AppendIfExistsOrAdd | AppendAction::AddIfAbsent => drop(head.headers.append(name, value)),
            AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists => {
                head.headers.insert(name, value);
            }
        }
    }
    head
}
