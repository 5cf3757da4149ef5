use serde_json::{Value, json};

use super::strict::FieldError;
use super::*;

fn parse(text: &str) -> Result<document::Document, Vec<FieldError>> {
    let document = document::parse(text, "")?;
    typed(&document.key, &document.body)?;
    Ok(document)
}

/// The document is refused, with exactly these `path: …part of the message` pairs.
fn refused(text: &str, expected: &[(&str, &str)]) {
    let errors = parse(text).map(drop).expect_err("refused");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), expected.len(), "{shown:#?}");
    for (error, (path, part)) in errors.iter().zip(expected) {
        assert_eq!(error.path, *path, "{shown:#?}");
        assert!(error.message.contains(part), "{shown:#?}");
    }
}

fn model(documents: &str) -> Model {
    let mut model = Model::default();
    for text in documents.split("\n---\n") {
        let document = parse(text).unwrap_or_else(|e| panic!("{e:?} in {text}"));
        model.apply(&document.key, Some(&document.body)).expect("valid");
    }
    model
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: product}
spec:
  parentRefs: [{group: '', kind: Service, name: product, port: 8080}]
  rules:
";

#[test]
fn what_every_object_needs_is_checked() {
    refused("{\"kind\": \"Service\"", &[("", "not JSON")]);
    refused("kind: Pod\nmetadata: {name: a}", &[("kind", "use one of Namespace, MeshConfig, Service")]);
    refused("apiVersion: v2\nkind: Service\nmetadata: {name: a}", &[("apiVersion", "use v1")]);
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: Prod_1, namespace: -x, lables: {}, labels: {a: 1}}",
        &[
            ("metadata.name", "RFC 1123 label"),
            ("metadata.namespace", "RFC 1123 label"),
            ("metadata.lables", "unknown field"),
            ("metadata.labels.a", "put it in quotes"),
        ],
    );
}

#[test]
fn unknown_fields_are_named_with_their_path() {
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, tragetPort: 8080}], selektor: {}}",
        &[("spec.ports[0].tragetPort", "unknown field"), ("spec.selektor", "unknown field")],
    );
    refused(
        &format!("{ROUTE}  - backendRefs: [{{name: a, port: 80, wieght: 3}}]"),
        &[("spec.rules[0].backendRefs[0].wieght", "unknown field")],
    );
    refused(
        "apiVersion: sidemesh.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {targetRef: {kind: Service, name: a}, retries: {atempts: 2}}",
        &[("spec.retries.atempts", "unknown field")],
    );
    refused(
        &format!("{ROUTE}  - backendRefs: [{{name: a, port: eighty}}]"),
        &[("spec.rules[0].backendRefs[0].port", "invalid type")],
    );
}

#[test]
fn values_are_checked_with_a_cure() {
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {sessionAffinity: ClientIP, ports: [{port: 80}, {port: 80, name: b}, {port: 0, name: c}]}",
        &[
            ("spec.sessionAffinity", "TrafficPolicy"),
            ("spec.ports[1].port", "there twice"),
            ("spec.ports[2].port", "use 1 to 65535"),
            ("spec.ports[0].name", "needs a name"),
        ],
    );
    refused(
        &format!(
            "{ROUTE}  - matches: [{{path: {{value: shop}}, headers: [{{name: 'a b', value: x}}]}}]\n    timeouts: {{request: 10, backendRequest: 1s}}\n"
        ),
        &[("spec.rules[0].timeouts.request", "invalid type")],
    );
    refused(
        &format!(
            "{ROUTE}  - matches: [{{path: {{value: shop}}, headers: [{{name: 'a b', value: x}}]}}]\n    timeouts: {{request: 10sec}}\n    backendRefs: [{{name: a, port: 99999, weight: -1}}]"
        ),
        &[
            ("spec.rules[0].matches[0].path.value", "write /shop"),
            ("spec.rules[0].matches[0].headers[0].name", "not a header name"),
            ("spec.rules[0].backendRefs[0].port", "use 1 to 65535"),
            ("spec.rules[0].backendRefs[0].weight", "use 0 to 1000000"),
            ("spec.rules[0].timeouts.request", "write for example 250ms"),
        ],
    );
    refused(
        &format!(
            "{ROUTE}  - filters: [{{type: ExtensionRef}}, {{type: RequestRedirect}}, {{type: CORS, cors: {{allowOrigins: [shop]}}}}]\n    matches: [{{path: {{type: RegularExpression, value: '/a('}}}}]"
        ),
        &[
            ("spec.rules[0].matches[0].path.value", "not a regular expression"),
            ("spec.rules[0].filters[0].type", "not supported"),
            ("spec.rules[0].filters[1].requestRedirect", "missing"),
            ("spec.rules[0].filters[2].cors.allowOrigins[0]", "write it as https://"),
        ],
    );
}

