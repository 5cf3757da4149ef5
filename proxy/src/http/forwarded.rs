//! Who is calling: `x-forwarded-for`/`-proto`/`-port`, trusted hops, internal and edge requests, `x-forwarded-client-cert`,
//! `via`, `user-agent`, and the `x-envoy-*` headers that only internal callers may send.
//!
//! The order of the steps is Envoy's ("HTTP header sanitizing" and "x-forwarded-for" in its documentation). Pure: headers and
//! facts of the connection in, headers and [`Caller`] out. Request ids are made in [`super::request_id`].

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT, VIA};
use sidemesh_config::format::TlsPart;
use sidemesh_config::resource::http_connection_manager::{
    ForwardClientCert, HttpConnectionManager, IpDetection, XffDetection,
};
use smallvec::SmallVec;

use super::names::*;
use crate::codec::Scheme;
use crate::connection::ConnectionInfo;

/// What the headers and the connection say about the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The trusted client address.
    pub address: SocketAddr,
    pub internal: bool,
    /// Ours is the first trusted hop of an outside caller.
    pub edge: bool,
    pub scheme: Scheme,
    /// The request may have come with an id.
    pub identified: bool,
}

const TRUE: HeaderValue = HeaderValue::from_static("true");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Removed from requests of callers that are not internal.
const INTERNAL_ONLY: [HeaderName; 14] = [
    X_ENVOY_RETRIABLE_STATUS_CODES,
    X_ENVOY_RETRIABLE_HEADER_NAMES,
    X_ENVOY_RETRY_ON,
    X_ENVOY_RETRY_GRPC_ON,
    X_ENVOY_MAX_RETRIES,
    X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    X_ENVOY_FORCE_TRACE,
    X_ENVOY_IP_TAGS,
    X_ENVOY_ORIGINAL_URL,
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
];

/// The configuration demands an address that the request does not tell: the status it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown(pub u16);

/// Brings the request's headers in order and tells who calls. `named` is the scheme that the request's own target names.
pub fn apply(
    headers: &mut HeaderMap,
    hcm: &HttpConnectionManager,
    connection: &ConnectionInfo,
    node: &crate::worker::Node,
    internal_only: &[HeaderName],
    named: Option<Scheme>,
) -> Result<Caller, Unknown> {
    let present = Present::of(headers);
    if present.te {
        clean_hop_by_hop(headers);
    }
    if present.envoy {
        headers.remove(X_ENVOY_INTERNAL);
    }
    let tls = connection.is_tls();
    if hcm.append_x_forwarded_port && !hcm.use_remote_address && !headers.contains_key(X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(connection.local.port()));
    }
    let (address, checks) = if hcm.use_remote_address {
        edge_address(headers, hcm, connection)
    } else {
        inner_address(headers, hcm, connection, present)?
    };
    let told = present.forwarded_proto && headers.contains_key(X_FORWARDED_PROTO);
    if !told && !hcm.use_remote_address {
        headers.insert(X_FORWARDED_PROTO, if tls { HTTPS } else { HTTP });
    }
    let scheme = scheme_of(headers, hcm, tls, named, told);
    let internal = checks
        && match &hcm.internal_addresses {
            Some(ranges) => ranges.iter().any(|r| r.contains(address.ip())),
            None => false,
        };
    let edge = !internal && hcm.use_remote_address;
    if internal {
        headers.insert(X_ENVOY_INTERNAL, TRUE);
    } else if present.envoy || !internal_only.is_empty() {
        sanitize(headers, edge, internal_only);
    }
    if hcm.add_user_agent {
        add_user_agent(headers, node);
    }
    if let Some(via) = &hcm.via {
        append_joined(headers, VIA, via.as_bytes(), ", ");
    }
    if edge {
        insert_ip(headers, X_ENVOY_EXTERNAL_ADDRESS, address.ip());
    }
    client_cert(headers, hcm, connection, present);
    Ok(Caller { address, internal, edge, scheme, identified: present.request_id })
}

/// Headers about one hop; the codecs have taken `connection` and its kin already.
fn clean_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(te) = headers.get(TE) {
        let trailers = te.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().split(';').next() == Some("trailers")));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// With `use_remote_address`: the peer, or what trusted proxies in front of us say; our peer is appended.
