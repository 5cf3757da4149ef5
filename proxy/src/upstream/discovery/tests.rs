use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use sidemesh_config::resource::cluster::{Discovery, DnsConfig, DnsFamily};
use sidemesh_config::value::{Address, name};

use super::dns::{Known, expand, pause};
use super::resolve::resolve;
use crate::upstream::tests::config;

fn dns() -> DnsConfig {
    let cluster =
        config(&json!({ "name": "c", "type": "STRICT_DNS", "dns_refresh_rate": "5s", "respect_dns_ttl": true,
        "dns_failure_refresh_rate": { "base_interval": "1s", "max_interval": "8s" },
        "load_assignment": { "cluster_name": "c", "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": { "socket_address": { "address": "a.test", "port_value": 80 } } } },
            { "endpoint": { "address": { "socket_address": { "address": "10.0.0.9", "port_value": 81 } } } },
        ] }] } }));
    match cluster.discovery {
        Discovery::StrictDns(dns) => dns,
        other => panic!("{other:?}"),
    }
}

fn addresses(known: &Known, logical: bool) -> Vec<String> {
    let expanded = expand(&dns().assignment, known, logical);
    expanded.localities[0].endpoints.iter().map(|e| e.address.to_string()).collect()
}

#[test]
fn names_become_their_addresses() {
    let ips: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let known = Known::from([(name("a.test"), ips)]);
    assert_eq!(addresses(&known, false), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:81"]);
    assert_eq!(addresses(&known, true), ["10.0.0.1:80", "10.0.0.9:81"]);
    assert_eq!(addresses(&Known::new(), false), ["10.0.0.9:81"]);
    let expanded = expand(&dns().assignment, &known, false);
    assert_eq!(&*expanded.localities[0].endpoints[0].hostname, "a.test");
    assert!(matches!(dns().assignment.localities[0].endpoints[0].address, Address::Dns { .. }));
}

#[test]
fn the_next_look_depends_on_what_the_last_one_gave() {
    let config = dns();
    let most = |bound| bound;
    assert_eq!(pause(&config, 0, None, most), Duration::from_secs(5));
    assert_eq!(pause(&config, 0, Some(Duration::from_secs(2)), most), Duration::from_secs(2));
    let failing: Vec<_> = (1..6).map(|n| pause(&config, n, None, most).as_millis()).collect();
    assert_eq!(failing, [999, 1999, 3999, 7999, 7999]);
}

#[tokio::test]
async fn the_hosts_file_is_read_and_addresses_stand_for_themselves() {
    let found = resolve("localhost", DnsFamily::V4Only, &[]).await.expect("localhost");
    assert_eq!(found.addresses, [IpAddr::from([127, 0, 0, 1])]);
    let found = resolve("10.1.2.3", DnsFamily::Auto, &[]).await.expect("an address");
    assert_eq!(found.addresses, [IpAddr::from([10, 1, 2, 3])]);
}
