//! Wire messages that many resources hold → the values of [`crate::value`].
//!
//! Every function takes the name of the field that holds the message, which becomes the first part of the path in a
//! [`Rejection`]. Presence is the caller's business: an `Option` is taken only where the API gives a default. String
//! matchers belong to [`crate::matcher`], header edits to the resources.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use prost::{Message, Name as MessageName};
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::r#type::v3 as types;
pub use sidemesh_proto::json::well_known::{from_struct as struct_to_json, from_value as value_to_json};
use sidemesh_proto::{google, type_url};

use crate::rejection::{Rejection, Within};
use crate::value::{
    Address, Backoff, Cidr, ConfigOrigin, ConfigSource, DataSource, Fraction, GrpcService, GrpcSource, Label, Locality,
    Metadata, Name, RuntimeFraction, name,
};

#[cfg(test)]
mod tests;

/// `ConfigSource.initial_fetch_timeout` when it is not given.
pub const DEFAULT_INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest `google.protobuf.Duration`: about 10 000 years.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;

// ---- presence ----

/// The message of a required field.
pub fn required<'a, T>(value: &'a Option<T>, field: &str) -> Result<&'a T, Rejection> {
    value.as_ref().ok_or_else(|| Rejection::invalid(field, "is required"))
}

/// A required, non-empty text as a name.
pub fn non_empty(text: &str, field: &str) -> Result<Name, Rejection> {
    if text.is_empty() { Err(Rejection::invalid(field, "must not be empty")) } else { Ok(name(text)) }
}

/// An optional text: empty means not given.
pub fn optional_name(text: &str) -> Option<Name> {
    if text.is_empty() { None } else { Some(name(text)) }
}

/// A wrapped boolean with its default.
pub fn flag(value: &Option<google::BoolValue>, default: bool) -> bool {
    value.as_ref().map_or(default, |v| v.value)
}

/// A wrapped 32-bit number, when given.
pub fn uint32(value: &Option<google::UInt32Value>) -> Option<u32> {
    value.as_ref().map(|v| v.value)
}

/// The number of an enum field as its Rust type; a number that the API does not define is refused.
pub fn enumeration<E: TryFrom<i32>>(number: i32, field: &str) -> Result<E, Rejection> {
    E::try_from(number).map_err(|_| Rejection::invalid(field, format!("{number} is no value of this enum")))
}

/// Converts every entry of a repeated field; the index goes into the path.
pub fn each<T, U>(list: &[T], field: &str, convert: impl Fn(&T) -> Result<U, Rejection>) -> Result<Vec<U>, Rejection> {
    list.iter().enumerate().map(|(i, one)| convert(one).within_index(field, i)).collect()
}

/// Decodes an `Any` whose type must be `T`.
pub fn unpack<T: Message + Default + MessageName>(any: &google::Any, field: &str) -> Result<T, Rejection> {
    let given = type_url::message_name(&any.type_url);
    if given != T::full_name() {
        return Err(Rejection::unsupported(field, format!("expected a {}, found `{}`", T::full_name(), any.type_url)));
    }
    T::decode(any.value.as_slice()).map_err(|e| Rejection::malformed(field, e.to_string()))
}

// ---- numbers and time ----

/// A duration of zero or more.
pub fn duration(d: &google::Duration, field: &str) -> Result<Duration, Rejection> {
    let seconds = u64::try_from(d.seconds).map_err(|_| Rejection::invalid(field, "must not be negative"))?;
    let nanos = u32::try_from(d.nanos).map_err(|_| Rejection::invalid(field, "must not be negative"))?;
    if nanos > 999_999_999 || seconds > MAX_DURATION_SECONDS {
        return Err(Rejection::invalid(field, "is out of a duration's range"));
    }
    Ok(Duration::new(seconds, nanos))
}

pub fn optional_duration(d: &Option<google::Duration>, field: &str) -> Result<Option<Duration>, Rejection> {
    d.as_ref().map(|d| duration(d, field)).transpose()
}

