//! `CommonTlsContext` and what it holds: parameters, certificates, validation contexts, secrets by name.
//!
//! Cipher suites: rustls has the six of [`CIPHER_SUITES`]. Suites that BoringSSL has and that lack forward secrecy or an AEAD
//! ([`LEFT_OUT_SUITES`]) may stand in a list, as control planes write them for old peers; they are never offered, and a list of
//! nothing else is refused. Any other name is refused.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::{
    CIPHER_SUITES, CURVES, CommonTls, KeyLog, SanKind, SanMatcher, SecretRef, TlsCertificate, TlsParams, TlsVersion,
    ValidationContext,
};
use crate::matcher::parse::string;
use crate::rejection::{Rejection, Within};
use crate::value::{DataSource, Name, name};
use crate::wire;

/// See the head of the file.
const LEFT_OUT_SUITES: [&str; 10] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA384",
];

pub(super) fn common_context(
    context: &Option<pb::CommonTlsContext>,
    default_max: TlsVersion,
) -> Result<CommonTls, Rejection> {
    let empty = pb::CommonTlsContext::default();
    common_fields(context.as_ref().unwrap_or(&empty), default_max).within("common_tls_context")
}

fn common_fields(context: &pb::CommonTlsContext, default_max: TlsVersion) -> Result<CommonTls, Rejection> {
    for (set, field) in [
        (context.tls_certificate_provider_instance.is_some(), "tls_certificate_provider_instance"),
        (context.custom_tls_certificate_selector.is_some(), "custom_tls_certificate_selector"),
        (context.tls_certificate_certificate_provider.is_some(), "tls_certificate_certificate_provider"),
        (
            context.tls_certificate_certificate_provider_instance.is_some(),
            "tls_certificate_certificate_provider_instance",
        ),
        (context.custom_handshaker.is_some(), "custom_handshaker"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "use tls_certificates or tls_certificate_sds_secret_configs"));
        }
    }
    let (validation, validation_secret) = validation_source(context)?;
    Ok(CommonTls {
        params: params(context.tls_params.as_ref(), default_max).within("tls_params")?,
        certificates: wire::each(&context.tls_certificates, "tls_certificates", |c| certificate(c).map(Arc::new))?,
        certificate_secrets: wire::each(
            &context.tls_certificate_sds_secret_configs,
            "tls_certificate_sds_secret_configs",
            secret_ref,
        )?,
        validation: validation.map(Arc::new),
        validation_secret,
        alpn: alpn_protocols(&context.alpn_protocols).within("alpn_protocols")?,
        key_log: context.key_log.as_ref().map(key_log).transpose().within("key_log")?,
    })
}

fn validation_source(
    context: &pb::CommonTlsContext,
) -> Result<(Option<ValidationContext>, Option<SecretRef>), Rejection> {
    use pb::common_tls_context::ValidationContextType as Wire;
    match &context.validation_context_type {
        None => Ok((None, None)),
        Some(Wire::ValidationContext(v)) => Ok((Some(validation_context(v).within("validation_context")?), None)),
        Some(Wire::ValidationContextSdsSecretConfig(secret)) => {
            Ok((None, Some(secret_ref(secret).within("validation_context_sds_secret_config")?)))
        }
        Some(Wire::CombinedValidationContext(combined)) => {
            combined_context(combined).within("combined_validation_context")
        }
        Some(Wire::ValidationContextCertificateProvider(_) | Wire::ValidationContextCertificateProviderInstance(_)) => {
            Err(Rejection::unsupported("validation_context_certificate_provider", "use validation_context"))
        }
    }
}

fn combined_context(
    combined: &pb::common_tls_context::CombinedCertificateValidationContext,
) -> Result<(Option<ValidationContext>, Option<SecretRef>), Rejection> {
    let default = wire::required(&combined.default_validation_context, "default_validation_context")?;
    let secret =
        wire::required(&combined.validation_context_sds_secret_config, "validation_context_sds_secret_config")?;
    Ok((
        Some(validation_context(default).within("default_validation_context")?),
        Some(secret_ref(secret).within("validation_context_sds_secret_config")?),
    ))
}

pub(super) fn secret_ref(secret: &pb::SdsSecretConfig) -> Result<SecretRef, Rejection> {
    Ok(SecretRef {
        name: wire::non_empty(&secret.name, "name")?,
        source: secret.sds_config.as_ref().map(|c| wire::config_source(c, "sds_config")).transpose()?,
    })
}

/// Entries may hold several protocols with commas between them.
fn alpn_protocols(entries: &[String]) -> Result<Vec<Vec<u8>>, Rejection> {
    let mut protocols = Vec::new();
    for protocol in entries.iter().flat_map(|e| e.split(',')) {
        if protocol.is_empty() || protocol.len() > 255 {
            return Err(Rejection::invalid("", "a protocol has 1 to 255 bytes"));
        }
        protocols.push(protocol.as_bytes().to_vec());
    }
    Ok(protocols)
}

