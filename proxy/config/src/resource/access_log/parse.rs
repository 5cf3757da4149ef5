//! `accesslog.v3.AccessLog` → [`AccessLog`]: sinks by type URL, filters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::accesslog::v3 as pb;
use sidemesh_proto::envoy::extensions::access_loggers as sinks;
use sidemesh_proto::opentelemetry::proto::common::v1 as otel;
use sidemesh_proto::{google, type_url};

use super::{
    AccessLog, AccessLogFilter, AccessLogSink, Comparison, GrpcAccessLog, JsonFormat, LogFormat, OpenTelemetryLog,
};
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::resource::route::custom_tags;
use crate::resource::substitution;
use crate::value::{Fraction, GrpcService, Name, RuntimeFraction, name};
use crate::wire::{self, enumeration, flag, non_empty, optional_name, required, uint32};

const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_BUFFER_BYTES: u32 = 16_384;

/// The response flags a filter may name.
const RESPONSE_FLAGS: [&str; 29] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
    "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
];

/// A list of access logs.
pub fn parse_all(logs: &[pb::AccessLog], field: &str) -> Result<Vec<Arc<AccessLog>>, Rejection> {
    logs.iter().enumerate().map(|(i, log)| parse(log).map(Arc::new).within_index(field, i)).collect()
}

/// One access log.
pub fn parse(log: &pb::AccessLog) -> Result<AccessLog, Rejection> {
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return Err(Rejection::invalid("typed_config", "is required"));
    };
    Ok(AccessLog {
        filter: log.filter.as_ref().map(|f| parse_filter(f).within("filter")).transpose()?,
        sink: sink(any).within("typed_config")?,
    })
}

fn sink(any: &google::Any) -> Result<AccessLogSink, Rejection> {
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let config: sinks::file::v3::FileAccessLog = wire::unpack(any, "")?;
            Ok(AccessLogSink::File { path: PathBuf::from(&*non_empty(&config.path, "path")?), format: file(&config)? })
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            use sinks::stream::v3::stdout_access_log::AccessLogFormat;
            let config: sinks::stream::v3::StdoutAccessLog = wire::unpack(any, "")?;
            Ok(AccessLogSink::Stdout(match &config.access_log_format {
                Some(AccessLogFormat::LogFormat(f)) => substitution::log_format(f, "log_format")?,
                None => default_format()?,
            }))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            use sinks::stream::v3::stderr_access_log::AccessLogFormat;
            let config: sinks::stream::v3::StderrAccessLog = wire::unpack(any, "")?;
            Ok(AccessLogSink::Stderr(match &config.access_log_format {
                Some(AccessLogFormat::LogFormat(f)) => substitution::log_format(f, "log_format")?,
                None => default_format()?,
            }))
        }
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" => {
            let config: sinks::grpc::v3::HttpGrpcAccessLogConfig = wire::unpack(any, "")?;
            let mut log = grpc(&config.common_config, false)?;
            log.request_headers =
                header_names(&config.additional_request_headers_to_log, "additional_request_headers_to_log")?;
            log.response_headers =
                header_names(&config.additional_response_headers_to_log, "additional_response_headers_to_log")?;
            log.response_trailers =
                header_names(&config.additional_response_trailers_to_log, "additional_response_trailers_to_log")?;
            Ok(AccessLogSink::Grpc(Arc::new(log)))
        }
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
            let config: sinks::grpc::v3::TcpGrpcAccessLogConfig = wire::unpack(any, "")?;
            Ok(AccessLogSink::Grpc(Arc::new(grpc(&config.common_config, true)?)))
        }
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" => {
            let config: sinks::open_telemetry::v3::OpenTelemetryAccessLogConfig = wire::unpack(any, "")?;
            Ok(AccessLogSink::OpenTelemetry(Arc::new(open_telemetry(&config)?)))
        }
        other => {
            let reason =
                format!("access log `{other}` is not supported; use file, stdout, stderr, gRPC or OpenTelemetry");
            Err(Rejection::unsupported("", reason))
        }
    }
}