pub fn duration_or(d: &Option<google::Duration>, field: &str, default: Duration) -> Result<Duration, Rejection> {
    Ok(optional_duration(d, field)?.unwrap_or(default))
}

/// A duration that must be greater than zero.
pub fn positive_duration(d: &google::Duration, field: &str) -> Result<Duration, Rejection> {
    let duration = duration(d, field)?;
    if duration.is_zero() { Err(Rejection::invalid(field, "must be greater than 0s")) } else { Ok(duration) }
}

/// `type.v3.Percent`: 0 to 100.
pub fn percent(p: &types::Percent, field: &str) -> Result<f64, Rejection> {
    if (0.0..=100.0).contains(&p.value) {
        Ok(p.value)
    } else {
        Err(Rejection::invalid(field, format!("{} is not between 0 and 100", p.value)))
    }
}

pub fn fraction(f: &types::FractionalPercent, field: &str) -> Result<Fraction, Rejection> {
    use types::fractional_percent::DenominatorType;
    let denominator = match enumeration::<DenominatorType>(f.denominator, "denominator").within(field)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Ok(Fraction { numerator: f.numerator, denominator })
}

pub fn runtime_fraction(f: &core::RuntimeFractionalPercent, field: &str) -> Result<RuntimeFraction, Rejection> {
    let default =
        required(&f.default_value, "default_value").and_then(|d| fraction(d, "default_value")).within(field)?;
    Ok(RuntimeFraction { key: optional_name(&f.runtime_key), default })
}

/// `core.v3.BackoffStrategy`: `max_interval` defaults to ten times the base.
pub fn backoff(b: &core::BackoffStrategy, field: &str) -> Result<Backoff, Rejection> {
    let base = required(&b.base_interval, "base_interval").and_then(|d| interval(d, "base_interval")).within(field)?;
    let max = match &b.max_interval {
        Some(max) => interval(max, "max_interval").within(field)?,
        None => base.saturating_mul(10),
    };
    if max < base {
        return Err(Rejection::invalid("max_interval", "is less than base_interval")).within(field);
    }
    Ok(Backoff { base, max })
}

/// A back-off interval: at least one millisecond.
fn interval(d: &google::Duration, field: &str) -> Result<Duration, Rejection> {
    let interval = duration(d, field)?;
    if interval < Duration::from_millis(1) {
        return Err(Rejection::invalid(field, "must be at least 1ms"));
    }
    Ok(interval)
}

// ---- addresses ----

/// An address whose host is an IP address, or a name that somebody else resolves.
pub fn address(a: &core::Address, field: &str) -> Result<Address, Rejection> {
    use core::address::Address as Wire;
    match &a.address {
        Some(Wire::SocketAddress(socket)) => socket_address(socket, "socket_address").within(field),
        Some(Wire::Pipe(pipe)) if pipe.path.is_empty() => {
            Err(Rejection::invalid("pipe.path", "must not be empty")).within(field)
        }
        Some(Wire::Pipe(pipe)) => Ok(Address::Pipe(PathBuf::from(&pipe.path))),
        Some(Wire::EnvoyInternalAddress(_)) => {
            Err(Rejection::unsupported("envoy_internal_address", "internal listeners are not supported")).within(field)
        }
        None => Err(Rejection::invalid(field, "needs a socket_address or a pipe")),
    }
}

pub fn socket_address(a: &core::SocketAddress, field: &str) -> Result<Address, Rejection> {
    use core::socket_address::{PortSpecifier, Protocol};
    if enumeration::<Protocol>(a.protocol, "protocol").within(field)? == Protocol::Udp {
        return Err(Rejection::unsupported("protocol", "UDP is not supported")).within(field);
    }
    let port = match &a.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| Rejection::invalid("port_value", format!("{port} is more than 65535")))
        }
        Some(PortSpecifier::NamedPort(_)) => Err(Rejection::unsupported("named_port", "give a port_value")),
        None => Err(Rejection::invalid("port_value", "is required")),
    };
    let port = port.within(field)?;
    let host = non_empty(&a.address, "address").within(field)?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
        Err(_) => Address::Dns { host, port },
    })
}

