//! The operators of format strings by name, and their arguments.

use http::HeaderName as Header;

use super::{
    AddressPart, GrpcStatusFormat, Operator, Original, Precision, ServerName, TimeFormat, TimePoint, TlsPart, Zone,
};
use crate::matcher::header::HeaderName;
use crate::value::{Name, name};

/// Whether an operator's text may be cut to a maximum length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Allowed,
    Refused,
}

/// The operator `command` with its argument (what stands in parentheses).
pub(super) fn compile(command: &str, argument: Option<&str>) -> Result<(Operator, Length), String> {
    if let Some((upstream, end)) = argument.and(certificate_time(command)) {
        let format = time_format(argument.unwrap_or(""))?;
        return Ok((Operator::CertificateTime { upstream, end, format }, Length::Allowed));
    }
    if let Some(operator) = plain(command) {
        return match argument {
            None => Ok((operator, Length::Refused)),
            Some(_) => Err(format!("operator `{command}` takes no argument")),
        };
    }
    if let Some(operator) = optional(command, argument.unwrap_or(""))? {
        let length = match operator {
            Operator::Path { .. } | Operator::QueryParams { .. } => Length::Allowed,
            _ => Length::Refused,
        };
        return Ok((operator, length));
    }
    let operator = with_argument(command, argument.unwrap_or(""))?;
    let operator = operator.ok_or_else(|| format!("unknown operator `{command}`"))?;
    let length = if command == "COMMON_DURATION" { Length::Refused } else { Length::Allowed };
    Ok((operator, length))
}

/// Whose certificate's time it is: of the upstream peer, of its end.
fn certificate_time(command: &str) -> Option<(bool, bool)> {
    Some(match command {
        "DOWNSTREAM_PEER_CERT_V_START" => (false, false),
        "DOWNSTREAM_PEER_CERT_V_END" => (false, true),
        "UPSTREAM_PEER_CERT_V_START" => (true, false),
        "UPSTREAM_PEER_CERT_V_END" => (true, true),
        _ => return None,
    })
}