fn default_format() -> Result<LogFormat, Rejection> {
    substitution::text_log_format("", "format")
}

/// The formats of a file log, the deprecated ones included.
#[allow(deprecated)]
fn file(config: &sinks::file::v3::FileAccessLog) -> Result<LogFormat, Rejection> {
    use sinks::file::v3::file_access_log::AccessLogFormat as Wire;
    let json = |s: &google::Struct, field: &str| {
        let format = Arc::new(substitution::json_format(s, field)?);
        Ok(LogFormat::Json { format, omit_empty: false, sort_properties: false })
    };
    match &config.access_log_format {
        Some(Wire::Format(text)) => substitution::text_log_format(text, "format"),
        Some(Wire::JsonFormat(s)) => json(s, "json_format"),
        Some(Wire::TypedJsonFormat(s)) => json(s, "typed_json_format"),
        Some(Wire::LogFormat(f)) => substitution::log_format(f, "log_format"),
        None => default_format(),
    }
}

fn header_names(list: &[String], field: &str) -> Result<Vec<http::HeaderName>, Rejection> {
    list.iter().enumerate().map(|(i, h)| wire::header_name(h, &format!("{field}[{i}]"))).collect()
}

fn grpc(common: &Option<sinks::grpc::v3::CommonGrpcAccessLogConfig>, tcp: bool) -> Result<GrpcAccessLog, Rejection> {
    let common = required(common, "common_config")?;
    common_grpc(common, tcp).within("common_config")
}

fn common_grpc(c: &sinks::grpc::v3::CommonGrpcAccessLogConfig, tcp: bool) -> Result<GrpcAccessLog, Rejection> {
    Ok(GrpcAccessLog {
        log_name: non_empty(&c.log_name, "log_name")?,
        service: wire::grpc_service(required(&c.grpc_service, "grpc_service")?, "grpc_service")?,
        flush_interval: flush_interval(&c.buffer_flush_interval)?,
        buffer_bytes: uint32(&c.buffer_size_bytes).unwrap_or(DEFAULT_BUFFER_BYTES),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_trailers: Vec::new(),
        custom_tags: custom_tags(&c.custom_tags)?,
        tcp,
    })
}

fn flush_interval(d: &Option<google::Duration>) -> Result<Duration, Rejection> {
    match d {
        Some(d) => wire::positive_duration(d, "buffer_flush_interval"),
        None => Ok(DEFAULT_FLUSH_INTERVAL),
    }
}

/// Name, service and buffering come from `common_config` or, in the newer form, from the message itself.
fn open_telemetry(
    config: &sinks::open_telemetry::v3::OpenTelemetryAccessLogConfig,
) -> Result<OpenTelemetryLog, Rejection> {
    if config.http_service.is_some() {
        return Err(Rejection::unsupported("http_service", "use grpc_service"));
    }
    let (log_name, service, flush_interval, buffer_bytes): (Name, GrpcService, Duration, u32) =
        match (&config.common_config, &config.grpc_service) {
            (Some(common), None) => {
                let log = common_grpc(common, false).within("common_config")?;
                (log.log_name, log.service, log.flush_interval, log.buffer_bytes)
            }
            (None, Some(service)) => (
                name(&config.log_name),
                wire::grpc_service(service, "grpc_service")?,
                flush_interval(&config.buffer_flush_interval)?,
                uint32(&config.buffer_size_bytes).unwrap_or(DEFAULT_BUFFER_BYTES),
            ),
            (Some(_), Some(_)) => {
                return Err(Rejection::invalid("grpc_service", "excludes common_config; give one of them"));
            }
            (None, None) => return Err(Rejection::invalid("", "needs one of common_config, grpc_service")),
        };
    let body = config.body.as_ref().map(|b| any_value(b, MAX_OTEL_DEPTH).within("body"));
    Ok(OpenTelemetryLog {
        log_name,
        service,
        flush_interval,
        buffer_bytes,
        resource_attributes: key_values(&config.resource_attributes).and_then(plain).within("resource_attributes")?,
        body: body.transpose()?,
        attributes: key_values(&config.attributes).within("attributes")?,
        disable_builtin_labels: config.disable_builtin_labels,
        stat_prefix: name(&config.stat_prefix),
    })
}