/// An address that must be an IP address and port.
pub fn ip_address(a: &core::Address, field: &str) -> Result<SocketAddr, Rejection> {
    match address(a, field)? {
        Address::Socket(socket) => Ok(socket),
        other => Err(Rejection::invalid(field, format!("`{other}` is no IP address"))),
    }
}

/// The prefix length defaults to 0, as in Envoy.
pub fn cidr(c: &core::CidrRange, field: &str) -> Result<Cidr, Rejection> {
    let address = c
        .address_prefix
        .parse::<IpAddr>()
        .map_err(|_| Rejection::invalid("address_prefix", format!("`{}` is no IP address", c.address_prefix)))
        .within(field)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = uint32(&c.prefix_len).unwrap_or(0);
    match u8::try_from(length) {
        Ok(prefix_len) if prefix_len <= most => Ok(Cidr { address, prefix_len }),
        _ => Err(Rejection::invalid("prefix_len", format!("{length} is more than {most}"))).within(field),
    }
}

pub fn locality(l: &core::Locality) -> Locality {
    Locality {
        region: Label::from(l.region.as_str()),
        zone: Label::from(l.zone.as_str()),
        sub_zone: Label::from(l.sub_zone.as_str()),
    }
}

// ---- sources ----

pub fn data_source(d: &core::DataSource, field: &str) -> Result<DataSource, Rejection> {
    use core::data_source::Specifier;
    match &d.specifier {
        Some(Specifier::Filename(path)) => Ok(DataSource::File {
            path: PathBuf::from(&*non_empty(path, "filename").within(field)?),
            watched_directory: watched_directory(&d.watched_directory, "watched_directory").within(field)?,
        }),
        Some(Specifier::InlineBytes(bytes)) => Ok(DataSource::Inline(Bytes::copy_from_slice(bytes))),
        Some(Specifier::InlineString(text)) => Ok(DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()))),
        Some(Specifier::EnvironmentVariable(variable)) => {
            Ok(DataSource::EnvironmentVariable(non_empty(variable, "environment_variable").within(field)?))
        }
        None => {
            Err(Rejection::invalid(field, "needs one of filename, inline_bytes, inline_string, environment_variable"))
        }
    }
}

pub fn watched_directory(w: &Option<core::WatchedDirectory>, field: &str) -> Result<Option<PathBuf>, Rejection> {
    w.as_ref().map(|w| Ok(PathBuf::from(&*non_empty(&w.path, "path").within(field)?))).transpose()
}

pub fn config_source(c: &core::ConfigSource, field: &str) -> Result<ConfigSource, Rejection> {
    config_source_fields(c).within(field)
}

fn config_source_fields(c: &core::ConfigSource) -> Result<ConfigSource, Rejection> {
    use core::config_source::ConfigSourceSpecifier as Wire;
    if enumeration::<core::ApiVersion>(c.resource_api_version, "resource_api_version")? == core::ApiVersion::V2 {
        return Err(Rejection::unsupported("resource_api_version", "only V3 is supported"));
    }
    let origin = match &c.config_source_specifier {
        Some(Wire::Ads(_)) => ConfigOrigin::Ads,
        Some(Wire::Self_(_)) => ConfigOrigin::Own,
        Some(Wire::ApiConfigSource(api)) => ConfigOrigin::Grpc(Arc::new(grpc_source(api, "api_config_source")?)),
        Some(Wire::Path(path)) => {
            ConfigOrigin::Path { path: PathBuf::from(&*non_empty(path, "path")?), watched_directory: None }
        }
        Some(Wire::PathConfigSource(path)) => ConfigOrigin::Path {
            path: PathBuf::from(&*non_empty(&path.path, "path").within("path_config_source")?),
            watched_directory: watched_directory(&path.watched_directory, "watched_directory")
                .within("path_config_source")?,
        },
        None => {
            return Err(Rejection::invalid("", "needs one of ads, self, api_config_source, path_config_source"));
        }
    };
    let initial_fetch_timeout =
        duration_or(&c.initial_fetch_timeout, "initial_fetch_timeout", DEFAULT_INITIAL_FETCH_TIMEOUT)?;
    Ok(ConfigSource { origin, initial_fetch_timeout })
}

