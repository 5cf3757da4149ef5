//! Key sets (RFC 7517, RFC 7518 section 6, RFC 8037) and signatures. Keys are parsed once, when the set arrives.

#[cfg(test)]
mod tests;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine;
use serde_json::Value;

use super::error::JwtError;
use super::token::{Algorithm, BASE64, Token};

/// Keys that can verify something; at least one.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// What the key says it is for.
    algorithm: Option<Algorithm>,
    /// What it can be used for.
    verifiers: Vec<(Algorithm, Verifier)>,
}

#[derive(Debug)]
enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];
const SECRET: [(Algorithm, hmac::Algorithm); 3] = [
    (Algorithm::Hs256, hmac::HMAC_SHA256),
    (Algorithm::Hs384, hmac::HMAC_SHA384),
    (Algorithm::Hs512, hmac::HMAC_SHA512),
];

impl KeySet {
    /// Keys that cannot be used (another kind, another purpose, broken) are left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwtError> {
        let document: Value = serde_json::from_slice(bytes).map_err(|_| JwtError::NoKeys)?;
        let all = document.get("keys").and_then(Value::as_array).ok_or(JwtError::NoKeys)?;
        let keys: Vec<Key> = all.iter().filter_map(Key::parse).collect();
        if keys.len() < all.len() {
            tracing::debug!(left_out = all.len() - keys.len(), "keys of a JWKS that cannot be used");
        }
        if keys.is_empty() { Err(JwtError::NoKeys) } else { Ok(KeySet(keys)) }
    }

    /// Holds the token's signature against the keys that fit its key id and algorithm.
    pub fn verify(&self, token: &Token) -> Result<(), JwtError> {
        let mut outcome = JwtError::NoKey;
        for key in self.0.iter().filter(|k| k.fits(token)) {
            outcome = JwtError::Verification;
            let usable = key.verifiers.iter().filter(|(algorithm, _)| *algorithm == token.algorithm);
            if usable.into_iter().any(|(_, v)| v.holds(token)) {
                return Ok(());
            }
        }
        Err(outcome)
    }
}

impl Key {
    fn parse(jwk: &Value) -> Option<Key> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64.decode(text(name)?).ok();
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        let public = |algorithm, with: &'static dyn VerificationAlgorithm, key: &[u8]| {
            let parsed = ParsedPublicKey::new(with, key).ok()?;
            Some(vec![(algorithm, Verifier::Public(parsed))])
        };
        let verifiers = match text("kty")? {
            "RSA" => rsa(&bytes("n")?, &bytes("e")?)?,
            "EC" => match text("crv")? {
                "P-256" => public(
                    Algorithm::Es256,
                    &signature::ECDSA_P256_SHA256_FIXED,
                    &point(32, [bytes("x")?, bytes("y")?])?,
                )?,
                "P-384" => public(
                    Algorithm::Es384,
                    &signature::ECDSA_P384_SHA384_FIXED,
                    &point(48, [bytes("x")?, bytes("y")?])?,
                )?,
                "P-521" => public(
                    Algorithm::Es512,
                    &signature::ECDSA_P521_SHA512_FIXED,
                    &point(66, [bytes("x")?, bytes("y")?])?,
                )?,
                _ => return None,
            },
            "OKP" if text("crv") == Some("Ed25519") => public(Algorithm::EdDsa, &signature::ED25519, &bytes("x")?)?,
            "oct" => {
                let secret = bytes("k").filter(|k| !k.is_empty())?;
                SECRET
                    .iter()
                    .map(|(a, with)| (*a, Verifier::Secret(Box::new(hmac::Key::new(*with, &secret)))))
                    .collect()
            }
            _ => return None,
        };
        Some(Key { id: text("kid").filter(|id| !id.is_empty()).map(str::to_owned), algorithm, verifiers })
    }

    /// A key or a token without an id fits any.
    fn fits(&self, token: &Token) -> bool {
        let named = match (&token.key_id, &self.id) {
            (Some(wanted), Some(id)) => **wanted == **id,
            _ => true,
        };
        named && self.algorithm.is_none_or(|a| a == token.algorithm)
    }
}

impl Verifier {
    fn holds(&self, token: &Token) -> bool {
        match self {
            Verifier::Public(key) => key.verify_sig(token.signed(), &token.signature).is_ok(),
            Verifier::Secret(key) => hmac::verify(key, token.signed(), &token.signature).is_ok(),
        }
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Option<Vec<(Algorithm, Verifier)>> {
    // Some issuers write a sign octet before the modulus.
    let trimmed = |bytes: &[u8]| bytes.iter().position(|b| *b != 0).map(|at| bytes[at..].to_vec());
    let components = RsaPublicKeyComponents { n: trimmed(n)?, e: trimmed(e)? };
    let parsed = |(algorithm, parameters): &(Algorithm, &'static RsaParameters)| {
        Some((*algorithm, Verifier::Public(components.to_parsed_public_key(parameters).ok()?)))
    };
    RSA.iter().map(parsed).collect()
}

/// An uncompressed point (SEC 1 section 2.3.3); coordinates may have lost their leading zeros.
fn point(size: usize, coordinates: [Vec<u8>; 2]) -> Option<Vec<u8>> {
    let mut point = vec![4u8];
    for coordinate in coordinates {
        point.extend(std::iter::repeat_n(0, size.checked_sub(coordinate.len())?));
        point.extend(coordinate);
    }
    Some(point)
}
