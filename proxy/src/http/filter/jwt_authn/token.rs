//! JSON Web Tokens in compact form (RFC 7515 section 7.1) and their registered claims (RFC 7519 section 4.1). Parsing alone:
//! nothing here is verified.

use std::ops::Range;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::error::JwtError;

/// Base64url; padding is taken but not asked for.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `alg` (RFC 7518 section 3.1, RFC 8037).
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
    pub(super) fn parse(name: &str) -> Option<Self> {
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

/// A token, not verified.
#[derive(Debug)]
pub struct Token {
    text: Box<str>,
    payload: Range<usize>,
    pub algorithm: Algorithm,
    pub key_id: Option<Box<str>>,
    pub header: Value,
    pub claims: Value,
    /// Seconds since the epoch.
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
    pub signature: Vec<u8>,
}

impl Token {
    pub fn parse(text: &str) -> Result<Self, JwtError> {
        let mut sections = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (sections.next(), sections.next(), sections.next(), sections.next())
        else {
            return Err(JwtError::Form);
        };
        if [header, payload, signature].iter().any(|s| s.is_empty()) {
            return Err(JwtError::Form);
        }
        let payload_at = header.len() + 1..header.len() + 1 + payload.len();
        let header = object(header, JwtError::HeaderBase64, JwtError::HeaderJson)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(JwtError::Algorithm)?;
        let algorithm = Algorithm::parse(algorithm).ok_or(JwtError::UnknownAlgorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()).filter(|id| !id.is_empty()).map(Box::from),
            Some(_) => return Err(JwtError::KeyId),
        };
        let claims = object(payload, JwtError::PayloadBase64, JwtError::PayloadJson)?;
        for claim in ["iss", "sub", "jti"] {
            if claims.get(claim).is_some_and(|v| !v.is_string()) {
                return Err(JwtError::NoString(claim));
            }
        }
        seconds(&claims, "iat")?;
        let (not_before, expires) = (seconds(&claims, "nbf")?, seconds(&claims, "exp")?);
        match claims.get("aud") {
            None | Some(Value::String(_)) => {}
            Some(Value::Array(many)) if many.iter().all(Value::is_string) => {}
            Some(_) => return Err(JwtError::NoAudience),
        }
        let signature = BASE64.decode(signature).map_err(|_| JwtError::SignatureBase64)?;
        Ok(Token {
            text: text.into(),
            payload: payload_at,
            algorithm,
            key_id,
            header,
            claims,
            not_before,
            expires,
            signature,
        })
    }

    /// The payload as it came, Base64url.
    pub fn payload(&self) -> &str {
        &self.text[self.payload.clone()]
    }

    /// What the signature is over.
    pub fn signed(&self) -> &[u8] {
        &self.text.as_bytes()[..self.payload.end]
    }

    pub fn issuer(&self) -> &str {
        self.string("iss")
    }

    pub fn subject(&self) -> &str {
        self.string("sub")
    }

    fn string(&self, claim: &str) -> &str {
        self.claims.get(claim).and_then(Value::as_str).unwrap_or("")
    }

    /// `aud`, which may be one or a list.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self.claims.get("aud") {
            Some(Value::String(one)) => (Some(one.as_str()), &[][..]),
            Some(Value::Array(many)) => (None, &many[..]),
            _ => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().filter_map(Value::as_str))
    }
}

fn object(section: &str, base64: JwtError, json: JwtError) -> Result<Value, JwtError> {
    let bytes = BASE64.decode(section).map_err(|_| base64)?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object).ok_or(json)
}

/// A NumericDate; what is below the second is cut off.
fn seconds(claims: &Value, claim: &'static str) -> Result<Option<u64>, JwtError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::Number(n)) => match (n.as_u64(), n.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            (None, Some(seconds)) if (0.0..1e18).contains(&seconds) => Ok(Some(seconds as u64)),
            _ => Err(JwtError::OutOfRange(claim)),
        },
        Some(_) => Err(JwtError::NoInteger(claim)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> Result<Token, JwtError> {
        Token::parse(&format!("{}.{}.c2ln", BASE64.encode(header), BASE64.encode(payload)))
    }

    #[test]
    fn malformed_tokens_are_told_apart() {
        let good = r#"{"alg":"RS256"}"#;
        for text in ["", "abc.def", "a.b.c.d", "a..c", "..", "a.b."] {
            assert_eq!(Token::parse(text).err(), Some(JwtError::Form), "{text}");
        }
        assert_eq!(Token::parse("!.a.b").err(), Some(JwtError::HeaderBase64));
        let cases = [
            ("{", "{}", JwtError::HeaderJson),
            ("[]", "{}", JwtError::HeaderJson),
            ("{}", "{}", JwtError::Algorithm),
            (r#"{"alg":1}"#, "{}", JwtError::Algorithm),
            (r#"{"alg":"none"}"#, "{}", JwtError::UnknownAlgorithm),
            (r#"{"alg":"RS256","kid":1}"#, "{}", JwtError::KeyId),
            (good, "x", JwtError::PayloadJson),
            (good, r#"{"iss":1}"#, JwtError::NoString("iss")),
            (good, r#"{"exp":"1"}"#, JwtError::NoInteger("exp")),
            (good, r#"{"nbf":-1}"#, JwtError::OutOfRange("nbf")),
            (good, r#"{"aud":[1]}"#, JwtError::NoAudience),
        ];
        for (header, payload, expected) in cases {
            assert_eq!(token(header, payload).err(), Some(expected), "{header} {payload}");
        }
    }

    #[test]
    fn claims_are_read() {
        let header = r#"{"alg":"ES256","kid":"k"}"#;
        let parsed = token(header, r#"{"iss":"i","sub":"s","aud":["a","b"],"exp":12.7,"nbf":3}"#).expect("a token");
        assert_eq!((parsed.issuer(), parsed.subject(), parsed.algorithm), ("i", "s", Algorithm::Es256));
        assert_eq!((parsed.expires, parsed.not_before, parsed.key_id.as_deref()), (Some(12), Some(3), Some("k")));
        assert_eq!(parsed.audiences().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(BASE64.decode(parsed.payload()).expect("Base64").first(), Some(&b'{'));
        assert!(parsed.signed().ends_with(parsed.payload().as_bytes()));
    }
}