fn edge_address(
    headers: &mut HeaderMap,
    hcm: &HttpConnectionManager,
    connection: &ConnectionInfo,
) -> (SocketAddr, bool) {
    let checks = !headers.contains_key(X_FORWARDED_FOR);
    let hops = hcm.xff_num_trusted_hops;
    let trusted = if hops > 0 { last_address(headers, hops - 1).map(|(a, _)| a) } else { None };
    if !hcm.skip_xff_append {
        append_peer(headers, connection.remote.ip());
    }
    if hops == 0 || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, if connection.is_tls() { HTTPS } else { HTTP });
    }
    if hcm.append_x_forwarded_port && (hops == 0 || !headers.contains_key(X_FORWARDED_PORT)) {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(connection.local.port()));
    }
    (trusted.map_or(connection.remote, |ip| SocketAddr::new(ip, 0)), checks)
}

/// Without it: what `x-forwarded-for` says, or another sign that the configuration names, if it says anything valid.
fn inner_address(
    headers: &mut HeaderMap,
    hcm: &HttpConnectionManager,
    connection: &ConnectionInfo,
    present: Present,
) -> Result<(SocketAddr, bool), Unknown> {
    let mut found = None;
    if hcm.ip_detection.is_empty() && present.forwarded_for {
        found = last_address(headers, hcm.xff_num_trusted_hops);
    }
    for detection in &hcm.ip_detection {
        found = match detection {
            IpDetection::Xff(xff) => {
                let found = detected_address(headers, xff, connection.remote.ip());
                if !xff.skip_append {
                    append_peer(headers, connection.remote.ip());
                }
                found
            }
            IpDetection::Header(h) => {
                let ip = headers.get(&h.header).and_then(|v| parse_ip(v.to_str().ok()?));
                match (ip, h.refusal) {
                    (None, Some(status)) => return Err(Unknown(status)),
                    (ip, _) => ip.map(|ip| (ip, h.trusted)),
                }
            }
        };
        if found.is_some() {
            break;
        }
    }
    Ok(match found {
        Some((ip, checks)) => (SocketAddr::new(ip, 0), checks),
        None => (connection.remote, false),
    })
}

/// The `skip`-th address of `x-forwarded-for` counted from its end, and whether it was the only one.
fn last_address(headers: &HeaderMap, skip: u32) -> Option<(IpAddr, bool)> {
    let text = joined(headers)?;
    let only = !text.contains(',');
    let mut rest = text.as_str();
    for _ in 0..skip {
        rest = &rest[..rest.rfind(',')?];
    }
    let last = rest.rsplit(',').next().unwrap_or(rest);
    parse_ip(last.trim()).map(|ip| (ip, only))
}

fn detected_address(headers: &HeaderMap, detection: &XffDetection, peer: IpAddr) -> Option<(IpAddr, bool)> {
    if detection.trusted_cidrs.is_empty() {
        return last_address(headers, detection.trusted_hops);
    }
    let trusted = |ip: IpAddr| detection.trusted_cidrs.iter().any(|c| c.contains(ip));
    if !trusted(peer) {
        return None;
    }
    let text = joined(headers)?;
    let mut found = None;
    for part in text.rsplit(',') {
        let ip = parse_ip(part.trim())?;
        found = Some(ip);
        if !trusted(ip) {
            break;
        }
    }
    found.map(|ip| (ip, !text.contains(',')))
}

