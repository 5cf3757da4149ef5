//! Kubernetes' service-account tokens in the place of join tokens: what a pod's projected volume holds.
//!
//! A token is a JWT that the API server signed, for the audience `sidemesh`; it names the pod's namespace and service
//! account and lives an hour or so. The keys to check it with are a JWK set (RFC 7517), which
//! `kubectl get --raw /openid/v1/jwks` prints. The file is read at each use, so keys rotate without a restart. Not here:
//! asking the API server, which would know of deleted pods.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::CLOCK_SKEW;
use super::token::{Identity, unix_s};

/// Whom tokens must be for.
const AUDIENCE: &str = "sidemesh";
const MAX_BYTES: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServiceAccountError {
    #[error("{path}: {reason}: it is what `kubectl get --raw /openid/v1/jwks` prints")]
    Keys { path: String, reason: String },
    #[error("not a service-account token of Kubernetes: {0}")]
    NotAToken(&'static str),
    #[error("no key in --kubernetes-keys signed the token: is it of this cluster, and are the keys fresh?")]
    Forged,
    #[error("the token is for {found}, not for the audience {AUDIENCE}: project it with audience: {AUDIENCE}")]
    OtherAudience { found: String },
    #[error("the token expired {ago_s} s ago: the kubelet renews it, so is the volume still mounted?")]
    Expired { ago_s: u64 },
    #[error("the token is not valid for another {in_s} s: check the clocks")]
    NotYet { in_s: u64 },
}

/// Does a credential look like a JWT?
pub fn is_jwt(token: &str) -> bool {
    token.starts_with("ey") && token.split('.').count() == 3
}

/// Checks tokens with the keys in a file.
#[derive(Debug, Clone)]
pub struct ServiceAccounts {
    keys: PathBuf,
}

impl ServiceAccounts {
    /// Fails when the file cannot be read as keys.
    pub fn open(keys: &Path) -> Result<ServiceAccounts, ServiceAccountError> {
        let accounts = ServiceAccounts { keys: keys.to_owned() };
        accounts.read().map(|_| accounts)
    }

    fn read(&self) -> Result<Vec<Jwk>, ServiceAccountError> {
        let bad = |reason: String| ServiceAccountError::Keys { path: self.keys.display().to_string(), reason };
        let text = std::fs::read_to_string(&self.keys).map_err(|e| bad(e.to_string()))?;
        let set: JwkSet = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if set.keys.is_empty() { Err(bad("no keys in it".into())) } else { Ok(set.keys) }
    }

    /// Whom a token stands for. Blocks on the disk, shortly.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Identity, ServiceAccountError> {
        verify(&self.read()?, token.trim(), now)
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// A public key; fields of other kinds of keys are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    n: String,
    e: String,
    crv: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

fn verify(keys: &[Jwk], token: &str, now: SystemTime) -> Result<Identity, ServiceAccountError> {
    let form = ServiceAccountError::NotAToken("it is not a JWT");
    let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_BYTES).ok_or(form)?;
    let (header, claims) = signed.split_once('.').ok_or(ServiceAccountError::NotAToken("it is not a JWT"))?;
    let header: Header = part(header)?;
    let signature = bytes(signature)?;
    let named = |key: &&Jwk| header.kid.is_none() || key.kid.is_none() || key.kid == header.kid;
    if !keys.iter().filter(named).any(|key| key.signed(&header.alg, signed.as_bytes(), &signature)) {
        return Err(ServiceAccountError::Forged);
    }
    let claims: Claims = part(claims)?;
    let audiences = match claims.aud {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    };
    if !audiences.iter().any(|a| a == AUDIENCE) {
        return Err(ServiceAccountError::OtherAudience { found: audiences.join(", ") });
    }
    let now = unix_s(now);
    if now > claims.exp {
        return Err(ServiceAccountError::Expired { ago_s: now - claims.exp });
    }
    if now + CLOCK_SKEW.as_secs() < claims.nbf {
        return Err(ServiceAccountError::NotYet { in_s: claims.nbf - now });
    }
    let Kubernetes { namespace, serviceaccount } = claims.kubernetes;
    Ok(Identity { namespace, service_account: serviceaccount.name })
}

fn bytes(text: &str) -> Result<Vec<u8>, ServiceAccountError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| ServiceAccountError::NotAToken("a part is not base64url"))
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, ServiceAccountError> {
    serde_json::from_slice(&bytes(text)?)
        .map_err(|_| ServiceAccountError::NotAToken("header or claims are not those of Kubernetes"))
}

impl Jwk {
    /// The two algorithms that API servers sign with (RFC 7518): RS256 and ES256.
    fn signed(&self, alg: &str, message: &[u8], signature: &[u8]) -> bool {
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        match (alg, self.kty.as_str()) {
            ("RS256", "RSA") => {
                let key = RsaPublicKeyComponents { n: decoded(&self.n), e: decoded(&self.e) };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            ("ES256", "EC") if self.crv == "P-256" => {
                // An uncompressed point (SEC 1).
                let point = [vec![4], decoded(&self.x), decoded(&self.y)].concat();
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    fn key() -> (EcdsaKeyPair, Vec<Jwk>) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("key");
        let point = key.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "kid": "one", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..])});
        (key, vec![serde_json::from_value(jwk).expect("a key")])
    }

    fn token(key: &EcdsaKeyPair, claims: &Value) -> String {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "one"})), part(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn claims() -> Value {
        json!({"aud": ["sidemesh"], "iss": "https://kubernetes.default.svc", "iat": 1000, "nbf": 1000, "exp": 4600,
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "product", "uid": "u"}, "pod": {"name": "p"}}})
    }

    #[test]
    fn a_pods_token_stands_for_its_service_account() {
        let (key, keys) = key();
        let text = token(&key, &claims());
        assert!(is_jwt(&text));
        let at = |seconds| verify(&keys, &text, UNIX_EPOCH + Duration::from_secs(seconds));
        let expected = Identity { namespace: "shop".into(), service_account: "product".into() };
        assert_eq!(at(2000).expect("valid"), expected);
        assert!(matches!(at(5000), Err(ServiceAccountError::Expired { ago_s: 400 })));
        assert!(matches!(at(100), Err(ServiceAccountError::NotYet { in_s: 900 })));
    }

    #[test]
    fn what_is_not_such_a_token_is_refused() {
        let (signer, keys) = key();
        let now = UNIX_EPOCH + Duration::from_secs(2000);
        let mut other = claims();
        other["aud"] = json!("vault");
        let error = verify(&keys, &token(&signer, &other), now).expect_err("audience").to_string();
        assert!(error.contains("for vault"), "{error}");
        let (stranger, _) = key();
        assert!(matches!(verify(&keys, &token(&stranger, &claims()), now), Err(ServiceAccountError::Forged)));
        let text = token(&signer, &claims());
        let unsigned = format!("{}.", text.rsplit_once('.').expect("parts").0);
        assert!(matches!(verify(&keys, &unsigned, now), Err(ServiceAccountError::Forged)));
        for garbage in ["", "a.b", "a.b.c", "smjoin_x.y"] {
            assert!(verify(&keys, garbage, now).is_err(), "{garbage}");
        }
    }
}
