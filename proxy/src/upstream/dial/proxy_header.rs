//! The PROXY protocol header in front of an upstream connection (haproxy's proxy-protocol.txt, versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use sidemesh_config::resource::tls::{ProxyProtocolVersion, UpstreamTransport};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A header's address and TLVs together hold at most this much.
const MAX_LENGTH: usize = u16::MAX as usize;

/// What the host is told of the client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// Client and the address it wanted; `None`: the connection is the proxy's own (health checks).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    pub tlvs: &'a [(u8, Bytes)],
}

/// The header's bytes.
pub fn encode(version: ProxyProtocolVersion, told: &Told<'_>, transport: &UpstreamTransport) -> Vec<u8> {
    match version {
        ProxyProtocolVersion::V1 => encode_v1(told).into_bytes(),
        ProxyProtocolVersion::V2 => encode_v2(told, transport),
    }
}

fn encode_v1(told: &Told<'_>) -> String {
    let Some((from, to)) = told.addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let (from_ip, to_ip) = same_family(from, to);
    let family = if from_ip.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from_ip} {to_ip} {} {}\r\n", from.port(), to.port())
}

/// Both addresses in one family: v4 where both are, else v6.
fn same_family(from: SocketAddr, to: SocketAddr) -> (IpAddr, IpAddr) {
    let (from, to) = (from.ip().to_canonical(), to.ip().to_canonical());
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    if from.is_ipv4() && to.is_ipv4() { (from, to) } else { (wide(from), wide(to)) }
}

fn encode_v2(told: &Told<'_>, transport: &UpstreamTransport) -> Vec<u8> {
    let mut rest = Vec::new();
    let (command, family) = match told.addresses {
        // LOCAL: the connection is the proxy's own.
        None => (0x20, 0x00),
        Some((from, to)) => {
            let (from_ip, to_ip) = same_family(from, to);
            for ip in [from_ip, to_ip] {
                match ip {
                    IpAddr::V4(v4) => rest.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => rest.extend_from_slice(&v6.octets()),
                }
            }
            rest.extend_from_slice(&from.port().to_be_bytes());
            rest.extend_from_slice(&to.port().to_be_bytes());
            (0x21, if from_ip.is_ipv4() { 0x11 } else { 0x21 })
        }
    };
    if command == 0x21 {
        put_tlvs(&mut rest, told, transport);
    }
    let mut header = Vec::with_capacity(16 + rest.len());
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&[command, family]);
    header.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    header.extend_from_slice(&rest);
    header
}

/// The TLVs that the configuration adds, then those of the client's own header that it passes on; as many as fit.
fn put_tlvs(out: &mut Vec<u8>, told: &Told<'_>, transport: &UpstreamTransport) {
    let UpstreamTransport::ProxyProtocol { pass_all_tlvs, pass_tlvs, added_tlvs, .. } = transport else { return };
    let added = added_tlvs.iter().map(|(kind, value)| (*kind, &value[..]));
    let passed = told
        .tlvs
        .iter()
        .filter(|(kind, _)| *pass_all_tlvs || pass_tlvs.contains(kind))
        .filter(|(kind, _)| !added_tlvs.iter().any(|(own, _)| own == kind))
        .map(|(kind, value)| (*kind, &value[..]));
    for (kind, value) in added.chain(passed) {
        if value.len() > MAX_LENGTH || out.len() + 3 + value.len() > MAX_LENGTH {
            tracing::debug!(kind, length = value.len(), "a TLV does not fit into the PROXY header and is left out");
            continue;
        }
        out.push(kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
}