#[test]
fn ports_of_a_service_are_told_apart() {
    refused("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}", &[("spec.ports", "at least one")]);
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, name: b}, {port: 81, name: b}]}",
        &[("spec.ports[1].name", "there twice")],
    );
    refused("apiVersion: v1\nkind: Service\nmetadata: {name: a, name: b}", &[("", "duplicate")]);
    refused("apiVersion: v1\nkind: Service\nmetadata: {name: 12}", &[("metadata.name", "put it in quotes")]);
}

#[test]
fn routes_of_every_kind_are_checked() {
    let route = |version: &str, kind: &str, rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules: [{rule}]"
        )
    };
    let call = "{matches: [{method: {service: a/b, type: Exact}}, {method: {}}], backendRefs: [{name: a, prot: 80}]}";
    refused(&route("v1", "GRPCRoute", call), &[("spec.rules[0].backendRefs[0].prot", "unknown field")]);
    refused(
        &route("v1", "GRPCRoute", &call.replace("prot", "port")),
        &[
            ("spec.rules[0].matches[0].method.service", "separate fields"),
            ("spec.rules[0].matches[1].method", "give service, method, or both"),
        ],
    );
    refused(&route("v1", "TCPRoute", "{backendRefs: []}, {backendRefs: []}"), &[("spec.rules", "at most 1")]);
    let sticky = "{sessionPersistence: {sessionName: a}, retry: {codes: [200], attempts: 99}}";
    refused(
        &route("v1", "HTTPRoute", sticky),
        &[
            ("spec.rules[0].sessionPersistence", "TrafficPolicy"),
            ("spec.rules[0].retry.codes[0]", "use 400 to 599"),
            ("spec.rules[0].retry.attempts", "use 0 to 10"),
        ],
    );
    let older = parse(&route("v1beta1", "HTTPRoute", "{backendRefs: [{name: a, port: 80}]}")).expect("the same fields");
    assert_eq!(older.body["apiVersion"], "gateway.networking.k8s.io/v1", "stored in one version");
    refused(&route("v2", "HTTPRoute", "{}"), &[("apiVersion", "use gateway.networking.k8s.io/v1")]);
}

#[test]
fn a_grant_lets_routes_of_its_kind_and_namespace_in() {
    let route = format!("{}  - backendRefs: [{{name: vault, namespace: safe, port: 80}}]", ROUTE.trim_start());
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: vault, namespace: safe}\nspec: {ports: [{port: 80}]}";
    let reason = |from: &str, to: &str, namespace: &str| {
        let grant = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {namespace}}}\n\
             spec: {{from: [{from}], to: [{to}]}}"
        );
        let model = model(&format!("{}\n---\n{service}\n---\n{grant}\n---\n{route}", SHOP.trim_start()));
        let route = model.routes.values().next().expect("route");
        conditions(&status::of_route(&model, route, None, "now").expect("new"))[1].clone()
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}";
    let to = "{group: '', kind: Service}";
    assert_eq!(reason(from, to, "safe"), "ResolvedRefs=True ResolvedRefs");
    assert_eq!(reason(from, "{group: '', kind: Service, name: vault}", "safe"), "ResolvedRefs=True ResolvedRefs");
    let refused = "ResolvedRefs=False RefNotPermitted";
    assert_eq!(reason(from, to, "default"), refused, "not in the Service's namespace");
    assert_eq!(reason(from, "{group: '', kind: Service, name: other}", "safe"), refused);
    assert_eq!(reason(&from.replace("default", "other"), to, "safe"), refused);
    assert_eq!(reason(&from.replace("HTTPRoute", "GRPCRoute"), to, "safe"), refused);
}

