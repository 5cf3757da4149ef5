//! The resources of the test: two hops in one proxy, so that every type is in use.
//!
//! `front` (plain, RDS) → cluster `loop` (TLS, its client certificate and CA over SDS) → `secure` (TLS, its certificate and CA over
//! SDS, scoped routes, a filter over ECDS) → cluster `backend` (EDS) → the origins. A route asks the runtime layer `live` (RTDS).

use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use sidemesh_tests::proxy::{address, http2_cluster, typed};
use sidemesh_tests::{ports, proxy};

const TYPES: &str = "type.googleapis.com/";

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    pub fn leaf(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("a name"))];
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a leaf").pem(), key.serialize_pem())
    }
}

/// How the proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub aggregated: bool,
    pub delta: bool,
}

impl Way {
    fn api(self) -> Value {
        json!({"api_type": if self.delta { "DELTA_GRPC" } else { "GRPC" }, "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]})
    }

    fn source(self) -> Value {
        let mut source = json!({"resource_api_version": "V3"});
        match self.aggregated {
            true => source["ads"] = json!({}),
            false => source["api_config_source"] = self.api(),
        }
        source
    }
}

pub struct World {
    pub way: Way,
    pub front: SocketAddr,
    secure: SocketAddr,
    pub server: SocketAddr,
    authorities: [Authority; 2],
    leaves: [(String, String); 2],
}

/// What changes from round to round.
pub struct Round<'a> {
    pub number: usize,
    pub endpoints: &'a [SocketAddr],
}

impl World {
    pub fn new(way: Way) -> World {
        let authorities = ["first", "second"].map(Authority::new);
        let leaves = [authorities[0].leaf("hop.test"), authorities[1].leaf("hop.test")];
        World { way, front: ports::free(), secure: ports::free(), server: ports::free(), authorities, leaves }
    }

    /// The start-up file; the server is verified with the first authority.
    pub fn bootstrap(&self) -> Value {
        let mut server = http2_cluster("xds", self.server);
        server["transport_socket"] = self.towards("xds.test", &json!({"validation_context": {
            "trusted_ca": {"inline_string": self.authorities[0].pem()}, "match_typed_subject_alt_names": [dns("xds.test")]}}));
        let mut bootstrap = proxy::fixed(&[], &[server]);
        bootstrap["dynamic_resources"] = json!({"lds_config": self.way.source(), "cds_config": self.way.source()});
        if self.way.aggregated {
            bootstrap["dynamic_resources"]["ads_config"] = self.way.api();
        }
        bootstrap["layered_runtime"] =
            json!({"layers": [{"name": "live", "rtds_layer": {"name": "live", "rtds_config": self.way.source()}}]});
        bootstrap
    }

    /// The server's certificate and key.
    pub fn server_identity(&self) -> (String, String) {
        self.authorities[0].leaf("xds.test")
    }

