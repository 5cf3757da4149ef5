use serde_json::{Value, json};
use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::*;
use crate::resource::http_filter::compressor::CompressionLibrary;
use crate::resource::http_filter::rbac::{Permission, Principal};

fn entry(value: Value) -> Result<Option<HttpFilter>, Rejection> {
    const MESSAGE: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
    let entry: hcm::HttpFilter = sidemesh_proto::json::parse(MESSAGE, &value).expect("test input");
    parse(&entry)
}

fn any(message: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{message}").into();
    config
}

fn kind(message: &str, config: Value) -> Result<HttpFilterKind, Rejection> {
    Ok(entry(json!({ "name": "f", "typed_config": any(message, config) }))?.expect("not optional").kind)
}

fn over(message: &str, config: Value) -> Result<FilterOverride, Rejection> {
    let config = sidemesh_proto::json::any_from_json(&any(message, config)).expect("test input");
    let overrides = parse_overrides(&[("f".to_owned(), config)].into())?;
    Ok((*overrides.0[0].1).clone())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Rejection>, expected: &str) {
    assert_eq!(result.expect_err("must be refused").to_string(), expected);
}

fn grpc(cluster: &str) -> Value {
    json!({ "envoy_grpc": { "cluster_name": cluster } })
}

#[test]
fn entries_are_known_skipped_discovered_or_refused() {
    let empty = json!({ "@type": "type.googleapis.com/google.protobuf.Empty" });
    assert_eq!(entry(json!({ "name": "x", "is_optional": true, "typed_config": empty })), Ok(None));
    refused(
        entry(json!({ "name": "x", "typed_config": empty })),
        "typed_config: not supported: HTTP filter `type.googleapis.com/google.protobuf.Empty` is not supported; \
         remove it or set is_optional",
    );
    let router = entry(json!({ "name": "r", "disabled": true, "typed_config": any("router.v3.Router", json!({})) }));
    let router = router.expect("valid").expect("known");
    assert!(router.disabled && matches!(router.kind, HttpFilterKind::Router(r) if r.dynamic_stats));
    let source = json!({ "config_source": { "ads": {} },
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"],
        "default_config": any("cors.v3.Cors", json!({})) });
    let found = entry(json!({ "name": "e", "config_discovery": source })).expect("valid").expect("known").kind;
    assert!(matches!(found, HttpFilterKind::Discovered { default: Some(kind), .. } if *kind == HttpFilterKind::Cors));
    let urls = [crate::value::name("type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors")];
    assert!(HttpFilterKind::Cors.is_one_of(&urls) && !HttpFilterKind::GrpcWeb.is_one_of(&urls));
    refused(entry(json!({ "name": "e" })), "typed_config: invalid: is required");
}

#[test]
fn simple_filters() {
    let buffer = kind("buffer.v3.Buffer", json!({ "max_request_bytes": 9 }));
    assert_eq!(buffer, Ok(HttpFilterKind::Buffer(buffer::Buffer { max_request_bytes: 9 })));
    refused(
        kind("buffer.v3.Buffer", json!({ "max_request_bytes": 0 })),
        "typed_config.max_request_bytes: invalid: must be greater than 0",
    );
    assert_eq!(over("buffer.v3.BufferPerRoute", json!({ "disabled": true })), Ok(FilterOverride::Disabled));
    assert_eq!(kind("grpc_web.v3.GrpcWeb", json!({})), Ok(HttpFilterKind::GrpcWeb));
    assert_eq!(kind("on_demand.v3.OnDemand", json!({})), Ok(HttpFilterKind::OnDemand));
    let stats = kind("grpc_stats.v3.FilterConfig", json!({ "stats_for_all_methods": true })).expect("valid");
    assert!(matches!(stats, HttpFilterKind::GrpcStats(s) if s.stats_for_all_methods));
    refused(
        kind("health_check.v3.HealthCheck", json!({ "pass_through_mode": false, "cache_time": "1s" })),
        "typed_config.cache_time: invalid: is for pass_through_mode only",
    );
    refused(kind("csrf.v3.CsrfPolicy", json!({})), "typed_config.filter_enabled: invalid: is required");
    refused(
        kind("router.v3.Router", json!({ "strict_check_headers": ["x-a"] })).map_err(|mut r| {
            r.reason.truncate(13);
            r
        }),
        "typed_config.strict_check_headers[0]: invalid: `x-a` is none",
    );
}

