//! What is known of a TLS connection and of the certificates of both its ends. Certificates are parsed when first asked.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use sidemesh_config::format::TlsPart;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::error::Failure;
use super::key_log::hex;
use super::params::cipher_name;
use super::san::Names;
use super::verify::{Verdict, sha256};

/// One connection's TLS: of a downstream connection the client is the peer, of an upstream one the host.
#[derive(Debug)]
pub struct PeerInfo {
    version: Option<ProtocolVersion>,
    cipher: &'static str,
    server_name: Option<Box<str>>,
    alpn: Option<Box<str>>,
    chain: Box<[CertificateDer<'static>]>,
    verdict: Verdict,
    resumed: bool,
    group: &'static str,
    signature: &'static str,
    local: Option<Arc<Certificate>>,
    leaf: OnceLock<Box<Certificate>>,
}

/// What a certificate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal, lower case.
    pub serial: String,
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub ip_sans: Vec<String>,
    pub email_sans: Vec<String>,
    pub other_sans: Vec<String>,
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
}

impl Certificate {
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = Names::of(&certificate);
        let common_name = certificate.subject().iter_common_name().last().and_then(|a| a.as_str().ok());
        Some(Certificate {
            subject: distinguished_name(certificate.subject()),
            issuer: distinguished_name(certificate.issuer()),
            serial: serial(&certificate),
            common_name: common_name.map(str::to_owned),
            uri_sans: names.uri,
            dns_sans: names.dns,
            ip_sans: names.ip,
            email_sans: names.email,
            other_sans: names.other.into_iter().map(|(_, text)| text).collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

/// As OpenSSL prints the number: whole bytes without leading zeros.
fn serial(certificate: &X509Certificate<'_>) -> String {
    let raw = certificate.raw_serial();
    let significant = raw.iter().position(|b| *b != 0).map_or(&raw[raw.len()..], |at| &raw[at..]);
    if significant.is_empty() { "00".to_owned() } else { hex(significant) }
}

impl PeerInfo {
    pub(super) fn new(
        session: &CommonState,
        server_name: Option<&str>,
        verdict: Verdict,
        (signature, group): (&'static str, &'static str),
        local: Option<Arc<Certificate>>,
    ) -> Self {
        let alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned().into());
        PeerInfo {
            version: session.protocol_version(),
            cipher: session.negotiated_cipher_suite().map_or("", |s| cipher_name(s.suite())),
            server_name: server_name.map(Into::into),
            alpn,
            chain: session.peer_certificates().unwrap_or_default().into(),
            verdict,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            group,
            signature,
            local,
            leaf: OnceLock::new(),
        }
    }

    fn peer(&self) -> Option<&Certificate> {
        let der = self.chain.first()?;
        Some(self.leaf.get_or_init(|| Box::new(Certificate::parse(der).unwrap_or_default())))
    }

    /// The peer presented a certificate.
    pub fn presented(&self) -> bool {
        !self.chain.is_empty()
    }

    /// ... and it passed the verification that the context asks for.
    pub fn validated(&self) -> bool {
        self.verdict == Verdict::Validated
    }

    /// What is wrong with a certificate that was accepted all the same, where this handshake looked at it.
    pub fn untrusted(&self) -> Option<Failure> {
        match self.verdict {
            Verdict::Untrusted(failure) if !self.resumed => Some(failure),
            _ => None,
        }
    }

    /// What the peer signed with, in BoringSSL's words (`ecdsa_secp256r1_sha256`); empty where it did not sign.
    pub fn signature(&self) -> &'static str {
        self.signature
    }

    /// A session of before goes on.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// `TLSv1.2` or `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        match self.version {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// OpenSSL's name.
    pub fn cipher(&self) -> &'static str {
        self.cipher
    }

    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub fn alpn(&self) -> Option<&str> {
        self.alpn.as_deref()
    }

    /// RFC 2253; empty without a certificate.
    pub fn subject(&self) -> &str {
        self.peer().map_or("", |c| &c.subject)
    }

    pub fn issuer(&self) -> &str {
        self.peer().map_or("", |c| &c.issuer)
    }

    pub fn serial(&self) -> &str {
        self.peer().map_or("", |c| &c.serial)
    }

    pub fn uri_sans(&self) -> &[String] {
        self.peer().map_or(&[], |c| &c.uri_sans)
    }

    pub fn dns_sans(&self) -> &[String] {
        self.peer().map_or(&[], |c| &c.dns_sans)
    }

    pub fn ip_sans(&self) -> &[String] {
        self.peer().map_or(&[], |c| &c.ip_sans)
    }

    pub fn email_sans(&self) -> &[String] {
        self.peer().map_or(&[], |c| &c.email_sans)
    }

    pub fn local_subject(&self) -> &str {
        self.local.as_ref().map_or("", |c| &c.subject)
    }

    pub fn local_uri_sans(&self) -> &[String] {
        self.local.as_ref().map_or(&[], |c| &c.uri_sans)
    }

    pub fn local_dns_sans(&self) -> &[String] {
        self.local.as_ref().map_or(&[], |c| &c.dns_sans)
    }

    /// SHA-256 of the DER certificate in hexadecimal; empty without one.
    pub fn fingerprint_sha256(&self) -> String {
        self.chain.first().map_or_else(String::new, |der| hex(&sha256(der)))
    }