/// Operators without an argument.
fn plain(command: &str) -> Option<Operator> {
    use Operator as O;
    Some(match command {
        "TRACE_ID" => O::TraceId,
        "SPAN_ID" => O::SpanId,
        "PROTOCOL" => O::Protocol,
        "UPSTREAM_PROTOCOL" => O::UpstreamProtocol,
        "RESPONSE_CODE" => O::ResponseCode,
        "CONNECTION_TERMINATION_DETAILS" => O::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => O::ResponseFlags { long: false },
        "RESPONSE_FLAGS_LONG" => O::ResponseFlags { long: true },
        // Fingerprints and times of HTTP/3: what is told when they are off, and here they cannot be switched on. The
        // kernel's round-trip time is not read.
        "TLS_JA3_FINGERPRINT"
        | "TLS_JA4_FINGERPRINT"
        | "ROUNDTRIP_DURATION"
        | "UPSTREAM_LOCAL_CLOSE_REASON"
        | "DOWNSTREAM_CX_RTT" => O::Nothing,
        // No filter sets flags of its own.
        "CUSTOM_FLAGS" => O::Constant(""),
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => {
            O::EndpointId { upstream: false }
        }
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => O::EndpointId { upstream: true },
        "UPSTREAM_HOST" => O::UpstreamHost { part: AddressPart::AddressAndPort },
        "UPSTREAM_HOST_NAME" => O::UpstreamHostName { with_port: true },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => O::UpstreamHostName { with_port: false },
        "UPSTREAM_CLUSTER" => O::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => O::UpstreamClusterRaw,
        "UPSTREAM_LOCAL_ADDRESS" => O::UpstreamLocalAddress(AddressPart::AddressAndPort),
        "UPSTREAM_LOCAL_PORT" => O::UpstreamLocalAddress(AddressPart::Port),
        "UPSTREAM_REMOTE_ADDRESS" => O::UpstreamRemoteAddress(AddressPart::AddressAndPort),
        "UPSTREAM_REMOTE_PORT" => O::UpstreamRemoteAddress(AddressPart::Port),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => O::UpstreamTransportFailureReason,
        "UPSTREAM_HOSTS_ATTEMPTED" => O::UpstreamHostsAttempted(AddressPart::AddressAndPort),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => O::UpstreamHostsAttempted(AddressPart::Address),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => O::UpstreamRequestAttemptCount,
        "UPSTREAM_CONNECTION_ID" => O::UpstreamConnectionId,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => O::DownstreamTransportFailureReason,
        "DOWNSTREAM_REMOTE_ADDRESS" => O::DownstreamRemoteAddress(AddressPart::AddressAndPort),
        "DOWNSTREAM_REMOTE_PORT" => O::DownstreamRemoteAddress(AddressPart::Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => O::DownstreamDirectRemoteAddress(AddressPart::AddressAndPort),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => O::DownstreamDirectRemoteAddress(AddressPart::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => O::DownstreamLocalAddress(AddressPart::AddressAndPort),
        "DOWNSTREAM_LOCAL_PORT" => O::DownstreamLocalAddress(AddressPart::Port),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => O::DownstreamDirectLocalAddress(AddressPart::AddressAndPort),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => O::DownstreamDirectLocalAddress(AddressPart::Port),
        "CONNECTION_ID" => O::ConnectionId,
        "STREAM_ID" => O::StreamId,
        "ROUTE_NAME" => O::RouteName,
        "VIRTUAL_HOST_NAME" => O::VirtualHostName,
        "VIRTUAL_CLUSTER_NAME" => O::VirtualClusterName,
        "FILTER_CHAIN_NAME" => O::FilterChainName,
        "GRPC_STATUS_NUMBER" => O::GrpcStatusNumber,
        "HOSTNAME" => O::Hostname,
        "LOCAL_REPLY_BODY" => O::LocalReplyBody,
        "UNIQUE_ID" => O::UniqueId,
        "ACCESS_LOG_TYPE" => O::AccessLogType,
        "SIDEMESH_ERROR" => O::SidemeshError,
        "SIDEMESH_REVISION" => O::SidemeshRevision,
        _ => return measured(command).or_else(|| transport(command)).or_else(|| tls(command)),
    })
}

/// What happened to connections.
fn transport(command: &str) -> Option<Operator> {
    use Operator as O;
    Some(match command {
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => O::UpstreamHostNamesAttempted { with_port: true },
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => O::UpstreamHostNamesAttempted { with_port: false },
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => O::UpstreamConnectionIdsAttempted,
        "UPSTREAM_SERVER_NAME" => O::UpstreamServerName,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => O::CloseType { upstream: true },
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => O::CloseType { upstream: false },
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => O::DownstreamLocalCloseReason,
        "ROUTE_RESOLUTION_COUNT" => O::RouteResolutionCount,
        "ROUTE_RESOLUTION_TIME_US" => O::RouteResolutionTime,
        _ => return None,
    })
}

/// Bytes and times.
fn measured(command: &str) -> Option<Operator> {
    use Operator as O;
    Some(match command {
        "BYTES_RECEIVED" => O::BytesReceived,
        "BYTES_SENT" => O::BytesSent,
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => O::BytesRetransmitted,
        "REQUEST_HEADERS_BYTES" => O::RequestHeadersBytes,
        "RESPONSE_HEADERS_BYTES" => O::ResponseHeadersBytes,
        "RESPONSE_TRAILERS_BYTES" => O::ResponseTrailersBytes,
        "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            O::HeaderBytes { upstream: false, sent: true }
        }
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            O::HeaderBytes { upstream: false, sent: false }
        }
        "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            O::HeaderBytes { upstream: true, sent: true }
        }
        "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            O::HeaderBytes { upstream: true, sent: false }
        }
        "UPSTREAM_WIRE_BYTES_SENT" => O::UpstreamWireBytesSent,
        "UPSTREAM_WIRE_BYTES_RECEIVED" => O::UpstreamWireBytesReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => O::DownstreamWireBytesSent,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => O::DownstreamWireBytesReceived,
        "DURATION" => O::Duration,
        "REQUEST_DURATION" => O::RequestDuration,
        "REQUEST_TX_DURATION" => O::RequestTxDuration,
        "RESPONSE_DURATION" => O::ResponseDuration,
        "RESPONSE_TX_DURATION" => O::ResponseTxDuration,
        "DOWNSTREAM_HANDSHAKE_DURATION" => O::DownstreamHandshakeDuration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => O::PoolReadyDuration,
        _ => return None,
    })
}

fn tls(command: &str) -> Option<Operator> {
    match (command.strip_prefix("DOWNSTREAM_"), command.strip_prefix("UPSTREAM_")) {
        (Some(rest), _) => tls_part(rest).map(Operator::DownstreamTls),
        (_, Some(rest)) => tls_part(rest).map(Operator::UpstreamTls),
        _ => None,
    }
}

