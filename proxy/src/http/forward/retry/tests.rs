use http::HeaderValue;
use sidemesh_config::resource::route::RetryPolicy;
use sidemesh_config::value::Runtime;

use super::*;

fn policy(on: u32, num_retries: u32) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        on: RetryOn(on),
        num_retries,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        retriable_status_codes: vec![404],
        retriable_headers: vec![],
        retriable_request_headers: vec![],
        backoff: Backoff { base: Duration::from_millis(100), max: Duration::from_millis(300) },
        rate_limited_backoff: Some(RateLimitedBackoff {
            reset_headers: vec![(HeaderName::from_static("retry-after"), ResetFormat::Seconds)],
            max_interval: Duration::from_secs(300),
        }),
        avoid_previous_hosts: false,
        omit_hosts: vec![],
        host_selection_retry_max_attempts: 1,
        previous_priorities: None,
    })
}

fn retry(policy: Option<Arc<RetryPolicy>>, headers: &HeaderMap) -> Option<Retry> {
    let runtime = Runtime::default();
    let view = RequestView {
        method: &http::Method::GET,
        scheme: "http",
        authority: "a",
        path: "/",
        headers,
        tls: false,
        peer_certificate: Default::default(),
        metadata: None,
        filter_state: None,
        runtime: &runtime,
        random: 0,
    };
    Retry::new(policy.as_ref(), &view)
}

fn response(retry: &mut Retry, status: u16) -> Verdict {
    retry.after_response(status, &HeaderMap::new(), UNIX_EPOCH, u64::MAX)
}

#[test]
fn conditions_name_what_they_retry() {
    let none = HeaderMap::new();
    for (on, retried, kept) in [
        (RetryOn::E5XX, vec![500, 503], vec![404, 409, 418]),
        (RetryOn::GATEWAY_ERROR, vec![502, 503, 504], vec![500, 409]),
        (RetryOn::RETRIABLE_4XX, vec![409], vec![404, 500]),
        (RetryOn::RETRIABLE_STATUS_CODES, vec![404], vec![500, 409]),
    ] {
        for status in retried {
            let verdict = retry(Some(policy(on, 1)), &none).map(|mut r| response(&mut r, status));
            assert!(matches!(verdict, Some(Verdict::Again(_))), "{on} {status}");
        }
        for status in kept {
            let verdict = retry(Some(policy(on, 1)), &none).map(|mut r| response(&mut r, status));
            assert_eq!(verdict, Some(Verdict::Keep), "{on} {status}");
        }
    }
}

#[test]
fn the_last_failure_stands_when_retries_are_spent() {
    let mut r = retry(Some(policy(RetryOn::E5XX, 2)), &HeaderMap::new()).into_iter().next();
    let verdicts: Vec<_> = (0..3).filter_map(|_| r.as_mut().map(|r| response(r, 500))).collect();
    assert!(matches!(verdicts[..], [Verdict::Again(_), Verdict::Again(_), Verdict::Exhausted]));
}

#[test]
fn back_off_doubles_up_to_its_bound() {
    let Some(mut r) = retry(Some(policy(RetryOn::E5XX, 9)), &HeaderMap::new()) else { panic!("no policy") };
    let waits: Vec<u128> = (0..4)
        .map(|_| match response(&mut r, 500) {
            Verdict::Again(Pause::Exponential(wait)) => wait.as_millis(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits, [99, 199, 299, 299]);
}

#[test]
fn the_upstream_may_say_when() {
    let Some(mut r) = retry(Some(policy(RetryOn::E5XX, 1)), &HeaderMap::new()) else { panic!("no policy") };
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", HeaderValue::from_static("2"));
    match r.after_response(503, &headers, UNIX_EPOCH, 0) {
        Verdict::Again(pause) => assert_eq!(pause, Pause::Told(Duration::from_secs(2))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn failures_are_told_apart() {
    let none = HeaderMap::new();
    let verdict = |on, failure| retry(Some(policy(on, 1)), &none).map(|mut r| r.after_failure(failure, 0));
    let connect = Failure { connect: true, ..Failure::default() };
    let reset = Failure { sent: true, ..Failure::default() };
    assert!(matches!(verdict(RetryOn::CONNECT_FAILURE, connect), Some(Verdict::Again(_))));
    assert_eq!(verdict(RetryOn::CONNECT_FAILURE, reset), Some(Verdict::Keep));
    assert!(matches!(verdict(RetryOn::RESET, reset), Some(Verdict::Again(_))));
    assert_eq!(verdict(RetryOn::RESET_BEFORE_REQUEST, reset), Some(Verdict::Keep));
    assert_eq!(verdict(RetryOn::E5XX, Failure { overflow: true, ..reset }), Some(Verdict::Keep));
}

#[test]
fn headers_ask_for_retries_of_their_own() {
    let mut headers = HeaderMap::new();
    headers.insert(X_ENVOY_RETRY_ON, HeaderValue::from_static("retriable-status-codes"));
    headers.insert(X_ENVOY_RETRIABLE_STATUS_CODES, HeaderValue::from_static("418,419"));
    headers.insert(X_ENVOY_MAX_RETRIES, HeaderValue::from_static("2"));
    let Some(mut r) = retry(None, &headers) else { panic!("not asked") };
    assert!(matches!(response(&mut r, 418), Verdict::Again(_)));
    assert!(matches!(response(&mut r, 419), Verdict::Again(_)));
    assert_eq!(response(&mut r, 418), Verdict::Exhausted);
    assert_eq!(response(&mut r, 500), Verdict::Keep);
    strip(&mut headers);
    assert!(headers.is_empty());
    assert!(retry(None, &headers).is_none());
}
