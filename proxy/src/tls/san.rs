//! Subject alternative names: reading them, and comparing them as Envoy does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::resource::tls::{SanKind, SanMatcher};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The names of one certificate, by kind, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) dns: Vec<String>,
    pub(super) uri: Vec<String>,
    pub(super) email: Vec<String>,
    pub(super) ip: Vec<String>,
    /// Type and text of other names.
    pub(super) other: Vec<(String, String)>,
}

/// In the order of the kinds, as a failed match tells them.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.other.iter().map(|(_, text)| text);
        let all = self.dns.iter().chain(&self.uri).chain(&self.email).chain(&self.ip).chain(other);
        f.write_str(&all.map(String::as_str).collect::<Vec<_>>().join(", "))
    }
}

impl Names {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Names::default();
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                GeneralName::URI(uri) => names.uri.push((*uri).to_owned()),
                GeneralName::RFC822Name(email) => names.email.push((*email).to_owned()),
                GeneralName::IPAddress(bytes) => names.ip.extend(ip(bytes).map(|ip| ip.to_string())),
                GeneralName::OtherName(oid, value) => {
                    names.other.extend(other_name(value).map(|text| (oid.to_id_string(), text)));
                }
                _ => {}
            }
        }
        names
    }

    /// Whether one name satisfies one matcher.
    pub(super) fn match_any(&self, matchers: &[SanMatcher]) -> bool {
        matchers.iter().any(|m| match m.kind {
            SanKind::Dns => self.match_dns(&m.matcher),
            SanKind::Uri => any(&self.uri, &m.matcher),
            SanKind::Email => any(&self.email, &m.matcher),
            SanKind::IpAddress => any(&self.ip, &m.matcher),
            SanKind::OtherName => {
                self.other.iter().any(|(oid, text)| m.oid.as_deref() == Some(oid) && m.matcher.is_match(text))
            }
            SanKind::Any => {
                self.match_dns(&m.matcher)
                    || [&self.uri, &self.email, &self.ip].into_iter().any(|list| any(list, &m.matcher))
            }
        })
    }

    /// An exact matcher takes a wildcard of the certificate at its word.
    fn match_dns(&self, matcher: &StringMatcher) -> bool {
        match matcher {
            StringMatcher::Exact { value, .. } => self.dns.iter().any(|san| dns_match(value, san)),
            other => any(&self.dns, other),
        }
    }

    /// Whether the certificate is for this host (a DNS name, an IP address or a URI).
    pub(super) fn is_for(&self, host: &str) -> bool {
        self.dns.iter().any(|san| dns_match(host, san))
            || self.uri.iter().any(|san| san == host)
            || host.parse::<IpAddr>().is_ok_and(|ip| self.ip.iter().any(|san| san.parse() == Ok(ip)))
    }
}

fn any(list: &[String], matcher: &StringMatcher) -> bool {
    list.iter().any(|san| matcher.is_match(san))
}

/// The text in `[0] EXPLICIT` of an other name; one that holds no text has none.
fn other_name(value: &[u8]) -> Option<String> {
    let [0xa0, _, _tag, length, text @ ..] = value else { return None };
    let text = text.get(..usize::from(*length))?;
    String::from_utf8(text.to_vec()).ok()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

/// RFC 6125, 6.4.3: a `*` as the whole first label stands for exactly one label.
pub(super) fn dns_match(host: &str, pattern: &str) -> bool {
    if host.eq_ignore_ascii_case(pattern) {
        return true;
    }
    match pattern.strip_prefix("*.") {
        Some(suffix) if !suffix.is_empty() => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
        }
        _ => false,
    }
}
