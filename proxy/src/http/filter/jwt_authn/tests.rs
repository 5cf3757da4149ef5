use aws_lc_rs::hmac;
use base64::Engine;
use http::HeaderMap;
use serde_json::json;
use sidemesh_config::resource::http_filter::{HttpFilterKind, parse_kind};
use sidemesh_proto::json::any_from_json;

use super::keys::Keys;
use super::token::BASE64;
use super::*;
use crate::live::Live;
use crate::shutdown::Shutdown;
use crate::telemetry::access_log::{Logger, Writer};
use crate::telemetry::stats::Registry;
use crate::telemetry::trace::export;
use crate::upstream;
use crate::worker::{Node as Identity, Shared};

const NOW: u64 = 1_000_000;

fn provider(issuer: &str, secret: &str, more: Value) -> Value {
    let jwks = json!({ "keys": [{ "kty": "oct", "k": BASE64.encode(secret) }] }).to_string();
    let mut provider = json!({ "issuer": issuer, "local_jwks": { "inline_string": jwks } });
    for (key, value) in more.as_object().expect("an object") {
        provider[key] = value.clone();
    }
    provider
}

fn config(providers: Value, requirements: Value) -> Arc<Config> {
    let any = any_from_json(&json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": providers,
        "requirement_map": requirements,
    }));
    match parse_kind(&any.expect("JSON of a filter")) {
        Ok(HttpFilterKind::JwtAuthn(config)) => config,
        other => panic!("no JWT filter: {other:?}"),
    }
}

/// Two issuers: `a` with secret `sa`, for audience `svc`; `b` with secret `sb`, in `x-b`.
fn two() -> Value {
    json!({
        "a": provider("a", "sa", json!({ "audiences": ["https://svc/"] })),
        "b": provider("b", "sb", json!({ "from_headers": [{ "name": "x-b" }] })),
    })
}

fn token(secret: &str, claims: Value) -> String {
    let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256"}"#), BASE64.encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(tag.as_ref()))
}

fn good_a() -> String {
    token("sa", json!({ "iss": "a", "aud": "svc", "exp": NOW + 10 }))
}

fn good_b() -> String {
    token("sb", json!({ "iss": "b" }))
}

fn filter(config: &Arc<Config>) -> JwtAuthn {
    let stats = Arc::new(Registry::default());
    let shared =
        Shared::new(Arc::new(Live::default()), stats.clone(), Shutdown::default(), Arc::new(Identity::default()));
    let log = Logger::new(Writer::start().expect("a writer"), Arc::default());
    let worker = Worker::new(0, 1, shared, log, export::queue().0);
    let upstream = Upstream::new(worker.clone(), upstream::Registry::new(1, stats, Default::default()));
    JwtAuthn::new(config.clone(), &worker, &upstream, &name("ingress"))
}

