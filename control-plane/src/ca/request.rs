//! Checks a certificate signing request (PKCS#10, RFC 2986): its signature, its key, the name it asks for.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::CaError;

/// A request is a key, a name and a signature.
const MAX_BYTES: usize = 16 * 1024;
const MIN_RSA_BITS: usize = 2048;

/// The key to certify.
pub(super) fn verify(csr_der: &[u8], granted: &str) -> Result<SubjectPublicKeyInfo, CaError> {
    let bad = |reason: String| CaError::BadRequest(reason);
    if csr_der.len() > MAX_BYTES {
        return Err(bad(format!("{} bytes are more than the {MAX_BYTES} that are read", csr_der.len())));
    }
    let (rest, csr) =
        X509CertificationRequest::from_der(csr_der).map_err(|e| bad(format!("not PKCS#10 in DER: {e}")))?;
    if !rest.is_empty() {
        return Err(bad(format!("{} bytes follow the request", rest.len())));
    }
    csr.verify_signature().map_err(|_| bad("its signature does not fit its key".into()))?;
    let info = &csr.certification_request_info;
    match info.subject_pki.parsed() {
        Ok(PublicKey::EC(_)) => {}
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => {}
        Ok(PublicKey::RSA(rsa)) => {
            return Err(bad(format!("an RSA key of {} bits is too weak: use ECDSA P-256", rsa.key_size())));
        }
        _ => return Err(bad("its key is of an unknown kind: use ECDSA P-256".into())),
    }
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            if let GeneralName::URI(asked) = name
                && *asked != granted
            {
                return Err(CaError::OtherIdentity { asked: (*asked).to_owned(), granted: granted.to_owned() });
            }
        }
    }
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|e| bad(format!("its key cannot be certified: {e}")))
}
