//! The certificate authority of one trust domain: signs short-lived X.509-SVIDs for whoever shows the right token.
//!
//! ECDSA P-256 throughout. The root is made at the first start and kept in `<data-dir>/ca` (mode 0600). Workloads make
//! their own keys; only requests come here. What identity a certificate gets is decided by the token, never by the
//! request. (SPIFFE X.509-SVID, RFC 2986, RFC 5280.)
//!
//! Clocks: certificates and tokens are valid from five minutes before now (certificates that live for less than twenty
//! minutes: a quarter of that), so a workload whose clock is that much behind accepts them; tokens are accepted up to one minute after their end.

mod files;
pub mod kubernetes;
mod request;
pub mod token;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub use token::{Claims, Identity, TokenError, Tokens};

/// How much a clock may be behind ours.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Shorter certificates would be renewed all the time.
pub const MIN_LEAF_TTL: Duration = Duration::from_secs(2);
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error(
        "the certificate authority in {path} is of trust domain `{found}`, not `{wanted}`: use --trust-domain {found}, or another --data-dir"
    )]
    OtherTrustDomain { path: String, found: String, wanted: String },
    #[error("`{0}` is no trust domain: use lower-case letters, digits, dots, dashes and underscores")]
    BadTrustDomain(String),
    #[error("certificate request: {0}")]
    BadRequest(String),
    #[error("certificate request: asks for `{asked}`, but the credential is for `{granted}`")]
    OtherIdentity { asked: String, granted: String },
    #[error("signing: {0}")]
    Sign(String),
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct Signed {
    pub chain_pem: String,
    pub spiffe_id: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// A root, as `meshctl ca status` shows it.
#[derive(Debug, Clone)]
pub struct RootInfo {
    pub subject: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub fingerprint: String,
    pub pem: String,
}

pub struct Ca {
    trust_domain: String,
    leaf_ttl: Duration,
    issuer: Issuer<'static, KeyPair>,
    root: RootInfo,
    tokens: Tokens,
    signed: AtomicU64,
}

impl Ca {
    /// Reads the authority from `dir`, making it when it is not there.
    pub fn open(dir: &Path, trust_domain: &str, leaf_ttl: Duration) -> Result<Ca, CaError> {
        check_trust_domain(trust_domain)?;
        let now = SystemTime::now();
        let (cert_path, key_path) = (dir.join("root.pem"), dir.join("root.key"));
        files::make_dir(dir)?;
        if !key_path.exists() && !cert_path.exists() {
            let (cert, key) = make_root(trust_domain, now)?;
            // The key first: a certificate without its key is of no use.
            files::write_secret(&key_path, key.as_bytes())?;
            files::write_secret(&cert_path, cert.as_bytes())?;
        }
        let key_pem = files::read_text(&key_path)?;
        let cert_pem = files::read_text(&cert_path)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| files::bad(&key_path, &e.to_string()))?;
        let (root, found) = describe(&cert_pem, &key).map_err(|reason| files::bad(&cert_path, &reason))?;
        if found != trust_domain {
            let path = dir.display().to_string();
            return Err(CaError::OtherTrustDomain { path, found, wanted: trust_domain.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|e| files::bad(&cert_path, &e.to_string()))?;
        let tokens = Tokens::new(&files::secret_of(&dir.join("token.key"))?, trust_domain);
        Ok(Ca { trust_domain: trust_domain.to_owned(), leaf_ttl, issuer, root, tokens, signed: AtomicU64::new(0) })
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn leaf_ttl(&self) -> Duration {
        self.leaf_ttl
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// All roots to trust, PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.root.pem
    }

    pub fn roots(&self) -> Vec<RootInfo> {
        vec![self.root.clone()]
    }

    /// Certificates signed since the start.
    pub fn signed(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    pub fn spiffe_id(&self, identity: &Identity) -> String {
        format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, identity.namespace, identity.service_account)
    }

    /// Signs a request for an identity that the caller has established.
    pub fn sign(&self, csr_der: &[u8], identity: &Identity, ttl: Option<Duration>) -> Result<Signed, CaError> {
        let spiffe_id = self.spiffe_id(identity);
        let key = request::verify(csr_der, &spiffe_id)?;
        self.issue(&key, spiffe_id, ttl, Vec::new())
    }

    /// A certificate with its key, made here: for our own listener, and for an Envoy that cannot make a request.
    pub fn issue_with_key(&self, identity: &Identity, names: &[SanName]) -> Result<(Signed, String), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign_error)?;
        let signed = self.issue(&key, self.spiffe_id(identity), None, sans(names)?)?;
        Ok((signed, key.serialize_pem()))
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        spiffe_id: String,
        ttl: Option<Duration>,
        mut sans: Vec<SanType>,
    ) -> Result<Signed, CaError> {
        let ttl = ttl.unwrap_or(self.leaf_ttl).min(self.leaf_ttl).max(MIN_LEAF_TTL);
        let now = SystemTime::now();
        // A short life must not lie mostly in the past: clients renew at half of what they read here.
        let (not_before, not_after) = (now - CLOCK_SKEW.min(ttl / 4), now + ttl);
        let uri = spiffe_id.clone().try_into().map_err(sign_error)?;
        sans.insert(0, SanType::URI(uri));
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(not_before);
        params.not_after = OffsetDateTime::from(not_after);
        params.serial_number = Some(serial()?);
        params.subject_alt_names = sans;
        params.distinguished_name = name("Sidemesh workload");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(sign_error)?;
        self.signed.fetch_add(1, Ordering::Relaxed);
        Ok(Signed { chain_pem: certificate.pem(), spiffe_id, not_before, not_after })
    }
}

/// The token of the admin API, made at the first call and kept beside the authority.
pub fn admin_token(path: &Path) -> Result<String, CaError> {
    if !path.exists() {
        files::write_secret(path, token::random_id().as_bytes())?;
    }
    let token = files::read_text(path)?;
    if token.trim().len() < 16 {
        return Err(files::bad(path, "too short to be a token: remove it, and a new one is made"));
    }
    Ok(token)
}

/// A further name for a certificate of our own.
#[derive(Debug, Clone)]
pub enum SanName {
    Dns(String),
    Ip(IpAddr),
}

impl SanName {
    /// An IP address, or a DNS name.
    pub fn parse(text: &str) -> Option<SanName> {
        if let Ok(ip) = text.parse() {
            return Some(SanName::Ip(ip));
        }
        match rustls::pki_types::DnsName::try_from(text) {
            Ok(_) => Some(SanName::Dns(text.to_owned())),
            Err(_) => None,
        }
    }
}

fn sans(names: &[SanName]) -> Result<Vec<SanType>, CaError> {
    names
        .iter()
        .map(|name| match name {
            SanName::Dns(dns) => dns.clone().try_into().map(SanType::DnsName).map_err(sign_error),
            SanName::Ip(ip) => Ok(SanType::IpAddress(*ip)),
        })
        .collect()
}

fn check_trust_domain(text: &str) -> Result<(), CaError> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || text.len() > 255 || !text.bytes().all(fine) {
        return Err(CaError::BadTrustDomain(text.to_owned()));
    }
    Ok(())
}