    /// Everything, by type URL.
    pub fn resources(&self, round: &Round<'_>) -> Value {
        json!({
            format!("{TYPES}envoy.config.cluster.v3.Cluster"): self.clusters(round),
            format!("{TYPES}envoy.config.endpoint.v3.ClusterLoadAssignment"): [load_assignment(round.endpoints)],
            format!("{TYPES}envoy.config.listener.v3.Listener"): self.listeners(round),
            format!("{TYPES}envoy.config.route.v3.RouteConfiguration"): [
                self.front_table(round),
                table("inner", &inner_routes(), "x-round", round)],
            format!("{TYPES}envoy.config.route.v3.VirtualHost"): [{"name": "front/late.test", "domains": ["late.test"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "late"}}}]}],
            format!("{TYPES}envoy.config.route.v3.ScopedRouteConfiguration"): [{"name": "scope", "route_configuration_name": "inner",
                "key": {"fragments": [{"string_key": "tenant"}]}}],
            format!("{TYPES}envoy.extensions.transport_sockets.tls.v3.Secret"): self.secrets(round),
            format!("{TYPES}envoy.config.core.v3.TypedExtensionConfig"): [{"name": "mark", "typed_config": typed(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", json!({"mutations": {"response_mutations": [
                    {"append": {"header": {"key": "x-extension", "value": round.number.to_string()}}}]}}))}],
            format!("{TYPES}envoy.service.runtime.v3.Runtime"): [{"name": "live", "layer": {
                "test.beta": if round.number.is_multiple_of(2) { 100 } else { 0 }}}],
        })
    }

    /// Of `a.test` alone; over delta other hosts come on demand.
    fn front_table(&self, round: &Round<'_>) -> Value {
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "loop"}}]);
        let mut front = table("front", &routes, "x-front", round);
        front["virtual_hosts"][0]["domains"] = json!(["a.test"]);
        if self.way.delta {
            let mut source = self.way.source();
            source["initial_fetch_timeout"] = json!("1s");
            front["vhds"] = json!({"config_source": source});
        }
        front
    }

    fn clusters(&self, round: &Round<'_>) -> Value {
        let mut through = proxy::cluster("loop", &[self.secure]);
        through["connect_timeout"] = json!(format!("{}s", 2 + round.number / 5));
        through["transport_socket"] = self.towards(
            "hop.test",
            &json!({
            "tls_certificate_sds_secret_configs": [{"name": "hop", "sds_config": self.way.source()}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [dns("hop.test")]},
                "validation_context_sds_secret_config": {"name": "roots", "sds_config": self.way.source()}}}),
        );
        // A changed cluster warms again, with its endpoints.
        json!([through, {"name": "backend", "type": "EDS", "connect_timeout": format!("{}s", 2 + round.number / 3),
            "eds_cluster_config": {"eds_config": self.way.source()}}])
    }

    fn listeners(&self, round: &Round<'_>) -> Value {
        let source = self.way.source();
        let router = json!({"name": "envoy.filters.http.router",
            "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({}))});
        let on_demand = json!({"name": "on-demand",
            "typed_config": typed("envoy.extensions.filters.http.on_demand.v3.OnDemand", json!({}))});
        let front = manager(
            "front",
            &json!({"rds": {"route_config_name": "front", "config_source": source}, "http_filters": [on_demand, router]}),
        );
        let scoped = json!({"name": "scoped", "rds_config_source": source, "scoped_rds": {"scoped_rds_config_source": source},
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "x-scope", "element_separator": ",", "index": 0}}]}});
        // The whole chain is another one from the seventh round on: its connections drain.
        let prefix = if round.number < 7 { "secure" } else { "secure-changed" };
        let secure = manager(
            prefix,
            &json!({"scoped_routes": scoped, "http_filters": [
            {"name": "mark", "config_discovery": {"config_source": source,
                "type_urls": [format!("{TYPES}envoy.extensions.filters.http.header_mutation.v3.HeaderMutation")]}}, router]}),
        );
        let tls = json!({"name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", json!({
            "require_client_certificate": true, "common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": "hop", "sds_config": source}],
                "validation_context_sds_secret_config": {"name": "roots", "sds_config": source}}}))});
        json!([{"name": "front", "address": address(self.front), "filter_chains": [{"filters": [front]}]},
            {"name": "secure", "address": address(self.secure), "filter_chains": [{"filters": [secure], "transport_socket": tls}]}])
    }

    /// Leaves of one authority and of the other by turns; both are trusted.
    fn secrets(&self, round: &Round<'_>) -> Value {
        let (chain, key) = &self.leaves[round.number % 2];
        let roots: String = self.authorities.iter().map(Authority::pem).collect();
        json!([{"name": "hop", "tls_certificate": {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}},
            {"name": "roots", "validation_context": {"trusted_ca": {"inline_string": roots}}}])
    }

    fn towards(&self, name: &str, common: &Value) -> Value {
        let context = json!({"sni": name, "common_tls_context": common});
        json!({"name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context)})
    }
}

fn dns(name: &str) -> Value {
    json!({"san_type": "DNS", "matcher": {"exact": name}})
}

fn load_assignment(endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|a| json!({"endpoint": {"address": address(*a)}})).collect();
    json!({"cluster_name": "backend", "endpoints": [{"lb_endpoints": endpoints}]})
}

fn inner_routes() -> Value {
    let fraction = json!({"default_value": {"numerator": 0}, "runtime_key": "test.beta"});
    json!([
        {"match": {"path": "/beta", "runtime_fraction": fraction}, "direct_response": {"status": 200, "body": {"inline_string": "on"}}},
        {"match": {"path": "/beta"}, "direct_response": {"status": 200, "body": {"inline_string": "off"}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "backend", "retry_policy": {"retry_on": "connect-failure"}}},
    ])
}

fn table(name: &str, routes: &Value, mark: &str, round: &Round<'_>) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        "response_headers_to_add": [{"header": {"key": mark, "value": round.number.to_string()}}]})
}

fn manager(prefix: &str, fields: &Value) -> Value {
    let mut config = fields.clone();
    config["stat_prefix"] = json!(prefix);
    json!({"name": "http", "typed_config":
        typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", config)})
}
