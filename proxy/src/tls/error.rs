//! What goes wrong with TLS, spelled for `UPSTREAM_TRANSPORT_FAILURE_REASON` as Envoy (BoringSSL) spells it.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};

use sidemesh_config::value::Name;

use super::verify::Broken;

/// A context that cannot be used, or a handshake that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("TLS_error: the secret `{0}` has not arrived yet")]
    SecretMissing(Name),
    #[error("the secret `{name}` is no {expected}")]
    SecretKind { name: Name, expected: &'static str },
    #[error("{what}: {reason}")]
    Material { what: String, reason: String },
    #[error("TLS_error: `{0}` is no server name")]
    ServerName(Box<str>),
    #[error("{}", failure_reason(.0))]
    Handshake(rustls::Error),
    #[error("{0}")]
    Io(Arc<str>),
    #[error("TLS_error: the peer closed the connection during the handshake")]
    Closed,
}

impl Error {
    pub(super) fn material(what: impl Into<String>, reason: impl ToString) -> Self {
        Error::Material { what: what.into(), reason: reason.to_string() }
    }

    /// The configuration is not complete yet: no fault of the peer's.
    pub fn is_not_ready(&self) -> bool {
        matches!(self, Error::SecretMissing(_))
    }
}

/// What a failed handshake is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The client sent no certificate and had to.
    NoCertificate,
    /// The certificate does not chain to the CA, or is out of date or revoked.
    Chain,
    San,
    Pin,
    /// Anything that is no fault of the certificate.
    Connection,
    /// The peer closed without a word: not counted.
    Left,
}

impl Error {
    pub fn failure(&self) -> Failure {
        match self {
            Error::Handshake(rustls::Error::NoCertificatesPresented) => Failure::NoCertificate,
            Error::Handshake(rustls::Error::InvalidCertificate(CertificateError::Other(rule))) => {
                match rule.0.downcast_ref() {
                    Some(Broken::Names(_)) => Failure::San,
                    Some(Broken::Pins) => Failure::Pin,
                    _ => Failure::Chain,
                }
            }
            Error::Handshake(rustls::Error::InvalidCertificate(_)) => Failure::Chain,
            Error::Closed | Error::Io(_) => Failure::Left,
            _ => Failure::Connection,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(tls) => Error::Handshake(tls.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Error::Closed,
            None => Error::Io(Arc::from(error.to_string())),
        }
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Error::Handshake(error)
    }
}

/// BoringSSL packs the library (16: SSL) over the reason.
const SSL_LIBRARY: u32 = 16 << 24;
const CERTIFICATE_VERIFY_FAILED: u32 = 125;
/// Reasons of received alerts start here.
const ALERTS: u32 = 1000;

fn failure_reason(error: &rustls::Error) -> String {
    use rustls::Error as E;
    let (reason, name) = match error {
        E::InvalidCertificate(why) => {
            let code = SSL_LIBRARY + CERTIFICATE_VERIFY_FAILED;
            let why = certificate_reason(why);
            return format!(
                "TLS_error:|{code}:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: {why}:TLS_error_end"
            );
        }
        E::AlertReceived(alert) => (ALERTS + u32::from(u8::from(*alert)), alert_name(*alert)),
        E::InvalidMessage(_) => (247, "WRONG_VERSION_NUMBER"),
        E::NoCertificatesPresented => {
            (192, "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate")
        }
        E::NoApplicationProtocol => (307, "NO_APPLICATION_PROTOCOL"),
        E::PeerIncompatible(why) => match why {
            rustls::PeerIncompatible::NoCipherSuitesInCommon => (184, "NO_SHARED_CIPHER"),
            rustls::PeerIncompatible::NoKxGroupsInCommon => (185, "NO_SHARED_GROUP"),
            rustls::PeerIncompatible::NoSignatureSchemesInCommon => (253, "NO_COMMON_SIGNATURE_ALGORITHMS"),
            _ => (240, "UNSUPPORTED_PROTOCOL"),
        },
        E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => (223, "UNEXPECTED_MESSAGE"),
        E::DecryptError => (137, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        other => return format!("TLS_error:|{other}:TLS_error_end"),
    };
    format!("TLS_error:|{}:SSL routines:OPENSSL_internal:{name}:TLS_error_end", SSL_LIBRARY + reason)
}

fn certificate_reason(why: &CertificateError) -> String {
    let known = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not yet valid",
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "CRL has expired"
        }
        CertificateError::BadSignature => "certificate signature failure",
        CertificateError::BadEncoding => "certificate cannot be parsed",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsupported certificate purpose"
        }
        CertificateError::Other(rule) => return rule.0.to_string(),
        other => return other.to_string(),
    };
    format!("X509_verify_cert: certificate verification error at depth 0: {known}")
}

fn alert_name(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CloseNotify => "SSLV3_ALERT_CLOSE_NOTIFY",
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "SSLV3_ALERT",
    }
}