fn key_log(log: &pb::TlsKeyLog) -> Result<KeyLog, Rejection> {
    Ok(KeyLog {
        path: PathBuf::from(&*wire::non_empty(&log.path, "path")?),
        local: wire::each(&log.local_address_range, "local_address_range", |c| wire::cidr(c, ""))?,
        remote: wire::each(&log.remote_address_range, "remote_address_range", |c| wire::cidr(c, ""))?,
    })
}

fn params(params: Option<&pb::TlsParameters>, default_max: TlsVersion) -> Result<TlsParams, Rejection> {
    use pb::tls_parameters::TlsProtocol;
    let empty = pb::TlsParameters::default();
    let params = params.unwrap_or(&empty);
    if !params.signature_algorithms.is_empty() {
        return Err(Rejection::unsupported("signature_algorithms", "leave it out for the default list"));
    }
    if !params.compliance_policies.is_empty() {
        return Err(Rejection::unsupported("compliance_policies", "set the versions, suites and curves one by one"));
    }
    let version = |number, field, auto| {
        Ok(match wire::enumeration::<TlsProtocol>(number, field)? {
            TlsProtocol::TlsAuto => Some(auto),
            TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => None,
            TlsProtocol::TlSv12 => Some(TlsVersion::V1_2),
            TlsProtocol::TlSv13 => Some(TlsVersion::V1_3),
        })
    };
    let max = version(params.tls_maximum_protocol_version, "tls_maximum_protocol_version", default_max)?
        .ok_or_else(|| Rejection::unsupported("tls_maximum_protocol_version", "TLS below 1.2 is not supported"))?;
    // A lower minimum allows more than this proxy speaks: 1.2 is within it.
    let min = version(params.tls_minimum_protocol_version, "tls_minimum_protocol_version", TlsVersion::V1_2)?
        .unwrap_or(TlsVersion::V1_2);
    // Only the minimum given: the default maximum must not fall below it.
    let max = if params.tls_maximum_protocol_version == TlsProtocol::TlsAuto as i32 { max.max(min) } else { max };
    if min > max {
        return Err(Rejection::invalid("tls_minimum_protocol_version", "is above tls_maximum_protocol_version"));
    }
    Ok(TlsParams {
        min,
        max,
        cipher_suites: cipher_suites(&params.cipher_suites).within("cipher_suites")?,
        ecdh_curves: wire::each(&params.ecdh_curves, "ecdh_curves", |c| curve(c))?,
    })
}

/// Names, `[a|b]` groups of equal preference (taken in order), and several with colons between them.
fn cipher_suites(entries: &[String]) -> Result<Vec<Name>, Rejection> {
    let mut suites = Vec::new();
    for suite in entries.iter().flat_map(|e| e.split([':', '|', '[', ']'])).filter(|s| !s.is_empty()) {
        if CIPHER_SUITES.contains(&suite) {
            suites.push(name(suite));
        } else if !LEFT_OUT_SUITES.contains(&suite) {
            let reason = format!("no cipher suite `{suite}`; there are {}", CIPHER_SUITES.join(", "));
            return Err(Rejection::unsupported("", reason));
        }
    }
    if suites.is_empty() && !entries.is_empty() {
        let reason = format!("none of these suites is supported; there are {}", CIPHER_SUITES.join(", "));
        return Err(Rejection::unsupported("", reason));
    }
    Ok(suites)
}

fn curve(curve: &str) -> Result<Name, Rejection> {
    let canonical = match curve {
        "prime256v1" | "secp256r1" => "P-256",
        "secp384r1" => "P-384",
        other => other,
    };
    if CURVES.contains(&canonical) {
        return Ok(name(canonical));
    }
    Err(Rejection::unsupported("", format!("no curve `{curve}`; there are {}", CURVES.join(", "))))
}

/// `TlsCertificate`, here or in a secret.
pub(crate) fn certificate(c: &pb::TlsCertificate) -> Result<TlsCertificate, Rejection> {
    for (set, field) in [
        (c.private_key_provider.is_some(), "private_key_provider"),
        (!c.signed_certificate_timestamp.is_empty(), "signed_certificate_timestamp"),
        (c.tls_params.is_some(), "tls_params"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "give certificate_chain and private_key as PEM"));
        }
    }
    let watched = wire::watched_directory(&c.watched_directory, "watched_directory")?;
    let source = |d: &core::DataSource, field: &str| {
        Ok::<_, Rejection>(with_watch(wire::data_source(d, field)?, watched.as_ref()))
    };
    let password = c.password.as_ref().map(|d| source(d, "password")).transpose()?;
    if let Some(pkcs12) = &c.pkcs12 {
        if c.certificate_chain.is_some() || c.private_key.is_some() {
            return Err(Rejection::invalid("pkcs12", "certificate_chain and private_key may not stand beside it"));
        }
        let both = source(pkcs12, "pkcs12")?;
        let ocsp_staple = c.ocsp_staple.as_ref().map(|d| source(d, "ocsp_staple")).transpose()?;
        return Ok(TlsCertificate { chain: both.clone(), key: both, ocsp_staple, password, pkcs12: true });
    }
    Ok(TlsCertificate {
        password,
        pkcs12: false,
        chain: source(wire::required(&c.certificate_chain, "certificate_chain")?, "certificate_chain")?,
        key: source(wire::required(&c.private_key, "private_key")?, "private_key")?,
        ocsp_staple: c.ocsp_staple.as_ref().map(|d| source(d, "ocsp_staple")).transpose()?,
    })
}