fn make_root(trust_domain: &str, now: SystemTime) -> Result<(String, String), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign_error)?;
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + ROOT_TTL);
    params.serial_number = Some(serial()?);
    let uri = format!("spiffe://{trust_domain}").try_into().map_err(sign_error)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = name("Sidemesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(sign_error)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Reads a root back: what to show of it, and its trust domain. It must belong to the key.
fn describe(pem: &str, key: &KeyPair) -> Result<(RootInfo, String), String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| format!("not a certificate: {e}"))?;
    let certificate = block.parse_x509().map_err(|e| format!("not a certificate: {e}"))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("the certificate does not belong to root.key".into());
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let trust_domain = names
        .iter()
        .flat_map(|n| n.value.general_names.iter())
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        })
        .ok_or("the certificate names no trust domain")?
        .to_owned();
    let at = |t: &x509_parser::time::ASN1Time| SystemTime::from(t.to_datetime());
    let digest = Sha256::digest(&block.contents);
    let info = RootInfo {
        subject: certificate.subject().to_string(),
        not_before: at(&certificate.validity().not_before),
        not_after: at(&certificate.validity().not_after),
        fingerprint: digest.iter().map(|b| format!("{b:02x}")).collect(),
        pem: pem.to_owned(),
    };
    Ok((info, trust_domain))
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "sidemesh.dev");
    name.push(DnType::CommonName, common);
    name
}

/// 127 random bits: positive, as RFC 5280 wants.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Sign("no random numbers".into()))?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn sign_error(e: rcgen::Error) -> CaError {
    CaError::Sign(e.to_string())
}