/// All values of `x-forwarded-for` as one list.
fn joined(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(X_FORWARDED_FOR).iter();
    let mut text = values.next()?.to_str().ok()?.to_owned();
    for value in values {
        text.push(',');
        text.push_str(value.to_str().ok()?);
    }
    Some(text)
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

fn append_peer(headers: &mut HeaderMap, peer: IpAddr) {
    use std::net::Ipv4Addr;
    // A caller on the same machine is told by this machine's address: 127.0.0.1 means nothing to the next hop.
    let shown = match peer {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => local_ip(),
        IpAddr::V6(v6) if v6.is_loopback() => local_ip(),
        other => other,
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        append_joined(headers, X_FORWARDED_FOR, shown.to_string().as_bytes(), ",");
    } else {
        insert_ip(headers, X_FORWARDED_FOR, shown);
    }
}

/// A request of this proxy's own on behalf of another comes from this machine.
pub fn append_self(headers: &mut HeaderMap) {
    append_peer(headers, local_ip());
}

/// This machine's first address that is not a loopback one, found once.
fn local_ip() -> IpAddr {
    static LOCAL: std::sync::OnceLock<IpAddr> = std::sync::OnceLock::new();
    *LOCAL.get_or_init(|| {
        let found = nix::ifaddrs::getifaddrs().ok().and_then(|mut all| {
            all.find_map(|i| {
                let v4 = i.address?.as_sockaddr_in().map(|a| a.ip())?;
                (!v4.is_loopback()).then_some(IpAddr::V4(v4))
            })
        });
        found.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    })
}

fn insert_ip(headers: &mut HeaderMap, name: HeaderName, ip: IpAddr) {
    if let Ok(value) = HeaderValue::try_from(ip.to_string()) {
        headers.insert(name, value);
    }
}

/// Appends `value` to the header as one list, or sets it.
pub fn append_joined(headers: &mut HeaderMap, name: HeaderName, value: &[u8], separator: &str) {
    let mut all = Vec::new();
    for have in headers.get_all(&name) {
        if !all.is_empty() {
            all.extend_from_slice(separator.as_bytes());
        }
        all.extend_from_slice(have.as_bytes());
    }
    if !all.is_empty() {
        all.extend_from_slice(separator.as_bytes());
    }
    all.extend_from_slice(value);
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(name, value);
    }
}

/// The scheme: what the configuration says, else what the request's own target says, else what a proxy in front has `told`.
fn scheme_of(
    headers: &mut HeaderMap,
    hcm: &HttpConnectionManager,
    tls: bool,
    named: Option<Scheme>,
    told: bool,
) -> Scheme {
    let parsed = |text: &[u8]| match text {
        https if https.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        http if http.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        _ => None,
    };
    if let Some(scheme) = hcm.scheme_override.as_deref().and_then(|s| parsed(s.as_bytes())) {
        headers.insert(X_FORWARDED_PROTO, if scheme == Scheme::Https { HTTPS } else { HTTP });
        return scheme;
    }
    let forwarded = || if told { parsed(headers.get(X_FORWARDED_PROTO)?.as_bytes()) } else { None };
    named.or_else(forwarded).unwrap_or(if tls { Scheme::Https } else { Scheme::Http })
}

fn sanitize(headers: &mut HeaderMap, edge: bool, internal_only: &[HeaderName]) {
    if edge {
        headers.remove(X_ENVOY_DECORATOR_OPERATION);
        headers.remove(X_ENVOY_ORIGINAL_PATH);
        headers.remove(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
        headers.remove(X_ENVOY_DOWNSTREAM_SERVICE_NODE);
    }
    // A sidecar in front always sends one (the expected timeout): only what is there is looked up.
    let ours: SmallVec<[HeaderName; 4]> = headers.keys().filter(|n| is_internal_only(n)).cloned().collect();
    for name in &ours {
        headers.remove(name);
    }
    for name in internal_only {
        headers.remove(name);
    }
}

fn is_internal_only(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-envoy-") && INTERNAL_ONLY.contains(name)
}

fn add_user_agent(headers: &mut HeaderMap, node: &crate::worker::Node) {
    let Ok(cluster) = HeaderValue::from_str(&node.cluster) else { return };
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, cluster.clone());
    }
    headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, cluster);
    if let Ok(id) = HeaderValue::from_str(&node.id)
        && !id.is_empty()
    {
        headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_NODE, id);
    }
}

