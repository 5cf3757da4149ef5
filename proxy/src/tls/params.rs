//! `TlsParameters` → rustls provider and versions.

use std::sync::{Arc, LazyLock};

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};
use sidemesh_config::resource::tls::{CIPHER_SUITES, TlsParams, TlsVersion};
use sidemesh_config::value::Name;

/// Suites of TLS 1.2 by the kind of key that signs, and those of TLS 1.3, which leave it open.
pub(super) const ECDSA_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];
pub(super) const RSA_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];
pub(super) const TLS13_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];
/// The groups offered where none are asked for, Envoy's list: P-384 only when it is named.
const USUAL_CURVES: [&str; 3] = ["X25519MLKEM768", "X25519", "P-256"];

/// All suites of TLS 1.3, in BoringSSL's order, with those of 1.2 that are asked for, in the order asked for. Without curves
/// asked for, the hybrid post-quantum group comes first.
pub(super) fn provider(params: &TlsParams) -> Arc<CryptoProvider> {
    static USUAL: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(build(&[], &[])));
    match (params.cipher_suites.as_slice(), params.ecdh_curves.as_slice()) {
        ([], []) => USUAL.clone(),
        (suites, curves) => Arc::new(build(suites, curves)),
    }
}

/// The same with one suite of TLS 1.3 before the others.
pub(super) fn preferring(provider: &CryptoProvider, first: CipherSuite) -> Arc<CryptoProvider> {
    let mut provider = provider.clone();
    provider.cipher_suites.sort_by_key(|s| s.suite() != first);
    Arc::new(provider)
}

fn build(suites: &[Name], curves: &[Name]) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.tls13().is_some());
    provider.cipher_suites.sort_by_key(|s| TLS13_SUITES.iter().position(|known| *known == s.suite()));
    if suites.is_empty() {
        provider.cipher_suites.extend(CIPHER_SUITES.iter().filter_map(|n| suite(n)));
    } else {
        provider.cipher_suites.extend(suites.iter().filter_map(|n| suite(n)));
    }
    provider.kx_groups = match curves {
        [] => USUAL_CURVES.iter().filter_map(|n| group(n)).collect(),
        curves => curves.iter().filter_map(|n| group(n)).collect(),
    };
    provider
}

/// OpenSSL's name.
fn suite(name: &str) -> Option<SupportedCipherSuite> {
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256" => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES256-GCM-SHA384" => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-CHACHA20-POLY1305" => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        _ => return None,
    })
}

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    Some(match name {
        "X25519" => kx_group::X25519,
        "P-256" => kx_group::SECP256R1,
        "P-384" => kx_group::SECP384R1,
        "X25519MLKEM768" => kx_group::X25519MLKEM768,
        _ => return None,
    })
}

pub(super) fn versions(params: &TlsParams) -> &'static [&'static SupportedProtocolVersion] {
    static NEW: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    static OLD: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match (params.min, params.max) {
        (TlsVersion::V1_3, _) => &NEW,
        (_, TlsVersion::V1_2) => &OLD,
        _ => &BOTH,
    }
}

/// The name of a negotiated suite as OpenSSL spells it.
pub(super) fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
