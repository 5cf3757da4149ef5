//! Host names to addresses, with the system's configuration (resolv.conf, the hosts file) or given servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use sidemesh_config::resource::cluster::DnsFamily;

/// Addresses and for how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    pub ttl: Option<Duration>,
}

/// Looks `host` up once. The files are read and the servers asked each time: the caller's refresh rate is the cache.
pub async fn resolve(host: &str, family: DnsFamily, servers: &[SocketAddr]) -> Result<Resolved, String> {
    if let Ok(address) = host.parse() {
        return Ok(Resolved { addresses: vec![address], ttl: None });
    }
    let resolver = resolver(family, servers).map_err(|e| e.to_string())?;
    let asked = tokio::time::Instant::now().into_std();
    let found = resolver.lookup_ip(host).await.map_err(|e| e.to_string())?;
    let ttl = found.valid_until().saturating_duration_since(asked);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.iter() {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(Resolved { addresses, ttl: (!ttl.is_zero()).then_some(ttl) })
}

fn resolver(family: DnsFamily, servers: &[SocketAddr]) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let name_servers = servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        });
        let config = ResolverConfig::from_name_servers(name_servers.collect());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = match family {
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv6AndIpv4,
    };
    builder.build()
}