/// `x-forwarded-client-cert` (`forward_client_cert_details`).
fn client_cert(headers: &mut HeaderMap, hcm: &HttpConnectionManager, connection: &ConnectionInfo, present: Present) {
    if hcm.forward_client_cert == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    let peer = connection.tls.as_deref().filter(|p| p.presented());
    let (Some(peer), false) = (peer, hcm.forward_client_cert == ForwardClientCert::Sanitize) else {
        if present.client_cert {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        return;
    };
    if hcm.forward_client_cert == ForwardClientCert::ForwardOnly {
        return;
    }
    let element = connection.client_cert.get_or_init(|| {
        let details = &hcm.client_cert_details;
        let chain = details.chain.then(|| peer.chain_url_encoded()).flatten();
        HeaderValue::try_from(cert_element(details, chain, |part| peer.part(part))).ok()
    });
    tell_cert(headers, hcm.forward_client_cert, element.as_ref());
}

/// Puts the element about our peer last. Where it cannot be told (a name in it is no header text), nothing is: what the
/// peer itself has put there must not pass for our word.
fn tell_cert(headers: &mut HeaderMap, how: ForwardClientCert, element: Option<&HeaderValue>) {
    let Some(element) = element else {
        headers.remove(X_FORWARDED_CLIENT_CERT);
        return;
    };
    if how == ForwardClientCert::AppendForward && headers.contains_key(X_FORWARDED_CLIENT_CERT) {
        append_joined(headers, X_FORWARDED_CLIENT_CERT, element.as_bytes(), ",");
    } else {
        headers.insert(X_FORWARDED_CLIENT_CERT, element.clone());
    }
}

/// One element of `x-forwarded-client-cert`: `By=...;Hash=...;Subject="...";URI=...;DNS=...`.
fn cert_element<'a>(
    details: &sidemesh_config::resource::http_connection_manager::ClientCertDetails,
    chain: Option<String>,
    part: impl Fn(TlsPart) -> Option<std::borrow::Cow<'a, str>>,
) -> String {
    let mut fields: Vec<String> = Vec::new();
    let mut each = |key: &str, which: TlsPart| {
        if let Some(values) = part(which) {
            fields.extend(values.split(',').filter(|v| !v.is_empty()).map(|v| format!("{key}={v}")));
        }
    };
    each("By", TlsPart::LocalUriSan);
    each("Hash", TlsPart::PeerFingerprint256);
    if details.cert
        && let Some(pem) = part(TlsPart::PeerCert)
    {
        // As `%DOWNSTREAM_PEER_CERT%`: escaped already.
        fields.push(format!("Cert=\"{pem}\""));
    }
    fields.extend(chain.map(|text| format!("Chain=\"{text}\"")));
    if details.subject {
        let subject = part(TlsPart::PeerSubject).unwrap_or_default();
        fields.push(format!("Subject=\"{}\"", subject));
    }
    if details.uri {
        match part(TlsPart::PeerUriSan) {
            Some(uris) if !uris.is_empty() => fields.extend(uris.split(',').map(|v| format!("URI={v}"))),
            _ => fields.push("URI=".to_owned()),
        }
    }
    if details.dns
        && let Some(names) = part(TlsPart::PeerDnsSan)
    {
        fields.extend(names.split(',').filter(|v| !v.is_empty()).map(|v| format!("DNS={v}")));
    }
    fields.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xff(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn the_last_address_counts_hops_from_the_end() {
        let show = |v: &'static str, skip| last_address(&xff(v), skip).map(|(a, only)| format!("{a} {only}"));
        assert_eq!(show("203.0.113.9", 0).as_deref(), Some("203.0.113.9 true"));
        assert_eq!(show("198.51.100.1, 203.0.113.9", 0).as_deref(), Some("203.0.113.9 false"));
        assert_eq!(show("198.51.100.1, 203.0.113.9", 1).as_deref(), Some("198.51.100.1 false"));
        assert_eq!(show("198.51.100.1", 1), None);
        assert_eq!(show("not-an-ip", 0), None);
        assert_eq!(show("2001:db8::1", 0).as_deref(), Some("2001:db8::1 true"));
    }

    #[test]
    fn lists_are_appended_with_their_separator() {
        let mut headers = xff("a");
        append_joined(&mut headers, X_FORWARDED_FOR, b"b", ",");
        assert_eq!(headers[X_FORWARDED_FOR], "a,b");
    }

    #[test]
    fn a_certificate_that_cannot_be_told_takes_the_callers_word_with_it() {
        for how in [ForwardClientCert::SanitizeSet, ForwardClientCert::AppendForward] {
            let mut headers = HeaderMap::new();
            headers.insert(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static("By=spiffe://a;URI=spiffe://admin"));
            tell_cert(&mut headers, how, HeaderValue::try_from("Subject=\"CN=a\nb\"").ok().as_ref());
            assert!(!headers.contains_key(X_FORWARDED_CLIENT_CERT));
        }
    }

    #[test]
    fn outsiders_lose_the_internal_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(X_ENVOY_RETRY_ON, HeaderValue::from_static("5xx"));
        headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, HeaderValue::from_static("c"));
        sanitize(&mut headers, false, &[]);
        assert!(!headers.contains_key(X_ENVOY_RETRY_ON));
        assert!(headers.contains_key(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER));
        sanitize(&mut headers, true, &[]);
        assert!(headers.is_empty());
    }
}