/// Checks the requirement called `r` against requests of these headers.
async fn outcomes(config: &Arc<Config>, requests: &[&[(&'static str, String)]]) -> Vec<Result<usize, Unmet>> {
    tokio::task::LocalSet::new()
        .run_until(async {
            let filter = filter(config);
            let node = &filter.named.iter().find(|(n, _)| &**n == "r").expect("the requirement").1;
            let check = |request: &&[(&'static str, String)]| {
                let pairs = request
                    .iter()
                    .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).expect("a header's value")));
                let headers: HeaderMap = pairs.collect();
                let mut pass = Pass {
                    headers: &headers,
                    query: None,
                    now: NOW,
                    keys: &filter.keys,
                    unreachable: &[],
                    accepted: Vec::new(),
                    failures: Vec::new(),
                };
                node.check(&mut pass).map(|()| pass.accepted.len())
            };
            requests.iter().map(check).collect()
        })
        .await
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

fn error<T>(error: JwtError) -> Result<T, Unmet> {
    Err(Unmet::Error(error))
}

#[tokio::test]
async fn a_provider_takes_its_own_good_tokens_alone() {
    let config = config(two(), json!({ "r": { "provider_name": "a" } }));
    let a = |claims: Value| bearer(&token("sa", claims));
    let got = outcomes(
        &config,
        &[
            &[bearer(&good_a())],
            &[],
            &[bearer(&good_b())],
            &[bearer(&token("other", json!({ "iss": "a", "aud": "svc" })))],
            &[a(json!({ "iss": "a", "aud": "other" }))],
            &[a(json!({ "iss": "a", "aud": ["x", "http://svc"] }))],
            &[a(json!({ "iss": "a", "aud": "svc", "exp": NOW - 60 }))],
            &[a(json!({ "iss": "a", "aud": "svc", "exp": NOW - 61 }))],
            &[a(json!({ "iss": "a", "aud": "svc", "nbf": NOW + 60 }))],
            &[a(json!({ "iss": "a", "aud": "svc", "nbf": NOW + 61 }))],
            // One bad token among good ones is enough.
            &[bearer(&good_a()), a(json!({ "iss": "a", "aud": "svc", "exp": 1 }))],
        ],
    )
    .await;
    let expected = [
        Ok(1),
        error(JwtError::Missing),
        error(JwtError::Issuer),
        error(JwtError::Verification),
        error(JwtError::Audience),
        Ok(1),
        Ok(1),
        error(JwtError::Expired),
        Ok(1),
        error(JwtError::NotYetValid),
        error(JwtError::Expired),
    ];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn requirements_combine() {
    let one = |r: Value| config(two(), json!({ "r": r }));
    let (a, b) = (json!({ "provider_name": "a" }), json!({ "provider_name": "b" }));
    let bad_a = token("other", json!({ "iss": "a", "aud": "svc" }));
    let requests: [&[(&'static str, String)]; 5] = [
        &[],
        &[bearer(&good_a())],
        &[("x-b", good_b())],
        &[bearer(&good_a()), ("x-b", good_b())],
        &[bearer(&bad_a), ("x-b", good_b())],
    ];
    let missing = || error(JwtError::Missing);
    let failed = || error(JwtError::Verification);
    let all = one(json!({ "requires_all": { "requirements": [a, b] } }));
    assert_eq!(outcomes(&all, &requests).await, [missing(), missing(), missing(), Ok(2), failed()]);
    let any = one(json!({ "requires_any": { "requirements": [a, b] } }));
    assert_eq!(outcomes(&any, &requests).await, [missing(), Ok(1), Ok(1), Ok(1), Ok(1)]);
    let optional = one(json!({ "requires_any": { "requirements": [a, { "allow_missing": {} }] } }));
    assert_eq!(outcomes(&optional, &requests).await, [Ok(0), Ok(1), Ok(0), Ok(1), failed()]);
    let lenient = one(json!({ "allow_missing_or_failed": {} }));
    assert_eq!(outcomes(&lenient, &requests).await, [Ok(0), Ok(1), Ok(1), Ok(2), Ok(1)]);
    let strict = one(json!({ "allow_missing": {} }));
    assert_eq!(outcomes(&strict, &requests).await, [Ok(0), Ok(1), Ok(1), Ok(2), failed()]);
    let audience = one(json!({ "provider_and_audiences": { "provider_name": "b", "audiences": ["z"] } }));
    assert_eq!(outcomes(&audience, &requests[2..3]).await, [error(JwtError::Audience)]);
}

#[tokio::test]
async fn lifetimes_and_subjects_are_limited() {
    let more = json!({ "max_lifetime": "3600s", "subjects": { "prefix": "spiffe://" } });
    let config = config(json!({ "p": provider("", "s", more) }), json!({ "r": { "provider_name": "p" } }));
    let one = |claims: Value| [bearer(&token("s", claims))];
    let got = outcomes(
        &config,
        &[
            &one(json!({ "sub": "spiffe://x", "exp": NOW + 3599 })),
            &one(json!({ "sub": "spiffe://x", "exp": NOW + 3600 })),
            &one(json!({ "sub": "spiffe://x" })),
            &one(json!({ "sub": "x", "exp": NOW + 10 })),
        ],
    )
    .await;
    let failed = || error(JwtError::Verification);
    assert_eq!(got, [Ok(1), failed(), failed(), failed()]);
}

#[tokio::test]
async fn remote_keys_are_fetched_first_and_broken_local_ones_refuse() {
    let remote = json!({ "http_uri": { "uri": "http://keys/jwks", "cluster": "keys", "timeout": "1s" } });
    let providers = json!({
        "away": { "issuer": "w", "remote_jwks": remote },
        "broken": { "issuer": "k", "local_jwks": { "inline_string": r#"{ "keys": [] }"# } },
    });
    let asks = |provider: &str| config(providers.clone(), json!({ "r": { "provider_name": provider } }));
    let w = bearer(&token("s", json!({ "iss": "w" })));
    assert_eq!(outcomes(&asks("away"), &[&[w]]).await, [Err(Unmet::Fetch(0))]);
    let k = bearer(&token("s", json!({ "iss": "k" })));
    assert_eq!(outcomes(&asks("broken"), &[&[k]]).await, [error(JwtError::NoKeys)]);
}

#[tokio::test]
async fn a_cached_token_is_verified_again_by_other_keys() {
    let config = config(
        json!({ "p": provider("", "s", json!({ "jwt_cache_config": { "jwt_cache_size": 1 } })) }),
        json!({ "r": { "provider_name": "p" } }),
    );
    tokio::task::LocalSet::new()
        .run_until(async {
            let filter = filter(&config);
            let text = token("s", json!({}));
            let parsed = Rc::new(super::token::Token::parse(&text).expect("a token"));
            let Keys::Here(keys) = filter.keys.get(0) else { panic!("no keys") };
            filter.keys.remember(0, &text, &parsed, &keys);
            assert!(filter.keys.cached(0, &text).is_some_and(|(t, _)| Rc::ptr_eq(&t, &parsed)));
            filter.keys.remember(0, &token("s", json!({ "iss": "x" })), &parsed, &keys);
            assert!(filter.keys.cached(0, &text).is_none(), "the oldest leaves");
        })
        .await;
}

#[test]
fn claims_become_headers() {
    let claims = json!({ "s": "x", "n": 7, "f": 1.5, "b": true, "o": { "p": { "q": "deep" } }, "l": [1], "e": "" });
    let got = ["s", "n", "f", "b", "o.p.q", "o", "l", "e", "none"].map(|path| claim(&claims, path));
    let some = |text: &str| Some(text.to_owned());
    let (object, list) = (STANDARD.encode(r#"{"p":{"q":"deep"}}"#), STANDARD.encode("[1]"));
    let expected =
        [some("x"), some("7"), some("1.500000"), some("true"), some("deep"), Some(object), Some(list), None, None];
    assert_eq!(got, expected);
}