fn tls_part(rest: &str) -> Option<TlsPart> {
    Some(match rest {
        "TLS_VERSION" => TlsPart::Version,
        "TLS_CIPHER" => TlsPart::Cipher,
        "TLS_SESSION_ID" => TlsPart::SessionId,
        "PEER_SUBJECT" => TlsPart::PeerSubject,
        "PEER_ISSUER" => TlsPart::PeerIssuer,
        "PEER_URI_SAN" => TlsPart::PeerUriSan,
        "PEER_DNS_SAN" => TlsPart::PeerDnsSan,
        "PEER_IP_SAN" => TlsPart::PeerIpSan,
        "PEER_EMAIL_SAN" => TlsPart::PeerEmailSan,
        "LOCAL_SUBJECT" => TlsPart::LocalSubject,
        "LOCAL_URI_SAN" => TlsPart::LocalUriSan,
        "LOCAL_DNS_SAN" => TlsPart::LocalDnsSan,
        "LOCAL_IP_SAN" => TlsPart::LocalIpSan,
        "LOCAL_EMAIL_SAN" => TlsPart::LocalEmailSan,
        "LOCAL_OTHERNAME_SAN" => TlsPart::LocalOtherNameSan,
        "PEER_OTHERNAME_SAN" => TlsPart::PeerOtherNameSan,
        "TLS_GROUP" => TlsPart::Group,
        "PEER_ISSUER_FINGERPRINT_256" => TlsPart::IssuerFingerprint256,
        "PEER_ISSUER_SERIAL" => TlsPart::IssuerSerial,
        "PEER_CHAIN_FINGERPRINTS_1" => TlsPart::PeerChainFingerprints1,
        "PEER_FINGERPRINT_256" => TlsPart::PeerFingerprint256,
        "PEER_FINGERPRINT_1" => TlsPart::PeerFingerprint1,
        "PEER_SERIAL" => TlsPart::PeerSerial,
        "PEER_CERT" => TlsPart::PeerCert,
        "PEER_CERT_V_START" => TlsPart::PeerCertValidFrom,
        "PEER_CERT_V_END" => TlsPart::PeerCertValidTo,
        "PEER_CHAIN_FINGERPRINTS_256" => TlsPart::PeerChainFingerprints256,
        "PEER_CHAIN_SERIALS" => TlsPart::PeerChainSerials,
        _ => return None,
    })
}

/// Operators whose argument may be left out.
fn optional(command: &str, argument: &str) -> Result<Option<Operator>, String> {
    use Operator as O;
    let network = || mask(command, argument);
    Ok(Some(match command {
        "START_TIME" => O::StartTime(time_format(argument)?, Zone::Utc),
        "START_TIME_LOCAL" => O::StartTime(time_format(argument)?, Zone::Local),
        "EMIT_TIME" => O::EmitTime(time_format(argument)?, Zone::Utc),
        "EMIT_TIME_LOCAL" => O::EmitTime(time_format(argument)?, Zone::Local),
        "RESPONSE_CODE_DETAILS" => {
            let allow = choose(command, argument, &[("", false), ("ALLOW_WHITESPACES", true)])?;
            O::ResponseCodeDetails { allow_whitespace: allow }
        }
        "GRPC_STATUS" => O::GrpcStatus(choose(
            command,
            argument,
            &[
                ("", GrpcStatusFormat::CamelString),
                ("CAMEL_STRING", GrpcStatusFormat::CamelString),
                ("SNAKE_STRING", GrpcStatusFormat::SnakeString),
                ("NUMBER", GrpcStatusFormat::Number),
            ],
        )?),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => O::UpstreamLocalAddress(network()?),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => O::UpstreamRemoteAddress(network()?),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => O::DownstreamRemoteAddress(network()?),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => O::DownstreamDirectRemoteAddress(network()?),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => O::DownstreamDirectLocalAddress(network()?),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => O::DownstreamLocalAddress(network()?),
        "PATH" => {
            let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
            O::Path {
                with_query: choose(command, query, &[("", true), ("WQ", true), ("NQ", false)])?,
                source: original(command, source, "PATH")?,
            }
        }
        "QUERY_PARAMS" => {
            let decoded = choose(command, argument, &[("", false), ("ORIG", false), ("DECODED", true)])?;
            O::QueryParams { decoded }
        }
        "REQUESTED_SERVER_NAME" => {
            let (order, source) = argument.split_once(':').unwrap_or((argument, ""));
            let source = original(command, source, "HOST")?;
            O::RequestedServerName(choose(
                command,
                order,
                &[
                    ("", ServerName::Sni),
                    ("SNI_ONLY", ServerName::Sni),
                    ("SNI_FIRST", ServerName::SniElseHost(source)),
                    ("HOST_FIRST", ServerName::Host(source)),
                ],
            )?)
        }
        _ => return Ok(None),
    }))
}

