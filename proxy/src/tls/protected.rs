//! Private keys under a password: `ENCRYPTED PRIVATE KEY` in PEM (RFC 5958) and PKCS #12 files (RFC 7292), both with PBES2
//! (RFC 8018): PBKDF2 with HMAC-SHA-1 or SHA-2, AES in CBC mode. Older schemes are refused by name.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::Error;

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// More rounds than anybody uses would only hold the proxy up.
const MOST_ROUNDS: u32 = 10_000_000;

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// `hmacWithSHA…`: the last byte tells them apart.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// `aes…-CBC-PAD`: the last byte tells them apart.
const AES_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
/// `pkcs7-data`, `pkcs7-encryptedData`.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// Bags of PKCS #12: a key, a key under a password, a certificate.
const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01];
const SHROUDED_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const IMPLICIT_0: u8 = 0x80;

/// The key of an `ENCRYPTED PRIVATE KEY`; `None`: there is none in the text.
pub(super) fn key(pem: &[u8], password: Option<&[u8]>) -> Option<Result<PrivateKeyDer<'static>, Error>> {
    let text = std::str::from_utf8(pem).ok()?;
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let base64: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let Ok(der) = STANDARD.decode(base64) else { return Some(Err(bad("is no Base64"))) };
    let Some(password) = password else { return Some(Err(bad("is under a password; give `password`"))) };
    Some(open(&der, password).map(pkcs8))
}

/// The certificates, the key's own first, and the key of a PKCS #12 file.
pub(super) fn pkcs12(
    der: &[u8],
    password: Option<&[u8]>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let password = password.unwrap_or_default();
    let broken = || Error::material("pkcs12", "is no PKCS #12 file that can be read");
    let mut pfx = Der(der).enter(SEQUENCE).ok_or_else(broken)?;
    pfx.take(INTEGER).ok_or_else(broken)?;
    let safe = content(&mut pfx, DATA).and_then(|mut c| c.take(OCTETS)).ok_or_else(broken)?;
    let mut parts = Der(safe).enter(SEQUENCE).ok_or_else(broken)?;
    let (mut certificates, mut key) = (Vec::new(), None);
    while !parts.is_empty() {
        let mut part = parts.enter(SEQUENCE).ok_or_else(broken)?;
        let bags = match part.take(OID) {
            Some(DATA) => {
                let data = part.enter(CONTEXT_0).and_then(|mut c| c.take(OCTETS)).ok_or_else(broken)?;
                data.to_vec()
            }
            Some(ENCRYPTED_DATA) => {
                let mut info = part.enter(CONTEXT_0).and_then(|mut c| c.enter(SEQUENCE)).ok_or_else(broken)?;
                info.take(INTEGER).ok_or_else(broken)?;
                let mut encrypted = info.enter(SEQUENCE).ok_or_else(broken)?;
                encrypted.take(OID).ok_or_else(broken)?;
                let algorithm = encrypted.enter(SEQUENCE).ok_or_else(broken)?;
                let bytes = encrypted.take(IMPLICIT_0).ok_or_else(broken)?;
                decrypt(algorithm, bytes, password, "pkcs12")?
            }
            _ => return Err(broken()),
        };
        let mut bags = Der(&bags).enter(SEQUENCE).ok_or_else(broken)?;
        while !bags.is_empty() {
            let mut bag = bags.enter(SEQUENCE).ok_or_else(broken)?;
            let kind = bag.take(OID).ok_or_else(broken)?;
            let mut value = bag.enter(CONTEXT_0).ok_or_else(broken)?;
            match kind {
                KEY_BAG => key = Some(pkcs8(value.0.to_vec())),
                SHROUDED_BAG => key = Some(pkcs8(open(value.0, password)?)),
                CERTIFICATE_BAG => {
                    let mut certificate = value.enter(SEQUENCE).ok_or_else(broken)?;
                    certificate.take(OID).ok_or_else(broken)?;
                    let bytes = certificate.enter(CONTEXT_0).and_then(|mut c| c.take(OCTETS)).ok_or_else(broken)?;
                    certificates.push(CertificateDer::from(bytes.to_vec()));
                }
                // Revocation lists and secrets are nothing to us.
                _ => {}
            }
        }
    }
    match key {
        Some(key) if !certificates.is_empty() => Ok((certificates, key)),
        _ => Err(Error::material("pkcs12", "holds no certificate with its key")),
    }
}

