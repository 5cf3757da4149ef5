//! gRPC status codes: their names and what they have to do with HTTP statuses (Envoy's tables; gRPC "HTTP to gRPC Status Code
//! Mapping"). No messages, no framing.

pub use sidemesh_config::matcher::is_grpc as is_request;

/// The HTTP status that a grpc-status stands for.
pub fn http_status(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The grpc-status of an HTTP status, where an answer carries none; 200 says nothing either.
pub fn from_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// A code's two names: `NotFound` and `NOT_FOUND`.
pub fn names(code: u32) -> Option<(&'static str, &'static str)> {
    NAMES.get(usize::try_from(code).ok()?).copied()
}

const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_to_grpc() {
        let got: Vec<u32> = [400, 401, 403, 404, 429, 500, 502, 503, 504].into_iter().map(from_http).collect();
        assert_eq!(got, [13, 16, 7, 12, 14, 2, 14, 14, 14]);
        assert_eq!(names(5), Some(("NotFound", "NOT_FOUND")));
    }
}
