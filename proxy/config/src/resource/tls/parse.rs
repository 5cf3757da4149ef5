//! Transport sockets of both sides: raw_buffer, tls, and (upstream) PROXY protocol around one of them.

use std::sync::Arc;

use prost::Name as _;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use sidemesh_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use sidemesh_proto::{google, type_url};

use super::context::{common_context, ticket_keys};
use super::{
    DownstreamTls, DownstreamTransport, ProxyProtocolVersion, StaplePolicy, Tickets, TlsVersion, UpstreamTls,
    UpstreamTransport,
};
use crate::rejection::{Rejection, Within};
use crate::wire;

/// RFC 6066: a server name is a DNS name, at most this long.
const MAX_SNI_BYTES: usize = 255;

/// The transport socket of a filter chain; none is raw.
pub fn parse_downstream(socket: Option<&core::TransportSocket>) -> Result<DownstreamTransport, Rejection> {
    let Some(socket) = socket else { return Ok(DownstreamTransport::Raw) };
    let config = typed_config(socket)?;
    match type_url::message_name(&config.type_url) {
        name if name == RawBuffer::full_name() => Ok(DownstreamTransport::Raw),
        name if name == pb::DownstreamTlsContext::full_name() => {
            let context = wire::unpack::<pb::DownstreamTlsContext>(config, "typed_config")?;
            Ok(DownstreamTransport::Tls(Arc::new(downstream_tls(&context).within("typed_config")?)))
        }
        _ => Err(unknown(config)),
    }
}

/// The transport socket of a cluster; none is raw.
pub fn parse_upstream(socket: Option<&core::TransportSocket>) -> Result<UpstreamTransport, Rejection> {
    let Some(socket) = socket else { return Ok(UpstreamTransport::Raw) };
    let config = typed_config(socket)?;
    match type_url::message_name(&config.type_url) {
        name if name == RawBuffer::full_name() => Ok(UpstreamTransport::Raw),
        name if name == pb::UpstreamTlsContext::full_name() => {
            let context = wire::unpack::<pb::UpstreamTlsContext>(config, "typed_config")?;
            Ok(UpstreamTransport::Tls(Arc::new(upstream_tls(&context).within("typed_config")?)))
        }
        name if name == ProxyProtocolUpstreamTransport::full_name() => {
            let transport = wire::unpack::<ProxyProtocolUpstreamTransport>(config, "typed_config")?;
            proxy_protocol(&transport).within("typed_config")
        }
        _ => Err(unknown(config)),
    }
}

fn typed_config(socket: &core::TransportSocket) -> Result<&google::Any, Rejection> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(config)) => Ok(config),
        None => Err(Rejection::invalid("typed_config", format!("is required for `{}`", socket.name))),
    }
}

fn unknown(config: &google::Any) -> Rejection {
    let known = "raw_buffer, tls and upstream_proxy_protocol";
    Rejection::unsupported("typed_config", format!("no transport socket `{}`; there are {known}", config.type_url))
}

fn downstream_tls(context: &pb::DownstreamTlsContext) -> Result<DownstreamTls, Rejection> {
    use pb::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType};
    let common = common_context(&context.common_tls_context, TlsVersion::V1_3)?;
    if common.certificates.is_empty() && common.certificate_secrets.is_empty() {
        let reason = "a server needs tls_certificates or tls_certificate_sds_secret_configs";
        return Err(Rejection::invalid("common_tls_context.tls_certificates", reason));
    }
    if wire::flag(&context.require_sni, false) {
        return Err(Rejection::unsupported("require_sni", "match server_names in the filter chain instead"));
    }
    let tickets = match &context.session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => Tickets::OwnKeys,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => Tickets::Disabled,
        Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
            Tickets::Keys(ticket_keys(keys).within("session_ticket_keys")?)
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(secret)) => {
            Tickets::Secret(super::context::secret_ref(secret).within("session_ticket_keys_sds_secret_config")?)
        }
    };
    Ok(DownstreamTls {
        common,
        require_client_certificate: wire::flag(&context.require_client_certificate, false),
        tickets,
        stateful_resumption: !context.disable_stateful_session_resumption,
        session_timeout: wire::optional_duration(&context.session_timeout, "session_timeout")?,
        full_scan: wire::flag(&context.full_scan_certs_on_sni_mismatch, false),
        prefer_client_ciphers: context.prefer_client_ciphers,
        staple_policy: match wire::enumeration(context.ocsp_staple_policy, "ocsp_staple_policy")? {
            OcspStaplePolicy::LenientStapling => StaplePolicy::Lenient,
            OcspStaplePolicy::StrictStapling => StaplePolicy::Strict,
            OcspStaplePolicy::MustStaple => StaplePolicy::Must,
        },
    })
}

