//! What a gRPC answer means for the health of who gave it.

use http::request::Parts;
use http::{HeaderMap, Response};

use crate::grpc::{http_status, is_request};

/// The HTTP status that the `grpc-status` among headers or trailers stands for; one that is no number is an error.
fn told(headers: &HeaderMap) -> Option<u16> {
    let value = headers.get("grpc-status")?;
    let code = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(http_status(code.unwrap_or(u32::MAX)))
}

/// How a response's head is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// To outlier detection: of a gRPC answer without a body what its `grpc-status` stands for. One that comes in trailers is not
    /// charged there, as in Envoy.
    pub status: u16,
    /// To the host's `rq_success` or `rq_error`; `None`: the trailers of a gRPC answer will tell.
    pub success: Option<bool>,
}

/// What a response's head says of its host; `ends` if nothing follows it.
pub fn outcome<B>(request: &Parts, response: &Response<B>, ends: bool) -> Outcome {
    let status = response.status().as_u16();
    if !is_request(&request.headers) {
        return Outcome { status, success: Some(status < 500) };
    }
    let grpc = told(response.headers());
    let success = (!trailers_tell(&request.headers, status, ends))
        .then(|| status < 500 && grpc.is_some_and(|status| status < 500));
    Outcome { status: grpc.unwrap_or(status), success }
}

/// Whether the trailers of an answer with this `status` tell of success, not its head.
pub fn trailers_tell(request: &HeaderMap, status: u16, ends: bool) -> bool {
    status < 500 && !ends && is_request(request)
}

/// Whether the trailers of a gRPC answer tell of success.
pub fn succeeded(trailers: &HeaderMap) -> bool {
    told(trailers).is_some_and(|status| status < 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charged(kind: &str, status: u16, grpc: Option<&str>, ends: bool) -> (u16, Option<bool>) {
        let request = http::Request::builder().header("content-type", kind).body(()).expect("a request");
        let mut response = Response::builder().status(status);
        if let Some(grpc) = grpc {
            response = response.header("grpc-status", grpc);
        }
        let outcome = outcome(&request.into_parts().0, &response.body(()).expect("a response"), ends);
        (outcome.status, outcome.success)
    }

    #[test]
    fn a_grpc_status_in_the_head_is_charged_as_what_it_stands_for() {
        assert_eq!(charged("application/grpc", 200, Some("14"), true), (503, Some(false)));
        assert_eq!(charged("application/grpc", 200, Some("5"), true), (404, Some(true)));
        assert_eq!(charged("application/grpc", 200, Some("what"), true), (500, Some(false)));
        assert_eq!(charged("application/grpc", 200, None, true), (200, Some(false)));
        assert_eq!(charged("application/json", 200, Some("14"), true), (200, Some(true)));
    }

    #[test]
    fn trailers_are_waited_for() {
        assert_eq!(charged("application/grpc", 200, None, false), (200, None));
        assert_eq!(charged("application/grpc", 503, None, false), (503, Some(false)));
        let trailers = |status: &str| {
            HeaderMap::from_iter([("grpc-status".parse().expect("a name"), status.parse().expect("a value"))])
        };
        assert!(succeeded(&trailers("0")) && !succeeded(&trailers("13")) && !succeeded(&HeaderMap::new()));
    }
}
