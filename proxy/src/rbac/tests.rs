use sidemesh_config::resource::http_filter::rbac::RbacPolicy;
use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::{Resource, decode};
use sidemesh_config::value::Cidr;
use sidemesh_proto::json::any_from_json;
use std::sync::Arc;

use super::*;

fn listener() -> Arc<Listener> {
    let json = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "e", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}],
    });
    match decode(&any_from_json(&json).expect("JSON of a listener")).result {
        Ok(Resource::Listener(listener)) => listener,
        other => panic!("no listener: {other:?}"),
    }
}

fn connection(remote: &str, server_name: Option<&str>) -> ConnectionInfo {
    let listener = listener();
    let local = "10.0.0.1:8443".parse().expect("an address");
    let remote = remote.parse().expect("an address");
    let start = (std::time::Instant::now(), std::time::SystemTime::UNIX_EPOCH);
    ConnectionInfo {
        server_name: server_name.map(Name::from),
        ..ConnectionInfo::new(1, start, listener.clone(), listener.chains[0].clone(), local, remote)
    }
}

fn rules(action: RbacAction, policies: Vec<(&str, Permission, Principal)>) -> Rbac {
    let policy = |(name, permission, principal): (&str, _, _)| RbacPolicy {
        name: name.into(),
        permissions: vec![permission],
        principals: vec![principal],
    };
    Rbac { action, policies: policies.into_iter().map(policy).collect() }
}

fn net(address: &str, prefix_len: u8) -> Cidr {
    Cidr { address: address.parse().expect("an address"), prefix_len }
}

#[test]
fn an_allow_list_lets_in_whom_a_policy_names() {
    let rules = rules(
        RbacAction::Allow,
        vec![("inside", Permission::DestinationPort(8443), Principal::SourceIp(net("10.0.0.0", 8)))],
    );
    let inside = connection("10.9.9.9:1", None);
    let verdict = evaluate(&rules, &Subject::of_connection(&inside));
    assert_eq!((verdict.allowed, verdict.policy.map(|p| &**p)), (true, Some("inside")));
    let outside = connection("11.0.0.1:1", None);
    let verdict = evaluate(&rules, &Subject::of_connection(&outside));
    assert_eq!((verdict.allowed, verdict.policy), (false, None));
}

#[test]
fn a_deny_list_keeps_out_whom_a_policy_names() {
    let name = Permission::RequestedServerName(StringMatcher::exact("admin.test"));
    let rules = rules(RbacAction::Deny, vec![("no-admin", name, Principal::Any)]);
    let admin = connection("10.0.0.2:1", Some("admin.test"));
    assert!(!evaluate(&rules, &Subject::of_connection(&admin)).allowed);
    let other = connection("10.0.0.2:1", Some("shop.test"));
    assert!(evaluate(&rules, &Subject::of_connection(&other)).allowed);
}

#[test]
fn authentication_needs_tls_and_request_rules_need_a_request() {
    let plain = connection("10.0.0.2:1", None);
    let subject = Subject::of_connection(&plain);
    let authenticated = rules(RbacAction::Allow, vec![("tls", Permission::Any, Principal::Authenticated(None))]);
    assert!(!evaluate(&authenticated, &subject).allowed);
    let path = Permission::UrlPath(StringMatcher::exact("/"));
    assert!(!evaluate(&rules(RbacAction::Allow, vec![("path", path, Principal::Any)]), &subject).allowed);
}

#[test]
fn rules_are_combined() {
    let both = Principal::All(vec![
        Principal::SourceIp(net("10.0.0.0", 8)),
        Principal::Not(Box::new(Principal::DirectRemoteIp(net("10.0.0.2", 32)))),
    ]);
    let rules = rules(
        RbacAction::Allow,
        vec![("x", Permission::AnyOf(vec![Permission::DestinationPortRange(8000..9000)]), both)],
    );
    assert!(evaluate(&rules, &Subject::of_connection(&connection("10.0.0.3:1", None))).allowed);
    assert!(!evaluate(&rules, &Subject::of_connection(&connection("10.0.0.2:1", None))).allowed);
}

#[test]
fn a_matching_tree_decides_and_what_it_does_not_find_is_refused() {
    let any = |message: &str, fields: serde_json::Value| {
        let mut config = fields;
        config["@type"] = format!("type.googleapis.com/{message}").into();
        serde_json::json!({"name": "x", "typed_config": config})
    };
    let input = any("envoy.extensions.matching.common_inputs.network.v3.SourceIPInput", serde_json::json!({}));
    let inside = any(
        "envoy.extensions.matching.input_matchers.ip.v3.Ip",
        serde_json::json!({"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}], "stat_prefix": "ip"}),
    );
    let action = any("envoy.config.rbac.v3.Action", serde_json::json!({"name": "inside", "action": "ALLOW"}));
    let matcher = serde_json::json!({"matcher_list": {"matchers": [{
        "predicate": {"single_predicate": {"input": input, "custom_match": inside}}, "on_match": {"action": action}}]}});
    let json = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
        "filter_chains": [{"filters": [
            {"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "r", "matcher": matcher, "delay_deny": "0.2s"}},
            {"name": "e", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}],
    });
    let Ok(Resource::Listener(listener)) = decode(&any_from_json(&json).expect("JSON of a listener")).result else {
        panic!("the listener is refused")
    };
    let sidemesh_config::resource::network_filter::NetworkFilter::Rbac(filter) = &listener.chains[0].filters[0] else {
        panic!("no RBAC filter")
    };
    let rules = filter.rules.as_ref().expect("a matcher");
    let inside = connection("10.1.2.3:1", None);
    let verdict = judge(rules, &Subject::of_connection(&inside));
    assert_eq!((verdict.allowed, verdict.policy.map(|p| &**p)), (true, Some("inside")));
    let outside = connection("11.1.2.3:1", None);
    assert!(!judge(rules, &Subject::of_connection(&outside)).allowed);
}