fn upstream_tls(context: &pb::UpstreamTlsContext) -> Result<UpstreamTls, Rejection> {
    let common = common_context(&context.common_tls_context, TlsVersion::V1_2)?;
    if common.certificates.len() + common.certificate_secrets.len() > 1 {
        let reason = "a client presents one certificate; give one";
        return Err(Rejection::invalid("common_tls_context.tls_certificates", reason));
    }
    if context.allow_renegotiation {
        return Err(Rejection::unsupported("allow_renegotiation", "TLS renegotiation is not supported"));
    }
    if context.sni.len() > MAX_SNI_BYTES {
        return Err(Rejection::invalid("sni", format!("is longer than {MAX_SNI_BYTES} bytes")));
    }
    if context.auto_sni_san_validation && common.validation.is_none() && common.validation_secret.is_none() {
        return Err(Rejection::invalid("auto_sni_san_validation", "needs a validation context with a trusted_ca"));
    }
    Ok(UpstreamTls {
        common,
        sni: wire::optional_name(&context.sni),
        auto_host_sni: context.auto_host_sni,
        auto_sni_san_validation: context.auto_sni_san_validation,
        max_session_keys: wire::uint32(&context.max_session_keys).unwrap_or(1),
    })
}

fn proxy_protocol(transport: &ProxyProtocolUpstreamTransport) -> Result<UpstreamTransport, Rejection> {
    use core::proxy_protocol_config::Version;
    use core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
    for (set, field) in [
        (transport.allow_unspecified_address, "allow_unspecified_address"),
        (transport.tlv_as_pool_key, "tlv_as_pool_key"),
    ] {
        if set {
            return Err(Rejection::unsupported(field, "leave it out"));
        }
    }
    let inner = wire::required(&transport.transport_socket, "transport_socket")?;
    let inner = parse_upstream(Some(inner)).within("transport_socket")?;
    if matches!(inner, UpstreamTransport::ProxyProtocol { .. }) {
        return Err(Rejection::invalid("transport_socket", "a PROXY header goes around a raw or a TLS socket"));
    }
    let config = transport.config.clone().unwrap_or_default();
    let version = proxy_protocol_version(config.version).within("config")?;
    let passed = config.pass_through_tlvs.unwrap_or_default();
    let pass_all_tlvs = transport_passes_all(&transport.config)
        && wire::enumeration::<PassTlVsMatchType>(passed.match_type, "config.pass_through_tlvs.match_type")?
            == PassTlVsMatchType::IncludeAll;
    let pass_tlvs = wire::each(&passed.tlv_type, "tlv_type", |t| tlv_type(*t)).within("config.pass_through_tlvs")?;
    let added_tlvs = wire::each(&config.added_tlvs, "added_tlvs", |tlv| {
        if tlv.format_string.is_some() {
            return Err(Rejection::unsupported("format_string", "give the `value` itself"));
        }
        Ok((tlv_type(tlv.r#type).within("type")?, tlv.value.clone()))
    })
    .within("config")?;
    if proxy_protocol_version(config.version)? == ProxyProtocolVersion::V1 && !added_tlvs.is_empty() {
        return Err(Rejection::invalid(
            "config.added_tlvs",
            format!("{} has no TLVs; use V2", Version::V1.as_str_name()),
        ));
    }
    Ok(UpstreamTransport::ProxyProtocol { version, pass_all_tlvs, pass_tlvs, added_tlvs, inner: Box::new(inner) })
}

fn transport_passes_all(config: &Option<core::ProxyProtocolConfig>) -> bool {
    config.as_ref().is_some_and(|c| c.pass_through_tlvs.is_some())
}

fn tlv_type(number: u32) -> Result<u8, Rejection> {
    u8::try_from(number).map_err(|_| Rejection::invalid("", format!("{number} is no TLV type; the largest is 255")))
}

/// `ProxyProtocolConfig.Version`.
pub(crate) fn proxy_protocol_version(number: i32) -> Result<ProxyProtocolVersion, Rejection> {
    use core::proxy_protocol_config::Version;
    Ok(match wire::enumeration::<Version>(number, "version")? {
        Version::V1 => ProxyProtocolVersion::V1,
        Version::V2 => ProxyProtocolVersion::V2,
    })
}