/// The content of a `ContentInfo` of the kind.
fn content<'a>(from: &mut Der<'a>, kind: &[u8]) -> Option<Der<'a>> {
    let mut info = from.enter(SEQUENCE)?;
    (info.take(OID)? == kind).then_some(())?;
    info.enter(CONTEXT_0)
}

fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
}

fn bad(reason: &str) -> Error {
    Error::material("private_key", reason)
}

/// What an `EncryptedPrivateKeyInfo` holds.
fn open(der: &[u8], password: &[u8]) -> Result<Vec<u8>, Error> {
    let parts = || {
        let mut info = Der(der).enter(SEQUENCE)?;
        Some((info.enter(SEQUENCE)?, info.take(OCTETS)?))
    };
    let (algorithm, bytes) = parts().ok_or_else(|| bad("is no PKCS #8"))?;
    decrypt(algorithm, bytes, password, "private_key")
}

fn decrypt(mut algorithm: Der<'_>, bytes: &[u8], password: &[u8], what: &str) -> Result<Vec<u8>, Error> {
    let refused = |reason: &str| Error::material(what, reason);
    if algorithm.take(OID) != Some(PBES2) {
        return Err(refused("is not encrypted with PBES2 (RFC 8018); encrypt it anew, with AES"));
    }
    let scheme = Scheme::read(algorithm).ok_or_else(|| refused("asks for another scheme than PBKDF2 and AES-CBC"))?;
    let rounds = NonZeroU32::new(scheme.rounds).filter(|n| n.get() <= MOST_ROUNDS);
    let rounds = rounds.ok_or_else(|| refused("asks for no good number of rounds"))?;
    let mut derived = [0u8; 32];
    let derived = &mut derived[..scheme.key_bytes];
    pbkdf2::derive(scheme.hash, rounds, scheme.salt, password, derived);
    let wrong = |_| refused("cannot be decrypted: the password is not its password");
    let cipher = UnboundCipherKey::new(scheme.cipher, derived).map_err(wrong)?;
    let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(cipher).map_err(wrong)?;
    let context = DecryptionContext::Iv128(FixedLength::from(scheme.iv));
    let mut buffer = bytes.to_vec();
    let opened = cipher.decrypt(&mut buffer, context).map_err(wrong)?;
    // Padding may fit by chance: what comes out must be DER at least.
    Der(opened).enter(SEQUENCE).ok_or_else(|| refused("cannot be decrypted: the password is not its password"))?;
    Ok(opened.to_vec())
}

/// `PBES2-params`.
struct Scheme<'a> {
    hash: pbkdf2::Algorithm,
    salt: &'a [u8],
    rounds: u32,
    cipher: &'static Algorithm,
    key_bytes: usize,
    iv: [u8; 16],
}

impl<'a> Scheme<'a> {
    fn read(mut algorithm: Der<'a>) -> Option<Self> {
        let mut params = algorithm.enter(SEQUENCE)?;
        let (mut kdf, mut cipher) = (params.enter(SEQUENCE)?, params.enter(SEQUENCE)?);
        (kdf.take(OID)? == PBKDF2).then_some(())?;
        let mut kdf = kdf.enter(SEQUENCE)?;
        let salt = kdf.take(OCTETS)?;
        let rounds = kdf.number()?;
        // The length of the key follows from the cipher.
        let _ = kdf.number();
        let hash = match kdf.enter(SEQUENCE) {
            None => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(mut prf) => match prf.take(OID)?.strip_prefix(HMAC)? {
                [7] => pbkdf2::PBKDF2_HMAC_SHA1,
                [9] => pbkdf2::PBKDF2_HMAC_SHA256,
                [10] => pbkdf2::PBKDF2_HMAC_SHA384,
                [11] => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return None,
            },
        };
        let (algorithm, key_bytes) = match cipher.take(OID)?.strip_prefix(AES_CBC)? {
            [2] => (&AES_128, 16),
            [22] => (&AES_192, 24),
            [42] => (&AES_256, 32),
            _ => return None,
        };
        let iv = cipher.take(OCTETS)?.try_into().ok()?;
        Some(Scheme { hash, salt, rounds, cipher: algorithm, key_bytes, iv })
    }
}

/// DER that is left to read.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the next value, if it has this tag; nothing is read otherwise.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        if *found != tag {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            long => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (bytes.len() <= 4).then_some(())?;
                (bytes.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        self.take(tag).map(Der)
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.take(INTEGER)?;
        (bytes.len() <= 5).then(|| bytes.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b)))?.try_into().ok()
    }
}
