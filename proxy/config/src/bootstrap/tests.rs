use std::time::Duration;

use sidemesh_proto::type_url;

use super::{Bootstrap, RuntimeOrigin};
use crate::resource::access_log::AccessLogSink;
use crate::value::{ConfigOrigin, Fraction, Runtime, RuntimeValue, name};

const DYNAMIC: &str = r#"
node: { id: a, cluster: shop, locality: { region: r, zone: z }, metadata: { role: web } }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }, access_log_path: /dev/null }
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
  lds_config: { ads: {}, resource_api_version: V3 }
  cds_config: { ads: {}, initial_fetch_timeout: 3s }
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: xds
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }]
layered_runtime:
  layers:
  - name: base
    static_layer: { a: { b: 1, c: true }, d: x, f: { numerator: 5, denominator: MILLION } }
  - name: admin
    admin_layer: {}
  - name: discovered
    rtds_layer: { name: rtds, rtds_config: { ads: {} } }
stats_flush_interval: 5s
"#;

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(Bootstrap::parse(text, "b.yaml").expect_err("must be refused").to_string(), expected);
}

#[test]
fn reads_a_dynamic_bootstrap() {
    let read = Bootstrap::parse(DYNAMIC, "b.yaml").expect("valid");
    assert_eq!((&*read.node.id, &*read.node.cluster, &*read.node.locality.zone), ("a", "shop", "z"));
    assert_eq!(read.node.metadata["role"], "web");
    let admin = read.admin.as_ref().expect("given");
    assert_eq!(admin.address.to_string(), "127.0.0.1:9901");
    assert!(matches!(&admin.access_logs[0].sink, AccessLogSink::File { path, .. } if path.as_os_str() == "/dev/null"));
    let ads = read.dynamic.ads.as_ref().expect("given");
    assert!(!ads.delta && ads.set_node_on_first_message_only && &*ads.services[0].cluster == "xds");
    let clusters = read.dynamic.clusters.as_ref().expect("given");
    assert_eq!((&clusters.origin, clusters.initial_fetch_timeout), (&ConfigOrigin::Ads, Duration::from_secs(3)));
    assert_eq!(read.static_names(type_url::CLUSTER).collect::<Vec<_>>(), [&name("xds")]);
    assert_eq!(read.hints.iter().map(|h| h.path.as_str()).collect::<Vec<_>>(), ["stats_flush_interval"]);
}

#[test]
fn flattens_runtime_layers() {
    let read = Bootstrap::parse(DYNAMIC, "b.yaml").expect("valid");
    let RuntimeOrigin::Static(base) = &read.runtime[0].origin else { panic!("{:?}", read.runtime[0]) };
    let runtime = Runtime::merge([base]);
    assert_eq!(runtime.number("a.b"), Some(1.0));
    assert_eq!(runtime.boolean("a.c"), Some(true));
    assert_eq!(runtime.entries.get("d"), Some(&RuntimeValue::Text(name("x"))));
    assert_eq!(runtime.fraction("f"), Some(Fraction { numerator: 5, denominator: 1_000_000 }));
    assert_eq!(read.runtime[1].origin, RuntimeOrigin::Admin);
    assert!(matches!(&read.runtime[2].origin, RuntimeOrigin::Discovered { resource, .. } if &**resource == "rtds"));
}

#[test]
fn reads_json_and_an_empty_file() {
    let read = Bootstrap::parse(r#"{"node": {"id": "a"}}"#, "b.json").expect("valid");
    assert_eq!(&*read.node.id, "a");
    assert!(Bootstrap::parse("node: {id: a}", "b.yaml").expect("valid").admin.is_none());
    let empty = Bootstrap::parse("", "b.yaml").expect_err("must fail").to_string();
    assert!(empty.contains("b.yaml: it is empty"), "{empty}");
}

#[test]
fn names_the_file_and_the_field() {
    refused("a: [", "b.yaml: did not find expected node content at line 2 column 1, while parsing a flow node");
    refused("[]", "b.yaml: expected a bootstrap: a mapping of fields such as `static_resources`");
    refused(
        "static_resources: { clusters: [{ nam: a }] }",
        "b.yaml: static_resources.clusters[0].nam: envoy.config.cluster.v3.Cluster has no field `nam`; did you mean `name`?",
    );
    refused(
        "static_resources: { listeners: [{ api_listener: {} }] }",
        "b.yaml: static_resources.listeners[0].api_listener: not supported: field `api_listener` of \
         envoy.config.listener.v3.Listener is not supported",
    );
    refused(
        "tracing: {}",
        "b.yaml: tracing: not supported: field `tracing` of envoy.config.bootstrap.v3.Bootstrap is not supported: \
         deprecated; configure tracing in the connection manager",
    );
}

#[test]
fn checks_what_the_start_needs() {
    refused(
        "dynamic_resources: { lds_config: { ads: {} } }",
        "b.yaml: dynamic_resources.lds_config: invalid: names ADS, but ads_config is not given",
    );
    refused(
        "dynamic_resources: { ads_config: { api_type: GRPC, grpc_services: [{ envoy_grpc: { cluster_name: x } }] } }",
        "b.yaml: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: invalid: cluster `x` is not in \
         static_resources.clusters",
    );
    refused(
        "cluster_manager: { local_cluster_name: x }",
        "b.yaml: cluster_manager.local_cluster_name: invalid: cluster `x` is not in static_resources.clusters",
    );
    refused(
        "static_resources: { clusters: [{ name: a }, { name: a }] }",
        "b.yaml: static_resources.clusters[1].name: invalid: `a` is also the name of static_resources.clusters[0]",
    );
    refused(
        "admin: { address: { socket_address: { address: here, port_value: 1 } } }",
        "b.yaml: admin.address.socket_address.address: invalid: `here` is no IP address",
    );
    refused(
        "layered_runtime: { layers: [{ name: a, static_layer: { b: [1] } }] }",
        "b.yaml: layered_runtime.layers[0].static_layer.b: invalid: must be a boolean, a number, a text or a fraction",
    );
}

#[test]
fn stats_have_tags_and_a_matcher() {
    let text = "
node: { id: n, cluster: c }
static_resources: {}
stats_config:
  stats_tags: [{ tag_name: env, fixed_value: prod }, { tag_name: p, regex: '^http(?=\\.).*?\\.((fr[a-z]*)\\.)' }]
  stats_matcher: { exclusion_list: { patterns: [{ suffix: _5xx }] } }
";
    let read = Bootstrap::parse(text, "b.yaml").expect("valid");
    assert!(read.stats.default_tags && read.stats.tags.len() == 2);
    assert!(read.stats.matcher.admits("http.a.downstream_rq_2xx") && !read.stats.matcher.admits("a_5xx"));
    let text = text.replace("fixed_value: prod", "regex: prod");
    let error = Bootstrap::parse(&text, "b.yaml").expect_err("a tag without a group").to_string();
    assert_eq!(error, "b.yaml: stats_config.stats_tags[0].regex: invalid: must have a group");
}
