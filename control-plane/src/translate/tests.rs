use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use sidemesh_proto::type_url;

use super::*;
use crate::model::document;
use crate::translate::node::Inbound;

fn model(documents: &str) -> Arc<Model> {
    let mut model = Model { revision: 7, ..Model::default() };
    for text in documents.split("\n---\n") {
        let document = document::parse(text, "").unwrap_or_else(|e| panic!("{e:?} in {text}"));
        model.apply(&document.key, Some(&document.body)).unwrap_or_else(|e| panic!("{e:?} in {text}"));
    }
    Arc::new(model)
}

fn mesh(documents: &str) -> Mesh {
    Mesh::new(model(documents), Settings { trust_domain: "mesh.test".into() })
}

fn shop() -> Mesh {
    mesh(include_str!("golden/shop.yaml"))
}

fn node(flavor: Flavor) -> Node {
    Node {
        id: "order-0".into(),
        namespace: "default".into(),
        service: "order".into(),
        service_account: "order".into(),
        version: "v1".into(),
        user_agent: String::new(),
        flavor,
        outbound: BTreeMap::new(),
        outbound_given: false,
        inbound: Vec::new(),
        egress: Vec::new(),
        access_log: None,
        join_token: None,
    }
}

fn with_outbound(mut node: Node, list: &[(&str, u16, &str)]) -> Node {
    node.outbound_given = true;
    for (service, port, at) in list {
        node.outbound.insert((Name::new("default", *service), *port), at.parse().expect("address"));
    }
    node
}

/// All resources as protobuf JSON: `{type: {name: resource}}`.
fn printed(resources: &Resources) -> Value {
    let mut types = Map::new();
    for (type_url, set) in resources {
        let print = |r: &Resource| sidemesh_proto::json::any_to_json(&r.body).expect("printable");
        let set: Map<String, Value> = set.iter().map(|(name, r)| (name.clone(), print(r))).collect();
        if !set.is_empty() {
            types.insert(type_url.rsplit('.').next().unwrap_or("").to_owned(), Value::Object(set));
        }
    }
    Value::Object(types)
}