/// Operators that need an argument.
fn with_argument(command: &str, argument: &str) -> Result<Option<Operator>, String> {
    use Operator as O;
    let operator = match command {
        "REQ" | "REQUEST_HEADER" => request_header(command, argument, false)?,
        "REQ_WITHOUT_QUERY" => request_header(command, argument, true)?,
        "RESP" | "RESPONSE_HEADER" if argument.eq_ignore_ascii_case(":status") => O::ResponseStatus,
        "RESP" | "RESPONSE_HEADER" => {
            let (name, fallback) = two(command, argument, header)?;
            O::ResponseHeader { name, fallback }
        }
        "TRAILER" | "RESPONSE_TRAILER" => {
            let (name, fallback) = two(command, argument, header)?;
            O::ResponseTrailer { name, fallback }
        }
        "QUERY_PARAM" => O::QueryParam(needed(command, argument)?.to_owned()),
        "ENVIRONMENT" => O::Environment(std::env::var(needed(command, argument)?).unwrap_or_else(|_| "-".to_owned())),
        "COMMON_DURATION" => common_duration(argument)?,
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" | "PER_REQUEST_STATE" => filter_state(command, argument)?,
        "METADATA" => {
            let (kind, rest) = needed(command, argument)?.split_once(':').unwrap_or((argument, ""));
            metadata(command, kind, rest)?
        }
        "DYNAMIC_METADATA" => metadata(command, "DYNAMIC", needed(command, argument)?)?,
        "CLUSTER_METADATA" => metadata(command, "CLUSTER", needed(command, argument)?)?,
        "UPSTREAM_METADATA" => metadata(command, "UPSTREAM_HOST", needed(command, argument)?)?,
        _ => return Ok(None),
    };
    Ok(Some(operator))
}

fn needed<'a>(command: &str, argument: &'a str) -> Result<&'a str, String> {
    if argument.is_empty() { Err(format!("operator `{command}` needs an argument")) } else { Ok(argument) }
}

/// The value of the word `argument`.
fn choose<T: Copy>(command: &str, argument: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == argument).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).filter(|w| !w.is_empty()).collect();
        format!("operator `{command}` does not know `{argument}`; it takes {}", known.join(", "))
    })
}

/// `ORIG`, `<present>` or `ORIG_OR_<present>`.
fn original(command: &str, word: &str, present: &str) -> Result<Original, String> {
    let both = format!("ORIG_OR_{present}");
    let words = [
        ("", Original::OriginalElsePresent),
        ("ORIG", Original::Original),
        (present, Original::Present),
        (&both, Original::OriginalElsePresent),
    ];
    choose(command, word, &words)
}

fn mask(command: &str, argument: &str) -> Result<AddressPart, String> {
    if argument.is_empty() {
        return Ok(AddressPart::Address);
    }
    match argument.parse::<u8>() {
        Ok(bits) if bits <= 128 => Ok(AddressPart::Network(bits)),
        _ => Err(format!("operator `{command}` takes a prefix length of 0 to 128, not `{argument}`")),
    }
}

/// `X` or `X?Y`.
fn two<T>(command: &str, argument: &str, read: fn(&str, &str) -> Result<T, String>) -> Result<(T, Option<T>), String> {
    let mut names = needed(command, argument)?.split('?');
    let first = read(command, names.next().unwrap_or(""))?;
    let second = names.next().map(|n| read(command, n)).transpose()?;
    match names.next() {
        Some(_) => Err(format!("operator `{command}` takes one alternative header at most")),
        None => Ok((first, second)),
    }
}

fn header(command: &str, text: &str) -> Result<Header, String> {
    Header::from_bytes(text.as_bytes()).map_err(|_| format!("operator `{command}`: `{text}` is no header name"))
}

