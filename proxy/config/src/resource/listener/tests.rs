use serde_json::{Value, json};
use sidemesh_proto::envoy::config::listener::v3::Listener as Wire;

use super::{ConnectionView, Listener, ListenerFilter, parse};

fn read(mut value: Value) -> Result<Listener, String> {
    value["name"] = json!("l");
    value["address"] = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 8443 } });
    let message =
        sidemesh_proto::json::parse::<Wire>("envoy.config.listener.v3.Listener", &value).expect("well-formed");
    parse(&message).map_err(|r| r.to_string())
}

fn chain(name: &str, matcher: Value) -> Value {
    json!({ "name": name, "filter_chain_match": matcher, "filters": [{ "name": "e", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } }] })
}

fn listener(chains: Vec<Value>, with_default: bool) -> Listener {
    let mut value = json!({ "filter_chains": chains });
    if with_default {
        value["default_filter_chain"] = chain("default", json!({}));
    }
    read(value).expect("valid")
}

const RAW: ConnectionView<'static> = ConnectionView {
    destination: None,
    source: None,
    direct_source: None,
    server_name: "",
    transport_protocol: "raw_buffer",
    application_protocols: &[],
};

fn from(source: &str) -> ConnectionView<'static> {
    let source = Some(source.parse().expect("an address"));
    ConnectionView {
        source,
        direct_source: source,
        destination: Some("127.0.0.1:8443".parse().expect("an address")),
        ..RAW
    }
}

fn tls(server_name: &str) -> ConnectionView<'_> {
    ConnectionView { server_name, transport_protocol: "tls", ..from("127.0.0.1:1") }
}

fn chosen<'a>(listener: &'a Listener, view: &ConnectionView<'_>) -> &'a str {
    listener.choose(view).map_or("refused", |c| &c.name)
}

#[test]
fn server_names_exact_then_longest_wildcard() {
    let chains = || {
        vec![
            chain("exact", json!({ "server_names": ["a.Site.test"] })),
            chain("wild", json!({ "server_names": ["*.site.test"] })),
            chain("deep", json!({ "server_names": ["*.deep.site.test"] })),
        ]
    };
    let l = listener(chains(), false);
    for (name, expected) in [
        ("a.site.test", "exact"),
        ("b.site.test", "wild"),
        ("x.deep.site.test", "deep"),
        ("deep.site.test", "wild"),
        ("site.test", "refused"),
        ("other.test", "refused"),
        ("", "refused"),
    ] {
        assert_eq!(chosen(&l, &tls(name)), expected, "{name}");
    }
    assert_eq!(chosen(&listener(chains(), true), &tls("site.test")), "default");
    assert!(matches!(l.listener_filters[..], [ListenerFilter::TlsInspector]), "asked for by the criteria");
}

#[test]
fn transport_and_application_protocol_and_source() {
    let l = listener(
        vec![
            chain("tls-h1", json!({ "transport_protocol": "tls", "application_protocols": ["http/1.1"] })),
            chain("tls", json!({ "transport_protocol": "tls" })),
            chain(
                "src24",
                json!({ "transport_protocol": "raw_buffer",
                "source_prefix_ranges": [{ "address_prefix": "127.0.5.0", "prefix_len": 24 }] }),
            ),
            chain(
                "src32",
                json!({ "transport_protocol": "raw_buffer",
                "source_prefix_ranges": [{ "address_prefix": "127.0.5.9", "prefix_len": 32 }] }),
            ),
        ],
        true,
    );
    assert_eq!(chosen(&l, &tls("s")), "tls");
    assert_eq!(chosen(&l, &ConnectionView { application_protocols: &["x", "http/1.1"], ..tls("s") }), "tls-h1");
    assert_eq!(chosen(&l, &from("127.0.0.1:5")), "default");
    assert_eq!(chosen(&l, &from("127.0.5.1:5")), "src24");
    assert_eq!(chosen(&l, &from("127.0.5.9:5")), "src32");
    assert_eq!(chosen(&l, &from("[::ffff:127.0.5.9]:5")), "src32", "a mapped address is its IPv4 self");
}

#[test]
fn the_most_specific_entry_is_final() {
    let l = listener(
        vec![chain("port", json!({ "destination_port": 8443, "source_ports": [7] })), chain("any", json!({}))],
        true,
    );
    assert_eq!(chosen(&l, &from("127.0.0.1:7")), "port");
    assert_eq!(chosen(&l, &from("127.0.0.1:8")), "default", "the chain for any port is out of the question");
    assert_eq!(chosen(&l, &RAW), "any");
}

