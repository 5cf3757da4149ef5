use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

fn b64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A token of `alg`, signed by `sign`.
fn token(alg: &str, key_id: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Token {
    let header = json!({ "alg": alg, "kid": key_id }).to_string();
    let signed = format!("{}.{}", b64(header.as_bytes()), b64(b"{}"));
    let signature = b64(&sign(signed.as_bytes()));
    Token::parse(&format!("{signed}.{signature}")).expect("a token")
}

fn keys(jwks: Value) -> KeySet {
    KeySet::parse(json!({ "keys": [jwks] }).to_string().as_bytes()).expect("keys")
}

/// The two numbers of an RSAPublicKey (RFC 8017 appendix A.1.1), with their sign octets.
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn take(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match der[1] {
            n if n < 0x80 => (usize::from(n), 2),
            n => {
                let digits = usize::from(n & 0x7f);
                (der[2..2 + digits].iter().fold(0, |all, d| all << 8 | usize::from(*d)), 2 + digits)
            }
        };
        (&der[at..at + length], &der[at + length..])
    }
    let (n, rest) = take(take(der).0);
    (n.to_vec(), take(rest).0.to_vec())
}

#[test]
fn rsa_signatures_of_both_paddings_hold() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let (n, e) = rsa_numbers(pair.public_key().as_ref());
    let set = keys(json!({ "kty": "RSA", "n": b64(&n), "e": b64(&e) }));
    let encodings: [(&str, &'static dyn signature::RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    for (alg, encoding) in encodings {
        let sign = |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), message, &mut signature).expect("a signature");
            signature
        };
        assert_eq!(set.verify(&token(alg, "", sign)), Ok(()), "{alg}");
        let other = token(alg, "", |m| {
            let mut signature = sign(m);
            signature[0] ^= 1;
            signature
        });
        assert_eq!(set.verify(&other), Err(JwtError::Verification), "{alg}");
    }
    // The public key must not serve as a secret.
    let confused = token("HS256", "", |m| {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
        hmac::sign(&secret, m).as_ref().to_vec()
    });
    assert_eq!(set.verify(&confused), Err(JwtError::Verification));
}

#[test]
fn curves_hold() {
    let curves = [
        ("ES256", "P-256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (alg, curve, signing) in curves {
        let pair = EcdsaKeyPair::generate(signing).expect("a key");
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let set = keys(json!({ "kty": "EC", "crv": curve, "x": b64(x), "y": b64(y) }));
        let good = token(alg, "", |m| pair.sign(&SystemRandom::new(), m).expect("a signature").as_ref().to_vec());
        assert_eq!(set.verify(&good), Ok(()), "{alg}");
        assert_eq!(set.verify(&token(alg, "", |_| vec![1; point.len()])), Err(JwtError::Verification), "{alg}");
    }
    let pair = Ed25519KeyPair::generate().expect("a key");
    let set = keys(json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref()) }));
    assert_eq!(set.verify(&token("EdDSA", "", |m| pair.sign(m).as_ref().to_vec())), Ok(()));
}

#[test]
fn secrets_hold_for_their_key_id_and_algorithm() {
    let sign = |with, m: &[u8]| hmac::sign(&hmac::Key::new(with, b"secret"), m).as_ref().to_vec();
    let set = keys(json!({ "kty": "oct", "kid": "k1", "k": b64(b"secret") }));
    for (alg, with) in [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)] {
        assert_eq!(set.verify(&token(alg, "k1", |m| sign(with, m))), Ok(()), "{alg}");
        assert_eq!(set.verify(&token(alg, "", |m| sign(with, m))), Ok(()), "{alg} without a key id");
        assert_eq!(set.verify(&token(alg, "k2", |m| sign(with, m))), Err(JwtError::NoKey), "{alg}");
    }
    let one = keys(json!({ "kty": "oct", "alg": "HS512", "k": b64(b"secret") }));
    assert_eq!(one.verify(&token("HS256", "", |m| sign(hmac::HMAC_SHA256, m))), Err(JwtError::NoKey));
}

#[test]
fn what_cannot_be_used_is_left_out() {
    for nothing in [json!({}), json!({ "keys": {} }), json!({ "keys": [] }), json!({ "keys": [{ "kty": "new" }] })] {
        assert_eq!(KeySet::parse(nothing.to_string().as_bytes()).err(), Some(JwtError::NoKeys), "{nothing}");
    }
    let mixed = json!({ "keys": [
        { "kty": "RSA", "n": "AA", "e": "AQAB" },
        { "kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ" },
        { "kty": "RSA", "alg": "RSA-OAEP", "n": "AQ", "e": "AQ" },
        { "kty": "oct", "k": b64(b"secret") },
    ] });
    assert_eq!(KeySet::parse(mixed.to_string().as_bytes()).map(|k| k.0.len()).ok(), Some(1));
}
