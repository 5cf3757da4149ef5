//! The PROXY protocol header, versions 1 and 2, as a pure parser ("The PROXY protocol", haproxy.org, sections 2.1 and 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

/// The longest version 1 header, with its line end.
const MAX_V1_BYTES: usize = 107;
/// Signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const V2_HEAD_BYTES: usize = 16;
const PP2_TYPE_NOOP: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: Version,
    /// Source and destination; `None`: the connection's own (LOCAL, UNKNOWN).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    pub tlvs: Vec<(u8, Bytes)>,
    /// How many bytes the header takes.
    pub length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    Header(Header),
    /// More bytes are needed.
    Partial,
    /// The bytes begin something else.
    Absent,
}

/// Reads the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let n = bytes.len().min(SIGNATURE.len());
    if bytes[..n] == SIGNATURE[..n] {
        return if bytes.len() < V2_HEAD_BYTES { Ok(Parsed::Partial) } else { parse_v2(bytes) };
    }
    let n = bytes.len().min(6);
    if bytes[..n] != b"PROXY "[..n] {
        return Ok(Parsed::Absent);
    }
    let window = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    match window.windows(2).position(|w| w == b"\r\n") {
        Some(end) => parse_v1(&bytes[..end]).map(Parsed::Header),
        None if window.len() == MAX_V1_BYTES => Err("a version 1 header without a line end"),
        None => Ok(Parsed::Partial),
    }
}

/// Whether a version 1 header has come to its line's end, be it good or not.
pub fn has_line(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(MAX_V1_BYTES)].windows(2).any(|w| w == b"\r\n")
}

fn parse_v1(line: &[u8]) -> Result<Header, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "a version 1 header that is no text")?;
    let header = |addresses| Header { version: Version::V1, addresses, tlvs: Vec::new(), length: line.len() + 2 };
    let mut parts = text.split(' ').skip(1);
    let v6 = match parts.next() {
        Some("UNKNOWN") => return Ok(header(None)),
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => return Err("a version 1 header of an unknown protocol family"),
    };
    let mut ip = || -> Option<IpAddr> { parts.next()?.parse().ok().filter(|ip: &IpAddr| ip.is_ipv6() == v6) };
    let (source, destination) = (ip(), ip());
    let mut port = || -> Option<u16> { parts.next()?.parse().ok() };
    let (source_port, destination_port) = (port(), port());
    match (source, destination, source_port, destination_port, parts.next()) {
        (Some(source), Some(destination), Some(sp), Some(dp), None) => {
            Ok(header(Some((SocketAddr::new(source, sp), SocketAddr::new(destination, dp)))))
        }
        _ => Err("a version 1 header with bad addresses"),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let length = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if bytes[12] >> 4 != 2 {
        return Err("a header of an unknown version");
    }
    if bytes.len() < length {
        return Ok(Parsed::Partial);
    }
    let rest = &bytes[V2_HEAD_BYTES..length];
    let header = |addresses, tlvs| Header { version: Version::V2, addresses, tlvs, length };
    match bytes[12] & 0xf {
        0 => return Ok(Parsed::Header(header(None, Vec::new()))),
        1 => {}
        _ => return Err("a version 2 header of an unknown command"),
    }
    let (addresses, used) = match bytes[13] {
        // Datagrams are told of like streams, as in Envoy.
        0x11 | 0x12 => (Some(v4(rest).ok_or("a version 2 header that is too short for IPv4")?), 12),
        0x21 | 0x22 => (Some(v6(rest).ok_or("a version 2 header that is too short for IPv6")?), 36),
        _ => return Err("a version 2 header of a family that is not IP"),
    };
    Ok(Parsed::Header(header(addresses, tlvs(rest.get(used..).unwrap_or_default())?)))
}

fn v4(b: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(b.get(at..at + 4)?).ok()?)));
    Some((SocketAddr::new(ip(0)?, port(b, 8)?), SocketAddr::new(ip(4)?, port(b, 10)?)))
}

fn v6(b: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(b.get(at..at + 16)?).ok()?)));
    Some((SocketAddr::new(ip(0)?, port(b, 32)?), SocketAddr::new(ip(16)?, port(b, 34)?)))
}

fn port(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

fn tlvs(mut rest: &[u8]) -> Result<Vec<(u8, Bytes)>, &'static str> {
    let mut tlvs = Vec::new();
    while let [kind, high, low, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(content) = value.get(..length) else { return Err("a version 2 header with a cut-off TLV") };
        if *kind != PP2_TYPE_NOOP {
            tlvs.push((*kind, Bytes::copy_from_slice(content)));
        }
        rest = &value[length..];
    }
    if rest.is_empty() { Ok(tlvs) } else { Err("a version 2 header with a cut-off TLV") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> Header {
        match parse(bytes) {
            Ok(Parsed::Header(header)) => header,
            other => panic!("no header: {other:?}"),
        }
    }

    #[test]
    fn version_1_names_both_ends() {
        let h = header(b"PROXY TCP4 10.1.2.3 10.9.9.9 1111 80\r\nGET /");
        assert_eq!(h.addresses, Some(("10.1.2.3:1111".parse().unwrap(), "10.9.9.9:80".parse().unwrap())));
        assert_eq!(h.length, 38);
        let h = header(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
        assert_eq!(h.addresses.unwrap().0, "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(header(b"PROXY UNKNOWN ignored words\r\n").addresses, None);
    }

    #[test]
    fn version_2_carries_addresses_and_tlvs() {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x21, 0x11, 0, 12 + 5, 10, 1, 2, 4, 10, 9, 9, 9, 4, 210, 0, 80, 0xea, 0, 2, b'h', b'i']);
        let h = header(&bytes);
        assert_eq!(h.addresses, Some(("10.1.2.4:1234".parse().unwrap(), "10.9.9.9:80".parse().unwrap())));
        assert_eq!(h.tlvs, [(0xea, Bytes::from_static(b"hi"))]);
        assert_eq!(h.length, bytes.len());
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]), Ok(Parsed::Partial), "cut at {n}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_from_what_is_broken() {
        assert_eq!(parse(b"GET / HTTP/1.1"), Ok(Parsed::Absent));
        assert_eq!(parse(b"PRO"), Ok(Parsed::Partial));
        assert!(parse(b"PROXY NONSENSE\r\n").is_err());
        assert!(parse(b"PROXY TCP4 ::1 10.0.0.1 1 2\r\n").is_err());
        assert!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()).is_err());
        let mut cut = SIGNATURE.to_vec();
        cut.extend([0x21, 0x11, 0, 13, 10, 1, 2, 4, 10, 9, 9, 9, 4, 210, 0, 80, 0xea]);
        assert!(parse(&cut).is_err());
    }
}
