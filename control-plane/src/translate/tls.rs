//! mTLS between sidecars: TLS 1.3, client certificates required, peers recognised by their SPIFFE identity. And TLS to
//! endpoints without a sidecar, where a BackendTLSPolicy asks for it.

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::node::Flavor;
use super::wire;
use crate::model::backend_tls::{BackendTls, San};

/// The workload's own certificate.
pub const SECRET_CERTIFICATE: &str = "default";
/// The roots of the trust domain.
pub const SECRET_ROOTS: &str = "ROOTCA";

pub(super) const ALPN_HTTP: [&str; 2] = ["h2", "http/1.1"];

/// For a listener: any workload of the trust domain may come in.
pub(super) fn downstream(flavor: Flavor, trust_domain: &str, alpn: &[&str]) -> Option<core::TransportSocket> {
    let anybody = vec![wire::prefix(&format!("spiffe://{trust_domain}/"))];
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(flavor, anybody, alpn)),
        require_client_certificate: wire::yes(),
        ..Default::default()
    };
    Some(socket(wire::any(&context)))
}

/// For a cluster: exactly these identities may answer.
pub(super) fn upstream(
    flavor: Flavor,
    identities: &[String],
    sni: &str,
    alpn: &[&str],
) -> Option<core::TransportSocket> {
    let matchers = identities.iter().map(|id| wire::exact(id)).collect();
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(flavor, matchers, alpn)),
        sni: sni.to_owned(),
        ..Default::default()
    };
    Some(socket(wire::any(&context)))
}

/// The authorities that an operating system trusts, where most have them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// For endpoints without a sidecar that speak TLS themselves. `authorities` are PEM; `None`: the operating system's.
pub(super) fn backend(policy: &BackendTls, authorities: Option<String>, alpn: &[&str]) -> core::TransportSocket {
    use tls::subject_alt_name_matcher::SanType;
    let name = |san_type: SanType, text: &str| tls::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(wire::exact(text)),
        ..Default::default()
    };
    let mut names: Vec<tls::SubjectAltNameMatcher> = policy
        .names
        .iter()
        .map(|san| match san {
            San::Dns(text) => name(SanType::Dns, text),
            San::Uri(text) => name(SanType::Uri, text),
        })
        .collect();
    if names.is_empty() {
        names.push(name(SanType::Dns, &policy.hostname));
    }
    let trusted = match authorities {
        Some(pem) => wire::inline(&pem),
        None => wire::file(SYSTEM_AUTHORITIES),
    };
    let validation = tls::CertificateValidationContext {
        trusted_ca: trusted,
        match_typed_subject_alt_names: names,
        ..Default::default()
    };
    let common = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        alpn_protocols: alpn.iter().map(|p| (*p).to_owned()).collect(),
        validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: policy.hostname.clone(),
        ..Default::default()
    };
    socket(wire::any(&context))
}

pub(super) fn plain() -> core::TransportSocket {
    use sidemesh_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
    let config = core::transport_socket::ConfigType::TypedConfig(wire::any(&RawBuffer::default()));
    core::TransportSocket { name: "envoy.transport_sockets.raw_buffer".into(), config_type: Some(config) }
}

fn socket(config: sidemesh_proto::google::Any) -> core::TransportSocket {
    let config = core::transport_socket::ConfigType::TypedConfig(config);
    core::TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type: Some(config) }
}

fn common(
    flavor: Flavor,
    identities: Vec<sidemesh_proto::envoy::r#type::matcher::v3::StringMatcher>,
    alpn: &[&str],
) -> tls::CommonTlsContext {
    let secret = |name: &str| tls::SdsSecretConfig {
        name: name.to_owned(),
        // Without a source: a secret that the proxy has already.
        sds_config: if flavor == Flavor::SidecarSds { wire::from_ads() } else { None },
    };
    let names = identities
        .into_iter()
        .map(|matcher| tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
            matcher: Some(matcher),
            ..Default::default()
        })
        .collect();
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: names,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(SECRET_ROOTS)),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(SECRET_CERTIFICATE)],
        alpn_protocols: alpn.iter().map(|p| (*p).to_owned()).collect(),
        validation_context_type: Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(
            combined,
        )),
        ..Default::default()
    }
}