#[test]
fn source_types() {
    let l = listener(
        vec![
            chain("local", json!({ "source_type": "SAME_IP_OR_LOOPBACK" })),
            chain("external", json!({ "source_type": "EXTERNAL" })),
        ],
        false,
    );
    assert_eq!(chosen(&l, &from("127.0.0.9:1")), "local");
    assert_eq!(chosen(&l, &from("10.0.0.9:1")), "external");
}

#[test]
fn refusals_name_the_chain() {
    let refused = |chains: Vec<Value>, expected: &str| {
        assert_eq!(read(json!({ "filter_chains": chains })).expect_err("must be refused"), expected);
    };
    refused(
        vec![
            chain("a", json!({ "server_names": ["a.test"] })),
            chain("b", json!({ "server_names": ["b.test", "A.test"] })),
        ],
        "filter_chains[1].filter_chain_match: invalid: matches the same connections as filter_chains[0]",
    );
    refused(
        vec![chain("a", json!({ "server_names": ["*a.test"] }))],
        "filter_chains[0].filter_chain_match.server_names[0]: invalid: `*a.test` must be a name or `*.` and a name",
    );
    refused(vec![], "filter_chains: invalid: must hold at least one filter chain");
    let mut open = chain("a", json!({}));
    open["filters"] = json!([{ "name": "s", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster" } }]);
    refused(vec![open], "filter_chains[0].filters[0]: invalid: `s` cannot be the last filter: nothing would answer");
}

#[test]
fn names_for_statistics() {
    assert_eq!(&*listener(vec![chain("a", json!({}))], false).stat_prefix, "127.0.0.1_8443");
}

#[test]
fn listener_filters() {
    let with = |filter: Value| read(json!({ "filter_chains": [chain("a", json!({}))], "listener_filters": [filter] }));
    let limit = |bucket: Value| {
        json!({ "name": "l", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "s", "token_bucket": bucket } })
    };
    let limited = with(limit(json!({ "max_tokens": 2, "fill_interval": "1s" }))).expect("valid");
    let [ListenerFilter::LocalRateLimit(config)] = limited.listener_filters.as_slice() else { panic!("{limited:?}") };
    assert_eq!((&*config.stat_prefix, config.bucket.max_tokens, config.bucket.tokens_per_fill), ("s", 2, 1));
    assert_eq!(
        with(limit(json!({ "max_tokens": 0, "fill_interval": "1s" }))).expect_err("no tokens"),
        "listener_filters[0].typed_config.token_bucket.max_tokens: invalid: max_tokens and tokens_per_fill must be at least 1"
    );
    let inspector = json!({ "name": "t", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        "enable_ja3_fingerprinting": true } });
    assert_eq!(
        with(inspector).expect_err("no fingerprints"),
        "listener_filters[0].typed_config.enable_ja3_fingerprinting: not supported: leave it out"
    );
}

#[test]
fn a_matcher_names_the_chain() {
    let input = |name: &str| {
        json!({ "name": "i", "typed_config":
            { "@type": format!("type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{name}") } })
    };
    let to = |chain: &str| {
        json!({ "action": { "name": "a", "typed_config":
            { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": chain } } })
    };
    let by_port = json!({ "matcher": { "matcher_list": { "matchers": [{ "predicate": { "single_predicate": {
        "input": input("DestinationPortInput"), "value_match": { "exact": "443" } } }, "on_match": to("b") }] } } });
    let map = json!({ "10.0.0.1": to("a"), "10.0.0.2": by_port, "10.0.0.3": to("nobody") });
    let matcher = json!({ "matcher_tree": { "input": input("SourceIPInput"), "exact_match_map": { "map": map } } });
    let mut value = json!({ "filter_chain_matcher": matcher, "filter_chains": [chain("a", json!({})), chain("b", json!({}))],
        "default_filter_chain": chain("rest", json!({})) });
    let listener = read(value.clone()).expect("valid");
    let chosen = |source: &str, port: u16| {
        let view = ConnectionView { destination: Some(([127, 0, 0, 1], port).into()), ..from(source) };
        listener.choose(&view).map(|c| c.name.to_string())
    };
    assert_eq!(chosen("10.0.0.1:9", 80).as_deref(), Some("a"));
    assert_eq!(chosen("10.0.0.2:9", 443).as_deref(), Some("b"), "a tree in the tree");
    assert_eq!(chosen("10.0.0.2:9", 80).as_deref(), Some("rest"), "which finds nothing");
    assert_eq!(chosen("10.0.0.3:9", 80), None, "a chain that is not there");
    assert_eq!(chosen("10.0.0.9:9", 80).as_deref(), Some("rest"));
    value["filter_chains"][1]["name"] = json!("a");
    let error = read(value).expect_err("two of a name");
    assert!(error.contains("filter_chains[1].name"), "{error}");
}
