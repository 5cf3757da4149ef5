//! TLS contexts of both sides (`extensions.transport_sockets.tls.v3`).

mod context;
mod parse;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use context::{certificate, ticket_keys, validation_context};
pub(crate) use parse::proxy_protocol_version;
pub use parse::{parse_downstream, parse_upstream};

use crate::matcher::string::StringMatcher;
use crate::value::{ConfigSource, DataSource, Name};

/// `DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamTls {
    pub common: CommonTls,
    pub require_client_certificate: bool,
    pub tickets: Tickets,
    pub stateful_resumption: bool,
    pub session_timeout: Option<Duration>,
    /// `full_scan_certs_on_sni_mismatch`: without a certificate for the server name, any that fits the client is taken,
    /// else the first.
    pub full_scan: bool,
    /// Default: the server's order counts.
    pub prefer_client_ciphers: bool,
    pub staple_policy: StaplePolicy,
}

/// `OcspStaplePolicy`: what happens where a good OCSP staple is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaplePolicy {
    /// The certificate is used without.
    Lenient,
    /// A certificate whose staple is out of date is not used.
    Strict,
    /// Nor is one without a staple.
    Must,
}

/// Stateless resumption of a downstream context.
#[derive(Debug, Clone, PartialEq)]
pub enum Tickets {
    Disabled,
    /// Keys made by the proxy.
    OwnKeys,
    /// 80-byte keys, the first encrypts.
    Keys(Vec<DataSource>),
    Secret(SecretRef),
}

/// `UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    pub common: CommonTls,
    pub sni: Option<Name>,
    pub auto_host_sni: bool,
    pub auto_sni_san_validation: bool,
    /// TLS sessions kept for resumption; default 1, zero switches it off.
    pub max_session_keys: u32,
}

/// `CommonTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonTls {
    pub params: TlsParams,
    pub certificates: Vec<Arc<TlsCertificate>>,
    pub certificate_secrets: Vec<SecretRef>,
    /// What the context itself asks of the peer; with `validation_secret` the two are combined
    /// (`combined_validation_context`).
    pub validation: Option<Arc<ValidationContext>>,
    pub validation_secret: Option<SecretRef>,
    /// Wire names, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    pub key_log: Option<KeyLog>,
}

/// `SdsSecretConfig`: `source` is `None` for a secret of the bootstrap's `static_resources.secrets`.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretRef {
    pub name: Name,
    pub source: Option<ConfigSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TlsParams {
    pub min: TlsVersion,
    pub max: TlsVersion,
    /// OpenSSL names for TLS 1.2, empty for the default list. Only names of [`CIPHER_SUITES`].
    pub cipher_suites: Vec<Name>,
    /// Only names of [`CURVES`]; empty for the default list.
    pub ecdh_curves: Vec<Name>,
}

/// The TLS 1.2 cipher suites that this proxy has.
pub const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
];

/// The key exchange groups that this proxy has.
pub const CURVES: [&str; 4] = ["X25519", "P-256", "P-384", "X25519MLKEM768"];

/// `TlsCertificate`.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsCertificate {
    pub chain: DataSource,
    pub key: DataSource,
    pub ocsp_staple: Option<DataSource>,
    /// Opens the key.
    pub password: Option<DataSource>,
    /// `chain` and `key` are one PKCS #12 file.
    pub pkcs12: bool,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValidationContext {
    pub trusted_ca: Option<DataSource>,
    pub system_root_certs: bool,
    pub san_matchers: Vec<SanMatcher>,
    /// SHA-256 of the DER subject public key info.
    pub spki_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the DER certificate.
    pub certificate_hashes: Vec<[u8; 32]>,
    pub crl: Option<DataSource>,
    pub only_verify_leaf_crl: bool,
    pub allow_expired_certificate: bool,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
    pub max_verify_depth: Option<u32>,
    /// The names of the trusted CAs are not sent to clients.
    pub suppress_client_ca_list: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    pub kind: SanKind,
    /// Of [`SanKind::OtherName`]: its type.
    pub oid: Option<Name>,
    pub matcher: StringMatcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    Any,
    Dns,
    Uri,
    Email,
    IpAddress,
    OtherName,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KeyLog {
    pub path: std::path::PathBuf,
    pub local: Vec<crate::value::Cidr>,
    pub remote: Vec<crate::value::Cidr>,
}

/// The transport socket of a filter chain.
#[derive(Debug, Clone, PartialEq)]
pub enum DownstreamTransport {
    Raw,
    Tls(Arc<DownstreamTls>),
}

/// The transport socket of a cluster or of endpoints that match (`transport_socket_matches`).
#[derive(Debug, Clone, PartialEq)]
pub enum UpstreamTransport {
    Raw,
    Tls(Arc<UpstreamTls>),
    /// `UpstreamProxyProtocolTransport` around another socket.
    ProxyProtocol {
        version: ProxyProtocolVersion,
        pass_all_tlvs: bool,
        pass_tlvs: Vec<u8>,
        added_tlvs: Vec<(u8, Vec<u8>)>,
        inner: Box<UpstreamTransport>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