/// A directory that is watched for the whole certificate counts for each of its files.
fn with_watch(source: DataSource, watched: Option<&PathBuf>) -> DataSource {
    match source {
        DataSource::File { path, watched_directory: None } => {
            DataSource::File { path, watched_directory: watched.cloned() }
        }
        other => other,
    }
}

/// `TlsSessionTicketKeys`; the keys' length is checked when they are read.
pub(crate) fn ticket_keys(keys: &pb::TlsSessionTicketKeys) -> Result<Vec<DataSource>, Rejection> {
    if keys.keys.is_empty() {
        return Err(Rejection::invalid("keys", "must hold at least one key"));
    }
    wire::each(&keys.keys, "keys", |k| wire::data_source(k, ""))
}

/// `CertificateValidationContext`, here or in a secret.
pub(crate) fn validation_context(v: &pb::CertificateValidationContext) -> Result<ValidationContext, Rejection> {
    use pb::certificate_validation_context::TrustChainVerification;
    for (set, field) in [
        (v.ca_certificate_provider_instance.is_some(), "ca_certificate_provider_instance"),
        (v.custom_validator_config.is_some(), "custom_validator_config"),
        (wire::flag(&v.require_signed_certificate_timestamp, false), "require_signed_certificate_timestamp"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "use trusted_ca with match_typed_subject_alt_names"));
        }
    }
    let mut san_matchers = wire::each(&v.match_typed_subject_alt_names, "match_typed_subject_alt_names", san_matcher)?;
    san_matchers.extend(wire::each(&v.match_subject_alt_names, "match_subject_alt_names", |m| {
        Ok(SanMatcher { kind: SanKind::Any, oid: None, matcher: string(m, "")? })
    })?);
    let watched = wire::watched_directory(&v.watched_directory, "watched_directory")?;
    let source = |d: &Option<core::DataSource>, field: &str| {
        d.as_ref().map(|d| Ok(with_watch(wire::data_source(d, field)?, watched.as_ref()))).transpose()
    };
    let trusted_ca = source(&v.trusted_ca, "trusted_ca")?;
    Ok(ValidationContext {
        trusted_ca,
        system_root_certs: v.system_root_certs.is_some(),
        san_matchers,
        spki_hashes: wire::each(&v.verify_certificate_spki, "verify_certificate_spki", |h| spki_hash(h))?,
        certificate_hashes: wire::each(&v.verify_certificate_hash, "verify_certificate_hash", |h| certificate_hash(h))?,
        crl: source(&v.crl, "crl")?,
        only_verify_leaf_crl: v.only_verify_leaf_cert_crl,
        allow_expired_certificate: v.allow_expired_certificate,
        accept_untrusted: wire::enumeration::<TrustChainVerification>(
            v.trust_chain_verification,
            "trust_chain_verification",
        )? == TrustChainVerification::AcceptUntrusted,
        max_verify_depth: wire::uint32(&v.max_verify_depth),
        suppress_client_ca_list: v.suppress_client_ca_list,
    })
}

fn san_matcher(m: &pb::SubjectAltNameMatcher) -> Result<SanMatcher, Rejection> {
    use pb::subject_alt_name_matcher::SanType;
    let kind = match wire::enumeration::<SanType>(m.san_type, "san_type")? {
        SanType::Unspecified => {
            return Err(Rejection::invalid("san_type", "must be one of EMAIL, DNS, URI, IP_ADDRESS, OTHER_NAME"));
        }
        SanType::Email => SanKind::Email,
        SanType::Dns => SanKind::Dns,
        SanType::Uri => SanKind::Uri,
        SanType::IpAddress => SanKind::IpAddress,
        SanType::OtherName => SanKind::OtherName,
    };
    let oid = wire::optional_name(&m.oid);
    if kind == SanKind::OtherName && oid.is_none() {
        return Err(Rejection::invalid("oid", "OTHER_NAME needs the type of the name, such as 1.3.6.1.4.1.311.20.2.3"));
    }
    Ok(SanMatcher { kind, oid, matcher: string(wire::required(&m.matcher, "matcher")?, "matcher")? })
}

fn spki_hash(text: &str) -> Result<[u8; 32], Rejection> {
    BASE64
        .decode(text)
        .ok()
        .and_then(|hash| hash.try_into().ok())
        .ok_or_else(|| Rejection::invalid("", "must be the base64 text of a SHA-256 hash"))
}

/// 64 hexadecimal digits, with or without colons between the bytes.
fn certificate_hash(text: &str) -> Result<[u8; 32], Rejection> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    let mut hash = [0u8; 32];
    let well_formed = digits.len() == 64
        && digits.chunks(2).zip(&mut hash).all(|(pair, byte)| {
            let value = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
            value.map(|v| *byte = v).is_some()
        });
    if well_formed { Ok(hash) } else { Err(Rejection::invalid("", "must be a SHA-256 hash of 64 hexadecimal digits")) }
}
