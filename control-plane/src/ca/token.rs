//! Join and renewal tokens: `<prefix>_<claims>.<mac>`, both parts base64url; the MAC is HMAC-SHA-256 with a key that
//! only the control plane has. A join token is good once: its id is written to the store before anything is signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::CLOCK_SKEW;

/// `meshctl token create` by default.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Accepted after the end, for clocks that differ; at most a tenth of the lifetime.
const GRACE: Duration = Duration::from_secs(60);
const MAX_BYTES: usize = 4096;

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    #[serde(rename = "ns")]
    pub namespace: String,
    #[serde(rename = "sa")]
    pub service_account: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    Join,
    Renew,
}

impl Use {
    fn prefix(self) -> &'static str {
        match self {
            Use::Join => "smjoin_",
            Use::Renew => "smrenew_",
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(rename = "use")]
    pub purpose: Use,
    pub id: String,
    #[serde(rename = "td")]
    pub trust_domain: String,
    #[serde(flatten)]
    pub identity: Identity,
    #[serde(rename = "iat")]
    pub issued_unix_s: u64,
    #[serde(rename = "exp")]
    pub expires_unix_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a {wanted} token: it begins with {prefix}; make one with `meshctl token create`")]
    NotAToken { wanted: &'static str, prefix: &'static str },
    #[error("the token was not made by this control plane, or was altered: make a new one with `meshctl token create`")]
    Forged,
    #[error("the token is for trust domain `{found}`, this is `{wanted}`")]
    OtherTrustDomain { found: String, wanted: String },
    #[error("the token expired {ago_s} s ago: make a new one with `meshctl token create`")]
    Expired { ago_s: u64 },
    #[error("the token is not valid for another {in_s} s: check the clocks")]
    NotYet { in_s: u64 },
    #[error(
        "the token was used before: a join token is good for one workload; make a new one with `meshctl token create`"
    )]
    Used,
}

/// Makes and checks tokens.
pub struct Tokens {
    key: hmac::Key,
    trust_domain: String,
}

impl Tokens {
    pub(super) fn new(secret: &[u8], trust_domain: &str) -> Tokens {
        Tokens { key: hmac::Key::new(hmac::HMAC_SHA256, secret), trust_domain: trust_domain.to_owned() }
    }

    /// A new token, and what it says.
    pub fn issue(&self, purpose: Use, identity: &Identity, now: SystemTime, expires: SystemTime) -> (String, Claims) {
        let claims = Claims {
            purpose,
            id: random_id(),
            trust_domain: self.trust_domain.clone(),
            identity: identity.clone(),
            issued_unix_s: unix_s(now),
            expires_unix_s: unix_s(expires),
        };
        // A struct of strings and numbers always has a JSON form.
        let body = serde_json::to_vec(&claims).unwrap_or_default();
        let mac = hmac::sign(&self.key, &body);
        let text = format!("{}{}.{}", purpose.prefix(), URL_SAFE_NO_PAD.encode(&body), URL_SAFE_NO_PAD.encode(mac));
        (text, claims)
    }

    /// Checks a token's form, origin and time. Whether it was used before, the store knows.
    pub fn verify(&self, purpose: Use, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        let claims = self.verify_origin(purpose, token)?;
        let now_s = unix_s(now);
        let lifetime = claims.expires_unix_s.saturating_sub(claims.issued_unix_s);
        if now_s > claims.expires_unix_s + GRACE.as_secs().min(lifetime / 10) {
            return Err(TokenError::Expired { ago_s: now_s - claims.expires_unix_s });
        }
        if now_s + CLOCK_SKEW.as_secs() < claims.issued_unix_s {
            return Err(TokenError::NotYet { in_s: claims.issued_unix_s - now_s });
        }
        Ok(claims)
    }

    /// As `verify`, whatever the time is.
    pub fn verify_origin(&self, purpose: Use, token: &str) -> Result<Claims, TokenError> {
        let wanted = match purpose {
            Use::Join => "join",
            Use::Renew => "renewal",
        };
        let not_a_token = TokenError::NotAToken { wanted, prefix: purpose.prefix() };
        let parts = token.trim().strip_prefix(purpose.prefix()).and_then(|rest| rest.split_once('.'));
        let (body, mac) = parts.filter(|_| token.len() <= MAX_BYTES).ok_or(not_a_token)?;
        let body = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Forged)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Forged)?;
        hmac::verify(&self.key, &body, &mac).map_err(|_| TokenError::Forged)?;
        let claims: Claims = serde_json::from_slice(&body).map_err(|_| TokenError::Forged)?;
        if claims.purpose != purpose {
            return Err(TokenError::Forged);
        }
        if claims.trust_domain != self.trust_domain {
            let wanted = self.trust_domain.clone();
            return Err(TokenError::OtherTrustDomain { found: claims.trust_domain, wanted });
        }
        Ok(claims)
    }
}

/// 128 random bits.
pub fn random_id() -> String {
    let mut bytes = [0u8; 16];
    // The generator fails only where the operating system has none; an id of zeros would then be refused as used.
    let _filled = aws_lc_rs::rand::fill(&mut bytes).is_ok();
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