/// How deep an OpenTelemetry value may nest.
const MAX_OTEL_DEPTH: usize = 16;

fn key_values(list: &Option<otel::KeyValueList>) -> Result<Vec<(Name, JsonFormat)>, Rejection> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let one = |(i, kv): (usize, &otel::KeyValue)| {
        let value = required(&kv.value, "value").and_then(|v| any_value(v, MAX_OTEL_DEPTH).within("value"));
        Ok((name(&kv.key), value.within_index("values", i)?))
    };
    list.values.iter().enumerate().map(one).collect()
}

/// Attributes that belong to no request: no operator has a value there.
fn plain(list: Vec<(Name, JsonFormat)>) -> Result<Vec<(Name, JsonFormat)>, Rejection> {
    fn is_plain(format: &JsonFormat) -> bool {
        match format {
            JsonFormat::Value(format) => format.as_static().is_some(),
            JsonFormat::Object(fields) => fields.iter().all(|(_, f)| is_plain(f)),
            JsonFormat::List(items) => items.iter().all(is_plain),
            JsonFormat::Literal(_) => true,
        }
    }
    match list.iter().position(|(_, format)| !is_plain(format)) {
        Some(i) => {
            let reason = "has an operator, but a resource belongs to no request; put it into attributes";
            Err(Rejection::unsupported(format!("values[{i}].value"), reason))
        }
        None => Ok(list),
    }
}

fn any_value(v: &otel::AnyValue, depth: usize) -> Result<JsonFormat, Rejection> {
    use otel::any_value::Value;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Rejection::invalid("", format!("nests deeper than {MAX_OTEL_DEPTH} levels")));
    };
    Ok(match &v.value {
        Some(Value::StringValue(text)) => JsonFormat::Value(substitution::field(text, "string_value")?),
        Some(Value::BoolValue(b)) => JsonFormat::Literal((*b).into()),
        Some(Value::IntValue(n)) => JsonFormat::Literal((*n).into()),
        Some(Value::DoubleValue(n)) => JsonFormat::Literal((*n).into()),
        Some(Value::ArrayValue(list)) => {
            JsonFormat::List(list.values.iter().map(|v| any_value(v, depth)).collect::<Result<_, _>>()?)
        }
        Some(Value::KvlistValue(list)) => {
            let one = |kv: &otel::KeyValue| {
                let value = required(&kv.value, "value").and_then(|v| any_value(v, depth));
                Ok((kv.key.clone(), value.map_err(|r| r.within(&kv.key))?))
            };
            JsonFormat::Object(list.values.iter().map(one).collect::<Result<_, Rejection>>()?)
        }
        Some(Value::BytesValue(_) | Value::StringValueStrindex(_)) => {
            return Err(Rejection::unsupported("bytes_value", "use string_value"));
        }
        None => JsonFormat::Literal(serde_json::Value::Null),
    })
}

