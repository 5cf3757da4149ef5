//! Why a token is not taken: the texts that clients of Envoy know.

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
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [{0}] field is not a string")]
    NoString(&'static str),
    #[error("Jwt payload [{0}] field is not an integer")]
    NoInteger(&'static str),
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    OutOfRange(&'static str),
    #[error("Jwt payload [aud] field is not a string or string list")]
    NoAudience,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    /// The signature does not hold, or the subject or lifetime is none that the provider allows.
    #[error("Jwt verification fails")]
    Verification,
    #[error("Jwks remote fetch is failed")]
    Fetch,
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
}

impl JwtError {
    /// The number of the failure, as `failed_status_in_metadata` tells it (`jwt_verify_lib`'s `Status`).
    pub fn code(self) -> u32 {
        match self {
            JwtError::Missing => 1,
            JwtError::NotYetValid => 2,
            JwtError::Expired => 3,
            JwtError::Form => 4,
            JwtError::HeaderBase64 => 5,
            JwtError::HeaderJson => 6,
            JwtError::Algorithm => 7,
            JwtError::UnknownAlgorithm => 8,
            JwtError::KeyId => 9,
            JwtError::PayloadBase64 => 10,
            JwtError::PayloadJson => 11,
            JwtError::NoString("iss") => 12,
            JwtError::NoInteger("iat") => 13,
            JwtError::OutOfRange("iat") => 14,
            JwtError::NoInteger("nbf") => 15,
            JwtError::OutOfRange("nbf") => 16,
            JwtError::NoInteger(_) => 17,
            JwtError::OutOfRange(_) => 18,
            JwtError::NoString("jti") => 19,
            JwtError::NoString(_) => 20,
            JwtError::NoAudience => 21,
            JwtError::SignatureBase64 => 22,
            JwtError::Issuer => 24,
            JwtError::Audience => 25,
            JwtError::Verification => 26,
            JwtError::NoKeys => 31,
            JwtError::NoKey => 32,
            JwtError::Fetch => 57,
        }
    }
}
