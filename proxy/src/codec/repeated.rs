//! Fields that stand once in a head, however often they come: their values are joined by commas, as Envoy keeps them. RFC 9110, section
//! 5.3, allows that for every field that is a list; the others stay as they came.
//!
//! Heads in which no field is repeated, which is nearly all, never come here.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Whose head it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
    /// Unknown, or all the same: the fields of both.
    Either,
}

impl Side {
    fn has(self, name: &str) -> bool {
        match name {
            "content-type"
            | "content-encoding"
            | "cache-control"
            | "via"
            | "x-request-id"
            | "proxy-status"
            | "x-envoy-attempt-count"
            | "x-envoy-decorator-operation" => true,
            _ => self != Self::Response && is_of_requests(name) || self != Self::Request && is_of_responses(name),
        }
    }
}

fn is_of_requests(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "authorization"
            | "grpc-accept-encoding"
            | "grpc-timeout"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "origin"
            | "pragma"
            | "referer"
            | "user-agent"
            | "x-client-trace-id"
            | "x-envoy-downstream-service-cluster"
            | "x-envoy-downstream-service-node"
            | "x-envoy-expected-rq-timeout-ms"
            | "x-envoy-external-address"
            | "x-envoy-force-trace"
            | "x-envoy-hedge-on-per-try-timeout"
            | "x-envoy-internal"
            | "x-envoy-max-retries"
            | "x-envoy-original-host"
            | "x-envoy-original-path"
            | "x-envoy-retry-grpc-on"
            | "x-envoy-retry-on"
            | "x-envoy-retriable-header-names"
            | "x-envoy-retriable-status-codes"
            | "x-envoy-upstream-alt-stat-name"
            | "x-envoy-upstream-rq-per-try-timeout-ms"
            | "x-envoy-upstream-rq-timeout-alt-response"
            | "x-envoy-upstream-rq-timeout-ms"
            | "x-envoy-upstream-stream-duration-ms"
            | "x-forwarded-client-cert"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
    )
}

fn is_of_responses(name: &str) -> bool {
    matches!(
        name,
        "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "access-control-max-age"
            | "age"
            | "date"
            | "etag"
            | "expires"
            | "grpc-message"
            | "grpc-status"
            | "last-modified"
            | "location"
            | "server"
            | "vary"
            | "x-envoy-degraded"
            | "x-envoy-immediate-health-check-fail"
            | "x-envoy-ratelimited"
            | "x-envoy-upstream-canary"
            | "x-envoy-upstream-healthchecked-cluster"
            | "x-envoy-upstream-service-time"
    )
}

/// Joins what is repeated and stands once.
pub(crate) fn join(headers: &mut HeaderMap, side: Side) {
    let repeated: Vec<HeaderName> = headers
        .keys()
        .filter(|&name| side.has(name.as_str()) && headers.get_all(name).iter().nth(1).is_some())
        .cloned()
        .collect();
    for name in repeated {
        join_one(headers, name);
    }
}

/// Adds a field: to the end of the one that is there, if it stands once.
pub(crate) fn add(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    if headers.append(name, value) && Side::Either.has(name.as_str()) {
        join_one(headers, name.clone());
    }
}

fn join_one(headers: &mut HeaderMap, name: HeaderName) {
    let mut joined = Vec::new();
    for (n, value) in headers.get_all(&name).iter().enumerate() {
        if n > 0 {
            joined.push(b',');
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    #[test]
    fn a_field_of_its_side_stands_once() {
        let fields = [("accept", "a"), ("x-own", "1"), ("accept", "b"), ("x-own", "2"), ("etag", "1"), ("etag", "2")];
        let mut request = head(&fields);
        join(&mut request, Side::Request);
        assert_eq!(request.get_all("accept").iter().collect::<Vec<_>>(), ["a,b"]);
        assert_eq!(request.get_all("x-own").iter().count() + request.get_all("etag").iter().count(), 4);
        let mut response = head(&fields);
        join(&mut response, Side::Response);
        assert_eq!(response.get_all("etag").iter().collect::<Vec<_>>(), ["1,2"]);
        assert_eq!(response.get_all("accept").iter().count(), 2);
    }

    #[test]
    fn what_is_added_goes_behind_what_is_there() {
        let mut headers = head(&[("via", "one"), ("set-cookie", "a=1")]);
        add(&mut headers, &HeaderName::from_static("via"), HeaderValue::from_static("two"));
        add(&mut headers, &HeaderName::from_static("set-cookie"), HeaderValue::from_static("b=2"));
        assert_eq!(headers["via"], "one,two");
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }
}
