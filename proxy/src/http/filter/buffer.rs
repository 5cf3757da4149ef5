//! Whole request bodies before the request goes on (`buffer.v3.Buffer`); 413 beyond the limit.

use std::future::poll_fn;

use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::buffer::Buffer;

use super::{Exchange, Flow};
use crate::codec::Protocol;
use crate::http::reply::LocalReply;

fn limit(own: &Buffer, over: Option<&FilterOverride>) -> u32 {
    match over {
        Some(FilterOverride::Buffer(buffer)) => buffer.max_request_bytes,
        _ => own.max_request_bytes,
    }
}

pub fn on_request(own: &Buffer, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let Some(upload) = &x.upload else { return Flow::Continue };
    if x.upgrade.is_some() {
        return Flow::Continue;
    }
    upload.keep(limit(own, over) as usize);
    Flow::Wait
}

pub async fn wait(_own: &Buffer, x: &mut Exchange, _over: Option<&FilterOverride>) -> Flow {
    let Some(upload) = x.upload.clone() else { return Flow::Continue };
    match poll_fn(|cx| upload.poll_fill(cx)).await {
        Ok(()) => {
            if !x.parts.headers.contains_key(CONTENT_LENGTH) {
                x.parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(upload.kept_bytes()));
            }
            Flow::Continue
        }
        Err(_) => {
            x.manager.stats.downstream_rq_too_large.inc();
            Flow::Answer(too_large(x))
        }
    }
}

/// 413, as every limit on a request's body answers.
pub fn too_large(x: &Exchange) -> LocalReply {
    let reply = LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large", "request.body_too_large")
        .body("Payload Too Large");
    // What is left of the body would have to be read before the next request.
    match x.protocol {
        Protocol::Http2 => reply,
        _ => reply.header(CONNECTION, HeaderValue::from_static("close")),
    }
}