/// Compares with a file beside `shop.yaml`; `UPDATE_GOLDEN=1` writes it anew.
fn golden(name: &str, resources: &Resources) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/translate/golden").join(name);
    let now = format!("{}\n", serde_json::to_string_pretty(&printed(resources)).expect("json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).expect("golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != now {
        let diff = similar::TextDiff::from_lines(&expected, &now);
        panic!("{name} differs (UPDATE_GOLDEN=1 accepts it):\n{}", diff.unified_diff());
    }
}

#[test]
fn sidecar_with_addresses_of_its_own() {
    let mut node = with_outbound(
        node(Flavor::Sidecar),
        &[
            ("product", 8080, "127.0.0.1:15081"),
            ("nothing", 80, "127.0.0.1:15082"),
            ("user", 8080, "127.0.0.1:15083"),
            ("greeter", 50051, "127.0.0.1:15084"),
            ("database", 5432, "127.0.0.1:15085"),
        ],
    );
    let (listen, app) = ("127.0.0.1:20009".parse().expect("address"), "127.0.0.1:9009".parse().expect("address"));
    node.inbound.push(Inbound { listen, app, port: 8080 });
    golden("sidecar.json", &shop().for_node(&node));
}

#[test]
fn sidecar_on_cluster_addresses_within_its_egress_list() {
    let mut node = node(Flavor::SidecarSds);
    node.egress = vec!["database".into(), "legacy.default".into()];
    golden("cluster-ip.json", &shop().for_node(&node));
}

#[test]
fn grpc_client() {
    let mut node = node(Flavor::Grpc);
    node.egress = vec!["greeter".into(), "product".into()];
    golden("grpc.json", &shop().for_node(&node));
}

/// The proxy refuses what it does not implement: nothing of what is sent to it may be among that.
#[test]
fn our_own_proxy_supports_every_field_that_is_sent() {
    let mut node =
        with_outbound(node(Flavor::Sidecar), &[("product", 8080, "127.0.0.1:1"), ("legacy", 80, "127.0.0.1:2")]);
    for (i, (service, port)) in [("database", 5432), ("user", 8080), ("greeter", 50051)].into_iter().enumerate() {
        let address = format!("127.0.0.1:{}", i + 3).parse().expect("address");
        node.outbound.insert((Name::new("default", service), port), address);
    }
    let (listen, app) = ("127.0.0.1:20009".parse().expect("address"), "127.0.0.1:9009".parse().expect("address"));
    node.inbound.push(Inbound { listen, app, port: 8080 });
    for (type_url, set) in shop().for_node(&node) {
        for (name, resource) in set {
            let checked = sidemesh_config::support::check(type_url, &resource.body.value);
            assert!(checked.is_ok(), "{name}: {checked:?}");
        }
    }
}

#[test]
fn the_same_input_gives_the_same_versions() {
    let node = with_outbound(
        node(Flavor::Sidecar),
        &[("product", 8080, "127.0.0.1:15081"), ("legacy", 80, "127.0.0.1:15083")],
    );
    let hashes =
        || -> Vec<u64> { shop().for_node(&node).values().flat_map(|set| set.values().map(|r| r.hash)).collect() };
    let first = hashes();
    assert!((0..20).all(|_| hashes() == first));
}

#[test]
fn what_may_not_be_reached_is_refused_by_name() {
    let mut node = with_outbound(node(Flavor::Sidecar), &[("product", 8080, "127.0.0.1:15081")]);
    node.egress = vec!["user".into()];
    let resources = shop().for_node(&node);
    assert!(!resources[type_url::CLUSTER].keys().any(|name| name.starts_with("outbound|")));
    let text = printed(&resources)["RouteConfiguration"].to_string();
    assert!(text.contains("egress_denied: product.default is not in the egress list of order-0"), "{text}");
}

/// The routes that clients of a service of the shop get.
fn routes_of(service: &str, port: u16) -> Vec<Value> {
    let node = with_outbound(node(Flavor::Sidecar), &[(service, port, "127.0.0.1:1")]);
    let printed = printed(&shop().for_node(&node));
    let table = &printed["RouteConfiguration"][format!("outbound|{port}|{service}.default")];
    table["virtual_hosts"][0]["routes"].as_array().expect("routes").clone()
}

#[test]
fn filters_of_single_backends_become_routes_with_shares() {
    let routes = routes_of("user", 8080);
    // Retries differ by method, so each of the two backends has two routes.
    let vault: Vec<&Value> = routes.iter().filter(|r| r["match"]["path_separated_prefix"] == "/vault").collect();
    let shares: Vec<Option<u64>> =
        vault.iter().map(|r| r["match"]["runtime_fraction"]["default_value"]["numerator"].as_u64()).collect();
    assert_eq!(shares, [Some(750_000), Some(750_000), None, None], "{vault:#?}");
    assert_eq!(vault[0]["route"]["cluster"], "outbound|80|vault.safe", "allowed by the grant");
    assert_eq!(vault[0]["route"]["regex_rewrite"]["substitution"], "/open");
    assert_eq!(vault[2]["route"]["request_mirror_policies"][0]["cluster"], "outbound|8080|product-v1.default");
    assert_eq!(vault[0]["route"]["retry_policy"]["retriable_status_codes"], serde_json::json!([500, 503]));
    let closed = routes.iter().find(|r| r["match"]["path_separated_prefix"] == "/closed").expect("a route");
    assert!(closed.to_string().contains("backend_not_permitted"), "{closed:#}");
}

#[test]
fn calls_are_matched_by_service_and_method_and_last_as_long_as_their_callers_say() {
    let routes = routes_of("greeter", 50051);
    let paths: Vec<&Value> = routes.iter().map(|r| &r["match"]).collect();
    assert_eq!(paths.len(), 3, "calls are POST, so one route each");
    assert_eq!(paths[0]["path"], "/shop.Greeter/Greet");
    assert_eq!(paths[1]["prefix"], "/shop.Greeter/");
    assert_eq!(paths[2]["safe_regex"]["regex"], "/[^/]+/(?:Say.*)");
    for route in &routes {
        assert_eq!(route["route"]["timeout"], "0s");
        assert_eq!(route["route"]["max_stream_duration"]["grpc_timeout_header_max"], "0s");
    }
}

#[test]
fn connections_are_spread_by_weight_and_those_to_nowhere_are_closed() {
    let node = with_outbound(node(Flavor::Sidecar), &[("database", 5432, "127.0.0.1:1")]);
    let printed = printed(&shop().for_node(&node));
    let listener = &printed["Listener"]["outbound|5432|database.default"];
    let clusters = &listener["filter_chains"][0]["filters"][0]["typed_config"]["weighted_clusters"]["clusters"];
    assert_eq!(clusters[0], serde_json::json!({"name": "outbound|5432|database.default", "weight": 9}));
    assert_eq!(clusters[1], serde_json::json!({"name": "unresolved-backend", "weight": 1}));
}

#[test]
fn grpc_routes_go_before_http_routes_of_the_same_port() {
    let route = |kind: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]"
        )
    };
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, name: grpc}}]}}"
        )
    };
    let documents = [service("a"), service("b"), service("c"), route("HTTPRoute", "b"), route("GRPCRoute", "c")];
    let node = with_outbound(node(Flavor::Sidecar), &[("a", 80, "127.0.0.1:1")]);
    let resources = mesh(&documents.join("\n---\n")).for_node(&node);
    let clusters: Vec<&String> = resources[type_url::CLUSTER].keys().collect();
    assert_eq!(clusters, ["outbound|80|c.default"]);
}