/// An access-log filter, also used by the mappers of local replies.
pub fn parse_filter(filter: &pb::AccessLogFilter) -> Result<AccessLogFilter, Rejection> {
    use pb::access_log_filter::FilterSpecifier as Wire;
    Ok(match &filter.filter_specifier {
        Some(Wire::StatusCodeFilter(f)) => {
            let (op, value, runtime_key) = comparison(&f.comparison).within("status_code_filter")?;
            AccessLogFilter::StatusCode { op, value, runtime_key }
        }
        Some(Wire::DurationFilter(f)) => {
            let (op, value, runtime_key) = comparison(&f.comparison).within("duration_filter")?;
            AccessLogFilter::Duration { op, value, runtime_key }
        }
        Some(Wire::NotHealthCheckFilter(_)) => AccessLogFilter::NotHealthCheck,
        Some(Wire::TraceableFilter(_)) => AccessLogFilter::Traceable,
        Some(Wire::RuntimeFilter(f)) => {
            let key = non_empty(&f.runtime_key, "runtime_key").within("runtime_filter")?;
            let default = f.percent_sampled.as_ref().map(|p| wire::fraction(p, "runtime_filter.percent_sampled"));
            let default = default.transpose()?.unwrap_or(Fraction::NEVER);
            let fraction = RuntimeFraction { key: Some(key), default };
            AccessLogFilter::Runtime { fraction, independent: f.use_independent_randomness }
        }
        Some(Wire::AndFilter(f)) => AccessLogFilter::And(filters(&f.filters).within("and_filter")?),
        Some(Wire::OrFilter(f)) => AccessLogFilter::Or(filters(&f.filters).within("or_filter")?),
        Some(Wire::HeaderFilter(f)) => {
            let header = required(&f.header, "header").within("header_filter")?;
            AccessLogFilter::Header(matcher::header(header, "header_filter.header")?)
        }
        Some(Wire::ResponseFlagFilter(f)) => response_flags(&f.flags).within("response_flag_filter")?,
        Some(Wire::GrpcStatusFilter(f)) => {
            let one = |s: &i32| enumeration::<pb::grpc_status_filter::Status>(*s, "statuses").map(|s| s as u32);
            let statuses = f.statuses.iter().map(one).collect::<Result<_, _>>().within("grpc_status_filter")?;
            AccessLogFilter::GrpcStatus { statuses, exclude: f.exclude }
        }
        Some(Wire::MetadataFilter(f)) => {
            let wanted = required(&f.matcher, "matcher").within("metadata_filter")?;
            AccessLogFilter::Metadata {
                matcher: matcher::metadata(wanted, "metadata_filter.matcher")?,
                match_if_missing: flag(&f.match_if_key_not_found, true),
            }
        }
        Some(Wire::LogTypeFilter(f)) => {
            use sidemesh_proto::envoy::data::accesslog::v3::AccessLogType;
            for kind in &f.types {
                enumeration::<AccessLogType>(*kind, "types").within("log_type_filter")?;
            }
            AccessLogFilter::LogType { types: f.types.clone(), exclude: f.exclude }
        }
        Some(Wire::ExtensionFilter(_)) => {
            return Err(Rejection::unsupported("extension_filter", "use a built-in filter"));
        }
        None => return Err(Rejection::invalid("", "needs a filter")),
    })
}

fn filters(list: &[pb::AccessLogFilter]) -> Result<Vec<AccessLogFilter>, Rejection> {
    if list.len() < 2 {
        return Err(Rejection::invalid("filters", "needs at least two filters"));
    }
    list.iter().enumerate().map(|(i, f)| parse_filter(f).within_index("filters", i)).collect()
}

fn comparison(c: &Option<pb::ComparisonFilter>) -> Result<(Comparison, u32, Option<Name>), Rejection> {
    use pb::comparison_filter::Op;
    let c = required(c, "comparison")?;
    let op = match enumeration(c.op, "op").within("comparison")? {
        Op::Eq => Comparison::Eq,
        Op::Ge => Comparison::Ge,
        Op::Le => Comparison::Le,
        Op::Ne => Comparison::Ne,
    };
    let value = required(&c.value, "value").within("comparison")?;
    Ok((op, value.default_value, optional_name(&value.runtime_key)))
}

fn response_flags(flags: &[String]) -> Result<AccessLogFilter, Rejection> {
    let one = |(i, flag): (usize, &String)| match RESPONSE_FLAGS.contains(&flag.as_str()) {
        true => Ok(name(flag)),
        false => Err(Rejection::invalid(format!("flags[{i}]"), format!("`{flag}` is no response flag"))),
    };
    Ok(AccessLogFilter::ResponseFlag(flags.iter().enumerate().map(one).collect::<Result<_, _>>()?))
}
