//! What a gRPC answer means for the health of who gave it.

use http::request::Parts;
use http::{HeaderMap, Response, header};

use crate::grpc::http_status;

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    kind.as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';'))
}

/// The status to charge for a response head. `None`: a gRPC answer whose status comes in its trailers.
pub fn outcome<B>(request: &Parts, response: &Response<B>) -> Option<u16> {
    let status = response.status().as_u16();
    if status != 200 || !is_grpc(&request.headers) {
        return Some(status);
    }
    let grpc: u16 = response.headers().get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(http_status(grpc.into()))
}