/// `ApiConfigSource` of a gRPC kind. Version AUTO (not given) is taken as V3, the only one.
pub fn grpc_source(a: &core::ApiConfigSource, field: &str) -> Result<GrpcSource, Rejection> {
    grpc_source_fields(a).within(field)
}

fn grpc_source_fields(a: &core::ApiConfigSource) -> Result<GrpcSource, Rejection> {
    use core::api_config_source::ApiType;
    if enumeration::<core::ApiVersion>(a.transport_api_version, "transport_api_version")? == core::ApiVersion::V2 {
        return Err(Rejection::unsupported("transport_api_version", "only V3 is supported"));
    }
    let delta = match enumeration::<ApiType>(a.api_type, "api_type")? {
        ApiType::Grpc => false,
        ApiType::DeltaGrpc => true,
        other => {
            let reason = format!("{} is not supported; use GRPC or DELTA_GRPC", other.as_str_name());
            return Err(Rejection::unsupported("api_type", reason));
        }
    };
    if a.grpc_services.is_empty() {
        return Err(Rejection::invalid("grpc_services", "must name at least one service"));
    }
    let services = a
        .grpc_services
        .iter()
        .enumerate()
        .map(|(i, s)| grpc_service(s, &format!("grpc_services[{i}]")))
        .collect::<Result<_, _>>()?;
    Ok(GrpcSource { delta, services, set_node_on_first_message_only: a.set_node_on_first_message_only })
}

pub fn grpc_service(s: &core::GrpcService, field: &str) -> Result<GrpcService, Rejection> {
    grpc_service_fields(s).within(field)
}

fn grpc_service_fields(s: &core::GrpcService) -> Result<GrpcService, Rejection> {
    use core::grpc_service::TargetSpecifier;
    let target = match &s.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return Err(Rejection::unsupported("google_grpc", "use envoy_grpc with a cluster"));
        }
        None => return Err(Rejection::invalid("envoy_grpc", "is required")),
    };
    if HeaderValue::from_str(&target.authority).is_err() {
        return Err(Rejection::invalid("envoy_grpc.authority", "is no header value"));
    }
    Ok(GrpcService {
        cluster: non_empty(&target.cluster_name, "cluster_name").within("envoy_grpc")?,
        authority: optional_name(&target.authority),
        timeout: optional_duration(&s.timeout, "timeout")?,
        initial_metadata: header_values(&s.initial_metadata, "initial_metadata")?,
    })
}

// ---- headers and metadata ----

/// A header name that is no pseudo-header.
pub fn header_name(text: &str, field: &str) -> Result<HeaderName, Rejection> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Rejection::invalid(field, format!("`{text}` is no header name")))
}

/// `core.v3.HeaderValue`s that are sent as they stand.
pub fn header_values(headers: &[core::HeaderValue], field: &str) -> Result<Vec<(HeaderName, Name)>, Rejection> {
    let one = |header: &core::HeaderValue| {
        let key = header_name(&header.key, "key")?;
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let value = std::str::from_utf8(value).ok().filter(|v| HeaderValue::from_str(v).is_ok());
        Ok((key, name(value.ok_or_else(|| Rejection::invalid("value", "is no header value"))?)))
    };
    headers.iter().enumerate().map(|(i, header)| one(header).within_index(field, i)).collect()
}

/// `core.v3.Metadata`. `typed_filter_metadata` has no reader in this proxy and is refused by the support table.
pub fn metadata(m: &core::Metadata) -> Metadata {
    Metadata(m.filter_metadata.iter().map(|(filter, value)| (name(filter), struct_to_json(value))).collect())
}

/// String pairs (`map<string, string>`) in a stable order.
pub fn labels<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> BTreeMap<Name, Name> {
    pairs.into_iter().map(|(k, v)| (name(k), name(v))).collect()
}
