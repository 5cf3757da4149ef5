//! Verification of the peer's certificate, the same for both sides: chain, names, pins, revocation.
//!
//! As in Envoy: without a trusted CA the chain is not looked at; one SAN matcher that fits is enough, and so is one pin; with
//! `accept_untrusted` nothing is refused, and whether the certificate would have passed is asked afterwards.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use sidemesh_config::resource::tls::{SanMatcher, ValidationContext};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::error::{Error, Failure};
use super::material::{self, Reader};
use super::observed;
use super::roots::{self, Roots};
use super::san::Names;
use super::verified::{ChainId, Verified};

/// `allow_expired_certificate`: so many certificates of a chain may be out of date.
const MAX_EXPIRED: usize = 8;

/// A rule of the context that the certificate breaks.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("SAN matcher, certificate SANs are [{0}]")]
    Names(String),
    #[error("cert hash and spki")]
    Pins,
    #[error("the key usage does not allow signatures")]
    KeyUsage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

/// What the certificate of a peer that was let in is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Validated,
    /// There is none, or nothing is asked of it.
    Unproven,
    /// `accept_untrusted` let it pass in spite of this.
    Untrusted(Failure),
}

/// What one context asks of its peers.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    peer: Peer,
    roots: Arc<Roots>,
    crls: Vec<CertRevocationList<'static>>,
    rules: ValidationContext,
    verified: Verified,
    /// A client's certificate must be there.
    mandatory: bool,
    /// The certificate must be for the server name of the connection.
    match_server_name: bool,
}

impl Verifier {
    /// `validation`: `None` verifies nothing.
    pub(super) fn new(
        reader: &mut Reader,
        validation: Option<&ValidationContext>,
        provider: Arc<CryptoProvider>,
        peer: Peer,
    ) -> Result<Self, Error> {
        let rules = validation.cloned().unwrap_or_default();
        let roots = match &rules.trusted_ca {
            Some(source) => roots::load(&reader.read(source, "trusted_ca")?, "trusted_ca")?,
            None if rules.system_root_certs => roots::load(&reader.system_roots()?, "system_root_certs")?,
            None => Arc::default(),
        };
        if roots.is_empty() && !rules.san_matchers.is_empty() {
            let reason = "names of a certificate prove nothing without a trusted_ca";
            return Err(Error::material("match_typed_subject_alt_names", reason));
        }
        let crls = match &rules.crl {
            Some(source) => material::revocation_lists(&reader.read(source, "crl")?)?,
            None => Vec::new(),
        };
        let verified = Verified::default();
        Ok(Verifier { provider, peer, roots, crls, rules, verified, mandatory: false, match_server_name: false })
    }

    /// Clients: `require` a certificate. One is necessary also where names or pins are asked for.
    pub(super) fn for_clients(mut self, require: bool) -> Self {
        let r = &self.rules;
        let rules = !(r.san_matchers.is_empty() && r.spki_hashes.is_empty() && r.certificate_hashes.is_empty());
        self.mandatory = require || (rules && !r.accept_untrusted);
        self
    }

    /// Servers: the certificate must be for the connection's server name; SAN matchers are not asked.
    pub(super) fn matching_server_name(mut self) -> Self {
        self.match_server_name = true;
        self
    }

    /// Whether a client is asked for a certificate at all.
    pub(super) fn asks(&self) -> bool {
        self.mandatory || self.rules.accept_untrusted || !self.roots.is_empty()
    }

    /// Whether passing means anything.
    fn proves(&self) -> bool {
        let r = &self.rules;
        !(self.roots.is_empty() && r.spki_hashes.is_empty() && r.certificate_hashes.is_empty())
    }

    /// What a chain that the handshake let pass is worth.
    pub(super) fn verdict(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        let Some((leaf, intermediates)) = chain.split_first() else { return Verdict::Unproven };
        if !self.proves() {
            return Verdict::Unproven;
        }
        // Without `accept_untrusted` the handshake has judged already.
        if !self.rules.accept_untrusted {
            return Verdict::Validated;
        }
        match self.judge(leaf, intermediates, UnixTime::now(), None) {
            Ok(()) => Verdict::Validated,
            Err(error) => Verdict::Untrusted(Error::Handshake(error).failure()),
        }
    }

    /// When the first CA runs out (Unix seconds).
    pub(super) fn ca_expires(&self) -> Option<i64> {
        self.roots.first_expires()
    }