#[test]
fn compressors_take_each_library() {
    let with = |library: &str, config: Value| {
        let mut typed = config;
        typed["@type"] = format!("type.googleapis.com/envoy.extensions.compression.{library}").into();
        kind("compressor.v3.Compressor", json!({ "compressor_library": { "name": "l", "typed_config": typed } }))
    };
    let library = |kind: Result<HttpFilterKind, Rejection>| match kind.expect("valid") {
        HttpFilterKind::Compressor(c) => c.library,
        other => panic!("{other:?}"),
    };
    let gzip = library(with("gzip.compressor.v3.Gzip", json!({ "compression_level": "BEST_SPEED" })));
    assert_eq!(gzip, CompressionLibrary::Gzip { level: 1, window_bits: 12 });
    let brotli = library(with("brotli.compressor.v3.Brotli", json!({})));
    assert_eq!(brotli, CompressionLibrary::Brotli { quality: 3, window_bits: 18 });
    assert_eq!(library(with("zstd.compressor.v3.Zstd", json!({}))), CompressionLibrary::Zstd { level: 3 });
    refused(
        with("gzip.compressor.v3.Gzip", json!({ "window_bits": 8 })),
        "typed_config.compressor_library.typed_config.window_bits: invalid: 8 is not between 9 and 15",
    );
    let Ok(HttpFilterKind::Compressor(plain)) = with("zstd.compressor.v3.Zstd", json!({})) else { panic!("refused") };
    assert!(plain.response.direction.enabled && plain.request.is_none());
    assert_eq!(plain.response.direction.min_content_length, 30);
}

#[test]
fn faults_and_mutations() {
    let fault = kind(
        "fault.v3.HTTPFault",
        json!({
        "delay": { "fixed_delay": "1s", "percentage": { "numerator": 50 } }, "abort": { "http_status": 503 } }),
    );
    let Ok(HttpFilterKind::Fault(fault)) = fault else { panic!("{fault:?}") };
    assert_eq!(fault.delay.as_ref().map(|d| d.percentage.numerator), Some(50));
    assert_eq!(fault.abort.as_ref().map(|a| (a.kind, a.percentage.numerator)), Some((fault::AbortKind::Http(503), 0)));
    let mutation = kind(
        "header_mutation.v3.HeaderMutation",
        json!({ "mutations": {
        "request_mutations": [{ "append": { "header": { "key": "x-a", "value": "/x" } } }, { "remove": "x-b" }],
        "query_parameter_mutations": [{ "append": { "record": { "key": "k", "value": "%PROTOCOL%" } } }] } }),
    );
    let Ok(HttpFilterKind::HeaderMutation(mutation)) = mutation else { panic!("{mutation:?}") };
    assert_eq!((mutation.request.len(), mutation.query.len()), (2, 1));
    let path = json!({ "request_mutations": [{ "append": { "header": { "key": ":path", "value": "/x" } } }] });
    refused(
        over("header_mutation.v3.HeaderMutationPerRoute", json!({ "mutations": path })),
        "typed_per_filter_config[f].mutations.request_mutations[0].append.header.key: invalid: \
         :-prefixed or host headers may not be modified",
    );
    refused(
        over("header_mutation.v3.HeaderMutationPerRoute", json!({ "mutations": { "request_mutations": [{}] } })),
        "typed_per_filter_config[f].mutations.request_mutations[0]: invalid: \
         needs one of append, remove, remove_on_match",
    );
}

#[test]
fn authorization() {
    let authz = kind(
        "ext_authz.v3.ExtAuthz",
        json!({ "grpc_service": grpc("authz"),
        "with_request_body": { "max_request_bytes": 10 } }),
    );
    let Ok(HttpFilterKind::ExtAuthz(authz)) = authz else { panic!("{authz:?}") };
    assert_eq!((authz.status_on_error, authz.failure_mode_allow), (403, false));
    refused(
        kind(
            "ext_authz.v3.ExtAuthz",
            json!({ "http_service": { "server_uri":
            { "uri": "http://a/", "cluster": "c", "timeout": "1s" }, "path_prefix": "x" } }),
        ),
        "typed_config.http_service.path_prefix: invalid: must start with `/`",
    );
    let rules = json!({ "action": "DENY", "policies": {
        "b": { "permissions": [{ "any": true }], "principals": [{ "authenticated": {} }] },
        "a": { "permissions": [{ "not_rule": { "destination_port": 80 } }], "principals": [{ "any": true }] } } });
    let Ok(HttpFilterKind::Rbac(rbac)) = kind("rbac.v3.RBAC", json!({ "rules": rules })) else { panic!("refused") };
    let Some(rbac::Rules::Policies(rules)) = &rbac.rules else { panic!("no policies: {:?}", rbac.rules) };
    let policies = &rules.policies;
    assert_eq!(policies[0].permissions, [Permission::Not(Box::new(Permission::DestinationPort(80)))]);
    assert_eq!(policies[1].principals, [Principal::Authenticated(None)]);
    let bad = json!({ "rules": { "policies": { "p": { "permissions": [{ "any": true }], "principals": [] } } } });
    refused(
        kind("rbac.v3.RBAC", bad),
        "typed_config.rules.policies[p].principals: invalid: must hold at least one identifier",
    );
    assert_eq!(over("rbac.v3.RBACPerRoute", json!({})), Ok(FilterOverride::Rbac(None)));
}