fn request_header(command: &str, argument: &str, without_query: bool) -> Result<Operator, String> {
    let read: fn(&str, &str) -> Result<HeaderName, String> = |command, text| {
        HeaderName::parse(text).ok_or_else(|| format!("operator `{command}`: `{text}` is no request header"))
    };
    let (name, fallback) = two(command, argument, read)?;
    Ok(Operator::RequestHeader { name, fallback, without_query })
}

fn time_format(argument: &str) -> Result<TimeFormat, String> {
    if argument.is_empty() {
        return Ok(TimeFormat::Default);
    }
    if argument.contains(['\n', '\r', '\0']) {
        return Err("a time format must not hold line ends".to_owned());
    }
    Ok(TimeFormat::Strftime(argument.to_owned()))
}

fn common_duration(argument: &str) -> Result<Operator, String> {
    const POINTS: &[(&str, TimePoint)] = &[
        ("DS_CX_BEG", TimePoint::DownstreamConnectionBegin),
        ("DS_CX_END", TimePoint::DownstreamConnectionEnd),
        ("DS_HS_BEG", TimePoint::DownstreamHandshakeBegin),
        ("DS_HS_END", TimePoint::DownstreamHandshakeComplete),
        ("DS_RX_BEG", TimePoint::DownstreamRxBegin),
        ("DS_RX_HDR_END", TimePoint::DownstreamRxHeadEnd),
        ("US_RX_BODY_BEG", TimePoint::UpstreamRxBodyBegin),
        ("DS_RX_END", TimePoint::DownstreamRxEnd),
        ("US_CX_BEG", TimePoint::UpstreamConnectStart),
        ("US_CX_END", TimePoint::UpstreamConnectEnd),
        ("US_HS_END", TimePoint::UpstreamHandshakeComplete),
        ("US_TX_BEG", TimePoint::UpstreamTxBegin),
        ("US_TX_END", TimePoint::UpstreamTxEnd),
        ("US_RX_BEG", TimePoint::UpstreamRxBegin),
        ("US_RX_END", TimePoint::UpstreamRxEnd),
        ("DS_TX_BEG", TimePoint::DownstreamTxBegin),
        ("DS_TX_END", TimePoint::DownstreamTxEnd),
    ];
    const COMMAND: &str = "COMMON_DURATION";
    let parts: Vec<_> = argument.split(':').collect();
    let [from, to, precision] = parts[..] else {
        return Err(format!("operator `{COMMAND}` takes START:END:PRECISION, not `{argument}`"));
    };
    let precisions = [("ms", Precision::Millis), ("us", Precision::Micros), ("ns", Precision::Nanos)];
    // Another word names a point that a filter may set.
    let point = |word| POINTS.iter().find(|(known, _)| *known == word).map_or(TimePoint::Unknown, |(_, point)| *point);
    Ok(Operator::CommonDuration {
        from: point(from),
        to: point(to),
        precision: choose(COMMAND, precision, &precisions)?,
    })
}

fn filter_state(command: &str, argument: &str) -> Result<Operator, String> {
    let (key, how) = needed(command, argument)?.split_once(':').unwrap_or((argument, ""));
    let typed = choose(command, how, &[("", true), ("PLAIN", false), ("TYPED", true)])?;
    let upstream = command == "UPSTREAM_FILTER_STATE";
    Ok(Operator::FilterState { key: name(needed(command, key)?), upstream, typed })
}

fn metadata(command: &str, kind: &str, rest: &str) -> Result<Operator, String> {
    let mut parts = rest.split(':').map(name);
    let filter = parts.next().unwrap_or_else(|| name(""));
    let path: Vec<Name> = parts.collect();
    Ok(match kind {
        "DYNAMIC" => Operator::DynamicMetadata { filter, path },
        "CLUSTER" => Operator::ClusterMetadata { filter, path },
        "ROUTE" => Operator::RouteMetadata { filter, path },
        "UPSTREAM_HOST" => Operator::UpstreamHostMetadata { filter, path },
        "LISTENER" => Operator::ListenerMetadata { filter, path },
        "LISTENER_FILTER_CHAIN" => Operator::FilterChainMetadata { filter, path },
        "VIRTUAL_HOST" => Operator::VirtualHostMetadata { filter, path },
        other => {
            let known = "DYNAMIC, CLUSTER, ROUTE, VIRTUAL_HOST, UPSTREAM_HOST, LISTENER, LISTENER_FILTER_CHAIN";
            return Err(format!("operator `{command}` does not know the metadata of `{other}`; it takes {known}"));
        }
    })
}
