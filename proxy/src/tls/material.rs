//! Bytes of certificates, keys, CAs, CRLs: from where a [`DataSource`] says, as rustls wants them. The only file access here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use sidemesh_config::resource::tls::TlsCertificate;
use sidemesh_config::value::DataSource;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::error::Error;
use super::ocsp::{self, Staple};
use super::peer::Certificate;
use super::protected;
use super::verify::sha256;

/// Where distributions keep the CAs of the system, after `SSL_CERT_FILE`.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A file that went into a configuration, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) path: PathBuf,
    pub(super) content: Bytes,
}

/// Reads sources, and remembers the files among them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) files: Vec<FileState>,
}

impl Reader {
    pub(super) fn read(&mut self, source: &DataSource, what: &str) -> Result<Bytes, Error> {
        match source {
            DataSource::Inline(bytes) => Ok(bytes.clone()),
            DataSource::EnvironmentVariable(variable) => match std::env::var(&**variable) {
                Ok(text) => Ok(Bytes::from(text)),
                Err(e) => Err(Error::material(what, format!("environment variable `{variable}`: {e}"))),
            },
            DataSource::File { path, .. } => self.file(path, what),
        }
    }

    fn file(&mut self, path: &Path, what: &str) -> Result<Bytes, Error> {
        let content: Bytes =
            std::fs::read(path).map_err(|e| Error::material(what, format!("{}: {e}", path.display())))?.into();
        self.files.push(FileState { path: path.to_owned(), content: content.clone() });
        Ok(content)
    }

    /// The first file of the system's that is there.
    pub(super) fn system_roots(&mut self) -> Result<Bytes, Error> {
        let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let all = given.into_iter().chain(SYSTEM_ROOTS.iter().map(PathBuf::from));
        let path = all
            .into_iter()
            .find(|p| p.is_file())
            .ok_or_else(|| Error::material("system_root_certs", "there is no CA file; name one in SSL_CERT_FILE"))?;
        self.file(&path, "system_root_certs")
    }
}

/// At least one certificate, in PEM.
pub(super) fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| Error::material(what, e))?;
    if list.is_empty() {
        return Err(Error::material(what, "holds no certificate in PEM"));
    }
    Ok(list)
}

pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<webpki::CertRevocationList<'static>>, Error> {
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|e| Error::material("crl", e))?;
        let list = webpki::OwnedCertRevocationList::from_der(&der).map_err(|e| Error::material("crl", e))?;
        lists.push(list.into());
    }
    if lists.is_empty() {
        return Err(Error::material("crl", "holds no revocation list in PEM"));
    }
    Ok(lists)
}

/// A certificate with its key, and what it says of itself.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) certificate: Arc<Certificate>,
    pub(super) staple: Option<Staple>,
    /// It is worth nothing without a staple.
    pub(super) must_staple: bool,
}

impl Identity {
    pub(super) fn is_ecdsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::ECDSA
    }
}

type Cache = HashMap<[u8; 32], Weak<Identity>>;

/// Parsed once for all contexts that present the same certificate.
pub(super) fn identity(
    reader: &mut Reader,
    certificate: &TlsCertificate,
    provider: &CryptoProvider,
) -> Result<Arc<Identity>, Error> {
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let chain = reader.read(&certificate.chain, "certificate_chain")?;
    let key = reader.read(&certificate.key, "private_key")?;
    let staple = certificate.ocsp_staple.as_ref().map(|s| reader.read(s, "ocsp_staple")).transpose()?;
    let password = certificate.password.as_ref().map(|p| reader.read(p, "password")).transpose()?;
    let parts = [&chain[..], &key, staple.as_deref().unwrap_or_default(), password.as_deref().unwrap_or_default()];
    let digest = sha256(&parts.map(sha256).concat());

    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(identity) = cache.get(&digest).and_then(Weak::upgrade) {
        return Ok(identity);
    }
    let (chain, key) = match certificate.pkcs12 {
        true => protected::pkcs12(&key, password.as_deref())?,
        false => (certificates(&chain, "certificate_chain")?, private_key(&key, password.as_deref())?),
    };
    let identity = Arc::new(parse_identity(chain, key, staple.as_deref(), provider)?);
    cache.retain(|_, identity| identity.strong_count() > 0);
    cache.insert(digest, Arc::downgrade(&identity));
    Ok(identity)
}

/// The reasons may quote nothing of the key.
fn private_key(pem: &[u8], password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, Error> {
    if let Some(opened) = protected::key(pem, password) {
        return opened;
    }
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| Error::material("private_key", "holds no private key in PEM that can be read"))
}

fn parse_identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    staple: Option<&[u8]>,
    provider: &CryptoProvider,
) -> Result<Identity, Error> {
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| Error::material("private_key", "is of no supported kind (RSA, ECDSA, Ed25519)"))?;
    let leaf = Certificate::parse(&chain[0])
        .ok_or_else(|| Error::material("certificate_chain", "the first certificate cannot be parsed"))?;
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(Error::material("private_key", "is not the key of the certificate"));
        }
        Err(e) => return Err(Error::material("certificate_chain", e)),
    }
    let (_, parsed) = X509Certificate::from_der(&certified.cert[0])
        .map_err(|_| Error::material("certificate_chain", "the first certificate cannot be parsed"))?;
    let must_staple = ocsp::must_staple(&parsed);
    let staple = match staple {
        None => None,
        Some(der) => {
            let response =
                ocsp::parse(der).ok_or_else(|| Error::material("ocsp_staple", "is no good OCSP response"))?;
            if response.serial != ocsp::significant(parsed.raw_serial()) {
                return Err(Error::material("ocsp_staple", "is not about the certificate"));
            }
            let without = Arc::new(certified.clone());
            certified.ocsp = Some(der.to_vec());
            Some(Staple { response, without })
        }
    };
    Ok(Identity { key: Arc::new(certified), certificate: Arc::new(leaf), staple, must_staple })
}