#[test]
fn tokens_name_configured_providers() {
    let provider = json!({ "issuer": "i", "local_jwks": { "inline_string": r#"{ "keys": [] }"# } });
    let with = |requires: Value| {
        kind(
            "jwt_authn.v3.JwtAuthentication",
            json!({ "providers": { "p": provider },
            "rules": [{ "match": { "prefix": "/" }, "requires": requires }] }),
        )
    };
    let Ok(HttpFilterKind::JwtAuthn(jwt)) = with(json!({ "provider_name": "p" })) else { panic!("refused") };
    assert_eq!(jwt.providers[0].clock_skew, std::time::Duration::from_secs(60));
    assert!(jwt.rules[0].requirement.is_some());
    refused(
        with(json!({ "requires_any": { "requirements": [{ "provider_name": "p" }, { "provider_name": "q" }] } })),
        "typed_config.rules[0].requires.requires_any.requirements[1].provider_name: invalid: \
         provider `q` is not configured; add it to providers",
    );
}

#[test]
fn rate_limits() {
    let local = kind(
        "local_ratelimit.v3.LocalRateLimit",
        json!({ "stat_prefix": "l",
        "token_bucket": { "max_tokens": 5, "fill_interval": "1s" } }),
    );
    let Ok(HttpFilterKind::LocalRateLimit(local)) = local else { panic!("{local:?}") };
    assert_eq!((local.status, local.bucket.map(|b| b.tokens_per_fill)), (429, Some(1)));
    assert_eq!(local.enabled.default, crate::value::Fraction::NEVER);
    refused(
        over(
            "local_ratelimit.v3.LocalRateLimit",
            json!({ "stat_prefix": "l",
            "token_bucket": { "max_tokens": 5, "fill_interval": "0.01s" } }),
        ),
        "typed_per_filter_config[f].token_bucket.fill_interval: invalid: must be at least 50ms",
    );
    let global = kind(
        "ratelimit.v3.RateLimit",
        json!({ "domain": "d",
        "rate_limit_service": { "grpc_service": grpc("rl"), "transport_api_version": "V3" } }),
    );
    let Ok(HttpFilterKind::RateLimit(global)) = global else { panic!("{global:?}") };
    assert_eq!((global.timeout.as_millis(), global.rate_limited_status, global.status_on_error), (20, 429, 500));
}

#[test]
fn metadata_filters() {
    let set = json!({ "metadata": [{ "metadata_namespace": "n", "value": { "a": 1 }, "allow_overwrite": true }] });
    let HttpFilterKind::SetMetadata(set) = kind("set_metadata.v3.Config", set).expect("valid") else { panic!() };
    let entry = &set.entries[0];
    assert_eq!((&*entry.namespace, &entry.fields["a"], entry.allow_overwrite), ("n", &json!(1), true));

    const TO: &str = "header_to_metadata.v3.Config";
    let rule = |rule: Value| kind(TO, json!({ "request_rules": [rule] }));
    let present = json!({ "key": "k", "type": "NUMBER" });
    let HttpFilterKind::HeaderToMetadata(to) =
        rule(json!({ "header": "x-a", "on_header_present": present, "remove": true })).expect("valid")
    else {
        panic!()
    };
    let target = to.request[0].on_present.as_ref().expect("a target");
    assert_eq!(&*target.namespace, "envoy.filters.http.header_to_metadata");
    assert!(to.request[0].remove && target.kind == header_to_metadata::ValueKind::Number);
    refused(kind(TO, json!({})), "typed_config.request_rules: invalid: there must be a rule here or in response_rules");
    refused(
        rule(json!({ "header": "x-a" })),
        "typed_config.request_rules[0]: invalid: needs one of on_header_present, on_header_missing",
    );
    refused(
        rule(json!({ "header": "x-a", "on_header_missing": present })),
        "typed_config.request_rules[0].on_header_missing.value: invalid: is required",
    );
    let rewritten = json!({ "key": "k", "value": "v",
        "regex_value_rewrite": { "pattern": { "regex": "a" }, "substitution": "b" } });
    refused(
        rule(json!({ "cookie": "c", "on_header_present": rewritten })),
        "typed_config.request_rules[0].on_header_present.regex_value_rewrite: invalid: excludes value; give one of them",
    );
}