#[test]
fn tls_policies_say_what_they_lack() {
    let policy = |name: &str, created: &str, target: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, creationTimestamp: '{created}-01-01T00:00:00Z'}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, {target}}}]\n  \
             validation: {{hostname: a.example, caCertificateRefs: [{{group: '', kind: ConfigMap, name: none}}]}}"
        )
    };
    let conditions_of = |policies: &[String]| {
        let model = model(&format!("{}\n---\n{}", SHOP.trim_start(), policies.join("\n---\n")));
        let policy = &model.backend_tls[&Name::new("default", "one")];
        let status = status::of_backend_tls(&model, policy, None, "now").expect("new");
        conditions(&json!({ "parents": status["ancestors"] }))
    };
    let no_map = conditions_of(&[policy("one", "2026", "name: product")]);
    assert_eq!(no_map, ["Accepted=False NoValidCACertificate", "ResolvedRefs=False InvalidCACertificateRef"]);
    let no_port = conditions_of(&[policy("one", "2026", "name: product, sectionName: dns")]);
    assert_eq!(no_port[0], "Accepted=False TargetNotFound");
    let older = [policy("one", "2026", "name: product"), policy("two", "2025", "name: product")];
    assert_eq!(conditions_of(&older)[0], "Accepted=False Conflicted");
    refused(
        &policy("one", "2026", "name: product").replace("kind: ConfigMap", "kind: Secret"),
        &[("spec.validation.caCertificateRefs[0].kind", "use a ConfigMap")],
    );
}

#[test]
fn an_http_route_beside_a_grpc_route_says_that_it_is_not_used() {
    let route = format!("{}  - backendRefs: [{{name: product, port: 8080}}]", ROUTE.trim_start());
    let calls = route.replace("HTTPRoute", "GRPCRoute");
    let model = model(&format!("{}\n---\n{route}\n---\n{calls}", SHOP.trim_start()));
    let accepted = |kind: Kind| {
        let route = &model.routes[&Key { kind, name: Name::new("default", "product") }];
        conditions(&status::of_route(&model, route, None, "now").expect("new"))[0].clone()
    };
    assert_eq!(accepted(Kind::HttpRoute), "Accepted=False Conflicted");
    assert_eq!(accepted(Kind::GrpcRoute), "Accepted=True Accepted");
}

#[test]
fn routes_attach_to_ports_that_speak_their_protocol() {
    let route = ROUTE.trim_start().replace("HTTPRoute", "TCPRoute").replace("/v1", "/v1alpha2");
    let model = model(&format!("{}\n---\n{route}  - backendRefs: [{{name: product, port: 8080}}]", SHOP.trim_start()));
    let route = model.routes.values().next().expect("route");
    let status = status::of_route(&model, route, None, "now").expect("new");
    assert_eq!(conditions(&status)[0], "Accepted=False NoMatchingParent");
    assert!(status.to_string().contains("use an HTTPRoute"), "{status}");
}

#[test]
fn policies_know_their_target() {
    refused(
        "apiVersion: sidemesh.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}\n  circuitBreaker: {maxRequests: 0}\n  retries: {on: [often], attempts: 11}\n  loadBalancing: {algorithm: RingHash}",
        &[
            ("spec.loadBalancing", "belongs to a Service"),
            ("spec.circuitBreaker", "belongs to a Service"),
            ("spec.loadBalancing.hashOn", "RingHash needs something to hash"),
            ("spec.circuitBreaker.maxRequests", "use 1 to"),
            ("spec.retries.on[0]", "use 5xx, gateway-error"),
            ("spec.retries.attempts", "use 0 to 10"),
        ],
    );
}

