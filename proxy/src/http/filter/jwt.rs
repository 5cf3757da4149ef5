//! JSON Web Tokens: parsing (RFC 7515 compact form, RFC 7519 claims), key sets (RFC 7517) and signatures (RFC 7518: RS, PS, ES, EdDSA, HS).
//!
//! Pure. The error texts are the ones that clients of Envoy know.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    Algorithm,
    #[error("Jwt header [alg] is not supported")]
    UnknownAlgorithm,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Jwt subject is not allowed")]
    Subject,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt must have an expiration")]
    NoExpiration,
    #[error("Jwt lifetime is too long")]
    Lifetime,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwt verification fails")]
    Signature,
    #[error("Jwks remote fetch is failed")]
    Fetch,
    #[error("Jwks is invalid")]
    Jwks,
}

/// A parsed token, not verified.
pub struct Token<'t> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    pub header: Value,
    pub claims: Value,
    /// The payload as it came, Base64url.
    pub payload: &'t str,
    signed: &'t [u8],
    signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            _ => return None,
        })
    }
}

impl<'t> Token<'t> {
    pub fn parse(text: &'t str) -> Result<Self, JwtError> {
        let mut sections = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (sections.next(), sections.next(), sections.next(), sections.next())
        else {
            return Err(JwtError::Form);
        };
        let decoded = URL_SAFE_NO_PAD.decode(header).map_err(|_| JwtError::HeaderBase64)?;
        let fields: Value = serde_json::from_slice(&decoded).map_err(|_| JwtError::HeaderJson)?;
        let algorithm = fields.get("alg").and_then(Value::as_str).ok_or(JwtError::Algorithm)?;
        let algorithm = Algorithm::parse(algorithm).ok_or(JwtError::UnknownAlgorithm)?;
        let key_id = fields.get("kid").and_then(Value::as_str).map(str::to_owned);
        let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| JwtError::PayloadBase64)?;
        let claims: Value = serde_json::from_slice(&claims).map_err(|_| JwtError::PayloadJson)?;
        if !claims.is_object() {
            return Err(JwtError::PayloadJson);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::SignatureBase64)?;
        let signed = text.as_bytes().get(..header.len() + 1 + payload.len()).ok_or(JwtError::Form)?;
        Ok(Token { algorithm, key_id, header: fields, claims, payload, signed, signature })
    }

    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    pub fn seconds(&self, claim: &str) -> Option<i64> {
        let value = self.claims.get(claim)?;
        value.as_i64().or_else(|| value.as_f64().map(|f| f as i64))
    }

    /// `aud`, which may be one or a list.
    pub fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        }
    }

    /// Holds the signature against the keys that fit the token's key id and algorithm.
    pub fn verify(&self, keys: &KeySet) -> Result<(), JwtError> {
        let mut fitting = keys.0.iter().filter(|k| k.fits(self)).peekable();
        if fitting.peek().is_none() {
            return Err(JwtError::NoKey);
        }
        match fitting.any(|k| k.verifies(self)) {
            true => Ok(()),
            false => Err(JwtError::Signature),
        }
    }
}

/// A JWKS, parsed.
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    Symmetric(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl KeySet {
    /// Keys of kinds that are not known are left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwtError> {
        let document: Value = serde_json::from_slice(bytes).map_err(|_| JwtError::Jwks)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(JwtError::Jwks)?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err(JwtError::Jwks) } else { Ok(KeySet(keys)) }
    }
}

impl Key {
    fn parse(jwk: &Value) -> Option<Key> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        let material = match text("kty")? {
            "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            "EC" => {
                let (curve, size) = match text("crv")? {
                    "P-256" => (Curve::P256, 32usize),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                let mut point = vec![4u8];
                for coordinate in [x, y] {
                    point.extend(std::iter::repeat_n(0, size.checked_sub(coordinate.len())?));
                    point.extend(coordinate);
                }
                Material::Ec { curve, point }
            }
            "OKP" if text("crv") == Some("Ed25519") => Material::Ed25519(bytes("x")?),
            "oct" => Material::Symmetric(bytes("k")?),
            _ => return None,
        };
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        Some(Key { id: text("kid").map(str::to_owned), algorithm, material })
    }

    fn fits(&self, token: &Token<'_>) -> bool {
        use Algorithm::*;
        let named = match (&token.key_id, &self.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let kind = match &self.material {
            Material::Rsa { .. } => matches!(token.algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::Ec { curve, .. } => {
                matches!((token.algorithm, curve), (Es256, Curve::P256) | (Es384, Curve::P384) | (Es512, Curve::P521))
            }
            Material::Ed25519(_) => token.algorithm == EdDsa,
            Material::Symmetric(_) => matches!(token.algorithm, Hs256 | Hs384 | Hs512),
        };
        named && kind && self.algorithm.is_none_or(|a| a == token.algorithm)
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        use Algorithm::*;
        let (message, sig) = (token.signed, token.signature.as_slice());
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters: &signature::RsaParameters = match token.algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, sig).is_ok()
            }
            Material::Ec { curve, point } => {
                let algorithm = match curve {
                    Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, sig).is_ok()
            }
            Material::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, sig).is_ok(),
            Material::Symmetric(secret) => {
                let algorithm = match token.algorithm {
                    Hs256 => hmac::HMAC_SHA256,
                    Hs384 => hmac::HMAC_SHA384,
                    Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), message, sig).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hs256(claims: &str, secret: &[u8]) -> String {
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#);
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    fn keys(secret: &[u8], id: &str) -> KeySet {
        let jwks = format!(r#"{{"keys":[{{"kty":"oct","kid":"{id}","k":"{}"}}]}}"#, URL_SAFE_NO_PAD.encode(secret));
        match KeySet::parse(jwks.as_bytes()) {
            Ok(keys) => keys,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn a_signature_holds_for_its_key_alone() {
        let text = hs256(r#"{"iss":"a","aud":["x","y"],"exp":12}"#, b"secret");
        let Ok(token) = Token::parse(&text) else { panic!("not parsed") };
        assert_eq!(token.verify(&keys(b"secret", "k1")), Ok(()));
        assert_eq!(token.verify(&keys(b"other", "k1")), Err(JwtError::Signature));
        assert_eq!(token.verify(&keys(b"secret", "k2")), Err(JwtError::NoKey));
        assert_eq!((token.audiences(), token.seconds("exp")), (vec!["x", "y"], Some(12)));
    }

    #[test]
    fn malformed_tokens_are_told_apart() {
        let error = |text: &str| Token::parse(text).err();
        assert_eq!(error("abc.def"), Some(JwtError::Form));
        assert_eq!(error("!.a.b"), Some(JwtError::HeaderBase64));
        let head = |json: &str| URL_SAFE_NO_PAD.encode(json);
        assert_eq!(error(&format!("{}.e30.", head("{"))), Some(JwtError::HeaderJson));
        assert_eq!(error(&format!("{}.e30.", head("{}"))), Some(JwtError::Algorithm));
        assert_eq!(error(&format!("{}.e30.", head(r#"{"alg":"none"}"#))), Some(JwtError::UnknownAlgorithm));
    }
}