    /// What tells this verifier's trust from another's: resumption must not carry a session over.
    pub(super) fn fingerprint(&self) -> String {
        format!("{:?}{:?}{}", self.rules, self.roots.digest, self.mandatory)
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        host: Option<&str>,
    ) -> Result<(), rustls::Error> {
        let id = self.remembers().then(|| ChainId::of(leaf, intermediates));
        let known = id.is_some_and(|id| self.verified.holds(id, now));
        if known && host.is_none() && !self.asks_for_leaf() {
            return Ok(());
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if !may_sign(&parsed) {
            return Err(broken(Broken::KeyUsage));
        }
        if !self.roots.is_empty() && !known {
            let anchor = self.verify_chain(leaf, intermediates, &parsed, now)?;
            if let Some(id) = id {
                self.verified.keep(id, leaf, intermediates, anchor);
            }
        }
        self.verify_names(&parsed, host)?;
        self.verify_pins(leaf, &parsed)
    }

    /// Whether a chain that has passed is good until one of its certificates ends.
    fn remembers(&self) -> bool {
        !self.roots.is_empty() && self.crls.is_empty() && !self.rules.allow_expired_certificate
    }

    /// Whether something is asked of the leaf itself besides its chain.
    fn asks_for_leaf(&self) -> bool {
        let r = &self.rules;
        let names = !self.match_server_name && !r.san_matchers.is_empty();
        names || !(r.spki_hashes.is_empty() && r.certificate_hashes.is_empty())
    }

    /// The validity of the CA at the chain's end, where it is known.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        parsed: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<Option<(i64, i64)>, rustls::Error> {
        // A certificate that is itself among the trusted ones needs no issuer.
        if self.roots.holds(leaf) {
            let validity = parsed.validity();
            let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            return match self.in_date(from, to, now) {
                Ok(()) => Ok(Some((from, to))),
                Err(e) => Err(certificate_error(e).into()),
            };
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        let mut at = now;
        for _ in 0..MAX_EXPIRED {
            match self.build_path(&end_entity, intermediates, at) {
                Ok(anchor) => return Ok(anchor),
                // The rest of the chain is judged at a time when this certificate was good.
                Err(webpki::Error::CertExpired { not_after, .. }) if self.rules.allow_expired_certificate => {
                    at = not_after
                }
                Err(webpki::Error::CertNotValidYet { not_before, .. }) if self.rules.allow_expired_certificate => {
                    at = not_before;
                }
                Err(e) => return Err(certificate_error(e).into()),
            }
        }
        Err(CertificateError::Expired.into())
    }

    fn build_path(
        &self,
        end_entity: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<Option<(i64, i64)>, webpki::Error> {
        let usage = match self.peer {
            Peer::Client => KeyUsage::client_auth(),
            Peer::Server => KeyUsage::server_auth(),
        };
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            let leaf_only = self.rules.only_verify_leaf_crl;
            let depth = if leaf_only { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
            builder.with_depth(depth).with_expiration_policy(ExpirationPolicy::Enforce).build()
        });
        let accept = |path: &VerifiedPath<'_>| self.accept_path(path, at);
        end_entity
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.roots.trust,
                intermediates,
                at,
                usage,
                revocation,
                Some(&accept),
            )
            .map(|path| self.roots.validity(path.anchor()))
    }

    /// What webpki leaves open: the length of the path, and whether the trusted CA itself is in date.
    fn accept_path(&self, path: &VerifiedPath<'_>, at: UnixTime) -> Result<(), webpki::Error> {
        let depth = path.intermediate_certificates().count();
        // The depth counts the trust anchor, as OpenSSL 1.0 did.
        if self.rules.max_verify_depth.is_some_and(|most| depth > (most as usize).saturating_sub(1)) {
            return Err(webpki::Error::UnknownIssuer);
        }
        match self.roots.validity(path.anchor()) {
            Some((from, to)) => self.in_date(from, to, at),
            None => Ok(()),
        }
    }

    fn in_date(&self, from: i64, to: i64, now: UnixTime) -> Result<(), webpki::Error> {
        let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if self.rules.allow_expired_certificate || (from..=to).contains(&at) {
            return Ok(());
        }
        let time = |t: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(t.max(0).unsigned_abs()));
        Err(if at > to {
            webpki::Error::CertExpired { time: now, not_after: time(to) }
        } else {
            webpki::Error::CertNotValidYet { time: now, not_before: time(from) }
        })
    }

    fn verify_names(&self, parsed: &X509Certificate<'_>, host: Option<&str>) -> Result<(), rustls::Error> {
        let matchers: &[SanMatcher] = if self.match_server_name { &[] } else { &self.rules.san_matchers };
        if host.is_none() && matchers.is_empty() {
            return Ok(());
        }
        let names = Names::of(parsed);
        let good = host.is_none_or(|h| names.is_for(h)) && (matchers.is_empty() || names.match_any(matchers));
        if good { Ok(()) } else { Err(broken(Broken::Names(names.to_string()))) }
    }

    fn verify_pins(&self, leaf: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Result<(), rustls::Error> {
        let (hashes, keys) = (&self.rules.certificate_hashes, &self.rules.spki_hashes);
        if hashes.is_empty() && keys.is_empty() {
            return Ok(());
        }
        let good = (!hashes.is_empty() && hashes.contains(&sha256(leaf)))
            || (!keys.is_empty() && keys.contains(&sha256(parsed.public_key().raw)));
        if good { Ok(()) } else { Err(broken(Broken::Pins)) }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// Every handshake of TLS 1.3 and of ECDHE signs with the certificate's key.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.digital_signature(),
        _ => true,
    }
}

fn broken(rule: Broken) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(rule))).into()
}

fn certificate_error(error: webpki::Error) -> CertificateError {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.asks()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        if self.rules.suppress_client_ca_list { &[] } else { &self.roots.subjects }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !self.rules.accept_untrusted {
            self.judge(end_entity, intermediates, now, None)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        observed::signed(dss.scheme);
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        observed::signed(dss.scheme);
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.rules.accept_untrusted {
            let name = server_name.to_str();
            self.judge(end_entity, intermediates, now, self.match_server_name.then_some(&*name))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        observed::signed(dss.scheme);
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        observed::signed(dss.scheme);
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A verifier that asks for one name more: SAN validation of a connection's own host.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) verifier: Arc<Verifier>,
    pub(super) name: Box<str>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.verifier.rules.accept_untrusted {
            self.verifier.judge(end_entity, intermediates, now, Some(&self.name))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(&*self.verifier, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.verifier, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&*self.verifier)
    }
}