/// The cluster of a service whose one endpoint has no sidecar, with a BackendTLSPolicy that trusts this ConfigMap.
fn cluster_with_tls(authorities: &str) -> (Value, usize) {
    let documents = [
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 443, name: web}]}".to_owned(),
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\n\
         addressType: IPv4\nports: [{name: web, port: 8443}]\nendpoints: [{addresses: [10.0.0.1]}]"
            .to_owned(),
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": authorities}})
            .to_string(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: a}\nspec:\n  \
         targetRefs: [{group: '', kind: Service, name: a, sectionName: web}]\n  \
         validation: {hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}"
            .to_owned(),
    ];
    let node = with_outbound(node(Flavor::Sidecar), &[("a", 443, "127.0.0.1:1")]);
    let printed = printed(&mesh(&documents.join("\n---\n")).for_node(&node));
    let endpoints =
        printed["ClusterLoadAssignment"]["outbound|443|a.default"]["endpoints"].as_array().map_or(0, Vec::len);
    (printed["Cluster"]["outbound|443|a.default"]["transport_socket"]["typed_config"].clone(), endpoints)
}

#[test]
fn endpoints_without_a_sidecar_are_reached_over_tls_where_a_policy_says_so() {
    let key = rcgen::KeyPair::generate().expect("key");
    let root = rcgen::CertificateParams::default().self_signed(&key).expect("certificate").pem();
    let (context, endpoints) = cluster_with_tls(&root);
    assert_eq!((context["sni"].as_str(), endpoints), (Some("a.example"), 1));
    let validation = &context["common_tls_context"]["validation_context"];
    assert_eq!(validation["match_typed_subject_alt_names"][0]["matcher"]["exact"], "a.example");
    assert!(validation["trusted_ca"]["inline_string"].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")));
    let (_, endpoints) = cluster_with_tls("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
    assert_eq!(endpoints, 0, "nobody to trust: no answer rather than one from anybody");
}

/// The names of the routes of product, in order.
fn order_of(rules: &str) -> Vec<String> {
    let documents = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: product}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: product}}]\n  rules:\n{rules}"
    );
    let node = with_outbound(node(Flavor::Grpc), &[]);
    let resources = mesh(&documents).for_node(&node);
    let table = printed(&resources)["RouteConfiguration"]["outbound|80|product.default"].clone();
    let routes = table["virtual_hosts"][0]["routes"].as_array().expect("routes").clone();
    routes.iter().map(|r| r["name"].as_str().unwrap_or("").trim_start_matches("default/r/").to_owned()).collect()
}

#[test]
fn the_most_specific_match_comes_first() {
    let backend = "backendRefs: [{name: product, port: 80}]";
    let rules = [
        "matches: [{path: {value: /}}, {path: {value: /a/long}}, {path: {value: /a}}]",
        "matches: [{path: {type: Exact, value: /a}}]",
        "matches: [{path: {value: /a}, headers: [{name: h, value: v}]}, {path: {value: /a}, method: PUT}]",
        "matches: [{path: {value: /a}, queryParams: [{name: q, value: v}]}]",
    ];
    let text: String = rules.iter().map(|r| format!("  - {r}\n    {backend}\n")).collect();
    let expected = [
        "rules[1]/matches[0]",
        "rules[0]/matches[1]",
        "rules[2]/matches[1]",
        "rules[2]/matches[0]",
        "rules[3]/matches[0]",
        "rules[0]/matches[2]",
        "rules[0]/matches[0]",
    ];
    assert_eq!(order_of(&text), expected);
}

#[test]
fn node_metadata_is_read_strictly() {
    use sidemesh_proto::envoy::config::core::v3 as core;
    use sidemesh_proto::google::{Struct, Value as Field, value::Kind};
    let text = |s: &str| Field { kind: Some(Kind::StringValue(s.into())) };
    let object = |list: Vec<(&str, Field)>| Field {
        kind: Some(Kind::StructValue(Struct { fields: list.into_iter().map(|(k, v)| (k.to_owned(), v)).collect() })),
    };
    let parse = |ours: Field| {
        let Some(Kind::StructValue(metadata)) = object(vec![("sidemesh", ours)]).kind else { unreachable!() };
        let node =
            core::Node { id: "n".into(), cluster: "order".into(), metadata: Some(metadata), ..Default::default() };
        node::parse(&node)
    };
    let good = parse(object(vec![("outbound", object(vec![("product.shop:80", text("127.0.0.1:1"))]))])).expect("good");
    assert_eq!(good.outbound.keys().next(), Some(&(Name::new("shop", "product"), 80)));
    assert_eq!((good.service.as_str(), good.service_account.as_str()), ("order", "order"));
    let bad = parse(object(vec![("outbuond", text("x"))])).expect_err("unknown key");
    assert_eq!(bad[0].path, "node.metadata.sidemesh.outbuond");
    let bad = parse(object(vec![("outbound", object(vec![("product", text("127.0.0.1:1"))]))])).expect_err("no port");
    assert_eq!(bad[0].path, "node.metadata.sidemesh.outbound.product");
}