    pub fn fingerprint_sha1(&self) -> String {
        self.chain.first().map_or_else(String::new, |der| hex(sha1(der).as_ref()))
    }

    /// The peer's certificate as PEM, URL-encoded as in `x-forwarded-client-cert`.
    pub fn pem_url_encoded(&self) -> Option<String> {
        self.chain.first().map(|der| url_encode(&pem(der)))
    }

    /// The same of all certificates that the peer sent.
    pub fn chain_url_encoded(&self) -> Option<String> {
        self.presented().then(|| url_encode(&self.chain.iter().map(|der| pem(der)).collect::<String>()))
    }

    /// One value for a log or a header; `None` where there is none.
    pub fn part(&self, part: TlsPart) -> Option<Cow<'_, str>> {
        let text = |s: &'_ str| (!s.is_empty()).then(|| s.to_owned());
        let value: Cow<'_, str> = match part {
            TlsPart::Version => self.version().into(),
            TlsPart::Cipher => self.cipher.into(),
            // rustls keeps it to itself; TLS 1.3 has none.
            TlsPart::SessionId => return None,
            TlsPart::PeerSubject => self.subject().into(),
            TlsPart::PeerIssuer => self.issuer().into(),
            TlsPart::PeerUriSan => self.uri_sans().join(",").into(),
            TlsPart::PeerDnsSan => self.dns_sans().join(",").into(),
            TlsPart::PeerIpSan => self.ip_sans().join(",").into(),
            TlsPart::PeerEmailSan => self.email_sans().join(",").into(),
            TlsPart::LocalSubject => self.local_subject().into(),
            TlsPart::LocalUriSan => self.local_uri_sans().join(",").into(),
            TlsPart::LocalDnsSan => self.local_dns_sans().join(",").into(),
            TlsPart::LocalIpSan => self.of_local(|c| &c.ip_sans[..]).into(),
            TlsPart::LocalEmailSan => self.of_local(|c| &c.email_sans[..]).into(),
            TlsPart::LocalOtherNameSan => self.of_local(|c| &c.other_sans[..]).into(),
            TlsPart::PeerOtherNameSan => self.peer()?.other_sans.join(",").into(),
            TlsPart::Group => self.group.into(),
            TlsPart::IssuerFingerprint256 => hex(&sha256(self.chain.get(1)?)).into(),
            TlsPart::IssuerSerial => Certificate::parse(self.chain.get(1)?)?.serial.into(),
            TlsPart::PeerChainFingerprints1 => self.of_chain_joined(|der| Some(hex(sha1(der).as_ref()))).into(),
            TlsPart::PeerFingerprint256 => self.fingerprint_sha256().into(),
            TlsPart::PeerFingerprint1 => self.fingerprint_sha1().into(),
            TlsPart::PeerSerial => self.serial().into(),
            TlsPart::PeerCert => self.pem_url_encoded()?.into(),
            TlsPart::PeerCertValidFrom => date(self.peer()?.not_before)?.into(),
            TlsPart::PeerCertValidTo => date(self.peer()?.not_after)?.into(),
            TlsPart::PeerChainFingerprints256 => self.of_chain_joined(|der| Some(hex(&sha256(der)))).into(),
            TlsPart::PeerChainSerials => self.of_chain_joined(|der| Certificate::parse(der).map(|c| c.serial)).into(),
        };
        match value {
            Cow::Borrowed(borrowed) => (!borrowed.is_empty()).then_some(Cow::Borrowed(borrowed)),
            Cow::Owned(owned) => text(&owned).map(Cow::Owned),
        }
    }

    /// When the peer's certificate begins to be valid, or ends.
    pub fn validity(&self, end: bool) -> Option<SystemTime> {
        let peer = self.peer()?;
        let seconds = u64::try_from(if end { peer.not_after } else { peer.not_before }).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn of_local(&self, names: impl Fn(&Certificate) -> &[String]) -> String {
        self.local.as_ref().map_or_else(String::new, |c| names(c).join(","))
    }

    fn of_chain_joined(&self, one: impl Fn(&CertificateDer<'_>) -> Option<String>) -> String {
        self.chain.iter().filter_map(one).collect::<Vec<_>>().join(",")
    }
}

fn sha1(der: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der)
}

/// `2018-12-18T01:50:34.000Z`.
fn date(seconds: i64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    at.format(&format).ok()
}

/// Lines of 64 characters, as OpenSSL writes them.
fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Only what PEM holds and a header value must not.
fn url_encode(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match c {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out
}

/// RFC 2253, last part first, with OpenSSL's short names.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (i, part) in parts.into_iter().rev().enumerate() {
        if i > 0 {
            out.push(',');
        }
        for (j, attribute) in part.iter().enumerate() {
            if j > 0 {
                out.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            let _ = write!(out, "{}=", short_name(&oid).unwrap_or(&oid));
            match attribute.as_str() {
                Ok(text) => escape(&mut out, text),
                Err(_) => {
                    let _ = write!(out, "#{}", hex(attribute.as_slice()));
                }
            }
        }
    }
    out
}

fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escape(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' | b' ' if i == 0 => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' ' if i == last => out.push_str("\\ "),
            0x20..0x7f => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "\\{other:02X}");
            }
        }
    }
}
