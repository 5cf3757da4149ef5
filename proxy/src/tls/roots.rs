//! Trusted CAs, parsed once for all contexts that name the same ones.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::error::Error;
use super::material;
use super::verify::sha256;

/// The trust anchors of one CA file.
#[derive(Debug, Default)]
pub(super) struct Roots {
    pub(super) trust: Vec<TrustAnchor<'static>>,
    pub(super) subjects: Vec<DistinguishedName>,
    /// Of the PEM text.
    pub(super) digest: [u8; 32],
    /// In the order of `trust`.
    certificates: Vec<Root>,
}

#[derive(Debug)]
struct Root {
    der_digest: [u8; 32],
    /// Unix seconds.
    not_before: i64,
    not_after: i64,
}

type Cache = HashMap<[u8; 32], Weak<Roots>>;

pub(super) fn load(pem: &[u8], what: &str) -> Result<Arc<Roots>, Error> {
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let digest = sha256(pem);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache.get(&digest).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let roots = Arc::new(Roots::parse(pem, what, digest)?);
    cache.retain(|_, weak| weak.strong_count() > 0);
    cache.insert(digest, Arc::downgrade(&roots));
    Ok(roots)
}

impl Roots {
    /// Certificates that cannot be anchors (an odd one in a system's collection) are left out; none at all is an error.
    fn parse(pem: &[u8], what: &str, digest: [u8; 32]) -> Result<Self, Error> {
        let mut roots = Roots { digest, ..Roots::default() };
        for certificate in material::certificates(pem, what)? {
            roots.add(&certificate);
        }
        if roots.is_empty() {
            return Err(Error::material(what, "holds no certificate that can be a trust anchor"));
        }
        Ok(roots)
    }

    fn add(&mut self, certificate: &CertificateDer<'_>) -> Option<()> {
        let anchor = webpki::anchor_from_trusted_cert(certificate).ok()?.to_owned();
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        self.subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
        self.trust.push(anchor);
        self.certificates.push(Root {
            der_digest: sha256(certificate),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        });
        Some(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.trust.is_empty()
    }

    /// When the first of them runs out (Unix seconds).
    pub(super) fn first_expires(&self) -> Option<i64> {
        self.certificates.first().map(|r| r.not_after)
    }

    /// Whether the certificate is itself one of the trusted ones.
    pub(super) fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        let digest = sha256(certificate);
        self.certificates.iter().any(|r| r.der_digest == digest)
    }

    /// When the CA behind an anchor is in date.
    pub(super) fn validity(&self, anchor: &TrustAnchor<'_>) -> Option<(i64, i64)> {
        let same = |a: &TrustAnchor<'_>| {
            a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
        };
        let at = self.trust.iter().position(same)?;
        self.certificates.get(at).map(|r| (r.not_before, r.not_after))
    }
}