#[test]
fn kubectl_habits() {
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let later = now + std::time::Duration::from_secs(60);
    let document = |replicas: u64, label: &str| json!({ "kind": "Service", "metadata": { "name": "a", "labels": { "l": label } }, "spec": { "n": replicas } });
    let created = admit::admit(None, &document(1, "x"), now).expect("new");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    let mut stored = created.clone();
    stored["metadata"]["resourceVersion"] = json!("5");
    stored["status"] = json!({ "ours": true });
    assert_eq!(admit::admit(Some(&stored), &document(1, "x"), later), None, "nothing changed");
    let relabelled = admit::admit(Some(&stored), &document(1, "y"), later).expect("changed");
    assert_eq!(relabelled["metadata"]["generation"], 1, "labels are not spec");
    assert_eq!(relabelled["status"], json!({ "ours": true }));
    let mut with_status = document(2, "x");
    with_status["status"] = json!({ "ours": false });
    let changed = admit::admit(Some(&stored), &with_status, later).expect("changed");
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(changed["metadata"]["creationTimestamp"], created["metadata"]["creationTimestamp"]);
    assert_eq!(changed["status"], json!({ "ours": true }), "status is not the user's");
}

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: product}
spec: {selector: {app: product}, ports: [{name: http, port: 8080, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: product-v2}
spec: {selector: {app: product, version: v2}, ports: [{port: 8080, targetPort: 9000}]}
---
apiVersion: sidemesh.dev/v1alpha1
kind: Workload
metadata: {name: one}
spec: {service: product, version: v1, address: 10.0.0.1, ports: [{port: 9000, name: web, endpointPort: 20000}]}
---
apiVersion: sidemesh.dev/v1alpha1
kind: Workload
metadata: {name: two}
spec: {service: product, version: v2, address: 10.0.0.2, ports: [{port: 9000, name: web}]}
---
apiVersion: sidemesh.dev/v1alpha1
kind: Workload
metadata: {name: three}
spec: {service: product, version: v2, address: 10.0.0.3, ready: false, ports: [{port: 9000, name: web}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: product}}
addressType: IPv4
ports: [{name: http, port: 9000}]
endpoints:
- {addresses: [10.0.0.2]}
- {addresses: [10.0.0.3]}
- {addresses: [10.0.0.9]}
- {addresses: [10.0.0.8], conditions: {ready: false}}";

#[test]
fn endpoints_come_from_ready_workloads_and_slices_each_address_once() {
    let model = model(SHOP.trim_start());
    let list = |service: &str| -> Vec<(String, bool)> {
        let service = &model.services[&Name::new("default", service)];
        let found = model.endpoints(service, &service.ports[0]);
        found.into_iter().map(|e| (e.address.to_string(), e.mesh)).collect()
    };
    let expected = [("10.0.0.1:20000", true), ("10.0.0.2:9000", true), ("10.0.0.9:9000", false)];
    assert_eq!(list("product"), expected.map(|(a, m)| (a.to_owned(), m)));
    assert_eq!(list("product-v2"), [("10.0.0.2:9000".to_owned(), true)]);
}

fn conditions(status: &Value) -> Vec<String> {
    let parents = status["parents"].as_array().expect("parents");
    let all = parents.iter().flat_map(|p| p["conditions"].as_array().expect("conditions"));
    all.map(|c| format!("{}={} {}", c["type"], c["status"], c["reason"]).replace('"', "")).collect()
}

#[test]
fn route_status_has_the_gateway_apis_reasons() {
    let cases = [
        ("product-v2", "", ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]),
        ("ghost", "", ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]),
        ("product-v2", ", kind: Bucket", ["Accepted=True Accepted", "ResolvedRefs=False InvalidKind"]),
        ("product-v2", ", namespace: other", ["Accepted=True Accepted", "ResolvedRefs=False RefNotPermitted"]),
    ];
    for (backend, more, expected) in cases {
        let route = format!("{}  - backendRefs: [{{name: {backend}, port: 8080{more}}}]", ROUTE.trim_start());
        let model = model(&format!("{}\n---\n{route}", SHOP.trim_start()));
        let route = model.routes.values().next().expect("route");
        let status = status::of_route(&model, route, None, "2026-01-01T00:00:00Z").expect("new");
        assert_eq!(conditions(&status), expected, "{backend}{more}");
        let again = status::of_route(&model, route, Some(&status), "2026-02-02T00:00:00Z");
        assert_eq!(again, None, "nothing changed, and the transition time stays");
    }
    let orphan = format!(
        "{}  - backendRefs: [{{name: product, port: 8080}}]",
        ROUTE.trim_start().replace("name: product, port", "name: none, port")
    );
    let model = model(&orphan);
    let route = model.routes.values().next().expect("route");
    let status = status::of_route(&model, route, None, "now").expect("new");
    assert_eq!(conditions(&status)[0], "Accepted=False NoMatchingParent");
}

#[test]
fn egress_lists() {
    let product = Name::new("shop", "product");
    for (list, namespace, expected) in [
        (vec![], "x", true),
        (vec!["product"], "shop", true),
        (vec!["product"], "x", false),
        (vec!["product.shop"], "x", true),
        (vec!["*.shop"], "x", true),
        (vec!["*"], "x", true),
        (vec!["user.shop", "*.other"], "shop", false),
    ] {
        let list: Vec<String> = list.into_iter().map(str::to_owned).collect();
        assert_eq!(workload::may_reach(&list, namespace, &product), expected, "{list:?} from {namespace}");
    }
}
